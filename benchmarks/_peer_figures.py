"""What is computed from the instants at which calls started: no peer and no clock is in here."""

from __future__ import annotations

import bisect
import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Gaps",
    "early",
    "excess",
    "gaps",
    "ideal",
    "inversions",
    "most_within",
    "settled",
    "share",
]

EARLY = 0.001
"""Seconds by which a clock may be early."""


def settled(starts: Sequence[float], count: int, *, skip: int, after: float) -> Sequence[float]:
    """Return so many calls of those that a limiter kept to its rate with, or none.

    Args:
        starts: when calls started, in order.
        count: how many; a whole number of seconds of them and one more, so that a limiter that
            lets a second's calls through at once is measured from one such instant to another.
        skip: how many may start at once at the beginning, beside the first.
        after: seconds after the first within which all belong to the beginning.
    """
    begin = bisect.bisect_left(starts, starts[0] + after - EARLY) if starts else 0
    rest = starts[max(skip, begin) :][:count]
    return rest if len(rest) > 1 else []


def share(starts: Sequence[float], rate: float, *, until: float) -> float:
    """Return the share of a rate that was achieved: calls after the first, by their time.

    Args:
        starts: when calls started, in order.
        rate: the nominal one, per second.
        until: when the measurement ended, which matters only where hardly anything started.
    """
    if len(starts) > 1 and starts[-1] > starts[0]:
        return (len(starts) - 1) / (starts[-1] - starts[0]) / rate
    return len(starts) / (until - starts[0]) / rate if starts else 0.0


@dataclass(frozen=True)
class Gaps:
    """The times between one start and the next, in nominal intervals; None: there were too few."""

    median: float | None
    last_percentile: float | None


def gaps(starts: Sequence[float], rate: float) -> Gaps:
    """Return how evenly calls started."""
    between = [(after - before) * rate for before, after in itertools.pairwise(starts)]
    if len(between) <= 1:
        return Gaps(None, None)
    hundredths = statistics.quantiles(between, n=100, method="inclusive")
    return Gaps(hundredths[49], hundredths[98])


def inversions(order: Iterable[int]) -> int:
    """Return how often a call started right after one that had joined later."""
    return sum(before > after for before, after in itertools.pairwise(order))


def excess(calls: Iterable[tuple[float, float]], rate: float, burst: float) -> float:
    """Return by how much a limit was exceeded at its worst: 0 if it held.

    Args:
        calls: when each started, in order, and what it cost.
        rate: what comes in per second.
        burst: what is there at the beginning, and is kept at most.
    """
    left, worst, last = burst, 0.0, None
    for at, cost in calls:
        if last is not None:
            left = min(burst, left + (at - last) * rate)
        last = at
        left -= cost
        worst = max(worst, -left)
    return worst


def ideal(costs: Sequence[float], rate: float, burst: float) -> float:
    """Return the seconds after which the last of some calls may start, if no capacity is lost."""
    return max(0.0, (sum(costs) - burst) / rate)


def early(starts: Iterable[Sequence[float]], least: float) -> int:
    """Return how many calls of all lanes started less than so much after the one before."""
    return sum(
        after - before < least
        for lane in starts
        for before, after in itertools.pairwise(sorted(lane))
    )


def most_within(starts: Sequence[float], seconds: float) -> int:
    """Return the most calls, of those in order, that started within so many seconds."""
    first = most = 0
    for number, start in enumerate(starts):
        while starts[first] <= start - seconds:
            first += 1
        most = max(most, number - first + 1)
    return most
