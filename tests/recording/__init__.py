"""The hub, its files and its connections."""
