"""One quota that many queues share: the limiter of a queue whose limits are kept elsewhere."""
