"""The names of `threads` that other wings may use, beside public names."""

from aioapiqueue.threads._gevent import plain_subprocess
from aioapiqueue.threads._loop import refuse_to_block

__all__ = ["plain_subprocess", "refuse_to_block"]
