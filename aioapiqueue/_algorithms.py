"""When may the next call start? Pure arithmetic: every method is given `now` and keeps no clock.

A `LimitState` is asked in this order: `on_idle` when a caller comes and nobody waits, `next_at` for
the first in line, `consume` when it starts, `adjust` when its true cost turns out to be another.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._rate import Rate, Window

__all__ = ["LimitState", "SlidingWindow", "TokenBucket"]

_ROUNDING = 1e-9
"""Share of a window by which sums of costs in it may be off: fractions like 0.1 do not add up.
Never as much as a whole call: those are counted exactly."""


class LimitState:
    """The states of several limits at once (of none: nothing waits). The base of the others."""

    __slots__ = ("held", "parts")

    def __init__(self, parts: Sequence[LimitState] = ()) -> None:
        self.parts = parts
        self.held = -math.inf
        """Nothing starts before this instant: the latest end of a hold or pause."""

    def hold(self, until: float) -> None:
        """Let nothing start before `until`; whether that is later or earlier is the caller's."""
        self.held = until
        for part in self.parts:
            part.hold(until)

    def on_idle(self, now: float) -> None:
        """Note that a caller comes while nobody waits: rest has saved up no catch-up."""
        for part in self.parts:
            part.on_idle(now)

    def next_at(self, now: float, cost: float) -> float:
        """Return the first instant at which `cost` may start (in the past: at once)."""
        due = self.held
        for part in self.parts:
            due = max(due, part.next_at(now, cost))
        return due

    def consume(self, now: float, cost: float) -> None:
        """Charge `cost`, which starts now; the caller has seen that it is due."""
        for part in self.parts:
            part.consume(now, cost)

    def try_consume(self, now: float, cost: float) -> float:
        """Note a newcomer, and charge it if due: return the instant; `<= now` means charged."""
        self.on_idle(now)
        due = self.next_at(now, cost)
        if due <= now:
            self.consume(now, cost)
        return due

    def adjust(self, at: float, cost: float) -> None:
        """Charge `cost` more (or, negative, give it back) for the call that started `at`."""
        for part in self.parts:
            part.adjust(at, cost)

    def estimate(self, now: float, cost: float) -> float:
        """Return when the last unit of `cost` may start if all of it queues up now."""
        return max([now, self.held, *(part.estimate(now, cost) for part in self.parts)])

    def idle_at(self) -> float:
        """Return the instant from which this is in the same state as a new one."""
        return max([self.held, *(part.idle_at() for part in self.parts)])

    def single_limits(self) -> Sequence[LimitState]:
        """Return the states of single limits that this one is made of."""
        return self.parts or (self,)

    def carry_over(self, old: LimitState, now: float) -> None:
        """Take over what `old`, of other limits, has let through, limit by limit of a kind."""
        for kind in {type(leaf) for leaf in self.single_limits()}:
            mine = (leaf for leaf in self.single_limits() if type(leaf) is kind)
            theirs = (leaf for leaf in old.single_limits() if type(leaf) is kind)
            for leaf, before in zip(mine, theirs, strict=False):
                leaf.copy_state(before, now)
        self.hold(old.held)
        self.on_idle(now)

    def copy_state(self, old: Self, now: float) -> None:
        """Take over what `old`, of the same kind, has let through: of no limit, nothing."""

    def push_back(self, now: float, since: float, running: int) -> bool:
        """Process push-back on a call released at `since`; return whether this slows down.

        Args:
            now: the present instant.
            since: when the call was released.
            running: how many bodies run.
        """
        return any([part.push_back(now, since, running) for part in self.parts])  # noqa: C419 - each is to hear

    def allowed(self) -> float:
        """Return the calls per second that push-back has left; inf: whatever the limits say."""
        return min((part.allowed() for part in self.parts), default=math.inf)

    def permits(self) -> float:
        """Return how many bodies may run at once as far as push-back goes."""
        return min((part.permits() for part in self.parts), default=math.inf)

    def check(self, cost: float) -> None:
        """Refuse a cost that could never start.

        Raises:
            ValueError: a window is smaller than `cost`.
        """
        for part in self.parts:
            part.check(cost)


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
        "interval",
        "last",
        "peaks",
        "tat",
        "used",
    )

    def __init__(self, rate: Rate, *, catch_up: float) -> None:
        super().__init__()
        self.interval = rate.interval
        self.burst = rate.burst
        self.catch_up = catch_up
        self.last = -math.inf
        self.peaks: deque[tuple[float, float]] = deque()
        """(start, how long the bucket had been full by then) of the calls that met the bucket
        fuller than any after them; kept for bursts only."""
        self.restart(-math.inf, 0)

    def restart(self, anchor: float, used: float) -> None:
        """Count `used` from `anchor` on."""
        self.anchor = anchor
        self.used = used
        self.tat = anchor + used * self.interval

    def on_idle(self, now: float) -> None:
        # At rest is: nothing started for longer than a late call may catch up. A caller that
        # comes a moment after its instant (a worker that loops) is late, not new.
        if self.last < now - self.catch_up and self.tat < now:
            self.restart(now, 0)

    def next_at(self, now: float, cost: float) -> float:  # noqa: ARG002 - a sliding window needs now
        if cost == self.burst:
            due = self.tat
        else:
            due = self.anchor + (self.used + cost - self.burst) * self.interval
        return due if due > self.held else self.held  # noqa: FURB136 - asked for each slot

    def consume(self, now: float, cost: float) -> None:
        # Lateness beyond catch_up is dropped, not made up for in a burst; so is all of a hold's.
        floor = now - self.catch_up
        if floor < self.held:  # noqa: PLR1730 - done for each slot
            floor = self.held
        if cost > self.burst:  # it waited for what the burst cannot hold: that is no lateness
            floor -= (cost - self.burst) * self.interval
        if self.tat < floor:
            self.restart(floor, 0)
        if self.burst > 1:
            slack = now - self.tat
            while self.peaks and self.peaks[-1][1] <= slack:
                self.peaks.pop()
            if not self.peaks or self.peaks[-1][0] != now:
                self.peaks.append((now, slack))
        self.used += cost
        self.tat = self.anchor + self.used * self.interval
        self.last = now

    def try_consume(self, now: float, cost: float) -> float:
        # As inherited, in one step for the commonest call: a single one that does not wait.
        earliest = now - self.catch_up
        if self.tat > now or cost > 1 or self.burst > 1 or self.held > earliest:
            return super().try_consume(now, cost)
        if self.last < earliest:
            self.anchor = now
            self.used = cost
        elif self.tat < earliest:
            self.anchor = earliest
            self.used = cost
        else:
            self.used += cost
        self.tat = self.anchor + self.used * self.interval
        self.last = now
        return now

    def adjust(self, at: float, cost: float) -> None:
        # What is given back must leave the calls that have started since within the limit: where
        # one of them met a bucket already full again, the debt was paid off by then.
        if cost < 0 and at != self.last:
            if self.burst == 1:
                return
            later = max((slack for started, slack in self.peaks if started > at), default=0.0)
            cost = min(0, max(cost, (later - self.catch_up) / self.interval))
            back = -cost * self.interval
            self.peaks = deque((t, slack + back * (t > at)) for t, slack in self.peaks)
        self.restart(self.anchor, max(0, self.used + cost))

    def estimate(self, now: float, cost: float) -> float:
        start = max(self.tat, now - self.catch_up, self.held)
        if self.last < now - self.catch_up:
            start = max(start, now)
        return max(now, self.held, start + (cost - self.burst) * self.interval)

    def idle_at(self) -> float:
        return max(self.held, self.tat, self.last + self.catch_up)

    def copy_state(self, old: Self, now: float) -> None:
        """Carry over what is owed, in calls, as golang.org/x/time/rate's SetLimit does.

        Of half an old interval still to wait, half a new one is left; of the same rate, all.
        """
        self.last = old.last
        if (self.interval, self.burst) == (old.interval, old.burst):
            self.peaks = old.peaks
            self.restart(old.anchor, old.used)
            return
        self.restart(now, max(0.0, (old.tat - now) / old.interval))

    def check(self, cost: float) -> None:
        """Accept any cost: one above the burst waits until its due time."""


