"""What the gateway uses of the run hub, besides public names: its protocol, and client code."""

from aioapiqueue_run.bootstrap._aioapiqueue import VERSION
from aioapiqueue_run.bootstrap._aioapiqueue.hosts import labels_of
from aioapiqueue_run.hub.protocol import LONGEST_TEXT, MAX_LINE, MOST_QUOTAS

__all__ = ["LONGEST_TEXT", "MAX_LINE", "MOST_QUOTAS", "VERSION", "labels_of"]
