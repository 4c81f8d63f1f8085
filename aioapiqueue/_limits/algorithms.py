"""The token bucket, and how calls are charged to several limits.

`_limits/limit_state.py` says what each method is for.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue._limits.cost_units import ONE_CALL, is_stated
from aioapiqueue._limits.limit_state import ROUNDING, Charge, LimitState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue._limits.cost_units import CostTotals
    from aioapiqueue._limits.limit_types import Rate

__all__ = ["LearntBucket", "LimitState", "TokenBucket"]

QUANTUM = 0.005
"""Longest time between two groups of calls, in seconds. A longer one would save little more CPU."""
_PEAKS = 64
"""Number of peaks that a bucket remembers at least; calls before the first get smaller refunds. It
forgets as many at a time, so that it moves few of them for each call."""
_OVERS = 32
"""Number of calls above the burst that a bucket remembers; earlier ones get smaller refunds."""


class TokenBucket(LimitState):
    """A `Rate`: the generic cell rate algorithm (GCRA, ITU-T I.371), `burst` cells deep.

    The bucket is full at `anchor + used * interval`, the theoretical arrival time (tat). A cost may
    start from `tat + (cost - burst) * interval` on, and then moves tat by `cost * interval`. It is
    computed from a count, not as a running sum, so that the n-th call is due at exactly
    `anchor + n * interval`, however late the calls before it started.
    """

    __slots__ = (
        "anchor",
        "burst",
        "catch_up",
        "full_at",
        "interval",
        "last",
        "overs",
        "peaks",
        "tat",
        "used",
    )

    counts = True

    def __init__(self, rate: Rate, *, catch_up: float, unit: int = 0) -> None:
        super().__init__(unit)
        self.interval = rate.interval
        self.burst = rate.burst
        self.catch_up = catch_up
        self.last = -math.inf
        """The instant at which the latest call started."""
        self.full_at = -math.inf
        """The last instant at which it was certainly full: earlier charges are not refunded."""
        # The next two are made when needed, because most of 100,000 lanes need neither.
        self.peaks: list[tuple[float, float]] | None = None
        """(instant, minus the seconds until the bucket was full) of those charges that did not find
        it full, but fuller than all charges after them; those before `full_at` no longer matter. A
        pace has only those of settlements, because its calls start when it is full."""
        self.overs: deque[tuple[float, float, float]] | None = None
        """(start, tat before it, cost) of the last calls that cost more than the burst can hold."""
        self.restart(-math.inf, 0)

    def restart(self, anchor: float, used: float) -> None:
        """Count `used` from `anchor` on."""
        self.anchor = anchor
        self.used = used
        self.tat = anchor + used * self.interval

    def concerns(self, costs: Sequence[float]) -> bool:
        return costs[self.unit] != 0

    def on_idle(self, now: float) -> None:
        # Idle means that nothing has started for longer than a late call may catch up. A worker in
        # a loop, whose next call comes a moment after it was due, is late and not idle.
        if self.last < now - self.catch_up and self.tat < now:
            self.restart(now, 0)
            self.full_at = now

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - a sliding window needs now
        cost = costs[self.unit]
        if cost == self.burst:  # as each call of a pace: the bucket has to be full, as at `tat`
            due = self.tat
        else:
            due = self.anchor + (self.used + cost - self.burst) * self.interval
        return due if due > self.held else self.held  # noqa: FURB136 - asked for each slot

    def consume(self, now: float, costs: Sequence[float]) -> None:
        # This runs for each limit of each call.
        cost, tat, floor, burst = costs[self.unit], self.tat, now - self.catch_up, self.burst
        if self.held > floor or cost > burst:  # else `self.floor` would return the same
            floor = self.floor(now, cost)
            if cost > burst:
                self._note_over(now, max(tat, floor), cost)
        # Counting goes on from the old anchor while calls are at most `catch_up` late. That is what
        # makes up for their lateness, and keeps sums of intervals free of rounding errors.
        if tat < floor:
            self.anchor = tat = floor
            used = cost
        else:
            used = self.used + cost
        # How much of an earlier call may come back depends on how full the bucket was at each later
        # charge: see `adjust`.
        if tat <= now:
            self.full_at = now
        elif burst > 1:
            self._note_peak(now, now - tat)
        self.used = used
        self.tat = self.anchor + used * self.interval
        self.last = now

    def _note_over(self, now: float, tat: float, cost: float) -> None:
        """Note a call that costs more than the burst can hold."""
        if self.overs is None:
            self.overs = deque(maxlen=_OVERS)
        self.overs.append((now, tat, cost))

    def _note_peak(self, now: float, slack: float) -> None:
        """Note how far from full the bucket was when a call started; see `peaks`."""
        peaks = self.peaks
        if not peaks:
            self.peaks = [(now, slack)]
            return
        at, least = peaks[-1]
        if least <= slack:
            # `adjust` needs the largest slack of all charges after an instant. An entry that a
            # later charge reaches can never be that, so those that stay fall from first to last.
            while peaks and peaks[-1][1] <= slack:
                peaks.pop()
        elif at == now:  # an earlier charge at this instant found it fuller
            return
        peaks.append((now, slack))
        if len(peaks) >= 2 * _PEAKS:
            # Not that of the first: a refund may have raised the later ones.
            fullest = max(slack for _, slack in peaks[: _PEAKS + 1])
            del peaks[:_PEAKS]
            peaks[0] = (peaks[0][0], fullest)

    def floor(self, now: float, cost: float) -> float:
        """Return the earliest instant from which room for `cost` may have been saved up."""
        # Lateness beyond catch_up is dropped, not made up for in a burst; so is the time of a hold.
        floor = max(now - self.catch_up, self.held)
        if cost > self.burst:  # the time in which it waited for the excess is no lateness
            floor -= (cost - self.burst) * self.interval
        return floor

    # The next two are `consume_if_due` and `try_consume`, each in one step, for the most common
    # queue: one bucket, and calls with the default cost. No subclass may use them, as they charge
    # without `consume`.

    def consume_one_if_due(self, now: float) -> float:
        """Charge one call if it is due.

        Returns:
            The instant at which it is; `<= now` means that it is charged.
        """
        earliest, tat = now - self.catch_up, self.tat
        if self.held > earliest:  # then `floor` decides
            return consume_if_due((self,), now, ONE_CALL)
        if tat > now:
            if self.burst == 1:  # as in `next_at`: a pace is due at `tat`, to the last digit
                return tat
            used = self.used + 1
            due = self.anchor + (used - self.burst) * self.interval
            if due > now:
                return due
            self._note_peak(now, now - tat)
        else:
            self.full_at = now
            if tat < earliest:
                self.anchor = earliest
                used = 1
            else:
                used = self.used + 1
        self.used = used
        self.tat = self.anchor + used * self.interval
        self.last = now
        return now

    def try_consume_one(self, now: float) -> float:
        """Charge one call if it is due, while no call waits; return the same."""
        earliest, tat = now - self.catch_up, self.tat
        if self.held > earliest:
            return try_consume((self,), now, ONE_CALL)
        if tat > now:
            if self.burst == 1:
                return tat
            used = self.used + 1
            due = self.anchor + (used - self.burst) * self.interval
            if due > now:
                return due
            self._note_peak(now, now - tat)
        else:
            self.full_at = now
            # The first case is that of `on_idle`, the second that of `consume`.
            if tat < now and self.last < earliest:
                self.anchor = now
                used = 1
            elif tat < earliest:
                self.anchor = earliest
                used = 1
            else:
                used = self.used + 1
        self.used = used
        self.tat = self.anchor + used * self.interval
        self.last = now
        return now

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        taken = charge[self.unit]
        tat = max(self.tat, self.floor(now, taken))  # as after `consume`
        # `by` comes from `next_at`: the same instant, from a sum that was rounded differently.
        return tat + (taken + costs[self.unit] - self.burst) * self.interval <= by + ROUNDING

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        return min(self.burst, max(0, self.burst - (self.tat - now) / self.interval))

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        if self.overs and at == self.last:
            start, before, cost = self.overs[-1]
            is_last = start == at and cost == costs[self.unit]
            # No other call has started since, so the bucket is put back to what it was before, the
            # excess included. `adjust` would keep the excess, and the next call of this cost would
            # have to wait for it again.
            if is_last and self.tat - before <= cost * self.interval + ROUNDING:
                self.overs.pop()
                self.restart(before, 0)
                return
        super().refund(now, at, costs)

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        more = cost - charged
        if charged > self.burst and more < 0 and self._started_over_burst(at):
            # It had waited until the bucket had recovered more than a burst. That excess is not
            # given back, or several smaller calls would start at once in its place.
            more = min(0, cost - self.burst)
        if more > 0:
            self._charge_late(now, more)
            return
        back = self.could_return(now, at, -more)
        if not back:
            return
        if self.peaks:
            # In retrospect, the bucket was fuller at each later charge: the next refund sees that.
            raised = back * self.interval
            self.peaks = [(t, slack + raised * (t > at)) for t, slack in self.peaks]
        # Below 0, the bucket would have been full before its anchor, and idle time would count.
        self.restart(self.anchor, max(0, self.used - back))

    def could_return(self, now: float, at: float, amount: float) -> float:  # noqa: ARG002 - as of a window
        # What the call was charged has been recovering since, and only the rest can come back. If a
        # later charge found the bucket full, all of it had recovered; if nearly full, all but what
        # was missing then. More would let the calls since then exceed the limit in retrospect.
        started_since = at < self.last
        if at < self.full_at or (started_since and self.burst == 1):
            return 0
        slacks = [slack for charged_at, slack in self.peaks or () if charged_at > at]
        if not (slacks or started_since):
            return amount
        # `catch_up` more may come back: a full bucket goes on gaining for that long.
        return max(0, min(amount, (self.catch_up - max(slacks, default=0.0)) / self.interval))

    def _charge_late(self, now: float, more: float) -> None:
        """Charge the additional cost of a call like a call that starts now."""
        # As of the start of the call, an idle bucket would have recovered from it by now; a state
        # that was evicted and made again meanwhile would not even know that start.
        self.on_idle(now)
        if self.tat < now - self.catch_up:
            self.restart(now - self.catch_up, 0)
        # A later refund must not bring back what the bucket had recovered before this charge, or a
        # second burst would start.
        if self.tat <= now:
            self.full_at = now
        else:
            self._note_peak(now, now - self.tat)
        self.restart(self.anchor, self.used + more)

    def _started_over_burst(self, at: float) -> bool:
        """Return whether a call that started at this instant may have cost more than the burst."""
        overs = self.overs
        if not overs:
            return False
        # Of calls that may have been forgotten, assume the worse: then too little comes back.
        forgotten = len(overs) == _OVERS and at < overs[0][0]
        return forgotten or any(start == at for start, *_ in overs)

    def estimate(self, now: float, cost: float) -> float:
        earliest = max(now - self.catch_up, self.held)
        if self.last < now - self.catch_up:  # as `on_idle` will find when the call joins
            earliest = max(earliest, now)
        anchor, used = self.anchor, self.used
        if self.tat < earliest:
            anchor, used = earliest, 0
        # To the last digit as `next_at`: a call that came a moment too early would have to wait.
        return max(now, self.held, anchor + (used + cost - self.burst) * self.interval)

    def all_started(self, now: float, cost: float, first: float) -> float:
        if first <= self.burst:
            return self.estimate(now, cost)
        # What the first call needs beyond the burst recovers while the bucket is full: `estimate`
        # would count that time from now on, although the call may have waited for long already.
        due = self.anchor + (self.used + first - self.burst) * self.interval
        return max(now, self.held, due) + (cost - first) * self.interval

    def idle_at(self, now: float) -> float:  # noqa: ARG002 - only a calendar needs it
        return max(self.held, self.tat, self.last + self.catch_up)

    def counts_like(self, limit: Rate) -> bool:
        return (self.interval, self.burst) == (limit.interval, limit.burst)

    def change(self, limit: Rate, now: float) -> None:
        """Keep the debt in calls, like `SetLimit` of golang.org/x/time/rate.

        A call that still had to wait half an old interval has to wait half a new one.
        """
        owed = max(0.0, (self.tat - now) / self.interval)
        scale = limit.interval / self.interval
        if self.peaks:  # calls that started before may still be settled
            self.peaks = [(started, slack * scale) for started, slack in self.peaks]
        if self.overs:  # or refunded
            rescaled = [(start, now + (tat - now) * scale, cost) for start, tat, cost in self.overs]
            self.overs = deque(rescaled, maxlen=_OVERS)
        self.interval, self.burst = limit.interval, limit.burst
        self.restart(now, owed)

    def charges(self, now: float) -> Sequence[Charge]:
        """Return what has not recovered yet, as charged now."""
        # The true instants are not known. These are later, so that a window counts them for longer.
        owed = (self.tat - now) / self.interval
        return [(now, owed)] if owed > 0 else ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:
        # What this bucket would have been charged, had it been there from the first of them on.
        tat = -math.inf
        for at, amount in charges:
            tat = max(tat, at) + amount * self.interval
        if beside:
            tat = min(tat, now + self.burst * self.interval)
        if tat > max(now, self.tat):
            self.restart(tat, 0)
            self.full_at = now  # no refund of an earlier call lowers what was taken over


class LearntBucket(TokenBucket):
    """A `LearntRate`: it does not apply to calls that do not name its unit."""

    __slots__ = ()

    optional = True

    def concerns(self, costs: Sequence[float]) -> bool:
        return is_stated(costs, self.unit) and costs[self.unit] != 0

    def is_of(self, limit: float | None) -> bool:
        """Return whether the server's quota has this size."""
        return self.burst == limit

    def follow(self, left: float, now: float) -> None:
        """Have at least as much left as the server reports for a quota of this size.

        Calls that ended without a response stay charged here, although the server may not have
        counted them: only its report shows that.
        """
        if left > self.burst - max(0.0, self.tat - now) / self.interval:
            self.restart(now, self.burst - left)


