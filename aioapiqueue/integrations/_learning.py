"""Limits that you have not set, learnt from the quotas in responses. Pure."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue import Rate
from aioapiqueue.integrations._header_values import ServerClock
from aioapiqueue.integrations._learnt_ramp import check_ramp
from aioapiqueue.integrations._quotas import rate_of
from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from aioapiqueue import Ramp
    from aioapiqueue.integrations._advice import Advice, Quota

_LOG = logging.getLogger("aioapiqueue")
_DEFAULT_PERIOD = 60.0
"""Default period in seconds: most quotas are per minute."""
_COMMON_PERIODS = (1.0, 10.0, 60.0, 3600.0, 86_400.0)
_TOLERANCE = 0.1
"""Share by which two estimates of a period may differ: servers round amounts and resets."""
_RESET_ERROR = 1.0
"""Seconds by which a reset in whole seconds may be wrong."""
_CALM_PERIODS = 2
"""Periods during which no response may contradict a bucket before a quota counts as one again. At
the start of a window, a burst makes its responses look like those of a bucket by chance."""
_LEAST_USED = 0.05
"""Share of a quota that must be used before its reset shows how fast it refills."""
_MAX_QUOTAS = 10_000
"""Most quotas that are remembered."""


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
        ramp: a `Ramp` for learnt limits, for servers that also refuse a sharp rise. A limit whose
            tenth admits less than 1 in its `per` is learnt without, which is logged. Default: None.

    Raises:
        ValueError: a period is not positive and finite, or the ramp has a floor: limits of
            different sizes are learnt.
        TypeError: `ramp` is not a `Ramp`.

    Example:
        RateLimitedTransport(queue, learn=Learning(units=("tokens",), periods={"tokens": 60}))
    """

    units: tuple[str, ...] = ()
    periods: Mapping[str, float] = field(default_factory=dict)
    refills: bool = False
    ramp: Ramp | None = None

    def __post_init__(self) -> None:
        for unit, seconds in self.periods.items():
            checks.positive(seconds, of=f"periods[{unit!r}]", most=checks.LONGEST)
        check_ramp(self.ramp)


class _Observation(NamedTuple):
    """A quota as a response reported it."""

    at: float
    remaining: float
    reset: float
    limit: float

    @property
    def full_at(self) -> float:
        """Time at which the quota is full again."""
        return self.at + self.reset


@dataclass(slots=True)
class _QuotaHistory:
    """What the responses so far show about one quota."""

    first: _Observation | None = None
    """The first response since the period was found."""
    last: _Observation | None = None
    period: float = _DEFAULT_PERIOD
    is_minimum: bool = False
    """Whether only a lower bound of the period is known, from a reset."""
    contradicted: float = -math.inf
    """Time of the last response that contradicts a bucket."""


