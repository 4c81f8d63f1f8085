"""Limits that are kept elsewhere: by a host's hub, or on Redis."""
