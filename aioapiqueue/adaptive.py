"""Adaptive rates: how a queue finds the rate that a server can sustain.

`Adaptive` is the configuration. An `AdaptiveRate` applies it to one queue or lane: it is one more
limit state, with the rate that the server is assumed to sustain.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency, Rate
from aioapiqueue.spi import CALLS, algorithms, checks, limit_types

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import cost_units

__all__ = ["Adaptive"]

_BUSY = 0.010
"""Gap between two calls, in seconds, that never counts as idle time. Fast calls start in groups,
which are at most half as far apart (`algorithms.next_look`)."""
_ENOUGH = 10
"""Fewest calls for a measurement, and for a recovery."""
_FLOOR = 0.1
"""Default floor, in calls per second."""
_GOLDEN = 0.618034
"""The golden section: the fractional parts of its multiples are spread as evenly as possible."""
_PROBING = 3
"""Factor by which the rate grows more slowly above the remembered rate than below it."""
_MEMORY = 3600.0
"""Seconds without a call after which a slow-down is forgotten: calls start at the limits again."""


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Slow down when the server throttles calls, and recover gradually, within the limits.

    Args:
        floor: lowest rate; default: one call in ten seconds, or a tenth of the limits if that is
            lower. A floor in calls does not apply to limits, such as those of a lane, that count
            only other units; their floor is a hundredth of the limits.
        backoff: factor between 0 and 1 by which throttling lowers the rate; default 0.7, as in
            CUBIC.
        recovery: seconds after a slow-down until the remembered rate is tried again; default 20.
            After four times as long, the rate is as far above the remembered rate as it was below.
            Each call counts as at most a tenth of `recovery`, so it takes at least ten calls.
        concurrency: lowest number of calls that run at once, for a queue with `concurrency`.
            Throttling then lowers it along with the rate, by the same curve. Default: `concurrency`
            stays as it is.
            Throttling a lane that has its own limits never lowers `concurrency`.

    Raises:
        TypeError: the floor is a bare number.
        ValueError: a value is invalid, or (from `ApiQueue`) the floor is above the limits, or
            `concurrency` above that of the queue.

    >>> import asyncio
    >>> async def main():
    ...     queue = ApiQueue("40/s", adaptive=Adaptive("1/s"))
    ...     for attempt in range(20):
    ...         async with queue.slot() as slot:
    ...             if attempt == 19:                          # the server responds 429
    ...                 slot.throttled(retry_after=2)
    ...     print(f"{queue.stats.backed_off} slow-down, {queue.stats.rate:.0f} per s", end=", ")
    ...     print(f"the next call in {queue.estimate():.0f} s")
    >>> asyncio.run(main())
    1 slow-down, 28 per s, the next call in 2 s

    When a call is throttled (`slot.throttled()`, or seen by an integration), the rate of its lane
    falls if the lane has limits of its own, and otherwise the rate of the queue. It falls to
    `backoff` times the old rate, or lower if fewer calls were served. The mean rate served since
    the last throttled call is remembered as the rate that the server can sustain: its token bucket,
    whatever its size, was empty at both times, so the server served what was refilled in between.
    (Fewer than ten calls between two throttled calls are too few to measure: the old value is
    kept.) Then the rate grows:

        x = elapsed / recovery - 1, a third of it where it is above 0
        rate = remembered + (remembered - start) * x ** 3

    >>> adaptive = Adaptive(recovery=20)            # throttled at 22 per s, with 20 of them served
    >>> for elapsed in range(0, 141, 10):
    ...     rate = adaptive.regrow(start=15.4, remembered=20, elapsed=elapsed)
    ...     print(f"{elapsed:4} {rate:5.1f} " + "#" * round(rate))
       0  15.4 ###############
      10  19.4 ###################
      20  20.0 ####################
      30  20.0 ####################
      40  20.2 ####################
      50  20.6 #####################
      60  21.4 #####################
      70  22.7 #######################
      80  24.6 #########################
      90  27.3 ###########################
     100  30.9 ###############################
     110  35.5 ####################################
     120  41.3 #########################################
     130  48.3 ################################################
     140  56.8 #########################################################

    This is the curve of CUBIC (RFC 9438, section 4.2), which is steep far from the remembered rate
    and flat around it, with three changes. CUBIC recovers more slowly at higher rates; here, a
    recovery takes `recovery` seconds at any rate (and at least ten calls), because API limits range
    from 0.2 to 20,000 per second. Above the remembered rate, growth is three times as slow. And
    CUBIC remembers the peak, which a full bucket raises, while this remembers the mean.

    At the remembered rate and above, calls are not evenly spaced: each starts at a different
    fraction of its interval. Evenly spaced calls could keep step with another client, and take
    every token just before that client's call. Then only the other client would be throttled, and
    this queue would never learn to slow down.

    `elapsed` counts only the time in use, while calls start at half the allowed rate or faster,
    because a rate that is not used proves nothing (RFC 9438, section 5.8). The remembered rate is
    forgotten after an hour without a call.

    Throttled calls that started before the last slow-down do not slow the queue down again: if 50
    calls in flight are all refused, this counts once. If limits count other units in addition to
    calls, the rates of all units fall by the same factor. The unit with the largest share in
    use determines this factor.

    To use another curve, derive a class and override `regrow`.
    """

    floor: str | Rate | None = None
    backoff: float = 0.7
    _: KW_ONLY
    recovery: float = 20.0
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.floor is not None:
            floor = limit_types.as_limit(self.floor)
            if not isinstance(floor, Rate):
                raise TypeError(f"floor must be a rate, not {floor}")
            object.__setattr__(self, "floor", floor)  # the only way in a frozen dataclass
        checks.positive(self.backoff, of="backoff")
        if self.backoff >= 1:
            raise ValueError(
                f"backoff must be below 1, not {self.backoff!r}: 0.7 lowers a rate to 70 %"
            )
        checks.positive(self.recovery, of="recovery", most=checks.LONGEST)
        if self.concurrency is not None:
            checks.positive(self.concurrency, of="concurrency", least=1)

    def regrow(self, *, start: float, remembered: float, elapsed: float) -> float:
        """Return the rate (or concurrency) that is allowed now.

        If this raises, or does not return a number above 0, the rate stays as it is, and the error
        goes to the loop's exception handler.

        Args:
            start: rate right after the slow-down.
            remembered: rate that the server sustained then.
            elapsed: seconds in use since then.
        """
        x = elapsed / self.recovery - 1
        return remembered + (remembered - start) * (x if x < 0 else x / _PROBING) ** 3

    def least(self, ceiling: float, unit: str) -> float:
        """Return the lowest rate, in units per second.

        Args:
            ceiling: rate that the limits allow, in units per second.
            unit: unit that the limits count.

        Raises:
            ValueError: the floor counts another unit than the limits.
        """
        # A floor in calls does not apply to limits that count only other units.
        if isinstance(self.floor, Rate) and not (self.floor.unit == CALLS != unit):
            if self.floor.unit != unit:
                raise ValueError(
                    f"the adaptive floor, {self.floor}, counts {self.floor.unit}, but the limits "
                    f"count {unit}: "
                    f'write floor="{replace(self.floor, unit=unit)}", or leave it out'
                )
            return 1 / self.floor.interval
        return min(_FLOOR, ceiling / 10) if unit == CALLS else ceiling / 100

    def govern(
        self,
        limits: Sequence[Limit],
        *,
        catch_up: float,
        concurrency: float,
        report: Callable[[str, Exception], None],
        units: cost_units.Units,
    ) -> Sequence[algorithms.LimitState]:
        """Return the states that slow down a queue or lane with these limits.

        One state controls the rate of calls or, if no limit counts calls, of the first limit's
        unit. There is one more state for each other unit, which follows by the same factor.

        Args:
            limits: the limits to adapt; no rate ever exceeds theirs.
            catch_up: longest delay, in seconds, for which the queue compensates.
            concurrency: largest number of calls that run at once; inf: any number.
            report: called with a message and the exception if `regrow` fails.
            units: units of the queue.
        """
        ceilings: dict[int, float] = {}
        for limit in limits:
            if isinstance(limit, Concurrency):
                continue
            unit = units.place_of(limit.unit)
            ceilings[unit] = min(limit_types.rate_of(limit), ceilings.get(unit, math.inf))
        # Calls lead if any limit counts them. Other units measure a rate less well, because one
        # call may use any amount of them.
        lead = 0 if 0 in ceilings or not ceilings else next(iter(ceilings))
        leader = AdaptiveRate(
            self,
            ceiling := ceilings.pop(lead, math.inf),
            floor=self.least(ceiling, units.names[lead]),
            unit=lead,
            others=ceilings,
            catch_up=catch_up,
            concurrency=concurrency,
            report=report,
        )
        return (leader, *leader.followers)


