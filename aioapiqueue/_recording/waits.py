"""Percentiles of times, as a histogram whose buckets grow by a constant factor.

The idea is that of HdrHistogram and DDSketch: a time is known to within a constant share of itself,
however many there are, and histograms of several queues can be added up exactly.
"""

from __future__ import annotations

import math

__all__ = ["RecentWaits", "WaitTimes"]

_LEAST = 0.001
"""Seconds; less is no time. A loop is not more precise than that."""
_GROWTH = 1.02
"""From one bucket to the next: its middle is within 1 % of all that is in it. A day has 920."""
_LOG_GROWTH = math.log(_GROWTH)
_MIDDLE = 2 / (1 + 1 / _GROWTH) / _GROWTH
"""Of a bucket's upper end, the place from which both ends are equally far, as a share."""
_PERCENTS = (50, 90, 99)
"""Those that reports show."""


def _bucket_of(seconds: float) -> int:
    return math.ceil(math.log(seconds / _LEAST) / _LOG_GROWTH)


def _middle_of(bucket: int) -> float:
    return _LEAST * _GROWTH**bucket * _MIDDLE


class WaitTimes:
    """How long calls have waited, to within 1 %.

    >>> waits = WaitTimes()
    >>> for seconds in (1.0,) * 95 + (30.0,) * 5:
    ...     waits.add(seconds)
    >>> [f"{waits.percentile(percent):.1f}" for percent in (50, 90, 100)]
    ['1.0', '1.0', '30.0']
    """

    __slots__ = ("_counts", "longest", "number")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        """By bucket, of those that waited; all others are what is left of `number`."""
        self.number = 0
        """How many times there are."""
        self.longest = 0.0
        """The longest of them, exactly."""

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.number += 1
        if seconds >= _LEAST:
            bucket = _bucket_of(seconds)
            self._counts[bucket] = self._counts.get(bucket, 0) + 1
            self.longest = max(self.longest, seconds)

    def remove(self, seconds: float) -> None:
        """Take out a time that was counted; if it was the longest, the next is known to 1 %."""
        self.number -= 1
        if seconds >= _LEAST:
            self._counts[_bucket_of(seconds)] -= 1
            if seconds >= self.longest:
                left = [bucket for bucket, count in self._counts.items() if count]
                self.longest = _middle_of(max(left)) if left else 0.0

    def merge(self, other: WaitTimes) -> None:
        """Count all times that another one has, too."""
        self.number += other.number
        self.longest = max(self.longest, other.longest)
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def percentile(self, percent: float) -> float:
        """Return the time that so many percent of all do not exceed: 0 of no times at all.

        Args:
            percent: above 0, at most 100; of 100, the longest is returned, exactly.
        """
        left = math.ceil(self.number * percent / 100 - 1e-9)
        if left >= self.number:
            return self.longest
        left -= self.number - sum(self._counts.values())
        if left <= 0:
            return 0.0
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return min(_middle_of(bucket), self.longest)
        raise AssertionError("more were asked for than there are")  # pragma: no cover

    def as_json(self) -> dict[str, float]:
        """Return the percentiles that reports show, and the longest wait."""
        found = {f"p{percent}": self.percentile(percent) for percent in _PERCENTS}
        return found | {"max": self.longest}


class RecentWaits:
    """How long calls have waited of late: in the last half to whole `seconds`.

    Args:
        seconds: of which times are kept; default a minute.
    """

    __slots__ = ("_before", "_half", "_now", "_until")

    def __init__(self, seconds: float = 60.0) -> None:
        self._half = seconds / 2
        self._until = -math.inf
        self._before = self._now = WaitTimes()

    def add(self, now: float, seconds: float) -> None:
        """Count one time, at an instant."""
        if now >= self._until:
            self._turn(now)
        self._now.add(seconds)

    def _turn(self, now: float) -> None:
        """Forget what is too old."""
        late = now - self._until
        self._before = self._now if late < self._half else WaitTimes()
        self._now = WaitTimes()
        self._until = self._until + self._half if late < self._half else now + self._half

    def of_late(self, now: float) -> WaitTimes:
        """Return those that are not forgotten by now."""
        if now >= self._until:
            self._turn(now)
        found = WaitTimes()
        for one in (self._before, self._now):
            found.merge(one)
        return found
