"""When may the next call start? Pure arithmetic: every method is given `now` and keeps no clock.

Each state is that of one limit. It is asked in this order: `on_idle` when a caller comes and nobody
waits, `next_at` for the first in line, `consume` when it starts, `adjust` when its true cost turns
out to be another. It is given the costs of a call in all units, and picks its own.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from aioapiqueue._limits.rates import Concurrency
from aioapiqueue._limits.units import ONE_CALL, is_stated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue._limits.rates import Calendar, Rate, Window

__all__ = [
    "CalendarWindow",
    "Charge",
    "LearntBucket",
    "LimitState",
    "Permits",
    "SlidingWindow",
    "TokenBucket",
]

Charge = tuple[float, float]
"""A cost that a limit counts: when it was charged, and how much."""

_ROUNDING = 1e-9
"""Share of a window by which sums of costs in it may be off: fractions like 0.1 do not add up.
Never as much as a whole call: those are counted exactly."""

_PEAKS = 64
"""So many starts that met a bucket ever less full are told apart: refunds before are smaller."""
_OVERS = 32
"""So many calls that cost more than a burst are remembered: those before give less back."""
_PERIODS = 60
"""So many days, hours or months ahead an estimate is exact; each costs a look at a time zone."""


class LimitState:
    """Base class of the states of limits: a limit that never refuses; only a hold closes it.

    `room` and the like are only called on subclasses.

    Args:
        unit: which of the costs it counts.
    """

    __slots__ = ("held", "unit", "wait_list")

    largest: float = math.inf
    """The largest cost that could ever start."""
    optional: bool = False
    """Whether it does not concern a call that says nothing of what it counts."""

    def __init__(self, unit: int = 0) -> None:
        self.unit = unit
        self.held = -math.inf
        """Nothing starts before this instant: the latest end of a hold or pause."""
        self.wait_list: Any = None
        """Who waits for it. Not used here: the scheduler's, so that it need not look it up."""

    def concerns(self, costs: Sequence[float]) -> bool:  # noqa: ARG002 - as of a hold
        """Return whether a call of these costs comes under it: one that uses nothing does not."""
        return True

    def on_idle(self, now: float) -> None:
        """Note that a caller comes while nobody waits: rest has saved up no catch-up."""

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - as of a hold
        """Return the first instant at which `costs` may start (in the past: at once).

        Infinite where it is not known, as some body has to end first.
        """
        return self.held

    def consume(self, now: float, costs: Sequence[float]) -> None:
        """Charge `costs`, which start now; the caller has seen that they are due."""

    def consume_if_due(self, now: float, costs: Sequence[float]) -> float:
        """Charge `costs` if they are due: return the instant; `<= now` means charged."""
        due = self.next_at(now, costs)
        if due <= now:
            self.consume(now, costs)
        return due

    def consume_one_if_due(self, now: float) -> float:
        """As `consume_if_due`, of a call that says nothing of its cost."""
        return self.consume_if_due(now, ONE_CALL)

    def try_consume_one(self, now: float) -> float:
        """As `consume_one_if_due`, of a newcomer while nobody waits."""
        self.on_idle(now)
        return self.consume_if_due(now, ONE_CALL)

    def leaves_room(
        self,
        now: float,  # noqa: ARG002 - as of a hold, like these
        charge: Sequence[float],  # noqa: ARG002 - as above
        costs: Sequence[float],  # noqa: ARG002 - as above
        by: float,  # noqa: ARG002 - as above
    ) -> bool:
        """Return whether `costs` will have room at the instant `by` if `charge` starts now."""
        return True

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        """Charge what the call that started `at` costs beyond what it was, or give that back."""

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        """Give back all that a call was charged `at` which never used its slot."""
        self.adjust(now, at, costs[self.unit], 0)

    def release(self, at: float) -> bool:  # noqa: ARG002 - as of a hold
        """Note that a body which was charged `at` has ended; return whether that changes it."""
        return False

    def forget_callers(self) -> None:
        """Note that all who wait or run are gone, with their loop."""
        self.wait_list = None

    def estimate(self, now: float, cost: float) -> float:  # noqa: ARG002 - as of a hold
        """Return when the last unit of `cost` may start if all of it queues up now."""
        return max(now, self.held)

    def all_started(self, now: float, cost: float, first: float) -> float:  # noqa: ARG002 - see there
        """Return when the last unit of `cost`, which waits already, may start.

        Args:
            now: the present instant.
            cost: of all who wait.
            first: of the one that is to start first; the largest, of several.
        """
        return self.estimate(now, cost)

    def room(self, now: float) -> float:
        """Return how much could start now, as far as it goes; it changes nothing.

        Any thread may ask: what it is told was true a moment ago.
        """
        raise NotImplementedError

    def idle_at(self) -> float:
        """Return the instant from which this is in the same state as a new one."""
        raise NotImplementedError

    def is_of(self, limit: Any) -> bool:  # noqa: ANN401 - as of `change`
        """Return whether it is the state of an equal limit."""
        raise NotImplementedError

    def look(self, now: float) -> None:
        """Forget what is over; of a wall clock's periods, bring `idle_at` up to date."""

    def change(self, limit: Any, now: float) -> None:  # noqa: ANN401 - of the kind that it is made from
        """Become the state of another limit of the same kind and unit, with what was let through.

        It stays the same object: bodies that run will give their permits back to it.
        """

    def charges(self, now: float) -> Sequence[Charge]:  # noqa: ARG002 - as of a hold
        """Return the charges that this limit still counts, the oldest first."""
        return ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:
        """Count the charges of another limit of this unit, unless more is counted already.

        Args:
            charges: of the other limit.
            now: the present instant.
            beside: whether the other limit stays, or is replaced by a third one. This limit then
                starts used up at worst, and never in debt.
        """

    def carry_over(self, old: LimitState, now: float) -> None:
        """Take over what another state of this kind has learnt, for other limits."""

    def push_back(self, now: float, since: float, running: int) -> bool:  # noqa: ARG002 - as of one that hears none
        """Process push-back on a call released at `since`; return whether this slows down.

        Args:
            now: the present instant.
            since: when the call was released.
            running: how many bodies run.
        """
        return False

    def allowed(self) -> float:
        """Return the calls per second that push-back has left; inf: whatever the limits say."""
        return math.inf

    def permits(self) -> float:
        """Return how many bodies may run at once as far as push-back goes."""
        return math.inf


