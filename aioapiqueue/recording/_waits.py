"""Percentiles of waits, from a histogram whose buckets grow by a constant factor.

This is the idea of HdrHistogram and DDSketch: each time is known to within 1 % of itself, for any
number of times, and the histograms of several queues can be added up exactly.
"""

from __future__ import annotations

import math

_LEAST = 0.001
"""Seconds. A shorter wait counts as none: an event loop is not more precise than that."""
_GROWTH = 1.02
"""Ratio of neighbouring buckets: the middle of one is within 1 % of all times in it.

It takes about 920 buckets to reach a day.
"""
_LOG_GROWTH = math.log(_GROWTH)
_MIDDLE = 2 / (1 + 1 / _GROWTH) / _GROWTH
"""The middle of a bucket as a share of its upper end: its relative error is equal at both ends."""
_PERCENTS = (50, 90, 99)
"""The percentiles that reports show."""


def _bucket_of(seconds: float) -> int:
    return math.ceil(math.log(seconds / _LEAST) / _LOG_GROWTH)


def _middle_of(bucket: int) -> float:
    return _LEAST * _GROWTH**bucket * _MIDDLE


class WaitTimes:
    """How long calls waited, to within 1 %.

    >>> waits = WaitTimes()
    >>> for seconds in (1.0,) * 95 + (30.0,) * 5:
    ...     waits.add(seconds)
    >>> [f"{waits.percentile(percent):.1f}" for percent in (50, 90, 100)]
    ['1.0', '1.0', '30.0']
    """

    __slots__ = ("_counts", "longest", "number", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        """Number of calls that waited, by bucket; the rest of `number` did not wait."""
        self.number = 0
        """Number of calls."""
        self.total = 0.0
        """The sum of their waits."""
        self.longest = 0.0
        """The longest wait, exactly."""

    def add(self, seconds: float) -> None:
        """Count the wait of a call."""
        self.number += 1
        self.total += seconds
        if seconds >= _LEAST:
            bucket = _bucket_of(seconds)
            self._counts[bucket] = self._counts.get(bucket, 0) + 1
            self.longest = max(self.longest, seconds)

    def remove(self, seconds: float) -> None:
        """Take out a wait. If it was the longest, `longest` is known to within 1 % from then on."""
        self.number -= 1
        self.total = max(0.0, self.total - seconds)  # a rounding error would show as -0.0
        if seconds >= _LEAST:
            self._counts[_bucket_of(seconds)] -= 1
            # The waits are not kept, so the next longest is known by its bucket only.
            if seconds >= self.longest:
                left = [bucket for bucket, count in self._counts.items() if count]
                self.longest = _middle_of(max(left)) if left else 0.0

    def merge(self, other: WaitTimes) -> None:
        """Add all waits of another histogram."""
        self.number += other.number
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def percentile(self, percent: float) -> float:
        """Return the wait that `percent` percent of all calls do not exceed; 0 without calls.

        Args:
            percent: above 0 and at most 100, for which the result is exact.
        """
        # The nearest rank; 1e-9 keeps rounding errors from asking for one more.
        left = math.ceil(self.number * percent / 100 - 1e-9)
        if left >= self.number:
            return self.longest
        left -= self.number - sum(self._counts.values())  # the calls that did not wait come first
        if left <= 0:
            return 0.0
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                # The middle of the last bucket may be above the longest wait, which is exact.
                return min(_middle_of(bucket), self.longest)
        raise AssertionError("the rank is above the number of waits")  # pragma: no cover

    def as_json(self) -> dict[str, float]:
        """Return the percentiles that reports show, and the longest wait."""
        percentiles = {f"p{percent}": self.percentile(percent) for percent in _PERCENTS}
        return {**percentiles, "max": self.longest}


_HALF = 30.0
"""Seconds that each histogram of recent waits covers."""


class RecentWaits:
    """The waits of calls that started in the last 30 to 60 seconds.

    Two histograms take turns, each for half a minute, so waits need not be kept one by one.
    """

    __slots__ = ("_before", "_now", "_until")

    def __init__(self) -> None:
        self._until = -math.inf
        self._before = self._now = WaitTimes()

    def add(self, now: float, seconds: float) -> None:
        """Count the wait of a call that started at `now`."""
        if now >= self._until:
            self._turn(now)
        self._now.add(seconds)

    def _turn(self, now: float) -> None:
        """Replace the older histogram by the newer one, and begin a new one."""
        # After a pause of half a period or more, the newer one is too old as well.
        late = now - self._until
        self._before = self._now if late < _HALF else WaitTimes()
        self._now = WaitTimes()
        self._until = self._until + _HALF if late < _HALF else now + _HALF

    def recent(self, now: float) -> WaitTimes:
        """Return the waits of the last 30 to 60 seconds."""
        if now >= self._until:
            self._turn(now)
        found = WaitTimes()
        for one in (self._before, self._now):
            found.merge(one)
        return found