class CubicCurve:
    """A rate or a concurrency that falls when a call is throttled, and then grows again."""

    __slots__ = ("ceiling", "floor", "remembered", "start", "value")

    def __init__(self, floor: float, ceiling: float) -> None:
        self.floor = floor
        self.ceiling = ceiling
        self.value = math.inf
        """The lowered figure; inf: not lowered. If `set_rate` has lowered the ceiling below it, it
        has no effect until the ceiling rises again."""
        self.start = self.remembered = ceiling

    @property
    def allowed(self) -> float:
        """The figure in force."""
        return min(self.value, self.ceiling)

    @property
    def lowered(self) -> bool:
        """Whether the figure is below the ceiling."""
        return self.value < self.ceiling

    def fall(self, used: float | None, backoff: float) -> None:
        """Lower the figure, below both the allowed and the remembered one.

        Args:
            used: the figure measured since the last fall. None: too few calls to measure; the
                remembered figure stays, or becomes the allowed one if nothing was lowered before.
            backoff: as for `Adaptive`.
        """
        allowed = used if used is not None and self.allowed == math.inf else self.allowed
        if used is not None or not self.lowered:
            self.remembered = allowed if used is None else min(used, allowed)
        # Below the remembered rate as well: at that rate, the server's empty bucket would stay
        # empty. The root is half of the usual fall, on a logarithmic scale.
        self.start = min(backoff * allowed, math.sqrt(backoff) * self.remembered)
        self.start = self.value = max(self.floor, self.start)
        # Even if less than the floor was measured: otherwise the figure would never grow again.
        self.remembered = max(self.remembered, 1.1 * self.start)


