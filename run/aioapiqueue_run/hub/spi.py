"""What other programs use of the run hub, in addition to public names.

The gateway uses its protocol and client code; `run` makes the recording of the hub.
"""

from aioapiqueue_run.bootstrap._aioapiqueue.hosts import labels_of
from aioapiqueue_run.hub.protocol import LONGEST_TEXT, MAX_LINE, VERSION, as_message
from aioapiqueue_run.hub.queue_records import QueueRecords

__all__ = ["LONGEST_TEXT", "MAX_LINE", "VERSION", "QueueRecords", "as_message", "labels_of"]
