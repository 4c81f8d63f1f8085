"""The counts of calls that belong together: `CallTotals`.

A `Recording` writes each call once, to the counts of its kind. The counts of a service, a queue or
a lane are added up from those of its kinds when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aioapiqueue.recording._series import Points, add_points
from aioapiqueue.recording._waits import WaitTimes

if TYPE_CHECKING:
    from collections.abc import Sequence

Tally = Literal["throttled", "errors", "refused", "cancelled"]
TALLIES: tuple[Tally, ...] = ("throttled", "errors", "refused", "cancelled")
"""Calls that the server throttled, that failed otherwise, that were refused and not sent, and that
were cancelled or timed out while they waited."""
FIELDS = ("used", "started", "waited", "throttled", "errors", "refused")
"""The counts in each point of a time series."""

_SUMS = ("waits", "waiting", "running", "answers", *TALLIES)


@dataclass(slots=True, eq=False, kw_only=True)
class CallTotals:
    """Counts of calls that belong together, such as those of one kind.

    Attributes:
        wait_times: distribution of the waits of the calls that started.
        waits: number of these calls that waited for at least 10 ms.
        waiting: number of calls waiting now.
        running: number of calls in flight now.
        answers: number of calls that ended with a response or an error.
        throttled: number of calls that the server throttled.
        errors: number of other error responses and of calls without a response, except cancelled
            ones.
        refused: number of calls that were refused and not sent.
        cancelled: number of calls that were cancelled or timed out while they waited.
        used: the units charged, by name.
        over_time: a time series of `FIELDS` for each unit.
    """

    wait_times: WaitTimes = field(default_factory=WaitTimes, repr=False)
    waits: int = 0
    waiting: int = 0
    running: int = 0
    answers: int = 0
    throttled: int = 0
    errors: int = 0
    refused: int = 0
    cancelled: int = 0
    used: dict[str, float] = field(default_factory=dict)
    over_time: dict[str, Points] = field(default_factory=dict, repr=False)

    @property
    def calls(self) -> int:
        """Number of calls that started."""
        return self.wait_times.number

    @property
    def waited(self) -> float:
        """Total wait of the calls that started, in seconds."""
        return self.wait_times.total

    @property
    def longest_wait(self) -> float:
        """Longest of these waits, in seconds."""
        return self.wait_times.longest

    def merge(self, other: CallTotals, *, series: bool = True) -> None:
        """Add the counts of other calls, by default with their time series."""
        self.wait_times.merge(other.wait_times)
        for name in _SUMS:
            if more := getattr(other, name):
                setattr(self, name, getattr(self, name) + more)
        for unit, amount in other.used.items():
            self.used[unit] = self.used.get(unit, 0) + amount
        for unit, points in other.over_time.items() if series else ():
            add_points(self.over_time.setdefault(unit, {}), points)


def added_up(each: Sequence[CallTotals]) -> CallTotals:
    """Return the sum of counts. Do not change it: the sum of one is the same object."""
    if len(each) == 1:
        return each[0]
    total = CallTotals()
    for one in each:
        total.merge(one)
    return total