class TokenBucket(LimitState):
    """A `Rate`: the generic cell rate algorithm (GCRA, ITU-T I.371), `burst` cells deep.

    All is paid off at `anchor + used * interval`, the theoretical arrival time (tat). It is
    reckoned from a count, not as a running sum, so that the n-th call is due at exactly
    `anchor + n * interval`, however late the ones before it were.
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

    def __init__(self, rate: Rate, *, catch_up: float, unit: int = 0) -> None:
        super().__init__(unit)
        self.interval = rate.interval
        self.burst = rate.burst
        self.catch_up = catch_up
        self.last = -math.inf
        self.full_at = -math.inf
        """The last instant at which it is known to have been full: refunds of what was charged
        before are lost."""
        # Made when they are needed: most of 100,000 lanes need neither.
        self.peaks: deque[tuple[float, float]] | None = None
        """(instant, how long until the bucket were full, below 0) of the charges since `full_at`
        that met the bucket fuller than any after them. A pace has those of settlements only, as a
        call starts when it is full."""
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
        # At rest is: nothing started for longer than a late call may catch up. A caller that
        # comes a moment after its instant (a worker that loops) is late, not new.
        if self.last < now - self.catch_up and self.tat < now:
            self.restart(now, 0)
            self.full_at = now

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - a sliding window needs now
        cost = costs[self.unit]
        if cost == self.burst:
            due = self.tat
        else:
            due = self.anchor + (self.used + cost - self.burst) * self.interval
        return due if due > self.held else self.held  # noqa: FURB136 - asked for each slot

    def consume(self, now: float, costs: Sequence[float]) -> None:
        # Done for each slot, of each of its limits: so everything is looked up once.
        cost, tat, used = costs[self.unit], self.tat, self.used
        burst, floor = self.burst, now - self.catch_up
        if self.held > floor or cost > burst:
            floor = self.floor(now, cost)
        if tat < floor:
            self.anchor = tat = floor
            used = 0
        if cost > burst:
            self._note_over(now, tat, cost)
        if tat <= now:
            self.full_at = now
        elif burst > 1:
            self._note_peak(now, now - tat)
        self.used = used = used + cost
        self.tat = self.anchor + used * self.interval
        self.last = now

    def _note_over(self, now: float, tat: float, cost: float) -> None:
        """Note a call that costs more than the burst can hold."""
        if self.overs is None:
            self.overs = deque(maxlen=_OVERS)
        self.overs.append((now, tat, cost))

    def _note_peak(self, now: float, slack: float) -> None:
        """Note how far from full the bucket is when a call starts."""
        peaks = self.peaks
        if peaks is None:
            peaks = self.peaks = deque()
        while peaks and (peaks[-1][1] <= slack or peaks[-1][0] < self.full_at):
            peaks.pop()
        if not peaks or peaks[-1][0] != now:
            peaks.append((now, slack))
            if len(peaks) > _PEAKS:
                _, fullest = peaks.popleft()  # unless a refund has made the next one fuller
                peaks[0] = (peaks[0][0], max(fullest, peaks[0][1]))

    def floor(self, now: float, cost: float) -> float:
        """Return from when on what `cost` starts with counts, at the earliest."""
        # Lateness beyond catch_up is dropped, not made up for in a burst; so is all of a hold's.
        floor = max(now - self.catch_up, self.held)
        if cost > self.burst:  # it waited for what the burst cannot hold: that is no lateness
            floor -= (cost - self.burst) * self.interval
        return floor

    def consume_one_if_due(self, now: float) -> float:
        # Same as the base class, inlined for the most common limit.
        if self.burst > 1:
            return self.consume_if_due(now, ONE_CALL)
        due, earliest = self.tat, now - self.catch_up
        if due < self.held:  # noqa: PLR1730 - done for each slot
            due = self.held
        if due > now:
            return due
        earliest = max(earliest, self.held)
        if self.tat < earliest:
            self.anchor = earliest
            self.used = 1
        else:
            self.used += 1
        self.tat = self.anchor + self.used * self.interval
        self.last = now
        return due

    def try_consume_one(self, now: float) -> float:
        # Same as the base class, inlined for the most common call: one that does not wait.
        earliest = now - self.catch_up
        if self.tat > now or self.burst > 1 or self.held > earliest:
            return super().try_consume_one(now)
        if self.last < earliest:
            self.anchor = now
            self.used = 1
        elif self.tat < earliest:
            self.anchor = earliest
            self.used = 1
        else:
            self.used += 1
        self.tat = self.anchor + self.used * self.interval
        self.last = now
        return now

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        taken = charge[self.unit]
        tat = max(self.tat, self.floor(now, taken))
        return tat + (taken + costs[self.unit] - self.burst) * self.interval <= by + _ROUNDING

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        return min(self.burst, max(0, self.burst - (self.tat - now) / self.interval))

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        if self.overs and at == self.last:
            start, before, cost = self.overs[-1]
            is_last = start == at and cost == costs[self.unit]
            if is_last and self.tat - before <= cost * self.interval + _ROUNDING:
                self.overs.pop()  # nobody else has started since
                self.restart(before, 0)
                return
        super().refund(now, at, costs)

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        more = cost - charged
        if charged > self.burst and more < 0 and self._started_over_burst(at):
            # It had waited for what the burst cannot hold, and that time is only its own: else
            # several smaller calls would start at once in its place.
            more = min(0, cost - self.burst)
        if more > 0:
            self._charge_late(now, more)
            return
        # What is given back must leave what has been charged since within the limit: where that met
        # a bucket already full again, the debt was paid off by then, and where it met one nearly
        # full, all but that.
        started_since = at < self.last
        if at < self.full_at or (started_since and self.burst == 1):
            return
        slacks = [slack for charged_at, slack in self.peaks or () if charged_at > at]
        if slacks or started_since:
            more = min(0, max(more, (max(slacks, default=0.0) - self.catch_up) / self.interval))
            back = -more * self.interval
            self.peaks = deque((t, slack + back * (t > at)) for t, slack in self.peaks or ())
        self.restart(self.anchor, max(0, self.used + more))

    def _charge_late(self, now: float, more: float) -> None:
        """Charge what a call turned out to cost, as if it were a call of its own that starts now.

        So the charge is the same whether this state was forgotten meanwhile or not.
        """
        self.on_idle(now)
        if self.tat < now - self.catch_up:
            self.restart(now - self.catch_up, 0)
        # A refund of an earlier call must not bring back what the bucket had recovered before this
        # charge, or a second burst would start beside it.
        if self.tat <= now:
            self.full_at = now
        else:
            self._note_peak(now, now - self.tat)
        self.restart(self.anchor, self.used + more)

    def _started_over_burst(self, at: float) -> bool:
        """Return whether a call that started then may have cost more than the burst can hold."""
        overs = self.overs
        if not overs:
            return False
        forgotten = len(overs) == _OVERS and at < overs[0][0]
        return forgotten or any(start == at for start, *_ in overs)

    def estimate(self, now: float, cost: float) -> float:
        earliest = max(now - self.catch_up, self.held)
        if self.last < now - self.catch_up:
            earliest = max(earliest, now)
        anchor, used = self.anchor, self.used
        if self.tat < earliest:
            anchor, used = earliest, 0
        # As next_at, to the last digit: a moment too early would be told to come back later.
        return max(now, self.held, anchor + (used + cost - self.burst) * self.interval)

    def all_started(self, now: float, cost: float, first: float) -> float:
        if first <= self.burst:
            return self.estimate(now, cost)
        # It has waited for what the burst cannot hold, be it while the bucket was idle.
        due = self.anchor + (self.used + first - self.burst) * self.interval
        return max(now, self.held, due) + (cost - first) * self.interval

    def idle_at(self) -> float:
        return max(self.held, self.tat, self.last + self.catch_up)

    def is_of(self, limit: Rate) -> bool:
        return (self.interval, self.burst) == (limit.interval, limit.burst)

    def change(self, limit: Rate, now: float) -> None:
        """Carry over what is owed, in calls, as golang.org/x/time/rate's SetLimit does.

        Of half an old interval still to wait, half a new one is left; of the same rate, all.
        """
        owed = max(0.0, (self.tat - now) / self.interval)
        scale = limit.interval / self.interval
        if self.peaks:  # calls that started before are settled all the same
            self.peaks = deque((started, slack * scale) for started, slack in self.peaks)
        if self.overs:  # and may be given back
            rescaled = [(start, now + (tat - now) * scale, cost) for start, tat, cost in self.overs]
            self.overs = deque(rescaled, maxlen=_OVERS)
        self.interval, self.burst = limit.interval, limit.burst
        self.restart(now, owed)

    def charges(self, now: float) -> Sequence[Charge]:
        """Return what has not been recovered, as of now: when it was charged is not known."""
        owed = (self.tat - now) / self.interval
        return [(now, owed)] if owed > 0 else ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:
        tat = -math.inf
        for at, amount in charges:
            tat = max(tat, at) + amount * self.interval
        if beside:
            tat = min(tat, now + self.burst * self.interval)
        if tat > max(now, self.tat):
            self.restart(tat, 0)
            self.full_at = now  # no refund of an earlier call lowers what was taken over


class LearntBucket(TokenBucket):
    """A `LearntRate`: not for calls that say nothing of what it counts."""

    __slots__ = ()

    optional = True

    def concerns(self, costs: Sequence[float]) -> bool:
        return is_stated(costs, self.unit) and costs[self.unit] != 0

    def follow(self, left: float, now: float) -> None:
        """Have at least so much left, of a quota of this size: the server has said so.

        What calls were charged that ended without an answer, only the server knows to be back.
        """
        if left > self.burst - max(0.0, self.tat - now) / self.interval:
            self.restart(now, self.burst - left)


class SlidingWindow(LimitState):
    """A `Window`: an exact log of what started within the last `per` seconds."""

    __slots__ = ("calls", "log", "per", "total")

    def __init__(self, window: Window, *, unit: int = 0) -> None:
        super().__init__(unit)
        self.calls = window.calls
        self.per = window.per
        self.log: deque[list[float]] = deque()
        """[started at, cost], oldest first; the calls of one instant share an entry."""
        self.total: float = 0

    def concerns(self, costs: Sequence[float]) -> bool:
        return costs[self.unit] != 0

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        self.forget(now)
        return max(self.held, self.frees(self.total + costs[self.unit] - self.calls))

    def look(self, now: float) -> None:
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what has left the window."""
        log = self.log
        while log and self.ends(log[0][0]) <= now:
            self.total -= log.popleft()[1]
        if not log:
            self.total = 0  # drops what error fractions of cost have added up to

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        used = self.total
        # A copy, in one step of the interpreter: calls start meanwhile in another thread.
        for started, spent in list(self.log):
            if self.ends(started) > now:
                break
            used -= spent
        return min(self.calls, max(0, self.calls - used))

    def frees(self, excess: float) -> float:
        """Return when `excess` of what is in the log has left it."""
        due = -math.inf
        rounding = min(0.5, _ROUNDING * self.calls)
        for started, spent in self.log:
            if excess <= rounding:
                break
            excess -= spent
            due = self.ends(started)
        return due

    def consume(self, now: float, costs: Sequence[float]) -> None:
        cost = costs[self.unit]
        if self.log and self.log[-1][0] == now:
            self.log[-1][1] += cost
        else:
            self.log.append([now, cost])
        self.total += cost

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        excess = self.total + charge[self.unit] + costs[self.unit] - self.calls
        if excess > self.total + min(
            0.5, _ROUNDING * self.calls
        ):  # what starts now is to have left
            return self.ends(now) <= by
        return self.frees(excess) <= by

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        more = cost - charged
        for entry in reversed(self.log):
            if entry[0] <= at:
                if entry[0] == at:
                    entry[1] += more
                    self.total += more
                    return
                break
        if more > 0 and self.ends(at) > now:  # of a unit that it was to use nothing of
            self.log.insert(sum(entry[0] < at for entry in self.log), [at, more])
            self.total += more

    def estimate(self, now: float, cost: float) -> float:
        rounds = max(0, math.ceil(cost / self.calls) - 1)  # each of `calls`, after the first
        rest = cost - rounds * self.calls
        first = max(now, self.held, self.frees(self.total + rest - self.calls))
        return first + rounds * self.per

    def ends(self, started: float) -> float:
        """Return the first instant that is `per` seconds after `started`, in floats too."""
        end = started + self.per
        return end if end - started >= self.per else math.nextafter(end, math.inf)

    def idle_at(self) -> float:
        return max(self.held, self.ends(self.log[-1][0]) if self.log else -math.inf)

    def is_of(self, limit: Window) -> bool:
        return (self.calls, self.per) == (limit.calls, limit.per)

    def change(self, limit: Window, now: float) -> None:
        """Keep the log. What has left a shorter window is not known to a longer one."""
        self.forget(now)  # so that it does not depend on who asked when
        self.calls, self.per = limit.calls, limit.per

    def charges(self, now: float) -> Sequence[Charge]:
        self.forget(now)
        return [(at, amount) for at, amount in self.log]

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:  # noqa: ARG002 - it lasts for `per` at most
        self.forget(now)
        known = {at: [amount, 0.0] for at, amount in self.log}
        for at, amount in charges:
            if self.ends(at) > now:
                known.setdefault(at, [0, 0])[1] += amount
        # Both logs may have the same calls. So since each instant, as much has started as the log
        # says that has more.
        self.log.clear()
        self.total = 0
        mine = theirs = 0.0
        for at in sorted(known, reverse=True):
            mine, theirs = mine + known[at][0], theirs + known[at][1]
            more = max(mine, theirs) - self.total
            if more > 0:
                self.log.appendleft([at, more])
                self.total += more

    @property
    def largest(self) -> float:  # type: ignore[override]  # of others it never changes
        return self.calls


