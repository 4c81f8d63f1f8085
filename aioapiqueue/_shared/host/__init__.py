"""One quota for all processes of a host: the side of the queues that share it."""
