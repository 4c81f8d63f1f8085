"""Limits that nobody has configured, found in what a server says of its quotas. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue import Rate
from aioapiqueue.integrations._header_values import ServerClock
from aioapiqueue.spi import LONGEST, positive

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from aioapiqueue.integrations._advice import Advice, Quota

__all__ = ["Learner", "Learning"]

_PERIOD = 60.0
"""Seconds, where nothing says more: most quotas are counted by the minute."""
_USUAL = (1.0, 10.0, 60.0, 3600.0, 86_400.0)
_NEAR = 0.1
"""Share by which two figures for one period may differ: servers round what remains, and resets."""
_WHOLE = 1.0
"""Seconds by which a reset may be off that is given in whole ones."""
_PERIODS = 2
"""Periods in which all answers are to look like those of a bucket, after one that did not: a window
does so by chance at its beginning, when all of it is used at once."""
_USED = 0.05
"""Share of a quota that must be used before its reset says how fast it comes back."""
_MOST = 10_000
"""Quotas of which the last answer is remembered."""


@dataclass(frozen=True, slots=True)
class Learning:
    """How to learn limits from response headers: the value of `learn=`.

    A limit in the headers is ignored, and counted as malformed, if it is below what the server has
    just served, or if the next call of the same cost would wait for more than an hour (or
    `max_hold`, if longer).

    Args:
        units: units that the server counts in addition to calls, such as `"tokens"`. Calls may
            state a cost in these units before a limit exists. Default: the units named in costs.
        periods: seconds per quota, by unit, for headers that do not state a period. Default: the
            period that two responses suggest, else 60.
        refills: whether quotas refill continuously, as buckets do. A twentieth of such a quota is
            left for other users. Ignored while the server's resets contradict it. Default: False,
            the whole quota refills at its reset, and the queue leaves other users as much as their
            recent use suggests that they need.

    Raises:
        ValueError: a period is not positive and finite.

    Example:
        RateLimitedTransport(queue, learn=Learning(units=("tokens",), periods={"tokens": 60}))
    """

    units: tuple[str, ...] = ()
    periods: Mapping[str, float] = field(default_factory=dict)
    refills: bool = False

    def __post_init__(self) -> None:
        for unit, seconds in self.periods.items():
            positive(seconds, of=f"periods[{unit!r}]", most=LONGEST)


class _Seen(NamedTuple):
    """What an answer has said of a quota."""

    at: float
    remaining: float
    reset: float
    limit: float

    @property
    def full_at(self) -> float:
        """When all of it is back."""
        return self.at + self.reset


class Learner:
    """Finds the limits of one server's quotas.

    Args:
        learning: what is known of them.
    """

    def __init__(self, learning: Learning) -> None:
        self.learning = learning
        self._seen: dict[Hashable, tuple[_Seen, _Seen]] = {}
        """The first answer since a period was found, and the last one."""
        self._periods: dict[Hashable, float] = {}
        self._minimum: set[Hashable] = set()
        """Quotas whose period is known no better than by a reset."""
        self._doubted: dict[Hashable, float] = {}
        """Of quotas that did not look like a bucket: when."""
        self.clock = ServerClock()
        """The server's."""

    def with_periods(self, key: Hashable, quotas: Iterable[Quota], now: float) -> list[Quota]:
        """Return what an answer says of quotas, with the period of each.

        Args:
            key: of the call that was answered.
            quotas: of which it says something.
            now: the present instant, on any clock.
        """
        return [replace(quota, period=self._period_of(key, quota, now)) for quota in quotas]

    def _period_of(self, key: Hashable, quota: Quota, now: float) -> float:
        period = quota.period or self.learning.periods.get(quota.unit)
        if period:
            return period
        name = (key, quota.unit, quota.limit)
        if quota.remaining is not None and quota.reset is not None and quota.limit:
            seen = _Seen(now, quota.remaining, quota.reset, quota.limit)
            first, last = self._seen.get(name, (seen, seen))
            if name not in self._seen and len(self._seen) >= _MOST:
                oldest = next(iter(self._seen))
                del self._seen[oldest]
                self._periods.pop(oldest, None)
                self._minimum.discard(oldest)
            shown = _shown(first, last, seen)
            self._seen[name] = (first if shown is None else seen, seen)
            found = shown or self._periods.get(name, _PERIOD)
            if quota.reset > found:  # it is not shorter than the time in which all of it comes back
                self._minimum.add(name)
            elif shown is not None:
                self._minimum.discard(name)
            self._periods[name] = max(found, quota.reset)
        return self._periods.get(name, _PERIOD)

    def period_is_minimum(self, key: Hashable, quota: Quota) -> bool:
        """Return whether a quota's period is known no better than by a reset: it may be longer.

        Args:
            key: of the call that was answered.
            quota: what the answer says of it.
        """
        return (key, quota.unit, quota.limit) in self._minimum

    def is_bucket(self, key: Hashable, quota: Quota, now: float) -> bool:
        """Return whether a quota comes back bit by bit, as far as answers show.

        Args:
            key: of the call that was answered.
            quota: what the answer says of it, with its period.
            now: the present instant, on the clock of `with_periods`.
        """
        if not self.learning.refills or not quota.limit or quota.period is None:
            return False
        name = (key, quota.unit, quota.limit)
        if quota.remaining is not None and quota.reset is not None:
            full_in = (1 - quota.remaining / quota.limit) * quota.period
            if abs(quota.reset - full_in) > _NEAR * quota.period + _WHOLE:
                if name in self._doubted or len(self._doubted) < _MOST:
                    self._doubted[name] = now
                return False
        return now >= self._doubted.get(name, -math.inf) + _PERIODS * quota.period

    @staticmethod
    def rates(advice: Advice, quotas: Iterable[Quota]) -> list[Rate]:
        """Return the limits that an answer states, of all units that it speaks of.

        Args:
            advice: what it says.
            quotas: of which it says something, with their periods.
        """
        stated = [one for one in advice.limits if isinstance(one, Rate)]
        known = {(one.unit, one.calls) for one in stated}
        rates = (_rate(one) for one in quotas if (one.unit, one.limit) not in known)
        return list(dict.fromkeys([*stated, *(rate for rate in rates if rate is not None)]))


def _rate(quota: Quota) -> Rate | None:
    if not quota.limit or quota.period is None:
        return None
    try:
        return Rate(quota.limit, quota.period, burst=max(1, quota.limit), unit=quota.unit)
    except ValueError:  # such as more than any queue counts
        return None


def _shown(first: _Seen, last: _Seen, seen: _Seen) -> float | None:
    """Return the period that this answer shows, beside an earlier and the last one, if it does."""
    one, other = _of_bucket(first), _of_bucket(seen)
    # Two answers within a window may look like a bucket's; but it ends when it would have.
    is_later = seen.full_at > first.full_at + _WHOLE
    if one is not None and other is not None and _is_near(one, other) and is_later:
        return _usual(other)
    between = seen.full_at - last.full_at
    if seen.remaining > last.remaining and between > _WHOLE:  # the next window has begun
        return _usual(between)
    return None


def _of_bucket(seen: _Seen) -> float | None:
    used = seen.limit - seen.remaining
    return seen.reset * seen.limit / used if used > _USED * seen.limit else None


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= _NEAR * min(one, other)


def _usual(period: float) -> float:
    return next((usual for usual in _USUAL if _is_near(usual, period)), period)
