"""What a queue that shares a quota asks for, and when.

A slot is asked for shortly before it can be due, for calls that wait without a lease.

What holds:

- Requests are in the order of the calls, and the authority grants no request for more than it
  leaves to those before it. So nobody is overtaken by a call behind it, and what is asked for may
  be less than what is wanted, never a later part of it alone.
- A lease belongs to a scope (to calls that come under the same lanes) and has costs, but no call:
  which call gets it is decided when it is due. It stays there, as it has been charged to the limits
  of those lanes.
- A scope without a lease is either hungry (to be asked for now), or known to be due later, or
  nobody waits in it. Both indices may name one that needs nothing, or too early; that is found out
  when its turn comes. So joining and leaving cost a logarithm, and no step looks at all scopes.
- When to ask comes from the authority: each process that finds no slot gets a place in a round, by
  lane and for the queue. So processes take turns, without knowing of each other. Calls of several
  lanes wait for one of them at a time, and have their place there.

Alternatives: a slot for each call as it joins needs a round trip a call, and has to be undone when
the call is cancelled or an urgent one comes (as with tokens that are reserved one by one). A share
of the rate for each process (as in distributed rate limiting, Raghavan et al., 2007) needs no
round trip, but is wrong for as long as it takes to find out who is idle, and cannot keep a window.
Leases of a few slots ahead are between the two: `ahead` sets where.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count, islice
from operator import lt
from typing import TYPE_CHECKING

from aioapiqueue._fleet.clock import ROUNDING, TICK
from aioapiqueue._fleet.grants import LaneStatus, Lateness, Lease, ScopeGrants
from aioapiqueue._fleet.key_queues import key_queues
from aioapiqueue._fleet.messages import Ask, LineStanding, SlotRequest, Standing, plain_costs
from aioapiqueue._rate import Concurrency, Rate, Window
from aioapiqueue._units import is_stated

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._fleet.clock import Clock
    from aioapiqueue._fleet.key_queues import Place as Rank
    from aioapiqueue._fleet.limits import LimitTable
    from aioapiqueue._fleet.messages import Granted, LimitStatus, Scope
    from aioapiqueue._limiter import Host
    from aioapiqueue._rate import Limit
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
_MOST_SLOTS = 400
"""Slots asked for at once, of calls that come under one limit: a server does nothing else for a
millisecond or two. Of more limits, as many fewer."""
_MOST_LANES = 32
"""Lanes of one limit each that are asked for at once: the script and the reading of its reply hold
up others, and this loop, by up to 0.05 milliseconds for each."""
_LANE = 3
"""Limits of the queue that are as much work for each slot as one of a lane."""
_MOST_REQUESTS = 128
"""Parts of one request, each for calls of one scope and the same costs: as `_MOST_LANES`."""
_NEIGHBOURS = 16
"""So many scopes with a lane are looked at together with one: those that have waited longest there,
as a rule. The others find out within `POLL` what has changed, as those in other processes do."""
_TIMER_LAG = 0.005
"""Seconds by which a real loop's timer may well be late."""
_MANY = 64
"""Scopes, or lanes, before those that nobody uses any more are forgotten."""
_RETRY = 0.02
"""Seconds until the next attempt after a reply that granted nothing and named no time."""

_LAST: Rank = (math.inf, math.inf)


def _refused(ask: Ask, granted: Granted) -> set[tuple[int, ...]]:
    """Return `Scope.unused` of calls that were not granted all, and by none of their lanes."""
    left: Counter[SlotRequest] = Counter()
    for one in ask.requests:
        left[one] += one.number
    left.subtract(request for request, *_ in granted.grants)
    later = {one.scope for one in granted.postponements}
    return {one.scope.unused for one in +left if one.scope not in later}


