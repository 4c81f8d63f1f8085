"""Limits that are kept elsewhere: by the hub of this host, or on a server.

Their public names are in `schedules` and in `integrations/redis`.
"""