class SlidingWindow(LimitState):
    """A `Window`: an exact log of what started within the last `per` seconds."""

    __slots__ = ("calls", "log", "per", "total")

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.calls = window.calls
        self.per = window.per
        self.log: deque[list[float]] = deque()
        """[started at, cost], oldest first; the calls of one instant share an entry."""
        self.total: float = 0

    def on_idle(self, now: float) -> None:
        """Do nothing: a window keeps no catch-up that rest could save up."""

    def next_at(self, now: float, cost: float) -> float:
        log = self.log
        while log and self.ends(log[0][0]) <= now:
            self.total -= log.popleft()[1]
        if not log:
            self.total = 0  # drops what error fractions of cost have added up to
        return max(self.held, self.frees(self.total + cost - self.calls))

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

    def consume(self, now: float, cost: float) -> None:
        if self.log and self.log[-1][0] == now:
            self.log[-1][1] += cost
        else:
            self.log.append([now, cost])
        self.total += cost

    def adjust(self, at: float, cost: float) -> None:
        for entry in reversed(self.log):
            if entry[0] <= at:
                if entry[0] == at:
                    entry[1] += cost
                    self.total += cost
                return

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

    def copy_state(self, old: Self, now: float) -> None:
        """Carry over the log. What has left a shorter window is not known to a longer one."""
        old.next_at(now, 0)  # forgets what has left, so that it does not depend on who asked when
        self.log, self.total = old.log, old.total

    def check(self, cost: float) -> None:
        if cost > self.calls:
            raise ValueError(
                f"a cost of {cost:g} never fits a window of {self.calls} in any {self.per:g}s: "
                "split the call, or widen the window"
            )
