"""What a queue that shares a quota asks for, and when: leases by lane, for those who wait here.

A slot is asked for shortly before it can be due, by what the authority has said, for callers that
wait without a lease; in their order, so that nobody is overtaken.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue._authority import EARLY
from aioapiqueue._leases import NO_KEY, Lease, Line
from aioapiqueue._rate import Rate, Window

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._authority import Answer, Link, State
    from aioapiqueue._dispatch import Dispatcher
    from aioapiqueue._leases import Clock
    from aioapiqueue._rate import Limit
    from aioapiqueue._slot import Slot

__all__ = ["POLL", "Demand", "Want"]

POLL = 1.0
"""Seconds after which one who waits asks at the latest: others may have ended what holds it."""
_PLACES_POLL = 0.1
"""As `POLL`, where places are all taken."""
_FIRST_ASK = 16
_LEAST = 0.01  # cost that a want counts as
_MOST = 1000  # slots asked for at once
_COARSE = 0.005  # how late a real loop's timer may well be
_FADES = 0.9
_MISSES = 20  # slots in a row that came too late: the loop is always late, and is to have some
_TICK = 1e-6  # the authority counts whole microseconds
_MANY = 64  # lanes, before those that nobody uses any more are forgotten
_SPIN = 0.02  # after an answer that gave nothing and named no time


class Want(NamedTuple):
    """Slots that are asked for: for callers of this lane (None: of none), of this cost each."""

    lane: Hashable
    cost: float
    number: int


class Demand:
    """The leases that one queue has, and what it needs besides.

    Args:
        queue: whose callers wait.
        link: to the authority.
        clock: reads the authority's.
        catch_up: seconds by which a slot may be used late; later it is lost.
    """

    def __init__(self, queue: Dispatcher, link: Link, clock: Clock, *, catch_up: float) -> None:
        self.queue = queue
        self.link = link
        self.clock = clock
        self.catch_up = catch_up
        self.lines: dict[Hashable, Line] = {}
        self.leased = 0
        """How many slots are leased, in all lanes."""
        self.turn = 0
        """This queue's turn to ask: an instant of the authority's; 0: none was named."""
        self.since = math.inf
        """Since when somebody has been waiting, be it not the same one."""
        self.short_of_places = False
        """What it lacks are places under `concurrency`."""
        self.places_in_doubt = False
        """A request had no answer yet: it may have been given places."""
        self._many = _MANY
        self._last = self._not_before = -math.inf
        self._fair = _FIRST_ASK
        self._short = False
        self._late = self._too_late = 0.0
        self._missed = 0
        self._cheapest = math.inf

    # Leases.

    def lane(self, key: Hashable) -> Hashable:
        """Return the lane of a key; None: it has no limits of its own."""
        lanes = self.queue._lanes
        # Of a key that has not called for long, the queue keeps no schedule.
        if key not in lanes.schedules and lanes.limits_of(key) is None:
            return None
        return NO_KEY if key is None else key

    def line(self, lane: Hashable) -> Line:
        """Return what is known of a lane; None: of all callers without one."""
        line = self.lines.get(lane)
        if line is None:
            if len(self.lines) >= self._many:
                waiting, now = {None, *self.waiting()}, self.queue._clock()
                kept = {
                    key: one
                    for key, one in self.lines.items()
                    if key in waiting or one.leases or max(one.held, one.ready) > now
                }
                self.lines, self._many = kept, 2 * len(kept) + _MANY
            line = self.lines[lane] = Line()
        return line

    def drop(self, line: Line) -> Lease:
        """Take the next lease away from a line."""
        self.leased -= 1
        return line.leases.popleft()

    def drop_surplus(self) -> list[tuple[Hashable, Lease]]:
        """Take away what was leased for those who have left; others may have it elsewhere."""
        items: list[tuple[Hashable, Lease]] = []
        if self.leased:
            waiting = self.waiting()
            for lane, line in self.lines.items():
                while len(line.leases) > waiting.get(lane, 0):
                    items.append((lane, line.leases.pop()))
            self.leased -= len(items)
        return items

    def put_first(self, lane: Hashable, lease: Lease) -> None:
        """Put a lease back that was taken for one who does not use it."""
        self.line(lane).leases.appendleft(lease)
        self.leased += 1

    def forget_leases(self) -> None:
        """Forget them all: the authority has."""
        for line in self.lines.values():
            line.leases.clear()
            line.turn = 0
        self.leased = self.turn = 0

    def missed(self, lease: Lease, now: float) -> None:
        """Heed that a lease came too late to be used."""
        self._too_late = max(self._too_late, now - lease.at)
        self._missed += 1

    def used(self, lease: Lease, now: float) -> None:
        """Heed that one is used."""
        self._late = max(now - lease.at - _TICK, _FADES * self._late)
        self._too_late *= _FADES
        self._missed = 0

    def slack(self, lanes: Iterable[Hashable]) -> float:
        """Return how late slots are likely to be used, as those before were, and a little more.

        The authority is told: it leaves that much of `catch_up` to whoever uses the slot, and lets
        windows last that much longer.
        """
        least = _COARSE if self.queue._clock is time.monotonic else 0.0
        needed, allowed = max(least, 2 * self._late), max(least, self.catch_up - self.clock.doubt)
        if self.has_window(lanes) or self._missed > _MISSES:
            return max(needed, 2 * self._too_late)
        return min(needed, allowed)

    def has_window(self, lanes: Iterable[Hashable]) -> bool:
        """Return whether a `Window` is among the limits of these lanes; None: of the queue."""
        queue = self.queue
        return any(
            isinstance(limit, Window)
            for lane in lanes
            for limit in (
                queue._limits
                if lane is None
                else queue._lanes.limits_of(None if lane is NO_KEY else lane) or ()
            )
        )

    # Who waits.

    def arrives(self, slot: Slot, now: float) -> None:
        """Heed a newcomer: since when somebody has been waiting counts for what is due when."""
        waiters, lane = self.queue._waiters, self.lane(slot.key)
        if not waiters.live:
            self.since = now
        if lane is not None:
            self.link.check(slot.key)
            if slot.key not in waiters.lines:
                self.line(lane).since = now

    def waiting(self) -> dict[Hashable, int]:
        """Return how many wait in each lane; None: in none."""
        counts: dict[Hashable, int] = {}
        for one in self.queue._waiters.lines.values():
            lane = self.lane(one.key)
            counts[lane] = counts.get(lane, 0) + one.live
        return counts

    def estimate(self, key: Hashable, cost: float, now: float) -> float:
        """Return when a newcomer may be due, by what the authority has said last."""
        queue, lane = self.queue, self.lane(key)
        leased = sum(lease.cost for line in self.lines.values() for lease in line.leases)
        start = max(now, queue._schedule.held)
        when = self._ahead(None, queue._limits, start, queue._waiters.cost - leased + cost)
        if lane is not None:
            line = self.line(lane)
            start = max(now, line.held, self.clock.here(line.turn) if line.turn else now)
            own = sum(slot.cost for slot in queue._waiters if self.lane(slot.key) == lane)
            own -= sum(lease.cost for lease in line.leases)
            limits = queue._lanes.limits_of(key) or ()
            when = max(when, self._ahead(lane, limits, start, own + cost))
        return when

    def _ahead(self, lane: Hashable, limits: Sequence[Limit], start: float, cost: float) -> float:
        """As `Schedule.ahead`; of a window it is known only when it has the next call."""
        line = self.line(lane)
        rates = [(one.interval, one.burst) for one in limits if isinstance(one, Rate)]
        if line.rate < math.inf:
            rates.append((1 / line.rate, 1))
        ends = [start]
        for interval, burst in rates:
            spent = line.ready + (burst - 1) * interval
            ends.append(max(start, spent) + (cost - burst) * interval)
        for one in limits:
            if isinstance(one, Window):
                rounds = max(0, math.ceil(cost / one.calls) - 1)
                ends.append(max(start, line.ready) + rounds * one.per)
        return max(ends)

    def note(self, lane: Hashable, state: State) -> None:
        """Note how a lane stands; None: the queue."""
        line, here = self.line(lane), self.clock.here
        line.held = here(state.held) if state.held > 0 else -math.inf
        line.ready = here(state.ready) if state.ready else -math.inf
        line.rate = state.rate

    # When to ask.

    def ask_at(self, now: float) -> float:
        """Return when to ask for more, for those who wait without a lease; now: at once."""
        at = math.inf
        for lane, count in self.waiting().items():
            line = self.line(lane)
            if count > len(line.leases):
                spent = -math.inf
                if line.leases and not self._short:
                    spent = line.leases[-1].at - self._soon()
                at = min(at, max(spent, line.ask_at))
        return max(now, at, self._not_before)

    def ask_anew(self, lane: Hashable) -> None:
        """Ask before it is due: there is more than the authority knew when it said when."""
        self.line(lane).ask_at = self._not_before = -math.inf

    def ask_all_anew(self) -> None:
        """Do so for every lane."""
        self._not_before = -math.inf
        for line in self.lines.values():
            line.ask_at = -math.inf

    def heed_ends(self) -> None:
        """Ask before it is due, as a place has become free."""
        self._not_before = -math.inf

    def settle_places(self) -> bool:
        """Heed that nobody waits; return whether the authority may count places that nobody has.

        Whose body ended has left it to the next request to say so, or there was no answer.
        """
        limited = self.queue._concurrency < math.inf
        doubtful = limited and (self.short_of_places or self.places_in_doubt)
        self.short_of_places = self.places_in_doubt = False
        return doubtful

    def heed_costs(self) -> None:
        """Ask before it is due if somebody is now first who costs less than all who were."""
        firsts = (line.first() for line in self.queue._waiters.lines.values())
        cheapest = min((first.cost for first in firsts if first is not None), default=math.inf)
        if cheapest < self._cheapest:
            self.ask_all_anew()
        self._cheapest = cheapest

    def hold(self, lane: Hashable, seconds: float) -> None:
        """Let nothing of a lane start for so long."""
        line, now = self.line(lane), self.queue._clock()
        line.held, line.ask_at = max(line.held, now + seconds), now + min(seconds, POLL)

    def _soon(self) -> float:
        """Return how long before it is needed something is asked for."""
        return min(self.link.ahead / 2, self.clock.trip + 0.005)

    # What to ask for.

    def most(self) -> float:
        """Return what may be granted at once, in cost: its share, by the last answer."""
        return max(1, min(self._fair, _MOST))

    def wants(self, now: float) -> list[Want]:
        """Return what those who wait without a lease need, in their order.

        `most` of each lane, as it may be that no other is due; of all lanes together, no more than
        that is granted, lest one who is left out here be overtaken.
        """
        covered = {lane: len(line.leases) for lane, line in self.lines.items()}
        open_ = {
            one.key: lane
            for one in self.queue._waiters.lines.values()
            if self.line(lane := self.lane(one.key)).ask_at <= now + self.link.ahead + EARLY
        }
        left = dict.fromkeys(open_.values(), float(self.most()))
        wants: list[Want] = []
        for key, slot in self.queue._waiters.upcoming(open_):
            lane = open_[key]
            if covered.get(lane, 0) > 0:
                covered[lane] -= 1
                continue
            left[lane] -= max(slot.cost, _LEAST)
            if left[lane] <= 0:
                for full in [one for one, its in open_.items() if its == lane]:
                    del open_[full]
            if wants and wants[-1][:2] == (lane, slot.cost):
                wants[-1] = wants[-1]._replace(number=wants[-1].number + 1)
            else:
                wants.append(Want(lane, slot.cost, 1))
        return wants

    def waited(self, lanes: Sequence[Hashable], now: float) -> list[float]:
        """Return for how long somebody has been waiting, in all and in each of these lanes."""
        lines = [self.line(lane) for lane in lanes]
        for line in lines:
            line.since = min(now, line.since)  # inf: a limit that came while they waited
        return [now - self.since, *(now - line.since for line in lines)]

    def turns(self, lanes: Sequence[Hashable]) -> list[int]:
        """Return this queue's turns, to ask and in each of these lanes."""
        return [self.turn, *(self.line(lane).turn for lane in lanes)]

    def heed(
        self, answer: Answer, wants: Sequence[Want], lanes: Sequence[Hashable], slack: float
    ) -> None:
        """Heed what the authority has said to a request.

        Args:
            answer: that.
            wants: what was asked for.
            lanes: of them, by number.
            slack: seconds by which slots may be used late in any case, as the authority was told.
        """
        now, here = self.queue._clock(), self.clock.here
        windows = self.has_window((None, *lanes))  # they last no longer than that
        soonest = now + 2 * _TICK  # as rounded instants go, it may be a microsecond earlier there
        for number, instant, latest in answer.slots:
            want, at = wants[number - 1], here(instant)
            until = at + slack if windows else max(at + slack, here(latest) - self.clock.doubt)
            lease = Lease(at, until, want.cost, instant)
            self.line(want.lane).leases.append(lease)
            self.leased += 1
            self._last = max(self._last, lease.at)
        for lane in lanes:
            self.line(lane).ask_at, self.line(lane).turn = -math.inf, 0
        for number, turn, ask_at in answer.turns:
            line = self.line(lanes[number - 1])
            line.ask_at, line.turn = max(soonest, min(here(ask_at), now + POLL)), turn
        self._fair, self.turn = answer.fair, max(0, answer.turn)
        self._short = answer.turn > 0 and 0 < len(answer.slots) < answer.fair / 2
        self.short_of_places = answer.turn < 0
        if answer.turn > 0:
            self._not_before = max(soonest, min(here(answer.turn), now + POLL))
            if answer.slots and here(answer.turn) <= now:
                self._not_before = -math.inf  # its share is greater than it knew
        elif answer.turn < 0:
            self._not_before = now + _PLACES_POLL
        elif len(answer.slots) < sum(want.number for want in wants) and not answer.turns:
            # This was its share: the others are to have theirs first.
            self._not_before = self._last - self._soon() if answer.slots else now + _SPIN
        else:
            self._not_before = -math.inf
