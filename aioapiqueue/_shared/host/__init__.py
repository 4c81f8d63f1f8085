"""One quota for all processes of a host: the side of the queues that share it.

In this package, a host is a machine; `self._host` is the queue's dispatcher, as in every limiter.
"""
