"""Figures of queues over time, in bounded memory: for reports, runs and the hub.

Other packages import these names from here, not from the modules inside.
"""

from aioapiqueue._recording.changes import CHANGE_KINDS
from aioapiqueue._recording.queues import QueueRecord, Recording
from aioapiqueue._recording.series import TimeSeries
from aioapiqueue._recording.text import as_clock, as_iso, as_percent, verdict_of
from aioapiqueue._recording.unpaced import UnpacedTime
from aioapiqueue._recording.waits import RecentWaits, WaitTimes

__all__ = [
    "CHANGE_KINDS",
    "QueueRecord",
    "RecentWaits",
    "Recording",
    "TimeSeries",
    "UnpacedTime",
    "WaitTimes",
    "as_clock",
    "as_iso",
    "as_percent",
    "verdict_of",
]