def consume_if_due(states: Sequence[LimitState], now: float, costs: Sequence[float]) -> float:
    """Charge `costs` if all limits have room.

    Returns:
        The instant at which they have; `<= now` means that the costs are charged.
    """
    due = now
    for state in states:
        at = state.next_at(now, costs)
        if at > due:  # noqa: PLR1730 - done for each slot
            due = at
    # Only when all have been asked: a call is charged to all of its limits or to none.
    if due <= now:
        for state in states:
            state.consume(now, costs)
    return due


def next_look(
    states: Sequence[LimitState], costs: Sequence[float], due: float, now: float, planned: float
) -> float:
    """Return when to look again, if the next call is due less than `QUANTUM` after `planned`.

    After calls under a rate have started, the next ones start in a group, each less than a quantum
    late, because a look costs more than a call. `catch_up` makes up for that, and half of it is
    left for delays of the machine. Other limits make up for nothing, so they have no groups.

    Args:
        states: the limits of the next call.
        costs: its costs.
        due: when it may start.
        now: the present instant.
        planned: the instant for which this look was planned: a late one does not delay the next.
    """
    for state in states:
        if not isinstance(state, TokenBucket) or state.last != now:
            continue  # it makes up for nothing, or no call has started under it
        is_fast = state.interval * costs[state.unit] < QUANTUM
        if is_fast and state.next_at(now, costs) == due:  # it is what the next call waits for
            # Some looks come before their plan: timers are cut at a day.
            return max(due, min(now, planned) + min(QUANTUM, state.catch_up / 2))
    return due