class AdaptiveRate(algorithms.TokenBucket):
    """Keeps a queue or lane to the rate of a curve once a call was throttled; unlimited before."""

    __slots__ = (
        "accepted",
        "active",
        "adaptive",
        "dither",
        "elapsed",
        "followers",
        "pace",
        "permit_curve",
        "report",
        "samples",
        "slowed",
    )

    counts = False  # the limits themselves do

    def __init__(
        self,
        adaptive: Adaptive,
        ceiling: float,
        *,
        floor: float,
        unit: int,
        others: Mapping[int, float],
        catch_up: float,
        concurrency: float,
        report: Callable[[str, Exception], None],
    ) -> None:
        least = adaptive.concurrency if concurrency < math.inf else None
        if least is not None and least > concurrency:
            raise ValueError(
                f"the adaptive concurrency, {least}, is above the queue's ({concurrency:g}), so it "
                "could never fall: lower it, or leave it out"
            )
        if floor > ceiling:
            raise ValueError(
                f"the adaptive floor, {adaptive.floor}, is above the limits ({ceiling:g}/s): "
                "lower it"
            )
        self.adaptive = adaptive
        self.report = report
        self.pace = CubicCurve(floor, ceiling)
        # Without a lowest concurrency, or in a lane (which has none), its bounds are equal, so that
        # it never falls.
        self.permit_curve = CubicCurve(concurrency if least is None else least, concurrency)
        self.slowed = -math.inf
        """Time of the last slow-down."""
        self.followers = [
            FollowingRate(most, unit=other, catch_up=catch_up) for other, most in others.items()
        ]
        super().__init__(Rate(1), catch_up=catch_up, unit=unit)  # `_forget` sets the interval
        self._forget()

    def room(self, now: float) -> float:
        """Return 0 until the next call is due, and inf from then on."""
        return 0 if self.allowed() < math.inf and self.tat > now else math.inf

    def _forget(self) -> None:
        """Forget all throttled calls. The time at which the next call is due stays."""
        for curve in (self.pace, self.permit_curve):
            curve.value = math.inf
        self.elapsed = self.dither = 0.0
        """Seconds of the recovery so far; and the fraction of an interval of the latest call."""
        self._measure_again()
        self._set_interval()

    def _measure_again(self) -> None:
        self.active = self.accepted = 0.0
        """Seconds in use, and amount used, since the last slow-down: the mean rate of both."""
        self.samples = 0
        """Number of calls since the last slow-down."""
        for follower in self.followers:
            follower.accepted, follower.since = 0.0, self.slowed

    def _set_interval(self) -> None:
        # At the ceiling, the limits alone decide, bursts included.
        interval = 1 / self.pace.value if self.pace.lowered else 0.0
        if interval != self.interval:
            self.restart(self.tat, 0)  # the next call stays due at its instant
            self.interval = interval
            factor = self.pace.value / self.pace.ceiling if self.pace.lowered else math.inf
            for follower in self.followers:
                follower.follow(factor)

    def on_idle(self, now: float) -> None:
        if now - max(self.last, self.slowed) > _MEMORY:
            self._forget()
        super().on_idle(now)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        cost = costs[self.unit]
        gap = now - self.last if self.last > -math.inf else 0.0
        busy = max(_BUSY, 2 * max(cost, 1) / self.pace.allowed)  # a longer gap is idle time
        # For the measurement, up to a second counts at any rate, because a server's bucket also
        # refills between bursts.
        self.active += min(gap, max(1.0, busy))
        self.accepted += cost
        self.samples += 1
        if self.pace.lowered or self.permit_curve.lowered:
            self.elapsed += min(gap, busy, self.adaptive.recovery / _ENOUGH)
            self._regrow(self.pace)
            self._regrow(self.permit_curve)
            self._set_interval()  # before the charge, so that this call has the new interval
        super().consume(now, costs)
        if self.pace.remembered <= self.pace.value < math.inf:
            self._fall_out_of_step()

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        if at > self.slowed:  # only calls since the last slow-down are measured
            self.accepted = max(0.0, self.accepted + cost - charged)
        super().adjust(now, at, charged, cost)

    def _fall_out_of_step(self) -> None:
        """Start each call at a different fraction of its interval, at the same mean rate."""
        before, self.dither = self.dither, (self.dither + _GOLDEN) % 1
        self.restart(self.anchor, self.used + self.dither - before)

    def _regrow(self, curve: CubicCurve) -> None:
        if not curve.lowered:
            return
        try:
            value = self.adaptive.regrow(
                start=curve.start, remembered=curve.remembered, elapsed=self.elapsed
            )
            checks.positive(value, of="the result of regrow")
        except Exception as error:  # noqa: BLE001 - of a user's subclass; it must not fail a call
            self.report(f"{self.adaptive!r} failed; the rate stays as it is", error)
        else:
            curve.value = math.inf if value >= curve.ceiling else max(curve.floor, value)

    def back_off(self, now: float, since: float, running: int) -> bool:
        if since <= self.slowed:  # it started at the old rate, which has been lowered since
            return False
        used, unlimited = None, self.pace.allowed == math.inf
        if unlimited:  # without a limit, any measurement is better than none
            self.active = max(self.active, 1.0)
        # One call may use any amount of another unit: there, ten calls are needed, not ten units.
        seen = self.samples if self.unit else self.accepted
        if self.active and (seen >= _ENOUGH or unlimited):
            used = max(1.0, self.accepted - 1) / self.active  # without the throttled call
            # If another unit was used more fully, that one probably caused the refusal.
            for follower in self.followers:
                share = follower.accepted / self.active / follower.ceiling
                used = max(used, min(1.0, share) * self.pace.ceiling)
        self.pace.fall(used, self.adaptive.backoff)
        if self.permit_curve.floor < self.permit_curve.ceiling:
            self.permit_curve.fall(max(1, running), self.adaptive.backoff)
        self.slowed = now
        self.elapsed = 0.0
        self._measure_again()
        self._set_interval()
        # One interval from now, or later if a call was settled to a higher cost.
        self.restart(max(now, self.tat - self.interval), 1)
        return True

    def allowed(self) -> float:
        return self.pace.value if self.pace.lowered else math.inf

    def permits(self) -> float:
        return (
            math.floor(self.permit_curve.value)
            if self.permit_curve.lowered
            else self.permit_curve.ceiling
        )

    def idle_at(self, now: float) -> float:
        # A slowed lane stays in memory until it would forget that anyway.
        if min(self.pace.value, self.permit_curve.value) < math.inf:
            return max(self.held, self.last + _MEMORY, self.slowed + _MEMORY)
        return super().idle_at(now)

    def carry_over(self, old: algorithms.LimitState, now: float) -> None:  # noqa: ARG002 - as in the base class
        """Carry over the slow-down, under the new ceiling."""
        if isinstance(old, AdaptiveRate):
            self.last, self.held = old.last, old.held
            self.restart(old.tat, 0)
            self.slowed, self.elapsed = old.slowed, old.elapsed
            self.active, self.accepted, self.samples = old.active, old.accepted, old.samples
            for mine, before in ((self.pace, old.pace), (self.permit_curve, old.permit_curve)):
                mine.start, mine.remembered = before.start, before.remembered
                mine.value = max(mine.floor, before.value)  # perhaps above the new ceiling
            self._set_interval()


