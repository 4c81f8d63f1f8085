"""Real scanners, on a mock account."""
