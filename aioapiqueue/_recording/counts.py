"""The figures of one queue or lane: `LaneCounts`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency
from aioapiqueue._recording.rates import OverTime, most_in
from aioapiqueue._recording.waits import WaitTimes
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue import Limit

_TALLIES = ("throttled", "errors", "refused", "cancelled")


@dataclass(slots=True)
class LaneCounts:
    """The figures of a queue or of one of its lanes.

    Attributes:
        limits: the limits in force.
        per_key: whether each of several keys has such limits of its own, and these are the figures
            of all keys together.
        waits: the waits of the calls that started.
        tallies: number of calls that the server throttled, that ended with another error, that the
            queue refused, and that left or timed out.
        used: the units charged, by name.
        limits_over_time: the limits in force from each instant on.
        adaptive_rates: the calls a second that `Adaptive` allowed from each instant on; inf while
            it allowed all that the limits do.
    """

    limits: tuple[Limit, ...] = ()
    per_key: bool = False
    waits: WaitTimes = field(default_factory=WaitTimes)
    tallies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TALLIES, 0))
    used: dict[str, float] = field(default_factory=dict)
    limits_over_time: OverTime[tuple[Limit, ...]] = field(default_factory=OverTime)
    adaptive_rates: OverTime[float] = field(default_factory=OverTime)

    def units(self) -> list[str]:
        """Return the units that calls used or limits count, "calls" first."""
        limited = [limit.unit for limit in self.limits if not isinstance(limit, Concurrency)]
        return list(dict.fromkeys([CALLS, *self.used, *limited]))

    def shares(self, seconds: float, began: float) -> Iterator[tuple[float, str]]:
        """Yield the share of each limit that was used, with the text of the limit.

        Args:
            seconds: the duration of the recording.
            began: when it began, in seconds since the epoch.
        """
        # With several limits, of keys or one after the other, no share of a single one is known.
        if self.per_key or len(self.limits_over_time.pairs) > 1:
            return
        for limit in self.limits:
            most = most_in(limit, seconds, began)
            if most is not None and not isinstance(limit, Concurrency):
                yield self.used.get(limit.unit, 0) / most, str(limit)
