"""The command line. It needs the extra `cli`; some commands need another extra, and name it."""