def try_consume(states: Sequence[LimitState], now: float, costs: Sequence[float]) -> float:
    """Do the same as `consume_if_due`, for a new call while none waits."""
    for state in states:
        state.on_idle(now)
    return consume_if_due(states, now, costs)


def default_step(states: Sequence[LimitState]) -> Callable[[float], float]:
    """Return a function of now that does `try_consume` for a call with the default cost."""
    if len(states) != 1:
        return lambda now: try_consume(states, now, ONE_CALL)
    state = states[0]
    if type(state) is TokenBucket:  # not a subclass, which may charge in another way
        return state.try_consume_one

    def try_one(now: float) -> float:
        state.on_idle(now)
        due = state.next_at(now, ONE_CALL)
        if due <= now:
            state.consume(now, ONE_CALL)
        return due

    return try_one


def consume_two_full_buckets(  # noqa: C901 - one step, as each call with costs goes through it
    states: Sequence[LimitState], totals: CostTotals
) -> Callable[[float, Sequence[float]], bool] | None:
    """Return a function that charges a new call to two full buckets in one step.

    Most queues that count more than calls have two rates, and a loop over any number of limits
    would take a quarter longer. The function is valid until the limits change.

    Args:
        states: the states of the limits.
        totals: the function adds the costs that it charges to these.

    Returns:
        A function of now and costs, to be called while no call waits. It returns True if it has
        charged the costs, and False, with nothing charged, if a bucket is not full or a cost does
        not fit. None if the limits are not two rates, or if neither of them counts a unit that
        comes before the last of theirs.
    """
    buckets = [state for state in states if type(state) is TokenBucket]
    if len(states) != 2 or len(buckets) != 2:  # noqa: PLR2004 - a pair
        return None
    one, other = buckets
    unit, burst, interval = one.unit, one.burst, one.interval
    other_unit, other_burst, other_interval = other.unit, other.burst, other.interval
    catch_up = one.catch_up  # that of the queue: both have the same
    units = max(unit, other_unit) + 1
    if len({0, unit, other_unit}) < units:  # `totals` would miss the costs in the other units
        return None
    sums = totals.sums_of(units)
    adds, adds_other = unit > 0, other_unit not in {0, unit}

    def charge(now: float, costs: Sequence[float]) -> bool:
        if len(costs) != units:  # the costs were made when the queue knew fewer, or more, units
            return False
        used, other_used = costs[unit], costs[other_unit]
        tat, other_tat, earliest = one.tat, other.tat, now - catch_up
        if (
            tat > now
            or other_tat > now
            or not 0 < used <= burst  # False also for UNSTATED
            or not 0 < other_used <= other_burst
            or one.held > earliest  # then `TokenBucket.floor` decides
            or other.held > earliest
        ):
            return False
        # The same as CostTotals.add, inlined.
        if costs[0] != 1:
            sums[0] += costs[0] - 1
        if adds:
            sums[unit] += used
        if adds_other:
            sums[other_unit] += other_used
        # The same as TokenBucket.on_idle and consume, inlined.
        if one.last < earliest and tat < now:
            one.anchor = now
        elif tat < earliest:
            one.anchor = earliest
        else:
            used += one.used
        if other.last < earliest and other_tat < now:
            other.anchor = now
        elif other_tat < earliest:
            other.anchor = earliest
        else:
            other_used += other.used
        one.used, other.used = used, other_used
        one.tat = one.anchor + used * interval
        other.tat = other.anchor + other_used * other_interval
        one.last = one.full_at = other.last = other.full_at = now
        return True

    return charge
