"""One quota for many hosts: the limiter of a queue whose limits a server keeps."""
