"""Data about AWS's services: names, operations, and the limits that AWS publishes."""