class CalendarWindow(LimitState):
    """A `Calendar`: what has started in the present day, hour or month.

    A wall clock that is set back does not open a period again: what was counted in a later one
    stands until that is over.

    Args:
        calendar: the limit.
        unit: which of the costs it counts.
        to_wall: converts an instant to seconds since the epoch, as the machine's clock stands.
    """

    __slots__ = ("calendar", "end", "end_wall", "start_wall", "to_wall", "used")

    def __init__(
        self, calendar: Calendar, *, to_wall: Callable[[float], float], unit: int = 0
    ) -> None:
        super().__init__(unit)
        self.calendar = calendar
        self.to_wall = to_wall
        self.start_wall = self.end_wall = self.end = -math.inf
        self.used: float = 0

    def concerns(self, costs: Sequence[float]) -> bool:
        return costs[self.unit] != 0

    def advance(self, now: float) -> None:
        """Go on to the period that `now` is in; `end` is when it ends."""
        wall = self.to_wall(now)
        if wall >= self.end_wall:
            self.start_wall, self.end_wall = self.calendar.period(wall)
            self.used = 0
        self.end = now + (self.end_wall - wall)
        if self.end <= now:  # a moment that is lost in a float
            self.end = math.nextafter(now, math.inf)

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        is_over = self.to_wall(now) >= self.end_wall
        return max(0, self.calendar.calls - (0 if is_over else self.used))

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        self.advance(now)
        fits = self.used + costs[self.unit] <= self.calendar.calls * (1 + _ROUNDING)
        return self.held if fits else max(self.held, self.end)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        self.advance(now)
        self.used += costs[self.unit]

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        self.advance(now)
        after = self.used + charge[self.unit] + costs[self.unit]
        return by >= self.end or after <= self.calendar.calls * (1 + _ROUNDING)

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        self.advance(now)
        if self.is_of_this_period(at):
            self.used = max(0, self.used + cost - charged)

    def estimate(self, now: float, cost: float) -> float:
        self.advance(now)
        rest, when = cost - (self.calendar.calls - self.used), now
        rounds, starts = math.ceil(rest / self.calendar.calls), self.end_wall
        for _ in range(min(rounds, _PERIODS)):
            when = self.end + (starts - self.end_wall)
            starts = self.calendar.period(starts)[1]
        if rounds > _PERIODS:  # no clock is known so far ahead
            when += (rounds - _PERIODS) * (when - self.end) / (_PERIODS - 1)
        return max(when, self.held)

    def idle_at(self) -> float:
        return max(self.held, self.end if self.used else -math.inf)

    def is_of(self, limit: Calendar) -> bool:
        return self.calendar == limit

    def look(self, now: float) -> None:
        self.advance(now)

    def charges(self, now: float) -> Sequence[Charge]:
        """Return what the present period has seen, as of now: when it was charged is not known."""
        self.advance(now)
        return [(now, self.used)] if self.used > 0 else ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:  # noqa: ARG002 - it lasts for a period at most
        self.advance(now)
        used = sum(amount for at, amount in charges if self.is_of_this_period(at))
        self.used = max(self.used, used)

    def is_of_this_period(self, at: float) -> bool:
        """Return whether an instant is in the present period, as of the latest `advance`."""
        return self.end_wall - (self.end - at) >= self.start_wall

    def change(self, limit: Calendar, now: float) -> None:
        """Count what the present period has seen in that of the new limit."""
        self.advance(now)
        self.calendar = limit
        wall = self.to_wall(now)
        self.start_wall, self.end_wall = limit.period(wall)
        self.advance(now)

    @property
    def largest(self) -> float:  # type: ignore[override]  # as of a window
        return self.calendar.calls


