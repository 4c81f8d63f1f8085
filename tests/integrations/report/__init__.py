"""Reports of queues."""
