"""What a queue that shares a quota asks for, and when: leases by lane, for those who wait here.

A slot is asked for shortly before it can be due, by what the authority has said, for callers that
wait without a lease; in their order, so that nobody is overtaken.
"""

from __future__ import annotations

import math
import time
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue._fleet.leases import NO_KEY, KeyGrants, Lease
from aioapiqueue._fleet.session import EARLY
from aioapiqueue._rate import Rate, Window
from aioapiqueue._wait_queue import SHARED, Rank

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._dispatcher import Dispatcher
    from aioapiqueue._fleet.leases import Clock
    from aioapiqueue._fleet.session import Answer, Link, State
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
_MOST_LANES = 64
"""Lanes asked for at once: the script and the reading of its answer hold up others, and this loop,
by up to 0.1 milliseconds for each."""
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


_LAST: Rank = (math.inf, math.inf)


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
        self.lines: dict[Hashable, KeyGrants] = {}
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
        self._costs = (math.inf, 0.0)
        """The lowest and the highest cost of those who have come since nobody waited."""
        self._hungry: dict[Hashable, Rank] = {}
        """Lanes to ask for now, each by the rank of its first caller without a lease. Like `_later`
        it may name a lane that needs nothing, or rank it too early, which is found out when its
        turn comes: so no step looks at all lanes."""
        self._by_rank: list[tuple[Rank, int, Hashable]] = []
        """A heap of the hungry; entries of others, or of another rank, are stale."""
        self._numbers = count()
        self._later: dict[Hashable, float] = {}
        """Lanes to ask for later, and when."""
        self._next_ask = math.inf
        """The earliest of these, or earlier."""
        self._surplus: set[Hashable] = set()
        """Lanes that may have more leases than callers."""

    # Leases.

    def lane(self, key: Hashable) -> Hashable:
        """Return the lane of a key; None: it has no limits of its own."""
        lanes = self.queue._lanes
        # Of a key that has not called for long, the queue keeps no schedule.
        if key not in lanes.states and lanes.limits_of(key) is None:
            return None
        return NO_KEY if key is None else key

    def line(self, lane: Hashable) -> KeyGrants:
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
            line = self.lines[lane] = KeyGrants()
        return line

    def drop(self, lane: Hashable) -> Lease:
        """Take the next lease away from a lane."""
        self.leased -= 1
        lease = self.line(lane).leases.popleft()
        self.lacks(lane)
        return lease

    def drop_surplus(self) -> list[tuple[Hashable, Lease]]:
        """Take away what was leased for those who have left; others may have it elsewhere."""
        items: list[tuple[Hashable, Lease]] = []
        for lane in self._surplus if self.leased else ():
            line, live = self.line(lane), self._waiting_in(lane)
            while len(line.leases) > live:
                items.append((lane, line.leases.pop()))
        self.leased -= len(items)
        self._surplus.clear()
        return items

    def put_first(self, lane: Hashable, lease: Lease) -> None:
        """Put a lease back that was taken for one who does not use it."""
        self.line(lane).leases.appendleft(lease)
        self.leased += 1
        self._surplus.add(lane)

    def forget_leases(self) -> None:
        """Forget them all: the authority has."""
        for line in self.lines.values():
            line.leases.clear()
            line.turn = 0
        self.leased = self.turn = 0
        self._look_at_all()

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
                queue._limits if lane is None else queue._lanes.limits_of(_key_of(lane)) or ()
            )
        )

    # Who waits.

    def arrives(self, slot: Slot, now: float) -> None:
        """Heed a newcomer: since when somebody has been waiting counts for what is due when."""
        waiters, lane = self.queue._waiters, self.lane(slot.key)
        if not waiters.live:
            self.since = now
            self._costs = (slot.cost, slot.cost)
        else:
            self._costs = (min(slot.cost, self._costs[0]), max(slot.cost, self._costs[1]))
        if lane is not None:
            self.link.check(slot.key)
            if slot.key not in waiters.key_queues:
                self.line(lane).since = now

    def joined(self, slot: Slot) -> None:
        """Note that a caller waits now, who needs a lease."""
        self.lacks(self.lane(slot.key))

    def left(self, slot: Slot) -> None:
        """Note that a caller waits no more, for whom a slot may be leased."""
        lane = self.lane(slot.key)
        self._surplus.add(lane)
        if lane is not None and not self._waiting_in(lane):
            self._hungry.pop(lane, None)
            self._later.pop(lane, None)

    def waiting(self) -> dict[Hashable, int]:
        """Return how many wait in each lane; None: in none."""
        counts: dict[Hashable, int] = {}
        for one in self.queue._waiters.key_queues.values():
            lane = self.lane(one.key)
            counts[lane] = counts.get(lane, 0) + one.live
        return counts

    def _waiting_in(self, lane: Hashable, enough: float = math.inf) -> int:
        """Return how many wait in a lane; where they are more than `enough`, not how many more."""
        waiting = 0
        for key in self._keys_in(lane):
            line = self.queue._waiters.key_queues.get(key)
            waiting += 0 if line is None else line.live
            if waiting > enough:
                break
        return waiting

    def _keys_in(self, lane: Hashable) -> Iterable[Hashable]:
        """Return the keys of the lines of those who wait in a lane."""
        if lane is not None:
            return (_key_of(lane),)
        waiters = self.queue._waiters
        if not waiters.fair:
            return (SHARED,)
        return (key for key in waiters.key_queues if self.lane(key) is None)

    def wake(self, lanes: Iterable[Hashable]) -> None:
        """Have those who wait in these lanes looked at again: slots were leased for them."""
        for lane in lanes:
            if lane is None:
                self.queue._waiters.wake_keyless()
            else:
                self.queue._waiters.wake_key(_key_of(lane))

    def lanes_changed(self) -> None:
        """Note that other lanes than before may have limits of their own."""
        self._surplus.update(self.lines)
        self._look_at_all()

    def estimate(self, key: Hashable, cost: float, now: float) -> float:
        """Return when a newcomer may be due, by what the authority has said last."""
        queue, lane = self.queue, self.lane(key)
        leased = sum(lease.cost for line in self.lines.values() for lease in line.leases)
        start = max(now, queue._schedule.held)
        when = self._ahead(None, queue._limits, start, queue._waiters.cost - leased + cost)
        if lane is not None:
            line = self.line(lane)
            start = max(now, line.held, self.clock.here(line.turn) if line.turn else now)
            own = queue._waiters.cost_of(key) - sum(lease.cost for lease in line.leases)
            limits = queue._lanes.limits_of(key) or ()
            when = max(when, self._ahead(lane, limits, start, own + cost))
        return when

    def _ahead(self, lane: Hashable, limits: Sequence[Limit], start: float, cost: float) -> float:
        """As `LimitState.estimate`; of a window it is known only when it has the next call."""
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
        if self._next_ask <= now + EARLY:
            for lane in [lane for lane, at in self._later.items() if at <= now + EARLY]:
                if (rank := self._look_at(lane, now)) is not None:
                    self._add_hungry(lane, rank)
            self._next_ask = min(self._later.values(), default=math.inf)
        at = self._next_ask if self._first_hungry(now) is None else now
        return max(now, at, self._not_before)

    def lacks(self, lane: Hashable) -> None:
        """Note that a lane may need more leases than it has."""
        at = self._line_asks_at(self.line(lane))
        if at > -math.inf:
            self._later[lane] = min(at, self._later.get(lane, math.inf))
            self._next_ask = min(at, self._next_ask)
        elif (rank := self._rank_of(lane)) is not None and rank < self._hungry.get(lane, _LAST):
            self._add_hungry(lane, rank)

    def _add_hungry(self, lane: Hashable, rank: Rank) -> None:
        self._hungry[lane] = rank
        heappush(self._by_rank, (rank, next(self._numbers), lane))
        if len(self._by_rank) > 2 * len(self._hungry) + _MANY:  # so seldom that it is linear
            self._by_rank = [(its, next(self._numbers), one) for one, its in self._hungry.items()]
            heapify(self._by_rank)

    def _rank_of(self, lane: Hashable, covered: int = 0) -> Rank | None:
        """Return the rank of the first in a lane, behind those who are covered; None: nobody."""
        if lane is None:
            return (-math.inf, 0.0)  # who comes under no lane is never left out
        return self.queue._waiters.rank(_key_of(lane), covered)

    def _line_asks_at(self, line: KeyGrants) -> float:
        spent = -math.inf
        if line.leases and not self._short:
            spent = line.leases[-1].at - self._soon()
        return max(spent, line.ask_at)

    def _look_at(self, lane: Hashable, until: float) -> Rank | None:
        """Return the rank of a lane that is to be asked for by then; else note when, if at all."""
        line, rank = self.line(lane), None
        covered = len(line.leases)
        if self._waiting_in(lane, covered) > covered:
            rank = self._rank_of(lane, covered)
        at = math.inf if rank is None else self._line_asks_at(line)
        self._hungry.pop(lane, None)
        self._later.pop(lane, None)
        if at <= until + EARLY:
            return rank
        if at < math.inf:
            self._later[lane] = at
            self._next_ask = min(at, self._next_ask)
        return None

    def _first_hungry(self, now: float) -> tuple[Rank, Hashable] | None:
        """Return whom to ask for first, of those to be asked for now; None: there is nobody."""
        while self._by_rank:
            known, _, lane = heappop(self._by_rank)
            if self._hungry.get(lane) == known and (rank := self._look_at(lane, now)) is not None:
                self._add_hungry(lane, rank)
                if rank == known:
                    return rank, lane
        return None

    def _to_ask_for(self, now: float) -> tuple[Sequence[Hashable], Rank]:
        """Return at most `_MOST_LANES` lanes to ask for, and the rank of the first left out.

        Those that are to be asked for now, by rank; then any that soon will be. (The same lanes
        would be asked for again and again, if it were by rank only.)
        """
        lanes: dict[Hashable, Rank] = {}
        left_out = _LAST
        while (found := self._first_hungry(now)) is not None:
            rank, lane = found
            if len(lanes) == _MOST_LANES:
                left_out = rank
                break
            del self._hungry[lane]
            lanes[lane] = rank
        for lane, rank in lanes.items():  # until there is an answer
            self._add_hungry(lane, rank)
        room, soon = _MOST_LANES - len(lanes), now + self.link.ahead
        others = [lane for lane, at in self._later.items() if room and at <= soon + EARLY]
        for lane in others:
            if room and (one := self._look_at(lane, soon)) is not None:
                lanes[lane] = one
                self.lacks(lane)
                room -= 1
        return list(lanes), left_out

    def _look_at_all(self) -> None:
        self._hungry, self._by_rank, self._later = {}, [], {}
        for lane in self.waiting():
            self.lacks(lane)

    def ask_anew(self, lane: Hashable) -> None:
        """Ask before it is due: there is more than the authority knew when it said when."""
        self.line(lane).ask_at = self._not_before = -math.inf
        self.lacks(lane)

    def ask_all_anew(self) -> None:
        """Do so for every lane."""
        self._not_before = -math.inf
        for line in self.lines.values():
            line.ask_at = -math.inf
        self._look_at_all()

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
        waiters, (cheapest, dearest) = self.queue._waiters, self._costs
        if cheapest != dearest or not waiters.live:  # else every first costs the same
            firsts = (line.first() for line in waiters.key_queues.values())
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
        that is granted, so that no caller left out here is overtaken. Lanes beyond the first
        `_MOST_LANES` are asked for next.
        """
        lanes, left_out = self._to_ask_for(now)
        covered = {lane: len(self.line(lane).leases) for lane in lanes}
        open_ = {key: lane for lane in lanes for key in self._keys_in(lane)}
        left = dict.fromkeys(lanes, float(self.most()))
        wants: list[Want] = []
        for rank, key, slot in self.queue._waiters.iter_in_order(open_):
            lane = open_[key]
            if covered[lane] > 0:
                covered[lane] -= 1
                continue
            if wants and rank >= left_out:
                break
            left[lane] -= max(slot.cost, _LEAST)
            if left[lane] <= 0 and lane is not None:
                del open_[key]
            elif left[lane] <= 0:
                for full in [one for one, its in open_.items() if its is None]:
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
            self._surplus.add(want.lane)  # who it is for may have left meanwhile
            self._last = max(self._last, lease.at)
        for lane in lanes:
            self.line(lane).ask_at, self.line(lane).turn = -math.inf, 0
        for number, turn, ask_at in answer.turns:
            line = self.line(lanes[number - 1])
            line.ask_at, line.turn = max(soonest, min(here(ask_at), now + POLL)), turn
        for lane in {want.lane for want in wants}:
            self.lacks(lane)
        self._fair, self.turn = answer.fair, max(0, answer.turn)
        was_short = self._short
        self._short = answer.turn > 0 and 0 < len(answer.slots) < answer.fair / 2
        if self._short and not was_short:
            self._look_at_all()  # what is leased is no reason to wait any more
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


def _key_of(lane: Hashable) -> Hashable:
    return None if lane is NO_KEY else lane
