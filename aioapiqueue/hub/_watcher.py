"""Who is informed of attempts as they go on, beside what the hub counts of them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioapiqueue.hub._records import CallStats
    from aioapiqueue.hub._request import Request

__all__ = ["Ended", "Watcher"]


class Ended(enum.Enum):
    """What an attempt has ended with."""

    ANSWERED = "answered"
    THROTTLED = "throttled"
    FAILED = "failed"
    """Another error, or no answer."""
    UNKNOWN = "unknown"
    """It was cancelled, or its process is gone."""


class Watcher:
    """Is informed of attempts, on the loop and at once; this one does nothing.

    Methods must be quick, and raise nothing. `now` is an instant of `time.monotonic()`.
    """

    def started(self, request: Request, now: float) -> None:
        """An attempt is let go."""

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """An attempt that was let go has ended."""

    def refused(self, stats: CallStats, now: float) -> None:
        """An attempt of this kind was refused by the pacing: nothing is sent."""