class _Lanes:
    """The lanes that a request names."""

    def __init__(self, limits: LimitTable) -> None:
        self.named: set[Hashable] = set()
        self._limits = limits
        self._work = 0.0

    @property
    def full(self) -> bool:
        """Whether it may name no more."""
        return self._work >= _MOST_LANES

    def add(self, scope: Scope, most: float = _MOST_LANES) -> bool:
        """Add those of a scope; return False if they are too many."""
        lanes = [lane for lane in scope.lanes if lane not in self.named]
        work = self._work + sum(map(self._limits.work_of, lanes))
        if self._work and lanes and work > most:
            return False
        self.named.update(lanes)
        self._work = work
        return True


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
        self.grants: dict[Scope, ScopeGrants] = {}
        self.leased = 0
        """How many slots are leased, in all scopes."""
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
        self._lanes: dict[Hashable, LaneStatus] = {None: LaneStatus()}
        """How each lane stands; None: the queue."""
        self._prune_at = self._prune_lanes_at = _MANY
        self._last = self._not_before = -math.inf
        self._share: float = _FIRST_SHARE
        self._short = False
        """The last reply had less than half of its share."""
        self._lateness = Lateness()
        self._cheapest: tuple[float, ...] = ()
        """What the calls that are first in their lines cost at least, by unit."""
        self._firsts: list[list[tuple[float, int, Call]]] = []
        """For each unit, a heap of these by cost; entries of those who are not first are stale."""
        self._costs: tuple[float, ...] | None = None
        """What each of those costs who have come since nobody waited; None: not all the same."""
        self._hungry: dict[Scope, Rank] = {}
        """Scopes to ask for now, each by the rank of its first call without a lease."""
        self._by_rank: dict[tuple[int, ...], list[tuple[Rank, int, Scope]]] = {}
        """A heap of the hungry for each `Scope.unused`; entries of others, or of another rank, are
        stale."""
        self._closed: dict[tuple[int, ...], float] = {}
        """Until when nobody is to be asked for who uses the units of a queue that others use who
        have this as `Scope.unused`."""
        self._numbers = count()
        self._later: dict[Scope, float] = {}
        """Scopes to ask for later, and when."""
        self._by_time: list[tuple[float, int, Scope]] = []
        """A heap of these; entries of others, or of another instant, are stale."""
        self._surplus: set[Scope] = set()
        """Scopes that may have more leases than waiters."""

    # Leases.

    def grants_of(self, scope: Scope) -> ScopeGrants:
        """Return what is known of the calls of a scope."""
        grants = self.grants.get(scope)
        if grants is None:
            if len(self.grants) >= self._prune_at:
                waiting, now = key_queues(self._host).by_scope, self._host.now()
                self.grants = {
                    one: its
                    for one, its in self.grants.items()
                    if one in waiting or its.leases or its.ask_at > now
                }
                self._prune_at = 2 * len(self.grants) + _MANY
            grants = self.grants[scope] = ScopeGrants()
        return grants

    def lane(self, lane: Hashable) -> LaneStatus:
        """Return how a lane stands; None: the queue."""
        status = self._lanes.get(lane)
        if status is None:
            if len(self._lanes) >= self._prune_lanes_at:
                waiters, now = key_queues(self._host), self._host.now()
                self._lanes = {
                    one: its
                    for one, its in self._lanes.items()
                    if one is None
                    or waiters.scopes_of(one)
                    or max((its.held_until, *its.ready_at)) > now
                }
                self._prune_lanes_at = 2 * len(self._lanes) + _MANY
            status = self._lanes[lane] = LaneStatus()
        return status

    def usable(self, scope: Scope, now: float) -> tuple[Lease | None, list[Lease]]:
        """Return the next lease of a scope that is not too late, and those that are, taken away."""
        leases, lost = self.grants_of(scope).leases, []
        while leases and leases[0].until < now - TICK:  # it would be too close to what follows
            lost.append(self.take(scope))
            self._lateness.missed(lost[-1], now)
        return (leases[0] if leases else None), lost

    def take(self, scope: Scope) -> Lease:
        """Take the next lease away from a scope."""
        self.leased -= 1
        lease = self.grants_of(scope).leases.popleft()
        self.lacks(scope)
        return lease

    def use(self, scope: Scope, now: float) -> Lease:
        """Take the next lease of a scope for a call that starts now."""
        lease = self.take(scope)
        self._lateness.used(lease, now)
        return lease

    def take_all(self, lanes: Iterable[Hashable]) -> list[tuple[Scope, Lease]]:
        """Take all leases away that come under one of these lanes; None: all leases."""
        taken: list[tuple[Scope, Lease]] = []
        lanes = set(lanes)
        if not lanes or not self.leased:
            return taken
        for scope, grants in list(self.grants.items()):
            if grants.leases and (None in lanes or not lanes.isdisjoint(scope.lanes)):
                taken += [(scope, self.take(scope)) for _ in range(len(grants.leases))]
        return taken

    def take_surplus(self) -> list[tuple[Scope, Lease]]:
        """Take away what was leased for calls that have left: elsewhere others may have it."""
        taken: list[tuple[Scope, Lease]] = []
        for scope in self._surplus if self.leased else ():
            leases, waiting = self.grants_of(scope).leases, self._waiting_in(scope)
            while len(leases) > waiting:
                taken.append((scope, leases.pop()))
        self.leased -= len(taken)
        self._surplus.clear()
        return taken

    def put_back(self, scope: Scope, lease: Lease) -> None:
        """Put a lease back that was taken for a call which does not use it."""
        self.grants_of(scope).leases.appendleft(lease)
        self.leased += 1
        self._surplus.add(scope)

    def forget_leases(self) -> None:
        """Forget them all: the authority has."""
        for grants in self.grants.values():
            grants.leases.clear()
            grants.stands_with = None
        for status in self._lanes.values():
            status.round_position = 0
        self.leased = self._round_position = 0
        self._look_at_all()

    # Who waits.

    def arrives(self, call: Call, now: float) -> None:
        """Note a newcomer: since when there has been a waiter matters for what is due when."""
        waiters, scope = key_queues(self._host), call.limits
        if not waiters.live:
            self._waiting_since = now
            self._costs = call.costs
        elif call.costs != self._costs:
            self._costs = None
        for lane in scope.lanes:
            if not waiters.scopes_of(lane):
                self.lane(lane).waiting_since = now
        if scope.unused and scope not in waiters.by_scope:
            self._not_before = -math.inf  # those who wait may do so for what it does not need

    def left(self, call: Call) -> None:
        """Note that a call waits no more, for which a slot may be leased."""
        scope = call.limits
        self._surplus.add(scope)
        if scope.lanes and not self._waiting_in(scope):
            self._hungry.pop(scope, None)
            self._later.pop(scope, None)

    def _waiting_in(self, scope: Scope, enough: float = math.inf) -> int:
        """Return how many wait in a scope; if they are more than `enough`, not how many more."""
        waiting = 0
        for line in key_queues(self._host).by_scope.get(scope, {}).values():
            waiting += line.live
            if waiting > enough:
                break
        return waiting

    def lanes_changed(self) -> None:
        """Note that other lanes than before may have limits of their own."""
        self._surplus.update(self.grants)
        self._look_at_all()

    # How things stand.

    def apply_status(self, statuses: Mapping[Hashable, LimitStatus]) -> None:
        """Note how the queue (None) and lanes stand."""
        to_local = self._clock.to_local
        for lane, status in statuses.items():
            its = self.lane(lane)
            its.held_until, its.rate = to_local(status.held_until), status.rate
            its.ready_at = tuple(map(to_local, status.ready_at))
        whole = self.lane(None)
        self.held_until = whole.held_until
        if whole.held_until == math.inf:  # a pause: `resume` ends it, even in an outage
            whole.held_until = -math.inf

    def held_until_of(self, scope: Scope) -> float:
        """Return when the last hold ends that concerns the calls of a scope."""
        return max([self.held_until, *(self.lane(lane).held_until for lane in scope.lanes)])

    def hold(self, lane: Hashable, seconds: float) -> None:
        """Let nothing of a lane start for so long."""
        status, now = self.lane(lane), self._host.now()
        status.held_until = max(status.held_until, now + seconds)
        for scope in key_queues(self._host).scopes_of(lane):
            self.grants_of(scope).ask_at = now + min(seconds, POLL)

    def estimate(self, scope: Scope, costs: Sequence[float], now: float) -> float:
        """Return when a newcomer may be due, by the last reply."""
        waiters, start = key_queues(self._host), max(now, self.held_until)
        when = self._estimate_in(None, start, costs, waiters.total)
        for lane in scope.lanes:
            status = self.lane(lane)
            position = status.round_position
            turn = self._clock.to_local(position) if position else now
            start = max(now, status.held_until, turn)
            when = max(when, self._estimate_in(lane, start, costs, partial(waiters.cost_in, lane)))
        return when

    def _estimate_in(
        self,
        lane: Hashable,
        start: float,
        costs: Sequence[float],
        waiting: Callable[[int], float],
    ) -> float:
        """As `LimitState.estimate`; of a window it is known only when it has the next call.

        Args:
            lane: whose limits; None: of the queue.
            start: when the first of those who wait may start, as far as is known otherwise.
            costs: of the newcomer.
            waiting: returns what those who wait cost, in a unit.
        """
        status, ends = self.lane(lane), [start]
        limits: list[Limit] = [
            one for one in self._limits.limits_of(lane) if not isinstance(one, Concurrency)
        ]
        ready = list(status.ready_at) + [-math.inf] * len(limits)
        if status.rate < math.inf:
            limits.append(Rate(status.rate))
        for limit, ready_at in zip(limits, ready, strict=False):
            unit = 0 if isinstance(limit, Concurrency) else self._limits.units.place_of(limit.unit)
            if not is_stated(costs, unit) or not costs[unit]:
                continue
            cost = costs[unit] + waiting(unit) - self._leased_in(lane, unit)
            if isinstance(limit, Rate):
                paid_at = ready_at + (limit.burst - 1) * limit.interval
                ends.append(max(start, paid_at) + (cost - limit.burst) * limit.interval)
            elif isinstance(limit, Window):
                rounds = max(0, math.ceil(cost / limit.calls) - 1)
                ends.append(max(start, ready_at) + rounds * limit.per)
        return max(ends)

    def _leased_in(self, lane: Hashable, unit: int) -> float:
        """Return what leases in a lane (None: in all) cost together, in a unit."""
        return sum(
            lease.costs[unit]
            for scope, grants in self.grants.items()
            if lane is None or lane in scope.lanes
            for lease in grants.leases
            if is_stated(lease.costs, unit)
        )

    # When to ask.

    def ask_at(self, now: float) -> float:
        """Return when to ask for more, for calls that wait without a lease; now: at once."""
        while (later := self._first_later(now)) is not None:
            if (rank := self._look_at(later, now)) is not None:
                self._add_hungry(later, rank)
        at = math.inf
        if self._by_time:
            at, _, scope = self._by_time[0]
            at = max(at, self._closed_until(scope.unused))
        for unused in list(self._by_rank):
            closed_until = self._closed_until(unused)
            if closed_until < at and self._first_hungry(unused, now) is not None:
                at = closed_until
        return max(now, at, self._not_before)

    def _closed_until(self, unused: tuple[int, ...]) -> float:
        """Return until when there is nothing for calls that use none of these units."""
        ends = [at for one, at in self._closed.items() if set(unused) <= set(one)]
        return max(ends, default=-math.inf)

    def lacks(self, scope: Scope) -> None:
        """Note that a scope may need more leases than it has."""
        at = self._asks_at(self.grants_of(scope))
        if at > -math.inf:
            if at < self._later.get(scope, math.inf):
                self._add_later(scope, at)
        elif (rank := self._rank_of(scope)) is not None and rank < self._hungry.get(scope, _LAST):
            self._add_hungry(scope, rank)

    def _add_hungry(self, scope: Scope, rank: Rank) -> None:
        self._hungry[scope] = rank
        heap = self._by_rank.setdefault(scope.unused, [])
        heappush(heap, (rank, next(self._numbers), scope))
        if len(heap) > 2 * len(self._hungry) + _MANY:  # so seldom that it is linear
            hungry = self._hungry.items()
            heap[:] = [
                (its, next(self._numbers), one) for one, its in hungry if one.unused == scope.unused
            ]
            heapify(heap)

    def _add_later(self, scope: Scope, at: float) -> None:
        self._later[scope] = at
        heappush(self._by_time, (at, next(self._numbers), scope))
        if len(self._by_time) > 2 * len(self._later) + _MANY:  # as above
            self._by_time = [(its, next(self._numbers), one) for one, its in self._later.items()]
            heapify(self._by_time)

    def _first_later(self, until: float) -> Scope | None:
        """Return which scope is the first to be asked for later, if that is by then."""
        while self._by_time:
            at, _, scope = self._by_time[0]
            if self._later.get(scope) == at:
                return scope if at <= until + ROUNDING else None
            heappop(self._by_time)
        return None

    def _rank_of(self, scope: Scope, covered: int = 0) -> Rank | None:
        """Return the rank of the first in a scope, behind those with a lease; None: nobody."""
        if not scope.lanes:
            return (-math.inf, 0.0)  # calls without a lane are never left out
        return key_queues(self._host).rank(scope, covered)

    def _asks_at(self, grants: ScopeGrants) -> float:
        used_up = -math.inf
        if grants.leases and not self._short:
            used_up = grants.leases[-1].at - self._soon()
        return max(used_up, grants.ask_at)

    def _look_at(self, scope: Scope, until: float) -> Rank | None:
        """Return the rank of a scope that is to be asked for by then; else note when, if at all."""
        grants, rank = self.grants_of(scope), None
        covered = len(grants.leases)
        if self._waiting_in(scope, covered) > covered:
            rank = self._rank_of(scope, covered)
        at = math.inf if rank is None else self._asks_at(grants)
        self._hungry.pop(scope, None)
        self._later.pop(scope, None)
        if at <= until + ROUNDING:
            return rank
        if at < math.inf:
            self._add_later(scope, at)
        return None

    def _first_hungry(self, unused: tuple[int, ...], now: float) -> tuple[Rank, Scope] | None:
        """Return whom to ask for first, of those to be asked for now who use none of these units.

        None: there is nobody.
        """
        heap = self._by_rank.get(unused, [])
        while heap:
            known, _, scope = heappop(heap)
            if self._hungry.get(scope) == known and (rank := self._look_at(scope, now)) is not None:
                self._add_hungry(scope, rank)
                if rank == known:
                    return rank, scope
        self._by_rank.pop(unused, None)
        return None

    def _hungry_kinds(self, now: float) -> list[tuple[int, ...]]:
        """Return `Scope.unused` of those to be asked for now, by the rank of the first of them."""
        kinds: list[tuple[Rank, tuple[int, ...]]] = []
        for unused in list(self._by_rank):
            if self._closed_until(unused) <= now + ROUNDING:
                first = self._first_hungry(unused, now)
                kinds += [] if first is None else [(first[0], unused)]
        return [unused for _, unused in sorted(kinds)]

    def _to_ask_for(self, now: float) -> tuple[Sequence[Scope], dict[tuple[int, ...], Rank]]:
        """Return scopes of at most `_MOST_LANES` lanes; and who is left out first, by `unused`.

        Those that are to be asked for now, by rank; then any that soon will be. (The same ones
        would be asked for again and again, if it were by rank only.) Of those that use different
        units, each kind has its part, as what one waits for may be no matter to another.
        """
        scopes: dict[Scope, Rank] = {}
        lanes = _Lanes(self._limits)
        left_out: dict[tuple[int, ...], Rank] = {}
        kinds = self._hungry_kinds(now)
        for number, unused in enumerate(kinds, 1):
            most = _MOST_LANES * number / len(kinds)
            while (found := self._first_hungry(unused, now)) is not None:
                rank, scope = found
                if not lanes.add(scope, most):
                    left_out[unused] = rank
                    break
                del self._hungry[scope]
                scopes[scope] = rank
        for scope, rank in scopes.items():  # until there is a reply
            self._add_hungry(scope, rank)
        soon, others = now + self._ahead, []
        while (later := self._first_later(soon)) is not None and lanes.add(later):
            if (one := self._look_at(later, soon)) is not None:
                scopes[later] = one
                others.append(later)
        for scope in others:
            self.lacks(scope)
        for scope, rank in list(scopes.items()):
            self._add_earlier(scope, rank, scopes, lanes)
        return list(scopes), left_out

    def _add_earlier(
        self, scope: Scope, rank: Rank, scopes: dict[Scope, Rank], lanes: _Lanes
    ) -> None:
        """Ask for calls of several lanes, too, that rank before those of a scope in one of these.

        The authority then sees that they wait there: else those behind them would take every slot
        ahead, before it is their time to ask.
        """
        scopes_of = key_queues(self._host).scopes_of
        for lane in scope.lanes:
            for one in islice(scopes_of(lane), _NEIGHBOURS):
                if len(one.lanes) == 1 or one in scopes:
                    continue
                if lanes.full and not lanes.named.issuperset(one.lanes):
                    continue
                earlier = self._rank_of(one, len(self.grants_of(one).leases))
                if earlier is not None and earlier < rank and lanes.add(one):
                    scopes[one] = earlier

    def _look_at_all(self) -> None:
        self._hungry, self._by_rank, self._later, self._by_time = {}, {}, {}, []
        for scope in key_queues(self._host).by_scope:
            self.lacks(scope)

    def ask_soon(self, scope: Scope) -> None:
        """Ask before it is due: there is more than the authority knew when it named a time."""
        self._not_before = -math.inf
        self._closed.clear()
        scopes_of = key_queues(self._host).scopes_of
        others = [one for lane in scope.lanes for one in islice(scopes_of(lane), _NEIGHBOURS)]
        for one in dict.fromkeys((scope, *others)):
            self.grants_of(one).ask_at = -math.inf
            self.lacks(one)

    def ask_all_soon(self) -> None:
        """Do so for every scope."""
        self._not_before = -math.inf
        self._closed.clear()
        for grants in self.grants.values():
            grants.ask_at = -math.inf
        self._look_at_all()

    def permit_freed(self) -> None:
        """Ask before it is due, as a permit has become free."""
        self._not_before = -math.inf

    def compare_costs(self) -> None:
        """Ask before it is due if a call is now first that costs less than all that were."""
        waiters = key_queues(self._host)
        firsts, cheapest = waiters.take_new_firsts(), self._costs
        if cheapest is None and waiters.live:
            cheapest = self._cheapest_firsts(firsts)
        else:  # every first costs the same
            self._firsts = []
            cheapest = plain_costs(cheapest) if cheapest and waiters.live else ()
        known = self._cheapest
        if (cheapest and not known) or any(map(lt, cheapest, known)):
            self.ask_all_soon()
        self._cheapest = cheapest

    def _cheapest_firsts(self, new: Sequence[Call]) -> tuple[float, ...]:
        """Return the least that calls which are first in their lines cost, by unit.

        Args:
            new: those that were not when it was called before.
        """
        lines, units = key_queues(self._host).lines, len(self._limits.units)
        most = 2 * len(lines) + _MANY
        if len(self._firsts) != units or len(self._firsts[0]) > most:  # so seldom that it is linear
            self._firsts = [[] for _ in range(units)]
            new = [first for line in lines.values() if (first := line.first()) is not None]
        for first in new:
            number, costs = next(self._numbers), plain_costs(first.costs)
            for unit, heap in enumerate(self._firsts):
                heappush(heap, (costs[unit] if unit < len(costs) else 0, number, first))
        for heap in self._firsts:
            while heap and not ((first := heap[0][2]).waits and first.line.first() is first):
                heappop(heap)
        # inf: those who were first are cancelled, and have yet to leave.
        return tuple(heap[0][0] if heap else math.inf for heap in self._firsts)

    def _soon(self) -> float:
        """Return how long before it is needed something is asked for."""
        return min(self._ahead / 2, self._clock.rtt + _TIMER_LAG)

    # What to ask for.

    def next_ask(self, now: float) -> Ask | None:
        """Return what to ask for now; None: nothing."""
        requests = self._requests(now)
        if not requests:
            return None
        scopes = dict.fromkeys(one.scope for one in requests)
        lanes = list(dict.fromkeys(lane for scope in scopes for lane in scope.lanes))
        standings = [Standing(None, now - self._waiting_since, self._round_position)]
        for lane in lanes:
            status = self.lane(lane)
            # inf: the lane's limits came while they waited.
            status.waiting_since = min(now, status.waiting_since)
            standings.append(Standing(lane, now - status.waiting_since, status.round_position))
        lines = [
            LineStanding(scope, self.grants_of(scope).stands_with)
            for scope in scopes
            if scope.lanes
        ]
        # The authority leaves so much of `catch_up` to the call that uses the slot; a window lasts
        # so much longer.
        lateness = self._clock.uncertainty + self._slack((None, *lanes))
        jitter = min(self._clock.jitter, self._ahead / 2)
        slots = self._most_slots(scopes)
        return Ask(requests, max(1, self._share), slots, jitter, lateness, standings, lines)

    def _slack(self, lanes: Iterable[Hashable]) -> float:
        """Return how late slots are likely to be used, by this loop alone."""
        least = _TIMER_LAG if self._host.on_real_time else 0.0
        if self._limits.has_window(lanes) or self._lateness.always:
            return self._lateness.worst(least)
        allowed = self._catch_up - self._clock.uncertainty
        return min(self._lateness.usual(least), max(least, allowed))

    def _most_slots(self, scopes: Iterable[Scope]) -> int:
        """Return how many slots may be granted at once to calls of these scopes."""
        work_of = self._limits.work_of
        in_lanes = max((sum(map(work_of, scope.lanes)) for scope in scopes), default=0)
        return max(1, int(_MOST_SLOTS / (work_of(None) + _LANE * in_lanes)))

    def _requests(self, now: float) -> list[SlotRequest]:
        """Return what calls that wait without a lease need, in their order.

        Its share for each scope, as it may be that no other is due; of all together, no more than
        that is granted, so that no call left out here is overtaken. Scopes beyond the first
        `_MOST_LANES` lanes are asked for next.
        """
        waiters, (scopes, left_out) = key_queues(self._host), self._to_ask_for(now)
        covered = {scope: len(self.grants_of(scope).leases) for scope in scopes}
        open_ = {name: scope for scope in scopes for name in waiters.by_scope.get(scope, ())}
        share, slots = max(1, self._share), self._most_slots(scopes)
        left, least = dict.fromkeys(scopes, share), max(_LEAST_COST, share / slots)
        # Each has a part of its own: one without any would be asked for again at once.
        parts = dict.fromkeys(scopes, max(1, _MOST_REQUESTS // max(1, len(scopes))))
        # Those who use all of what one uses that is left out are not to overtake it.
        first_out = {
            unused: min([_LAST, *(its for one, its in left_out.items() if set(unused) <= set(one))])
            for unused in {scope.unused for scope in scopes}
        }

        def close(scope: Scope) -> None:
            for one in waiters.by_scope[scope]:
                open_.pop(one, None)

        requests: list[SlotRequest] = []
        for rank, name, call in waiters.iter_in_order(open_):
            scope = open_[name]
            if covered[scope] > 0:
                covered[scope] -= 1
                continue
            if requests and rank >= first_out[scope.unused]:
                close(scope)
                continue
            if requests and requests[-1][:2] == (scope, call.costs):
                requests[-1] = requests[-1]._replace(number=requests[-1].number + 1)
            else:
                requests.append(SlotRequest(scope, call.costs, 1))
                parts[scope] -= 1
            left[scope] -= max(call.costs[0], least)
            if left[scope] <= 0 or not parts[scope]:
                close(scope)
        return requests

    def apply(self, ask: Ask, granted: Granted) -> None:
        """Take what the authority has granted, and note when to ask for more."""
        now, to_local = self._host.now(), self._clock.to_local
        soonest = now + 2 * TICK  # as timestamps are rounded, it may be a microsecond earlier there
        self._add_leases(ask, granted)
        self._apply_standings(ask, granted, soonest)
        for scope in dict.fromkeys(one.scope for one in ask.requests):
            self.lacks(scope)
        number, self._share = len(granted.grants), granted.share
        position = self._round_position = granted.round_position
        was_short, self._short = self._short, position > 0 and 0 < number < granted.share / 2
        if self._short and not was_short:  # what is leased is no reason to wait any more
            for scope in [one for one in self._later if self.grants_of(one).leases]:
                self.lacks(scope)
        self.short_of_permits = granted.short_of_permits
        self._not_before = -math.inf
        asked = {one.scope.unused for one in ask.requests}
        for unused in asked:
            self._closed.pop(unused, None)
        if position > 0:
            if not number or to_local(position) > now:  # else its share is greater than it knew
                closed_until = max(soonest, min(to_local(position), now + POLL))
                self._closed.update(dict.fromkeys(_refused(ask, granted) or asked, closed_until))
        elif self.short_of_permits:
            self._not_before = now + _PERMITS_POLL
        elif number < min(ask.slots, ask.asked) and not granted.postponements:
            # This was its share: the others are to have theirs first.
            self._not_before = self._last - self._soon() if number else now + _RETRY

    def _apply_standings(self, ask: Ask, granted: Granted, soonest: float) -> None:
        """Note for which of its lanes each scope has to wait, and until when."""
        now, to_local = self._host.now(), self._clock.to_local
        served = {request.scope for request, *_ in granted.grants}
        for scope, _ in ask.lines:
            grants = self.grants_of(scope)
            grants.ask_at, grants.stands_with = -math.inf, None
            if len(scope.lanes) == 1 or scope in served:  # else it has its place at one of them yet
                for lane in scope.lanes:
                    self.lane(lane).round_position = 0
        for scope, lane, position, ask_at in granted.postponements:
            grants = self.grants_of(scope)
            grants.ask_at = max(soonest, min(to_local(ask_at), now + POLL))
            grants.stands_with = lane
            self.lane(lane).round_position = position

    def _add_leases(self, ask: Ask, granted: Granted) -> None:
        to_local, uncertainty = self._clock.to_local, self._clock.uncertainty
        # The authority knows how late a slot may be used. By now, the clock may be known better.
        slack = ask.lateness - uncertainty
        has_window = self._limits.has_window((None, *ask.lanes))  # it lasts no longer than that
        for request, timestamp, latest in granted.grants:
            at, scope = to_local(timestamp), request.scope
            until = at + slack if has_window else max(at + slack, to_local(latest) - uncertainty)
            self.grants_of(scope).leases.append(Lease(at, until, request.costs, timestamp))
            self.leased += 1
            self._surplus.add(scope)  # the call that it is for may have left meanwhile
            self._last = max(self._last, at)
