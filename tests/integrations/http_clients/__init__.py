"""HTTP clients, all with the same server."""
