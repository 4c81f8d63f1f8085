"""The figures of queues over time that reports, runs and the hub use."""

from aioapiqueue.recording._budgets import LaneUse, LimitUses, amount_text, least_left_first
from aioapiqueue.recording._changes import CHANGE_KINDS
from aioapiqueue.recording._counts import FIELDS, CallTotals, added_up
from aioapiqueue.recording._queues import QueueRecord, Recording
from aioapiqueue.recording._series import Points, TimeSeries
from aioapiqueue.recording._text import as_clock, as_iso, as_percent, verdict_of
from aioapiqueue.recording._unpaced import UnpacedTime
from aioapiqueue.recording._waits import RecentWaits, WaitTimes

__all__ = [
    "CHANGE_KINDS",
    "FIELDS",
    "CallTotals",
    "LaneUse",
    "LimitUses",
    "Points",
    "QueueRecord",
    "RecentWaits",
    "Recording",
    "TimeSeries",
    "UnpacedTime",
    "WaitTimes",
    "added_up",
    "amount_text",
    "as_clock",
    "as_iso",
    "as_percent",
    "least_left_first",
    "verdict_of",
]
