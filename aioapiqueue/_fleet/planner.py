"""What a queue that shares a quota asks for, and when.

A slot is asked for shortly before it can be due, for calls that wait without a lease.

What holds:

- Requests are in the order of the calls, and the authority grants no request for more than it
  leaves to those before it. So nobody is overtaken by a call behind it, and what is asked for may
  be less than what is wanted, never a later part of it alone.
- A lease belongs to a lane and has costs, but no call: which call gets it is decided when it is
  due. It stays in its lane, as it has been charged to that lane's limits.
- A lane without a lease is either hungry (to be asked for now), or known to be due later, or
  nobody waits in it. Both indices may name a lane that needs nothing, or too early; that is found
  out when its turn comes. So joining and leaving cost a logarithm, and no step looks at all lanes.
- When to ask comes from the authority: each process that finds no slot gets a place in a round, by
  lane and for the queue. So processes take turns, without knowing of each other.

Alternatives: a slot for each call as it joins needs a round trip a call, and has to be undone when
the call is cancelled or an urgent one comes (as with tokens that are reserved one by one). A share
of the rate for each process (as in distributed rate limiting, Raghavan et al., 2007) needs no
round trip, but is wrong for as long as it takes to find out who is idle, and cannot keep a window.
Leases of a few slots ahead are between the two: `ahead` sets where.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from aioapiqueue._fleet.clock import ROUNDING, TICK
from aioapiqueue._fleet.grants import KeyGrants, Lateness, Lease
from aioapiqueue._fleet.key_queues import SHARED, key_queues
from aioapiqueue._fleet.limits import key_of
from aioapiqueue._fleet.messages import Ask, SlotRequest, Standing
from aioapiqueue._rate import Rate, Window

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._fleet.clock import Clock
    from aioapiqueue._fleet.key_queues import Place as Rank
    from aioapiqueue._fleet.limits import LimitTable
    from aioapiqueue._fleet.messages import Granted, LimitStatus
    from aioapiqueue._limiter import Host
    from aioapiqueue._slot import Call

__all__ = ["POLL", "Planner"]

POLL = 1.0
"""Seconds after which a waiter asks at the latest: others may have ended what holds it. The server
takes those for waiting that have asked in the last 1.5 s."""
_PERMITS_POLL = 0.1
"""As `POLL`, where permits are all taken: nobody knows when a body ends, elsewhere."""
_FIRST_SHARE = 16
"""Slots to ask for at once before a reply says what this queue's share is."""
_LEAST_COST = 0.01
"""What a call counts at least, so that requests end even if calls cost nothing."""
_MOST = 1000
"""Slots asked for at once: some 10 milliseconds of a server's time."""
_MOST_LANES = 64
"""Lanes asked for at once: the script and the reading of its reply hold up others, and this loop,
by up to 0.1 milliseconds for each."""
_TIMER_LAG = 0.005
"""Seconds by which a real loop's timer may well be late."""
_MANY = 64
"""Lanes, before those that nobody uses any more are forgotten."""
_RETRY = 0.02
"""Seconds until the next attempt after a reply that granted nothing and named no time."""

_LAST: Rank = (math.inf, math.inf)


