"""The commands: their arguments, output and exit codes."""
