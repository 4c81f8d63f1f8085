"""Limits that are kept elsewhere: by the host hub, or on Redis."""
