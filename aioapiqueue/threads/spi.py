"""What other wings use of threads, beside public names."""

from aioapiqueue.threads._gevent import plain_subprocess
from aioapiqueue.threads._loop import refuse_to_block

__all__ = ["plain_subprocess", "refuse_to_block"]