class Permits(LimitState):
    """A `Concurrency`: bodies at once. When a permit comes back is not known beforehand."""

    __slots__ = ("most", "number", "used")

    def __init__(self, concurrency: Concurrency) -> None:
        super().__init__()
        self.number: float = concurrency.number
        self.most: float = concurrency.number
        """How many there are: fewer than `number` once push-back has lowered it."""
        self.used = 0

    def empty_copy(self) -> Permits:
        """Return one of the same number, of which nobody holds any."""
        copy = Permits(Concurrency(1))
        copy.number, copy.most, copy.held = self.number, self.most, self.held
        return copy

    def in_use(self) -> int:
        """Return how many bodies hold one."""
        return self.used

    def room(self, now: float) -> float:
        return 0 if self.held > now else max(0, self.most - self.in_use())

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - one each
        return self.held if self.in_use() < self.most else math.inf

    def consume(self, now: float, costs: Sequence[float]) -> None:  # noqa: ARG002 - one each
        self.used += 1

    def release(self, at: float) -> bool:  # noqa: ARG002 - one each
        self.used -= 1
        return True

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:  # noqa: ARG002 - one each
        self.used -= 1

    def leaves_room(
        self,
        now: float,  # noqa: ARG002 - nobody knows when others come back
        charge: Sequence[float],  # noqa: ARG002 - one each
        costs: Sequence[float],  # noqa: ARG002 - one each
        by: float,  # noqa: ARG002 - as `now`
    ) -> bool:
        return self.most - self.in_use() > 1

    def idle_at(self) -> float:
        return math.inf if self.used else self.held

    def is_of(self, limit: Concurrency) -> bool:
        return self.number == limit.number

    def change(self, limit: Concurrency, now: float) -> None:  # noqa: ARG002 - at once
        self.most = self.number = limit.number
