"""What a recording keeps of queues over time."""