class Learner:
    """Finds the limits and periods of one server's quotas.

    Args:
        learning: the user's options.
    """

    def __init__(self, learning: Learning) -> None:
        self.learning = learning
        self.clock = ServerClock()
        self._quotas: dict[Hashable, _QuotaHistory] = {}
        self._unramped: set[Rate] = set()
        """The limits of which the log says that the ramp does not fit them."""

    def _history_of(self, key: Hashable, quota: Quota) -> _QuotaHistory:
        # Made only for what responses show: quotas that state everything would push out the others.
        name = _name_of(key, quota)
        history = self._quotas.get(name)
        if history is None:
            if len(self._quotas) >= _MAX_QUOTAS:
                del self._quotas[next(iter(self._quotas))]  # the oldest
            history = self._quotas[name] = _QuotaHistory()
        return history

    def with_periods(self, key: Hashable, quotas: Iterable[Quota], now: float) -> list[Quota]:
        """Return the quotas of a response with their periods.

        Args:
            key: key of the call.
            quotas: the quotas as reported.
            now: the time, by any clock.
        """
        return [replace(quota, period=self._period_of(key, quota, now)) for quota in quotas]

    def _period_of(self, key: Hashable, quota: Quota, now: float) -> float:
        # The statement of the server takes precedence over the option of the user.
        period = quota.period or self.learning.periods.get(quota.unit)
        if period:
            return period
        history = self._history_of(key, quota)
        if quota.remaining is not None and quota.reset is not None and quota.limit:
            seen = _Observation(now, quota.remaining, quota.reset, quota.limit)
            shown = _observed_period(history.first or seen, history.last or seen, seen)
            # Once responses show a period, a new estimate begins, so that a change is noticed.
            if history.first is None or shown is not None:
                history.first = seen
            history.last = seen
            found = shown or history.period
            if quota.reset > found:  # a quota refills within its period, so the period is longer
                history.is_minimum = True
            elif shown is not None:
                history.is_minimum = False
            history.period = max(found, quota.reset)
        return history.period

    def period_is_minimum(self, key: Hashable, quota: Quota) -> bool:
        """Return whether the period of a quota may be longer than `with_periods` returned.

        Args:
            key: key of the call.
            quota: the quota as reported.
        """
        history = self._quotas.get(_name_of(key, quota))
        return history is not None and history.is_minimum

    def is_bucket(self, key: Hashable, quota: Quota, now: float) -> bool:
        """Return whether a quota refills continuously, as far as responses show.

        Args:
            key: key of the call.
            quota: the quota, with its period.
            now: the time, by the clock of `with_periods`.
        """
        if not self.learning.refills or not quota.limit or quota.period is None:
            return False
        if quota.remaining is not None and quota.reset is not None:
            # A bucket refills evenly, so the time until it is full is proportional to what is used.
            full_in = (1 - quota.remaining / quota.limit) * quota.period
            if abs(quota.reset - full_in) > _TOLERANCE * quota.period + _RESET_ERROR:
                self._history_of(key, quota).contradicted = now
                return False
        history = self._quotas.get(_name_of(key, quota))
        return history is None or now >= history.contradicted + _CALM_PERIODS * quota.period

    def rates(self, advice: Advice, quotas: Iterable[Quota]) -> list[Rate]:
        """Return the limits that a response states, in all units.

        Args:
            advice: the advice that was read from the response.
            quotas: its quotas, with their periods.
        """
        stated = [one for one in advice.limits if isinstance(one, Rate)]
        # A limit that is stated completely needs no guess of its period.
        known = {(one.unit, one.calls) for one in stated}
        rates = (
            rate_of(one.limit, one.period, one.unit)
            for one in quotas
            if (one.unit, one.limit) not in known
        )
        found = dict.fromkeys([*stated, *(rate for rate in rates if rate is not None)])
        return list(found) if self.learning.ramp is None else [*map(self._ramped, found)]

    def _ramped(self, rate: Rate) -> Rate:
        try:
            return rate if rate.ramp else replace(rate, ramp=self.learning.ramp)
        except ValueError as error:  # its floor would admit less than 1 in `per`
            if rate not in self._unramped:
                self._unramped.add(rate)
                _LOG.warning("the learnt limit %s has no ramp: %s", rate, error)
            return rate


def _name_of(key: Hashable, quota: Quota) -> Hashable:
    # Two quotas of one unit, such as per minute and per day, differ by their size.
    return key, quota.unit, quota.limit


def _observed_period(first: _Observation, last: _Observation, seen: _Observation) -> float | None:
    """Return the period that three responses show for a quota, or None."""
    one, other = _period_of_bucket(first), _period_of_bucket(seen)
    # Two responses in one window may look like those of a bucket, but they state the same end.
    is_later = seen.full_at > first.full_at + _RESET_ERROR
    if one is not None and other is not None and _is_near(one, other) and is_later:
        return _rounded(other)
    # Two windows follow each other, so the time between their ends is the period.
    between = seen.full_at - last.full_at
    if seen.remaining > last.remaining and between > _RESET_ERROR:  # the next window has begun
        return _rounded(between)
    return None


def _period_of_bucket(seen: _Observation) -> float | None:
    # For a bucket, reset / period equals used / limit.
    used = seen.limit - seen.remaining
    return seen.reset * seen.limit / used if used > _LEAST_USED * seen.limit else None


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= _TOLERANCE * min(one, other)


def _rounded(period: float) -> float:
    return next((usual for usual in _COMMON_PERIODS if _is_near(usual, period)), period)