class FollowingRate(algorithms.TokenBucket):
    """The rate of another unit, lowered by the same factor as the leading unit's.

    Args:
        ceiling: the limit, in units per second.
        unit: index of the unit in costs.
        catch_up: longest delay, in seconds, for which the queue compensates.
    """

    __slots__ = ("accepted", "ceiling", "since")

    counts = False  # as above

    def __init__(self, ceiling: float, *, unit: int, catch_up: float) -> None:
        super().__init__(Rate(1), catch_up=catch_up, unit=unit)
        self.ceiling = ceiling
        self.accepted = 0.0
        self.since = -math.inf
        """Time of the last slow-down. Calls that started later are measured."""
        self.interval = 0.0

    def room(self, now: float) -> float:  # noqa: ARG002 - as in the base class
        """Return inf: the limits and the leading rate decide."""
        return math.inf

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        if at > self.since:
            self.accepted = max(0.0, self.accepted + cost - charged)
        super().adjust(now, at, charged, cost)

    def follow(self, factor: float) -> None:
        """Allow this share of the limit from now on; inf: all of it."""
        self.restart(self.tat, 0)
        self.interval = 1 / (factor * self.ceiling)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        self.accepted += costs[self.unit]
        super().consume(now, costs)

    def carry_over(self, old: algorithms.LimitState, now: float) -> None:  # noqa: ARG002 - as in the base class
        """Carry over the charges of the old state."""
        if isinstance(old, FollowingRate):
            self.last, self.held, self.accepted = old.last, old.held, old.accepted
            self.restart(old.tat, 0)
