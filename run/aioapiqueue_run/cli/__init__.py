"""The command line. Some commands need an extra of their own, and name it."""
