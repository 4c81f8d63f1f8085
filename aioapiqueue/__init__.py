"""Paces many concurrent asyncio API calls into one stream that the other side can bear."""

from aioapiqueue import _interrupt as _interrupt  # the first: see there
from aioapiqueue._decorator import rate_limited
from aioapiqueue._events import Event, Observer, Stats
from aioapiqueue._queue import ApiQueue
from aioapiqueue._rate import Rate, Window
from aioapiqueue._slot import Slot
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import (
    ApiQueueError,
    LimitsError,
    QueueClosed,
    QueueFull,
    SharedError,
    SlotTimeout,
    WouldWait,
)
from aioapiqueue.registry import Registry, ServiceLimits

__all__ = [
    "Adaptive",
    "ApiQueue",
    "ApiQueueError",
    "Event",
    "LimitsError",
    "Observer",
    "QueueClosed",
    "QueueFull",
    "Rate",
    "Registry",
    "ServiceLimits",
    "SharedError",
    "Slot",
    "SlotTimeout",
    "Stats",
    "Window",
    "WouldWait",
    "rate_limited",
]

__version__ = "0.1.0"