class Planner:
    """The leases that one queue has, and what it needs besides.

    Args:
        host: whose calls wait.
        limits: that they come under.
        clock: reads the authority's.
        ahead: seconds by which slots are taken ahead of their time, at most.
        catch_up: seconds by which a slot may be used late; later it is lost.
    """

    def __init__(
        self, host: Host, limits: LimitTable, clock: Clock, *, ahead: float, catch_up: float
    ) -> None:
        self.grants: dict[Hashable, KeyGrants] = {}
        self.leased = 0
        """How many slots are leased, in all lanes."""
        self.held_until = -math.inf
        """Until when a pause or hold keeps everything."""
        self.short_of_permits = False
        """What is missing are permits (`concurrency`)."""
        self._host = host
        self._limits = limits
        self._clock = clock
        self._ahead = ahead
        self._catch_up = catch_up
        self._round_position = 0
        self._waiting_since = math.inf
        """Since when there has always been a waiter."""
        self._prune_at = _MANY
        self._last = self._not_before = -math.inf
        self._share: float = _FIRST_SHARE
        self._short = False
        """The last reply had less than half of its share."""
        self._lateness = Lateness()
        self._cheapest = math.inf
        self._costs = (math.inf, 0.0)
        """The lowest and the highest cost of those who have come since nobody waited."""
        self._hungry: dict[Hashable, Rank] = {}
        """Lanes to ask for now, each by the rank of its first call without a lease."""
        self._by_rank: list[tuple[Rank, int, Hashable]] = []
        """A heap of the hungry; entries of others, or of another rank, are stale."""
        self._numbers = count()
        self._later: dict[Hashable, float] = {}
        """Lanes to ask for later, and when."""
        self._next_ask = math.inf
        """The earliest of these, or earlier."""
        self._surplus: set[Hashable] = set()
        """Lanes that may have more leases than waiters."""

    # Leases.

    def grants_of(self, lane: Hashable) -> KeyGrants:
        """Return what is known of a lane; None: of all calls without one."""
        grants = self.grants.get(lane)
        if grants is None:
            if len(self.grants) >= self._prune_at:
                waiting, now = {None, *self._waiting()}, self._host.now()
                self.grants = {
                    key: one
                    for key, one in self.grants.items()
                    if key in waiting or one.leases or max(one.held_until, one.ready_at) > now
                }
                self._prune_at = 2 * len(self.grants) + _MANY
            grants = self.grants[lane] = KeyGrants()
        return grants

    def usable(self, lane: Hashable, now: float) -> tuple[Lease | None, list[Lease]]:
        """Return the next lease of a lane that is not too late, and those that are, taken away."""
        leases, lost = self.grants_of(lane).leases, []
        while leases and leases[0].until < now - TICK:  # it would be too close to what follows
            lost.append(self.take(lane))
            self._lateness.missed(lost[-1], now)
        return (leases[0] if leases else None), lost

    def take(self, lane: Hashable) -> Lease:
        """Take the next lease away from a lane."""
        self.leased -= 1
        lease = self.grants_of(lane).leases.popleft()
        self.lacks(lane)
        return lease

    def use(self, lane: Hashable, now: float) -> Lease:
        """Take the next lease of a lane for a call that starts now."""
        lease = self.take(lane)
        self._lateness.used(lease, now)
        return lease

    def take_all(self, lanes: Iterable[Hashable]) -> list[tuple[Hashable, Lease]]:
        """Take all leases away from these lanes."""
        return [
            (lane, self.take(lane))
            for lane in list(lanes)
            for _ in range(len(self.grants_of(lane).leases))
        ]

    def take_surplus(self) -> list[tuple[Hashable, Lease]]:
        """Take away what was leased for calls that have left: elsewhere others may have it."""
        taken: list[tuple[Hashable, Lease]] = []
        for lane in self._surplus if self.leased else ():
            leases, waiting = self.grants_of(lane).leases, self._waiting_in(lane)
            while len(leases) > waiting:
                taken.append((lane, leases.pop()))
        self.leased -= len(taken)
        self._surplus.clear()
        return taken

    def put_back(self, lane: Hashable, lease: Lease) -> None:
        """Put a lease back that was taken for a call which does not use it."""
        self.grants_of(lane).leases.appendleft(lease)
        self.leased += 1
        self._surplus.add(lane)

    def forget_leases(self) -> None:
        """Forget them all: the authority has."""
        for grants in self.grants.values():
            grants.leases.clear()
            grants.round_position = 0
        self.leased = self._round_position = 0
        self._look_at_all()

    # Who waits.

    def arrives(self, call: Call, now: float) -> None:
        """Note a newcomer: since when there has been a waiter matters for what is due when."""
        waiters = key_queues(self._host)
        if not waiters.live:
            self._waiting_since = now
            self._costs = (call.cost, call.cost)
        else:
            self._costs = (min(call.cost, self._costs[0]), max(call.cost, self._costs[1]))
        lane = self._limits.lane_of(call.key)
        if lane is not None and call.key not in waiters.lines:
            self.grants_of(lane).waiting_since = now

    def left(self, call: Call) -> None:
        """Note that a call waits no more, for which a slot may be leased."""
        lane = self._limits.lane_of(call.key)
        self._surplus.add(lane)
        if lane is not None and not self._waiting_in(lane):
            self._hungry.pop(lane, None)
            self._later.pop(lane, None)

    def _waiting(self) -> set[Hashable]:
        """Return the lanes in which somebody waits."""
        return {self._limits.lane_of(one.name) for one in key_queues(self._host).lines.values()}

    def _waiting_in(self, lane: Hashable, enough: float = math.inf) -> int:
        """Return how many wait in a lane; if they are more than `enough`, not how many more."""
        waiting = 0
        for key in self._keys_in(lane):
            line = key_queues(self._host).lines.get(key)
            waiting += 0 if line is None else line.live
            if waiting > enough:
                break
        return waiting

    def _keys_in(self, lane: Hashable) -> Iterable[Hashable]:
        """Return the keys under which calls of a lane wait."""
        if lane is not None:
            return (key_of(lane),)
        waiters = key_queues(self._host)
        if not waiters.fair:
            return (SHARED,)
        return (key for key in waiters.lines if self._limits.lane_of(key) is None)

    def lanes_changed(self) -> None:
        """Note that other lanes than before may have limits of their own."""
        self._surplus.update(self.grants)
        self._look_at_all()

    # How things stand.

    def apply_status(self, statuses: Mapping[Hashable, LimitStatus]) -> None:
        """Note how the queue (None) and lanes stand."""
        to_local = self._clock.to_local
        for lane, status in statuses.items():
            grants = self.grants_of(lane)
            grants.held_until, grants.ready_at = map(to_local, (status.held_until, status.ready_at))
            grants.rate = status.rate
        whole = self.grants_of(None)
        self.held_until = whole.held_until
        if whole.held_until == math.inf:  # a pause: `resume` ends it, even in an outage
            whole.held_until = -math.inf

    def hold(self, lane: Hashable, seconds: float) -> None:
        """Let nothing of a lane start for so long."""
        grants, now = self.grants_of(lane), self._host.now()
        grants.held_until = max(grants.held_until, now + seconds)
        grants.ask_at = now + min(seconds, POLL)

    def estimate(self, key: Hashable, cost: float, now: float) -> float:
        """Return when a newcomer may be due, by the last reply."""
        waiters, lane = key_queues(self._host), self._limits.lane_of(key)
        leased = sum(lease.costs[0] for one in self.grants.values() for lease in one.leases)
        start = max(now, self.held_until)
        when = self._estimate_in(None, start, waiters.total() - leased + cost)
        if lane is not None:
            grants = self.grants_of(lane)
            position = grants.round_position
            start = max(now, grants.held_until, self._clock.to_local(position) if position else now)
            own = waiters.cost_of(key) - sum(lease.costs[0] for lease in grants.leases)
            when = max(when, self._estimate_in(lane, start, own + cost))
        return when

    def _estimate_in(self, lane: Hashable, start: float, cost: float) -> float:
        """As `LimitState.estimate`; of a window it is known only when it has the next call."""
        grants, ends = self.grants_of(lane), [start]
        limits = self._limits.limits_of(lane)
        rates = [(one.interval, one.burst) for one in limits if isinstance(one, Rate)]
        if grants.rate < math.inf:
            rates.append((1 / grants.rate, 1))
        for interval, burst in rates:
            paid_at = grants.ready_at + (burst - 1) * interval
            ends.append(max(start, paid_at) + (cost - burst) * interval)
        for one in limits:
            if isinstance(one, Window):
                rounds = max(0, math.ceil(cost / one.calls) - 1)
                ends.append(max(start, grants.ready_at) + rounds * one.per)
        return max(ends)

    # When to ask.

    def ask_at(self, now: float) -> float:
        """Return when to ask for more, for calls that wait without a lease; now: at once."""
        if self._next_ask <= now + ROUNDING:
            for lane in [lane for lane, at in self._later.items() if at <= now + ROUNDING]:
                if (rank := self._look_at(lane, now)) is not None:
                    self._add_hungry(lane, rank)
            self._next_ask = min(self._later.values(), default=math.inf)
        at = self._next_ask if self._first_hungry(now) is None else now
        return max(now, at, self._not_before)

    def lacks(self, lane: Hashable) -> None:
        """Note that a lane may need more leases than it has."""
        at = self._lane_asks_at(self.grants_of(lane))
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
        """Return the rank of the first in a lane, behind those that have a lease; None: nobody."""
        if lane is None:
            return (-math.inf, 0.0)  # calls without a lane are never left out
        return key_queues(self._host).rank(key_of(lane), covered)

    def _lane_asks_at(self, grants: KeyGrants) -> float:
        used_up = -math.inf
        if grants.leases and not self._short:
            used_up = grants.leases[-1].at - self._soon()
        return max(used_up, grants.ask_at)

    def _look_at(self, lane: Hashable, until: float) -> Rank | None:
        """Return the rank of a lane that is to be asked for by then; else note when, if at all."""
        grants, rank = self.grants_of(lane), None
        covered = len(grants.leases)
        if self._waiting_in(lane, covered) > covered:
            rank = self._rank_of(lane, covered)
        at = math.inf if rank is None else self._lane_asks_at(grants)
        self._hungry.pop(lane, None)
        self._later.pop(lane, None)
        if at <= until + ROUNDING:
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
        for lane, rank in lanes.items():  # until there is a reply
            self._add_hungry(lane, rank)
        room, soon = _MOST_LANES - len(lanes), now + self._ahead
        others = [lane for lane, at in self._later.items() if room and at <= soon + ROUNDING]
        for lane in others:
            if room and (one := self._look_at(lane, soon)) is not None:
                lanes[lane] = one
                self.lacks(lane)
                room -= 1
        return list(lanes), left_out

    def _look_at_all(self) -> None:
        self._hungry, self._by_rank, self._later = {}, [], {}
        for lane in self._waiting():
            self.lacks(lane)

    def ask_soon(self, lane: Hashable) -> None:
        """Ask before it is due: there is more than the authority knew when it named a time."""
        self.grants_of(lane).ask_at = self._not_before = -math.inf
        self.lacks(lane)

    def ask_all_soon(self) -> None:
        """Do so for every lane."""
        self._not_before = -math.inf
        for grants in self.grants.values():
            grants.ask_at = -math.inf
        self._look_at_all()

    def permit_freed(self) -> None:
        """Ask before it is due, as a permit has become free."""
        self._not_before = -math.inf

    def compare_costs(self) -> None:
        """Ask before it is due if a call is now first that costs less than all that were."""
        waiters, (cheapest, dearest) = key_queues(self._host), self._costs
        if cheapest != dearest or not waiters.live:  # else every first costs the same
            firsts = (one.first() for one in waiters.lines.values())
            cheapest = min((first.cost for first in firsts if first is not None), default=math.inf)
        if cheapest < self._cheapest:
            self.ask_all_soon()
        self._cheapest = cheapest

    def _soon(self) -> float:
        """Return how long before it is needed something is asked for."""
        return min(self._ahead / 2, self._clock.rtt + _TIMER_LAG)

    # What to ask for.

    def next_ask(self, now: float) -> Ask | None:
        """Return what to ask for now; None: nothing."""
        requests = self._requests(now)
        if not requests:
            return None
        lanes = list(dict.fromkeys(lane for one in requests for lane in one.lanes))
        standings = [Standing(None, now - self._waiting_since, self._round_position)]
        for lane in lanes:
            grants = self.grants_of(lane)
            # inf: the lane's limits came while they waited.
            grants.waiting_since = min(now, grants.waiting_since)
            standings.append(Standing(lane, now - grants.waiting_since, grants.round_position))
        # The authority leaves so much of `catch_up` to the call that uses the slot; a window lasts
        # so much longer.
        lateness = self._clock.uncertainty + self._slack((None, *lanes))
        jitter = min(self._clock.jitter, self._ahead / 2)
        return Ask(requests, self._most(), jitter, lateness, standings)

    def _slack(self, lanes: Iterable[Hashable]) -> float:
        """Return how late slots are likely to be used, by this loop alone."""
        least = _TIMER_LAG if self._host.on_real_time else 0.0
        if self._limits.has_window(lanes) or self._lateness.always:
            return self._lateness.worst(least)
        allowed = self._catch_up - self._clock.uncertainty
        return min(self._lateness.usual(least), max(least, allowed))

    def _most(self) -> float:
        """Return what may be granted at once, in cost: its share, by the last reply."""
        return max(1, min(self._share, _MOST))

    def _requests(self, now: float) -> list[SlotRequest]:
        """Return what calls that wait without a lease need, in their order.

        `_most` of each lane, as it may be that no other is due; of all lanes together, no more than
        that is granted, so that no call left out here is overtaken. Lanes beyond the first
        `_MOST_LANES` are asked for next.
        """
        lanes, left_out = self._to_ask_for(now)
        covered = {lane: len(self.grants_of(lane).leases) for lane in lanes}
        open_ = {key: lane for lane in lanes for key in self._keys_in(lane)}
        left = dict.fromkeys(lanes, self._most())
        requests: list[SlotRequest] = []
        for rank, key, call in key_queues(self._host).iter_in_order(open_):
            lane = open_[key]
            if covered[lane] > 0:
                covered[lane] -= 1
                continue
            if requests and rank >= left_out:
                break
            left[lane] -= max(call.cost, _LEAST_COST)
            if left[lane] <= 0:
                full = [key] if lane is not None else [k for k, of in open_.items() if of is None]
                for one in full:
                    del open_[one]
            lanes_of_call = () if lane is None else (lane,)
            if requests and requests[-1][:2] == (lanes_of_call, call.costs):
                requests[-1] = requests[-1]._replace(number=requests[-1].number + 1)
            else:
                requests.append(SlotRequest(lanes_of_call, call.costs, 1))
        return requests

    def apply(self, ask: Ask, granted: Granted) -> None:
        """Take what the authority has granted, and note when to ask for more."""
        now, to_local = self._host.now(), self._clock.to_local
        soonest = now + 2 * TICK  # as timestamps are rounded, it may be a microsecond earlier there
        self._add_leases(ask, granted)
        for lane in ask.lanes:
            self.grants_of(lane).ask_at, self.grants_of(lane).round_position = -math.inf, 0
        for lane, position, ask_at in granted.postponements:
            grants = self.grants_of(lane)
            grants.ask_at = max(soonest, min(to_local(ask_at), now + POLL))
            grants.round_position = position
        for lane in {lane for one in ask.requests for lane in one.lanes or (None,)}:
            self.lacks(lane)
        number, self._share = len(granted.grants), granted.share
        position = self._round_position = granted.round_position
        was_short, self._short = self._short, position > 0 and 0 < number < granted.share / 2
        if self._short and not was_short:
            self._look_at_all()  # what is leased is no reason to wait any more
        self.short_of_permits = granted.short_of_permits
        self._not_before = -math.inf
        if position > 0:
            if not number or to_local(position) > now:  # else its share is greater than it knew
                self._not_before = max(soonest, min(to_local(position), now + POLL))
        elif self.short_of_permits:
            self._not_before = now + _PERMITS_POLL
        elif number < sum(one.number for one in ask.requests) and not granted.postponements:
            # This was its share: the others are to have theirs first.
            self._not_before = self._last - self._soon() if number else now + _RETRY

    def _add_leases(self, ask: Ask, granted: Granted) -> None:
        to_local, uncertainty = self._clock.to_local, self._clock.uncertainty
        # The authority knows how late a slot may be used. By now, the clock may be known better.
        slack = ask.lateness - uncertainty
        has_window = self._limits.has_window((None, *ask.lanes))  # it lasts no longer than that
        for request, timestamp, latest in granted.grants:
            lane = request.lanes[0] if request.lanes else None
            at = to_local(timestamp)
            until = at + slack if has_window else max(at + slack, to_local(latest) - uncertainty)
            self.grants_of(lane).leases.append(Lease(at, until, request.costs, timestamp))
            self.leased += 1
            self._surplus.add(lane)  # the call that it is for may have left meanwhile
            self._last = max(self._last, at)
