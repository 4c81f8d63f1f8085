"""What limits allow: per second, in a period, and over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

from aioapiqueue import Calendar, Rate, Window
from aioapiqueue.spi import CALLS, limit_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue import Limit

_MOST_PAIRS = 1_000
"""Most values that are kept; beyond that, every second one of the older values is dropped."""

_Value = TypeVar("_Value")


class OverTime(Generic[_Value]):
    """A value that changes over time. The first and the latest change are kept exactly.

    Args:
        first: the value at the beginning; default: none.
    """

    __slots__ = ("pairs",)

    def __init__(self, *first: _Value) -> None:
        self.pairs: list[tuple[float, _Value]] = [(0.0, one) for one in first]

    def note(self, at: float, value: _Value) -> None:
        """Note the value from `at` on, in seconds since the beginning."""
        if self.pairs and self.pairs[-1][1] == value:
            return
        self.pairs.append((at, value))
        if len(self.pairs) > _MOST_PAIRS:
            del self.pairs[1:-1:2]


def most_in(limit: Limit, seconds: float, began: float) -> float | None:
    """Return the most that a limit allows in a period; None if that is not known.

    Args:
        limit: the limit.
        seconds: the length of the period.
        began: its beginning, in seconds since the epoch.
    """
    if isinstance(limit, Rate):
        return limit.burst + limit.calls / limit.per * seconds
    if isinstance(limit, Window):  # one full window after the other
        return limit.calls * max(1, math.ceil(seconds / limit.per))
    if isinstance(limit, Calendar):
        _, end = limit.period(began)
        # The quota of the calendar period at the beginning, and one more for each later one.
        return limit.calls * (
            1 + max(0, math.ceil((began + seconds - end) / limit_types.period_of(limit)))
        )
    return None


def allowed_over_time(
    limits_over_time: Sequence[tuple[float, tuple[Limit, ...]]],
    adaptive_rates: Sequence[tuple[float, float]],
    unit: str,
) -> Iterator[tuple[float, float | None]]:
    """Yield each change of the rate allowed, as an instant and units a second (None: unlimited).

    Args:
        limits_over_time: the limits from each instant on.
        adaptive_rates: the calls a second that `Adaptive` allowed from each instant on.
        unit: the unit of the rate.
    """
    changes: list[tuple[float, float | None, float | None]] = []
    for at, limits in limits_over_time:
        rates = [limit_types.rate_of(one) for one in limits if limit_types.unit_of(one) == unit]
        changes.append((at, min(rates, default=math.inf), None))
    if unit == CALLS:
        changes += [(at, None, rate) for at, rate in adaptive_rates]
    limit = adaptive = math.inf
    last: float | None = -1.0  # unlike any rate, so that the first one is a change
    for at, new_limit, new_adaptive in sorted(changes, key=lambda one: one[0]):
        limit = limit if new_limit is None else new_limit
        adaptive = adaptive if new_adaptive is None else new_adaptive
        rate = min(limit, adaptive)
        now = None if rate == math.inf else rate
        if now != last:
            yield at, now
            last = now
