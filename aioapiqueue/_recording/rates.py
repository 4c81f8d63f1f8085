"""How much limits allow: a second, in so many seconds, and over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

from aioapiqueue import Calendar, Concurrency, Rate, Window
from aioapiqueue.spi import CALLS, limit_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue import Limit

__all__ = ["OverTime", "allowed_over_time", "delay_of", "most_in", "per_second"]

_MOST_PAIRS = 1_000

_Value = TypeVar("_Value")


class OverTime(Generic[_Value]):
    """What something was from when on: bounded, the first and the latest exactly.

    Args:
        first: what it is at the beginning; default: nothing yet.
    """

    __slots__ = ("pairs",)

    def __init__(self, *first: _Value) -> None:
        self.pairs: list[tuple[float, _Value]] = [(0.0, one) for one in first]

    def note(self, at: float, value: _Value) -> None:
        """Note what it is from `at` on, in seconds from the beginning."""
        if self.pairs and self.pairs[-1][1] == value:
            return
        self.pairs.append((at, value))
        if len(self.pairs) > _MOST_PAIRS:
            del self.pairs[1:-1:2]


def per_second(limit: Limit, unit: str) -> float | None:
    """Return how much a limit lets through a second in the long run; None: of another unit."""
    if isinstance(limit, Concurrency) or limit.unit != unit:
        return None
    return limit.calls / (limit.per if isinstance(limit, Rate) else limit_types.period_of(limit))


def delay_of(limit: Limit) -> float | None:
    """Return the pause before each call that keeps a limit; None: it counts no calls."""
    rate = per_second(limit, CALLS)
    return 1 / rate if rate else None


def most_in(limit: Limit, seconds: float, began: float) -> float | None:
    """Return the most that a limit lets through in so many seconds; None: not known."""
    if isinstance(limit, Rate):
        return limit.burst + limit.calls / limit.per * seconds
    if isinstance(limit, Window):
        return limit.calls * max(1, math.ceil(seconds / limit.per))
    if isinstance(limit, Calendar):
        _, end = limit.period(began)
        return limit.calls * (
            1 + max(0, math.ceil((began + seconds - end) / limit_types.period_of(limit)))
        )
    return None


def allowed_over_time(
    limits_since: Sequence[tuple[float, tuple[Limit, ...]]],
    lowered_since: Sequence[tuple[float, float]],
    unit: str,
) -> Iterator[tuple[float, float | None]]:
    """Yield how much was allowed a second from when on; None: as much as one likes.

    Args:
        limits_since: the limits from when on.
        lowered_since: what push-back has left, in calls a second; inf: what the limits say.
        unit: what is counted.
    """
    changes: list[tuple[float, float | None, float | None]] = []
    for at, limits in limits_since:
        rates = [rate for one in limits if (rate := per_second(one, unit)) is not None]
        changes.append((at, min(rates, default=math.inf), None))
    if unit == CALLS:
        changes += [(at, None, rate) for at, rate in lowered_since]
    limit = lowered = math.inf
    last: float | None = -1.0
    for at, new_limit, new_lowered in sorted(changes, key=lambda one: one[0]):
        limit = limit if new_limit is None else new_limit
        lowered = lowered if new_lowered is None else new_lowered
        rate = min(limit, lowered)
        now = None if rate == math.inf else rate
        if now != last:
            yield at, now
            last = now
