"""What is computed from the instants at which calls started: no peer and no clock is in here."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Gaps", "early", "excess", "gaps", "ideal", "inversions", "needed", "share"]


def needed(rate: float, seconds: int, *, skip: int) -> int:
    """Return how many calls to wait for: whole seconds of them, after the opening burst.

    So a limiter that lets a second's calls through at once is measured from one such instant to
    another.
    """
    return skip + round(rate * seconds) + 1


def share(starts: Sequence[float], rate: float, *, skip: int, until: float) -> float:
    """Return the share of a rate that was achieved, once the opening burst is over.

    A rate is calls after the first by the time that they took. So the first calls are left out
    that a limiter may let through at once: they are of the time before.

    Args:
        starts: when calls started, in order.
        rate: the nominal one, per second.
        skip: how many may start at once at the beginning, beside the first.
        until: when the measurement ended; it matters only where the opening burst was not over.
    """
    rest = starts[skip:]
    if len(rest) > 1:
        return (len(rest) - 1) / (rest[-1] - rest[0]) / rate
    return len(starts) / (until - starts[0]) / rate if starts else 0.0


@dataclass(frozen=True)
class Gaps:
    """The times between one start and the next, in nominal intervals."""

    median: float
    last_percentile: float


def gaps(starts: Sequence[float], rate: float) -> Gaps:
    """Return how evenly calls started."""
    between = [(after - before) * rate for before, after in itertools.pairwise(starts)]
    if len(between) <= 1:
        return Gaps(float("nan"), float("nan"))
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
