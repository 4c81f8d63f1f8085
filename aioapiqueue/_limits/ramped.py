"""The state of a rate with a `Ramp`: a token bucket whose rate is a ceiling that grows with use.

`Ceiling` is the rate as a function of time. Time is divided into steps, an eighth of `per` long,
that begin with the first call. It knows how much was used in each of the last eight steps, so at
the end of a step it knows the mean of exactly the last `per`. There it falls to `reach` times that
mean, or to the floor, if it was above; if not, it grows in the next step, by `factor` in each
`per`.

What a call is charged is used from its start on, at the rate of the ceiling: over the time for
which the next call has to wait. So it makes no difference whether many small calls start or few
large ones, of which not one may start in `per`; and while calls wait, exactly what the ceiling
admits is used. What the bucket gives back is not used, and what it keeps is, although the call
settled lower.

`reach` is the ratio of a rate to its own mean over the last `per` while it grows by `factor` in
each `per`: ln(factor) / (1 - 1 / factor), 1.39 for a factor of 2. So steady demand is not slowed
down by it. Whatever the demand, if `n` units were used in the `per` before the end of a step, the
ceiling is at most `reach * n / per` then, and at most `factor * n` are used in the `per` after it.
(With `factor` itself in place of `reach`, that could be 2.89 times as many for a factor of 2: the
ceiling would already be twice the mean, and still grow.)

`RampedBucket` converts what the bucket has into units, and back at the new rate, whenever the
ceiling has changed (as `TokenBucket.change` does): so the bucket's arithmetic stays as it is.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue._limits.algorithms import LearntBucket, TokenBucket
from aioapiqueue._limits.limit_state import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._limits.limit_state import Charge
    from aioapiqueue._limits.limit_types import Rate

__all__ = ["Ceiling", "LearntRampedBucket", "RampedBucket"]

_STEPS = 8
"""Steps in each `per`."""


class Ceiling:
    """The ceiling on a rate, in units per second, during one step.

    Only `see` and `note` change it: another thread may look ahead at any time.

    Args:
        limit: the rate, with a ramp.
    """

    __slots__ = (
        "cap",
        "end",
        "floor",
        "grows_from",
        "growth",
        "limit",
        "per",
        "reach",
        "seen",
        "start",
        "sums",
        "top",
        "unused",
        "value",
    )

    def __init__(self, limit: Rate) -> None:
        ramp = limit.ramp
        assert ramp is not None  # noqa: S101 - only such rates have this state
        self.limit = limit
        self.top = 1 / limit.interval
        self.floor = 1 / ramp.floor_of(limit)
        self.per = ramp.per
        self.growth, self.reach = ramp.growth, ramp.reach
        self.start, self.end = -math.inf, math.inf
        """The step. Infinite: nothing has started for `per`, so the ceiling is at the floor."""
        self.value = self.cap = self.floor
        """The ceiling at the start of the step, and its highest value in the step."""
        self.grows_from = math.inf
        self.sums = [0.0] * (_STEPS + 1)
        """What was used in the last eight steps, the oldest first, and in this one until `seen`."""
        self.unused, self.seen = 0.0, -math.inf
        """What calls have been charged by then, and is used later."""

    def begin_step(
        self, start: float, sums: list[float], before: Ceiling, unused: float
    ) -> Ceiling:
        """Begin a step after another one; `value` and `cap` stay at the floor. Return this."""
        self.start, self.end = start, start + self.per / _STEPS
        self.sums = sums
        self.unused, self.seen = unused, start
        self.grows_from = before.grows_from
        return self

    @property
    def is_idle(self) -> bool:
        """Whether nothing has started for `per`."""
        return self.start == -math.inf

    def begun(self, now: float) -> Ceiling:
        """Return the ceiling from the first call on."""
        new = Ceiling(self.limit).begin_step(now, [0.0] * (_STEPS + 1), self, 0.0)
        new.grows_from = now + self.per
        return new

    def next(self) -> Ceiling:
        """Return the ceiling in the next step, if nothing more starts in this one."""
        new = Ceiling(self.limit)
        used = self._used(self.end)
        sums = [*self.sums[1:_STEPS], self.sums[_STEPS] + used, 0.0]
        if not any(sums):
            return new
        unused = self.unused - used
        new.begin_step(self.end, sums, self, unused if unused > ROUNDING else 0.0)
        most, now = new.most(), self.at(self.end)
        # A ceiling that is not used does not grow.
        new.value, new.cap = (now, new.top) if now < most else (most, most)
        return new

    def most(self) -> float:
        """Return the highest ceiling after what was used in the last eight steps."""
        mean = sum(self.sums[:_STEPS]) / self.per
        return min(self.top, max(self.floor, self.reach * mean))

    def changed(self, limit: Rate, now: float) -> Ceiling:
        """Return the ceiling of another limit, after the same use."""
        if self.is_idle:
            return Ceiling(limit)
        new = Ceiling(limit)
        mean = sum(self.sums) / self.per
        new.begin_step(now, [*[mean * new.per / _STEPS] * _STEPS, 0.0], self, self.unused)
        new.value = new.cap = max(new.floor, min(self.at(now), new.most()))
        return new

    def for_demand(self, now: float) -> Ceiling:
        """Return how the ceiling would grow from now on if it was always used up."""
        if self.is_idle:
            new = self.begun(now)
        else:
            new = Ceiling(self.limit).begin_step(now, self.sums, self, self.unused)
            new.value = self.at(now)
        new.cap = self.top
        return new

    def _used(self, until: float) -> float:
        """Return what is used from `seen` until an instant of the step."""
        return min(self.unused, self.admits(self.seen, until)) if self.unused else 0.0

    def see(self, now: float) -> None:
        """Count what was used until an instant of the step."""
        if not self.is_idle and now > self.seen:
            used = self._used(now)
            self.sums[_STEPS] += used
            self.unused, self.seen = self.unused - used, now

    def note(self, cost: float) -> None:
        """Note what a call is charged; below 0: what it gets back."""
        self.unused = max(0.0, self.unused + cost)

    # Within the step: `value` until `grows_from`, then exponential growth until `cap`.

    def _bounds(self) -> tuple[float, float]:
        """Return the instants at which growth begins and ends."""
        begins = max(self.start, self.grows_from)
        return begins, begins + math.log(self.cap / self.value) / self.growth

    def is_steady(self, since: float, until: float) -> bool:
        """Return whether the ceiling has one value between two instants of the step."""
        if self.value >= self.cap:
            return True
        begins, ends = self._bounds()
        return until <= begins or since >= ends

    def at(self, now: float) -> float:
        """Return the ceiling at an instant of the step."""
        if self.value >= self.cap or now <= self.grows_from:
            return self.value
        begins, ends = self._bounds()
        return self.cap if now >= ends else self.value * math.exp(self.growth * (now - begins))

    def _sum(self, until: float) -> float:
        """Return what the ceiling admits from the start of the step on."""
        begins, ends = self._bounds()
        if until <= begins:
            return self.value * (until - self.start)
        grown = self.value * math.expm1(self.growth * (min(until, ends) - begins)) / self.growth
        return self.value * (begins - self.start) + grown + self.cap * max(0.0, until - ends)

    def admits(self, since: float, until: float) -> float:
        """Return what the ceiling admits between two instants of the step."""
        if self.is_idle or self.is_steady(since, until):
            return self.at(since) * (until - since)
        return self._sum(until) - self._sum(since)

    def reaches(self, since: float, amount: float) -> float:
        """Return the instant until which the ceiling admits an amount; perhaps after the step."""
        if self.is_idle or self.is_steady(since, math.inf):
            return since + amount / self.at(since)
        begins, ends = self._bounds()
        amount += self._sum(since) - self.value * (begins - self.start)
        if amount <= 0:
            return begins + amount / self.value
        until = begins + math.log1p(amount * self.growth / self.value) / self.growth
        if until <= ends:
            return until
        return ends + (amount - (self.cap - self.value) / self.growth) / self.cap


class RampedBucket(TokenBucket):
    """A `Rate` with a `Ramp`.

    `interval` and `burst` are those of the ceiling at the instant `turned`.
    """

    __slots__ = ("ceiling", "limit", "turned")

    def __init__(self, rate: Rate, *, catch_up: float, unit: int = 0) -> None:
        self.limit = rate
        super().__init__(rate, catch_up=catch_up, unit=unit)  # which calls `restart`

    def restart(self, anchor: float, used: float) -> None:
        """Count `used` from `anchor` on; -inf: forget all use."""
        super().restart(anchor, used)
        if anchor == -math.inf:
            self.ceiling = Ceiling(self.limit)
            self.turned = -math.inf
            self.interval, self.burst = self._scaled(self.ceiling.floor)

    def _scaled(self, ceiling: float) -> tuple[float, float]:
        """Return the interval and the burst under a ceiling."""
        if ceiling >= self.ceiling.top:
            return self.limit.interval, self.limit.burst
        interval = 1 / ceiling
        return interval, max(1.0, self.limit.burst * self.limit.interval / interval)

    def _ahead(self, now: float) -> tuple[Ceiling, float]:
        """Return the ceiling and what could start, at an instant until which nothing starts."""
        ceiling, since = self.ceiling, self.turned
        if ceiling.is_idle:
            return ceiling, self.burst - (self.tat - now) / self.interval
        left = self.burst - (self.tat - since) / self.interval
        while ceiling.end <= now < math.inf:
            left += ceiling.admits(since, ceiling.end)
            since, ceiling = ceiling.end, ceiling.next()
        return ceiling, left + ceiling.admits(since, max(now, since))

    def left(self, now: float) -> float:
        """Return what could start; below 0: what has to recover first."""
        return self._ahead(now)[1]

    def _turn(self, now: float) -> None:
        """Have the interval and the burst of this instant, and what has not recovered in units."""
        if now <= self.turned:
            return
        ceiling, left = self._ahead(now)
        interval, burst = self._scaled(ceiling.at(now))
        if (interval, burst) != (self.interval, self.burst):
            owed, scale = burst - left, interval / self.interval
            if self.peaks:  # as in `change`
                self.peaks = [(started, slack * scale) for started, slack in self.peaks]
            if self.overs:
                moved = ((at, tat - self.tat, cost) for at, tat, cost in self.overs)
                self.overs = deque(
                    [(at, now + owed * interval + lead * scale, cost) for at, lead, cost in moved],
                    maxlen=self.overs.maxlen,
                )
            self.interval, self.burst = interval, burst
            # Not from a negative count on: see `adjust`.
            super().restart(now + min(0.0, owed) * interval, max(0.0, owed))
        ceiling.see(now)
        self.ceiling, self.turned = ceiling, now

    def _note(self, now: float, cost: float) -> None:
        if self.ceiling.is_idle:
            if cost <= 0:
                return
            self.ceiling = self.ceiling.begun(now)
        self.ceiling.note(cost)

    def on_idle(self, now: float) -> None:
        self._turn(now)
        super().on_idle(now)

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        due = super().next_at(now, costs)
        ceiling, since, value = self.ceiling, self.turned, self.ceiling.at(self.turned)
        # While the ceiling stays, the bucket is a plain one, and its instants are exact.
        while ceiling.at(since) == value and ceiling.is_steady(since, min(due, ceiling.end)):
            if due <= ceiling.end:
                return due
            since, ceiling = ceiling.end, ceiling.next()
        if due <= since:
            return due
        missing = costs[self.unit] - self.burst + (self.tat - since) / self.interval
        return max(self.held, _reached(ceiling, since, missing, costs[self.unit]))

    def consume(self, now: float, costs: Sequence[float]) -> None:
        self._turn(now)
        super().consume(now, costs)
        self._note(now, costs[self.unit])

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        taken, cost = charge[self.unit], costs[self.unit]
        ceiling, left = self._ahead(now)
        interval, burst = self._scaled(ceiling.at(now))
        left = min(left, max(burst, taken) + self.catch_up / interval)  # as after `consume`
        return _reached(ceiling, now, taken + cost - left, cost) <= by + ROUNDING

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        ceiling, left = self._ahead(now)
        return min(self._scaled(ceiling.at(now))[1], max(0, left))

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        self._turn(now)
        overs = len(self.overs or ())
        super().refund(now, at, costs)
        if len(self.overs or ()) < overs:  # without `adjust`
            self._note(now, -costs[self.unit])

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        self._turn(now)
        before = self.tat
        super().adjust(now, at, charged, cost)
        given_back = (before - self.tat) / self.interval
        self._note(now, cost - charged if cost > charged else -given_back)

    def estimate(self, now: float, cost: float) -> float:
        at = max(now, self.held)
        ceiling, left = self._ahead(at)
        interval, burst = self._scaled(ceiling.at(at))
        late = 0.0 if at > now or self.last < now - self.catch_up else self.catch_up
        return self._if_used(ceiling, at, cost - min(left, burst + late / interval))

    def all_started(self, now: float, cost: float, first: float) -> float:
        if first <= self.burst:
            return self.estimate(now, cost)
        at = max(now, self.held)
        ceiling, left = self._ahead(at)
        return self._if_used(ceiling, at, max(0, first - left) + cost - first)

    @staticmethod
    def _if_used(ceiling: Ceiling, now: float, missing: float) -> float:
        """Return when an amount has started if calls wait all the time."""
        return ceiling.for_demand(now).reaches(now, missing) if missing > 0 else now

    def idle_at(self, now: float) -> float:
        known = super().idle_at(now)
        if self.ceiling.is_idle:
            return known
        at = max(now, self.turned)
        ceiling, left = self._ahead(at)
        missing = self._scaled(ceiling.at(at))[1] - left
        full_at = _reached(ceiling, at, missing, 1) if missing > 0 else known
        # The step of the latest call, and a whole `per` without any.
        return max(known, full_at, self.last + self.ceiling.per * (1 + 1 / _STEPS))

    def counts_like(self, limit: Rate) -> bool:
        mine = self.limit
        return (mine.interval, mine.burst, mine.ramp) == (limit.interval, limit.burst, limit.ramp)

    def change(self, limit: Rate, now: float) -> None:
        """Keep what has not recovered, in units, and the ceiling as far as the new limit has it."""
        self._turn(now)
        owed = self.burst - self.left(now)
        self.limit, self.ceiling = limit, self.ceiling.changed(limit, now)
        interval, burst = self._scaled(self.ceiling.at(now))
        if self.peaks:
            scale = interval / self.interval
            self.peaks = [(started, slack * scale) for started, slack in self.peaks]
        self.overs = None
        owed = min(owed, burst + max(0.0, owed - self.burst))
        self.interval, self.burst = interval, burst
        super().restart(now, max(0.0, owed))

    def charges(self, now: float) -> Sequence[Charge]:
        self._turn(now)
        return super().charges(now)

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:
        self._turn(now)
        # At the full rate, or an hour's calls would have to recover at the floor.
        plain = TokenBucket(self.limit, catch_up=self.catch_up)
        plain.take_over(charges, now, beside=beside)
        owed = (plain.tat - now) / plain.interval
        # A debt beyond the burst stays; else this bucket starts used up at worst.
        owed = min(owed, self.burst + max(0.0, owed - plain.burst))
        if owed > max(0.0, (self.tat - now) / self.interval):
            super().restart(now, owed)
            self.full_at = now


class LearntRampedBucket(LearntBucket, RampedBucket):
    """A `LearntRate` with a `Ramp`."""

    __slots__ = ()

    def is_of(self, limit: float | None) -> bool:
        return self.limit.burst == limit

    def follow(self, left: float, now: float) -> None:
        self._turn(now)
        super().follow(min(left, self.burst), now)


def _reached(ceiling: Ceiling, since: float, missing: float, cost: float) -> float:
    """Return the instant at which a missing amount has been admitted, if nothing starts until then.

    Args:
        ceiling: the ceiling at `since`.
        since: an instant of its step.
        missing: the amount.
        cost: of the call: the tolerance for sums is a share of it.
    """
    while missing > ROUNDING * max(1.0, cost):
        at = ceiling.reaches(since, missing)
        if at <= ceiling.end:
            return at
        missing -= ceiling.admits(since, ceiling.end)
        since, ceiling = ceiling.end, ceiling.next()
    return since
