"""Limits that are kept elsewhere: by the hub of this host, or on a server."""
