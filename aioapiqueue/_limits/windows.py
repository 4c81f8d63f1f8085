"""The states of windows, calendars and permits.

`_limits/limit_state.py` says what each method is for.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue._limits.cost_units import use_of
from aioapiqueue._limits.limit_state import ROUNDING, LimitState
from aioapiqueue._limits.limit_types import Concurrency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue._limits.budget_use import BudgetUse
    from aioapiqueue._limits.limit_state import Charge
    from aioapiqueue._limits.limit_types import Calendar, Window

__all__ = ["CalendarWindow", "Permits", "SlidingWindow"]

_PERIODS = 60
"""Number of days, hours or months ahead up to which an estimate is exact. Each period costs a look
at a time zone."""


class SlidingWindow(LimitState):
    """A `Window`: an exact log of the calls of the last `per` seconds."""

    __slots__ = ("calls", "log", "per", "total")

    counts = True

    def __init__(self, window: Window, *, unit: int = 0) -> None:
        super().__init__(unit)
        self.calls = window.calls
        self.per = window.per
        self.log: deque[list[float]] = deque()
        """[instant, cost], oldest first; calls that start at one instant share an entry."""
        self.total: float = 0

    def concerns(self, costs: Sequence[float]) -> bool:
        return costs[self.unit] != 0

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        self.forget(now)
        return max(self.held, self.frees(self.total + costs[self.unit] - self.calls))

    def forget(self, now: float) -> None:
        """Drop the entries that have left the window."""
        log = self.log
        while log and self.ends(log[0][0]) <= now:
            self.total -= log.popleft()[1]
        if not log:
            self.total = 0  # drops the rounding errors of fractional costs

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        used = self.total
        # `list` copies the log in one step of the interpreter, as calls may start in other threads.
        for started, spent in list(self.log):
            if self.ends(started) > now:
                break
            used -= spent
        return min(self.calls, max(0, self.calls - used))

    def frees(self, excess: float) -> float:
        """Return when entries of `excess` together will have left the log."""
        due = -math.inf
        # Half a call at most: of a window of 10**12, the share would be a thousand whole calls.
        rounding = min(0.5, ROUNDING * self.calls)
        for started, spent in self.log:
            if excess <= rounding:  # without it, an error of 4e-16 would wait for one entry more
                break
            excess -= spent
            due = self.ends(started)
        return due

    def consume(self, now: float, costs: Sequence[float]) -> None:
        cost = costs[self.unit]
        # One entry for each instant bounds the log where many calls start in one step.
        if self.log and self.log[-1][0] == now:
            self.log[-1][1] += cost
        else:
            self.log.append([now, cost])
        self.total += cost

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        excess = self.total + charge[self.unit] + costs[self.unit] - self.calls
        rounding = min(0.5, ROUNDING * self.calls)
        if excess > self.total + rounding:  # `charge`, too, has to leave the window
            return self.ends(now) <= by
        return self.frees(excess) <= by

    def could_return(self, now: float, at: float, amount: float) -> float:
        return amount if self.ends(at) > now else 0

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        more = cost - charged
        for entry in reversed(self.log):  # mostly one of the latest
            if entry[0] <= at:
                if entry[0] == at:
                    entry[1] += more
                    self.total += more
                    return
                break
        if more > 0 and self.ends(at) > now:  # the call was expected to cost 0 of this unit
            self.log.insert(sum(entry[0] < at for entry in self.log), [at, more])
            self.total += more

    def estimate(self, now: float, cost: float) -> float:
        rounds = max(0, math.ceil(cost / self.calls) - 1)  # each of `calls`, after the first
        rest = cost - rounds * self.calls
        # The unit after a whole window's `calls` starts one period after the first of them.
        first = max(now, self.held, self.frees(self.total + rest - self.calls))
        return first + rounds * self.per

    def ends(self, started: float) -> float:
        """Return the first float that is at least `per` seconds after `started`."""
        # The sum is rounded, perhaps down: then the next call would come a moment too early.
        end = started + self.per
        return end if end - started >= self.per else math.nextafter(end, math.inf)

    def idle_at(self, now: float) -> float:  # noqa: ARG002 - only a calendar needs it
        return max(self.held, self.ends(self.log[-1][0]) if self.log else -math.inf)

    def counts_like(self, limit: Window) -> bool:
        return self.per == limit.per  # whatever its number: it has forgotten the same calls

    def change(self, limit: Window, now: float) -> None:
        """Keep the log. A longer window does not know what has left a shorter one."""
        self.forget(now)  # now, and not at a later look, which the longer window would not drop
        self.calls, self.per = limit.calls, limit.per

    def charges(self, now: float) -> Sequence[Charge]:
        self.forget(now)
        return [(at, amount) for at, amount in self.log]

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:  # noqa: ARG002 - no debt outlasts `per`
        self.forget(now)
        known = {at: [amount, 0.0] for at, amount in self.log}
        for at, amount in charges:
            if self.ends(at) > now:
                known.setdefault(at, [0, 0])[1] += amount
        # Both logs may contain the same calls. So the amount since each instant is the larger of
        # the two that the logs have since then.
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
    def largest(self) -> float:  # type: ignore[override]  # constant for other limits
        return self.calls


class CalendarWindow(LimitState):
    """A `Calendar`: a count of what has started in the present day, hour or month.

    If the wall clock is set back, no earlier period opens again: the count of the later period
    stands until that is over.

    Args:
        calendar: the limit.
        unit: the index of the unit that it counts.
        to_wall: converts an instant to seconds since the epoch, by the machine's present clock.
    """

    __slots__ = ("calendar", "end", "end_wall", "start_wall", "to_wall", "used")

    counts = True
    knows_instants = False

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
        """Enter the period of `now`; `end` is the instant at which it ends."""
        wall = self.to_wall(now)
        if wall >= self.end_wall:  # so it stays in a later period if the wall clock is set back
            self.used = 0  # first: another thread may read figures
            self.start_wall, self.end_wall = self.calendar.period(wall)
        # Computed at each look: the wall clock may be set at any time, and `now` is not of it.
        self.end = now + (self.end_wall - wall)
        if self.end <= now:  # the rest of the period is too short for a float
            self.end = math.nextafter(now, math.inf)

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        return max(0, self.calendar.calls - self._used_by(self.to_wall(now)))

    def _used_by(self, wall: float) -> float:
        # Not `advance`, which changes the state: any thread may ask.
        return 0 if wall >= self.end_wall else self.used

    def reserved(self, now: float) -> float:  # noqa: ARG002 - as in `BudgetUse`
        return 0  # only a limit with `or raise` counts it

    def could_return(self, now: float, at: float, amount: float) -> float:
        wall = self.to_wall(now)  # not `advance`, as in `_used_by`
        return amount if self.start_wall <= wall - (now - at) and wall < self.end_wall else 0

    def use(self, now: float) -> BudgetUse:
        wall, ends = self.to_wall(now), self.end_wall
        used = self._used_by(wall)
        if wall >= ends:
            ends = self.calendar.period(wall)[1]
        return use_of(self.calendar.calls, used, self.reserved(now), ends)

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        self.advance(now)
        fits = self.used + costs[self.unit] <= self.calendar.calls * (1 + ROUNDING)
        return self.held if fits else max(self.held, self.end)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        self.advance(now)
        self.used += costs[self.unit]

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        self.advance(now)
        after = self.used + charge[self.unit] + costs[self.unit]
        return by >= self.end or after <= self.calendar.calls * (1 + ROUNDING)

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        self.advance(now)
        if self.is_of_this_period(at):  # a new period has not counted the call
            self.used = max(0, self.used + cost - charged)

    def estimate(self, now: float, cost: float) -> float:
        self.advance(now)
        rest, when = cost - (self.calendar.calls - self.used), now
        rounds, starts = math.ceil(rest / self.calendar.calls), self.end_wall
        for _ in range(min(rounds, _PERIODS)):
            when = self.end + (starts - self.end_wall)
            starts = self.calendar.period(starts)[1]
        if rounds > _PERIODS:  # later periods count as long as the average of these
            when += (rounds - _PERIODS) * (when - self.end) / (_PERIODS - 1)
        return max(when, self.held)

    def idle_at(self, now: float) -> float:
        # As of `now`: the wall clock may have been set since the latest `advance`.
        left = self.end_wall - self.to_wall(now)
        return max(self.held, now + left) if self.used and left > 0 else self.held

    def counts_like(self, limit: Calendar) -> bool:
        return self.calendar == limit

    def charges(self, now: float) -> Sequence[Charge]:
        """Return the count as charged now: the true instants are not known."""
        self.advance(now)
        return [(now, self.used)] if self.used > 0 else ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:  # noqa: ARG002 - no debt outlasts a period
        self.advance(now)
        used = sum(amount for at, amount in charges if self.is_of_this_period(at))
        self.used = max(self.used, used)  # not the sum: both may have counted the same calls

    def is_of_this_period(self, at: float) -> bool:
        """Return whether an instant is in the period of the latest `advance`."""
        return self.end_wall - (self.end - at) >= self.start_wall

    def change(self, limit: Calendar, now: float) -> None:
        """Keep the count, for the present period of the new limit."""
        self.advance(now)  # drops the count if the old period is over
        self.calendar = limit
        wall = self.to_wall(now)
        self.start_wall, self.end_wall = limit.period(wall)
        self.advance(now)

    @property
    def largest(self) -> float:  # type: ignore[override]  # constant for other limits
        return self.calendar.calls


class Permits(LimitState):
    """A `Concurrency`. When a body will end, and free its permit, is not known in advance."""

    __slots__ = ("most", "number", "raises", "used")

    def __init__(self, concurrency: Concurrency) -> None:
        super().__init__()
        self.raises = concurrency.on_empty == "raise"
        self.number: float = concurrency.number  # inf once they no longer limit anything
        self.most: float = concurrency.number
        """Number of permits in force: less than `number` after a slow-down."""
        self.used = 0
        """Number of permits that running bodies hold; more than `most` after it was lowered."""

    def empty_copy(self) -> Permits:
        """Return the same permits, all of them free."""
        copy = Permits(Concurrency(1))
        copy.number, copy.most, copy.held = self.number, self.most, self.held
        copy.raises = self.raises
        return copy

    def in_use(self) -> int:
        """Return the number of bodies that hold one."""
        return self.used

    def room(self, now: float) -> float:
        return 0 if self.held > now else max(0, self.most - self.in_use())

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - each body takes one
        return self.held if self.in_use() < self.most else math.inf

    def lacks_room(self, now: float, costs: Sequence[float]) -> bool:  # noqa: ARG002 - each body takes one
        return self.held <= now and self.in_use() >= self.most

    def consume(self, now: float, costs: Sequence[float]) -> None:  # noqa: ARG002 - each body takes one
        self.used += 1

    def release(self, at: float) -> bool:  # noqa: ARG002 - each body takes one
        self.used -= 1
        return True

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:  # noqa: ARG002 - each body takes one
        self.used -= 1

    def leaves_room(
        self,
        now: float,  # noqa: ARG002 - when others come back is not known
        charge: Sequence[float],  # noqa: ARG002 - each body takes one
        costs: Sequence[float],  # noqa: ARG002 - each body takes one
        by: float,  # noqa: ARG002 - as `now`
    ) -> bool:
        # One for the call that starts now, and one to keep: no body is known to end before `by`.
        return self.most - self.in_use() > 1

    def idle_at(self, now: float) -> float:  # noqa: ARG002 - only a calendar needs it
        # A lane with a held permit must stay in memory, or the end of the body would be lost.
        return math.inf if self.used else self.held

    def counts_like(self, limit: Concurrency) -> bool:
        return (self.number, self.raises) == (limit.number, limit.on_empty == "raise")

    def change(self, limit: Concurrency, now: float) -> None:  # noqa: ARG002 - takes effect at once
        self.most = self.number = limit.number
        self.raises = limit.on_empty == "raise"


class QueuePermits(Permits):
    """The permits of a queue's own `Concurrency`: every running body has one.

    Args:
        running: returns the number of running bodies.
        concurrency: the limit.
    """

    __slots__ = ("_running",)

    def __init__(self, running: Callable[[], int], concurrency: Concurrency) -> None:
        super().__init__(concurrency)
        self._running = running

    def in_use(self) -> int:
        return self._running()

    # The dispatcher counts the bodies, so there is nothing to add or subtract.

    def consume(self, now: float, costs: Sequence[float]) -> None:
        pass

    def release(self, at: float) -> bool:  # noqa: ARG002 - as above
        return True

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        pass
