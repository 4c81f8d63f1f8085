"""The command line: needs the extra `cli`, and the demonstration needs `demo`."""
