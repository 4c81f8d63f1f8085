"""Limits that are kept elsewhere: by the host hub, or on a server.

Their public names are in `schedules` and in `integrations/redis`.
"""
