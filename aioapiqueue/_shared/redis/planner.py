"""What a queue that shares a quota asks for, and when.

A slot is asked for shortly before it can be due, for calls that wait without a lease.

What holds:

- Requests are in the order of the calls, and the authority grants no request for more than it
  leaves to those before it. So nobody is overtaken by a call behind it, and what is asked for may
  be less than what is wanted, never a later part of it alone.
- A lease belongs to a scope (to calls that come under the same lanes) and has costs, but no call:
  which call gets it is decided when it is due. It stays there, as it has been charged to the limits
  of those lanes.
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
from functools import partial
from itertools import islice, zip_longest
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency, Rate, Window
from aioapiqueue._shared.clock import TICK
from aioapiqueue._shared.lateness import Lateness
from aioapiqueue._shared.redis.first_costs import FirstCosts
from aioapiqueue._shared.redis.grants import LaneStatus, Lease, LeasedCosts, ScopeGrants
from aioapiqueue._shared.redis.key_queues import key_queues
from aioapiqueue._shared.redis.messages import Ask, LineStanding, SlotRequest, Standing, plain_costs
from aioapiqueue._shared.redis.scope_queue import ScopeQueue
from aioapiqueue.spi import cost_units

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.clock import Clock
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.redis.messages import Granted, LimitStatus
    from aioapiqueue._shared.redis.scope_queue import Kind
    from aioapiqueue._shared.scope import Scope
    from aioapiqueue.spi import Call, Host

__all__ = ["POLL", "Planner"]

POLL = 1.0
"""Seconds after which a waiter asks at the latest: others may have ended what holds it. The server
takes those for waiting that have asked in the last 1.5 s."""
_PERMITS_POLL = 0.1
"""As `POLL`, where permits are all taken: nobody knows when a body ends, elsewhere."""
_FIRST_SHARE = 16
"""Slots to ask for at once at least: before a reply says what this queue's share is, too."""
_LEAST_COST = 0.01
"""What a call counts at least, so that requests end even if calls cost nothing."""
_MOST_SLOTS = 400
"""Slots asked for at once, of calls that come under one limit: a server does nothing else for a
millisecond or two. Of more limits, as many fewer."""
_LANE = 3
"""Limits of the queue that are as much work for each slot as one of a lane."""
_MOST_REQUESTS = 128
"""Parts of one request, each for calls of one scope and the same costs: the script and the reading
of its reply hold up others, and this loop."""
_FIRSTS = 16
"""Scopes whose first waiter is looked at, when there may be room for it by what the other side
says: the others ask within a second."""
_TIMER_LAG = 0.005
"""Seconds by which a real loop's timer may well be late."""
_MANY = 64
"""Scopes, or lanes, before those that nobody uses any more are forgotten."""
_RETRY = 0.02
"""Seconds until the next attempt after a reply that granted nothing and named no time."""


def _ranks_before(call: Call, other: Call) -> bool:
    return (call.priority, call.arrival) < (other.priority, other.arrival)


def _costs_less(costs: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether a call of some costs may have room where one of others has none."""
    pairs = zip_longest(plain_costs(costs), plain_costs(others), fillvalue=0)
    return any(mine < its for mine, its in pairs)


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
        self.leased_costs = LeasedCosts()
        """What is leased."""
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
        self._first_costs = FirstCosts(host, limits)
        self._scopes = ScopeQueue(host, limits, self.grants_of, self._asks_at)
        self._asked_for: list[Call] = []
        """The first call of each request of the last `Ask`."""
        self._standing: dict[Call, None] = {}
        """Those that wait for the queue's limits, by the last reply: of each scope the first."""
        self._surplus: set[Scope] = set()
        """Scopes that may have more leases than waiters."""

    # Leases.

    @property
    def leased(self) -> int:
        """How many slots are leased, in all scopes."""
        return self.leased_costs.number(None)

    def grants_of(self, scope: Scope) -> ScopeGrants:
        """Return what is known of the calls of a scope."""
        grants = self.grants.get(scope)
        if grants is None:
            if len(self.grants) >= self._prune_at:
                waiting, now = key_queues(self._host).by_scope, self._host.loop.now()
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
                waiters, now = key_queues(self._host), self._host.loop.now()
                self._lanes = {
                    one: its
                    for one, its in self._lanes.items()
                    if one is None
                    or waiters.scopes_of(one)
                    or max((its.held_until, *its.ready_at)) > now
                    or any(bound.until > now for bound in its.bounds)
                }
                self._prune_lanes_at = 2 * len(self._lanes) + _MANY
            status = self._lanes[lane] = LaneStatus()
        return status

    def usable(self, scope: Scope, now: float) -> tuple[Lease | None, list[Lease]]:
        """Return the next lease of a scope that is not too late, and those that are, taken away."""
        leases, lost = self.grants_of(scope).leases, []
        while leases and leases[0].until < now - TICK:  # it would be too close to what follows
            lost.append(self.take(scope))
            self._lateness.missed(lost[-1].at, now)
        return (leases[0] if leases else None), lost

    def take(self, scope: Scope) -> Lease:
        """Take the next lease away from a scope."""
        lease = self.grants_of(scope).leases.popleft()
        self.leased_costs.remove(scope, lease.costs)
        self.lacks(scope)
        return lease

    def use(self, scope: Scope, now: float) -> Lease:
        """Take the next lease of a scope for a call that starts now."""
        lease = self.take(scope)
        self._lateness.used(lease.at, now)
        return lease

    def take_all(
        self, lanes: Iterable[Hashable], *, before: float = math.inf
    ) -> list[tuple[Scope, Lease]]:
        """Take all leases away that come under one of these lanes; None: all leases.

        Args:
            lanes: which.
            before: only those for instants before that.
        """
        taken: list[tuple[Scope, Lease]] = []
        lanes = set(lanes)
        if not lanes or not self.leased:
            return taken
        for scope, grants in list(self.grants.items()):
            if grants.leases and (None in lanes or not lanes.isdisjoint(scope.lanes)):
                while grants.leases and grants.leases[0].at < before:
                    taken.append((scope, self.take(scope)))
        return taken

    def take_surplus(self) -> list[tuple[Scope, Lease]]:
        """Take away what was leased for calls that have left: elsewhere others may have it."""
        taken: list[tuple[Scope, Lease]] = []
        for scope in self._surplus if self.leased else ():
            leases, waiting = self.grants_of(scope).leases, key_queues(self._host).waiting_in(scope)
            while len(leases) > waiting:
                lease = leases.pop()
                self.leased_costs.remove(scope, lease.costs)
                taken.append((scope, lease))
        self._surplus.clear()
        return taken

    def put_back(self, scope: Scope, lease: Lease) -> None:
        """Put a lease back that was taken for a call which does not use it."""
        self.grants_of(scope).leases.appendleft(lease)
        self.leased_costs.add(scope, lease.costs)
        self._surplus.add(scope)

    def forget_leases(self) -> None:
        """Forget them all: the authority has."""
        for grants in self.grants.values():
            grants.leases.clear()
            grants.stands_with = None
        for status in self._lanes.values():
            status.round_position = 0
        self.leased_costs = LeasedCosts()
        self._round_position = 0
        self._scopes.rebuild()

    # Who waits.

    def arrives(self, call: Call, now: float) -> None:
        """Note a newcomer: since when there has been a waiter matters for what is due when."""
        waiters, scope = key_queues(self._host), call.limits
        if not waiters.live:
            self._waiting_since = now
        self._first_costs.arrives(call)
        for lane in scope.lanes:
            if not waiters.scopes_of(lane):
                self.lane(lane).waiting_since = now
        if scope.unused and scope not in waiters.by_scope:
            self._not_before = -math.inf  # those who wait may do so for what it does not need
        last = next(reversed(self._standing), None)
        if last is not None and call.priority < last.priority and self._may_precede(call):
            self._standing, self._not_before = {call: None}, -math.inf
            self._scopes.open(scope.unused)
        first = waiters.rank(scope) if scope.lanes else None
        if first is not None and call.priority < first[0]:
            self.grants_of(scope).ask_at = -math.inf

    def _may_precede(self, call: Call) -> bool:
        """Return whether a newcomer, which may need less, goes before one that closes it out."""
        unused = set(call.limits.unused)
        return any(
            call.priority < one.priority and unused <= set(one.limits.unused)
            for one in self._standing
        )

    def left(self, call: Call, after: Call | None) -> None:
        """Note that a call waits no more, for which a slot may be leased.

        If it was the first of its scope, and `after` (which is now; None: nobody) costs less, those
        behind it may be due earlier than it was; so may those between them that cost less.
        """
        scope = call.limits
        self._surplus.add(scope)
        grants = self.grants.get(scope)
        stood = self._standing.pop(call, call) is None or (
            grants is not None and grants.stands_with is not None
        )
        if stood and (after is None or _ranks_before(call, after)):
            # A newcomer that was refused, and never waited, has no place.
            standing = [one for one in self._standing if one.waits]
            between = [one for one in standing if after and _ranks_before(one, after)]
            if after is None or any(one.costs != call.costs for one in (after, *between)):
                self.ask_soon(scope)
        if scope.lanes and not key_queues(self._host).waiting_in(scope):
            self._scopes.leave(scope)

    def lanes_changed(self) -> None:
        """Note that other lanes than before may have limits of their own."""
        self._surplus.update(self.grants)
        self._scopes.rebuild()

    # How things stand.

    def apply_status(self, statuses: Mapping[Hashable, LimitStatus]) -> None:
        """Note how the queue (None) and lanes stand."""
        to_local = self._clock.to_local
        for lane, status in statuses.items():
            its = self.lane(lane)
            its.held_until, its.rate = to_local(status.held_until), status.rate
            its.ready_at = tuple(map(to_local, status.ready_at))
            its.bounds = tuple([one._replace(until=to_local(one.until)) for one in status.bounds])
        whole = self.lane(None)
        self.held_until = whole.held_until
        if whole.held_until == math.inf:  # a pause: `resume` ends it, even in an outage
            whole.held_until = -math.inf

    def room_in(self, lane: Hashable) -> float:
        """Return how many of the other side's quotas leave room for the first that waits in a lane.

        None: in all. Of a lane in which nobody waits, it is no matter.
        """
        bounds = self.lane(lane).bounds
        if not bounds:
            return math.inf
        waiters = key_queues(self._host)
        scopes = waiters.by_scope if lane is None else waiters.scopes_of(lane)
        firsts = [
            first
            for scope in islice(scopes, _FIRSTS)
            for line in islice(waiters.by_scope[scope].values(), 1)
            if (first := line.first()) is not None
        ]
        now = self._host.loop.now()
        return sum(
            until <= now or not cost_units.is_stated(first.costs, unit) or first.costs[unit] <= left
            for first in firsts
            for unit, left, until in bounds
        )

    def held_until_of(self, scope: Scope) -> float:
        """Return when the last hold ends that concerns the calls of a scope."""
        return max([self.held_until, *(self.lane(lane).held_until for lane in scope.lanes)])

    def hold(self, lane: Hashable, until: float) -> None:
        """Let nothing of a lane start before an instant."""
        status = self.lane(lane)
        status.held_until = max(status.held_until, until)
        for scope in key_queues(self._host).scopes_of(lane):
            self.grants_of(scope).ask_at = min(until, self._host.loop.now() + POLL)

    def estimate(self, scope: Scope, costs: Sequence[float], now: float) -> float:
        """Return when a newcomer may be due, by the last reply."""
        return self._estimate(scope.lanes, costs, now)

    def all_started(self, now: float) -> float:
        """Return when the last of those who wait may have started, by the last reply."""
        scopes = key_queues(self._host).by_scope
        lanes = dict.fromkeys(lane for scope in scopes for lane in scope.lanes)
        return self._estimate(lanes, None, now)

    def _estimate(
        self, lanes: Iterable[Hashable], costs: Sequence[float] | None, now: float
    ) -> float:
        """Return when a newcomer to these lanes may be due; None: the last of those who wait."""
        waiters, start = key_queues(self._host), max(now, self.held_until)
        when = self._estimate_in(None, start, costs, waiters.total)
        for lane in lanes:
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
        costs: Sequence[float] | None,
        waiting: Callable[[int], float],
    ) -> float:
        """As `LimitState.estimate`; of a window it is known only when it has the next call.

        Args:
            lane: whose limits; None: of the queue.
            start: when the first of those who wait may start, as far as is known otherwise.
            costs: of the newcomer; None: there is none.
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
            cost = _cost_in(unit, costs, waiting)
            if not cost:
                continue
            cost -= self.leased_costs.of(lane, unit)
            if isinstance(limit, Rate):
                paid_at = ready_at + (limit.burst - 1) * limit.interval
                ends.append(max(start, paid_at) + (cost - limit.burst) * limit.interval)
            elif isinstance(limit, Window):
                rounds = max(0, math.ceil(cost / limit.calls) - 1)
                ends.append(max(start, ready_at) + rounds * limit.per)
        for unit, left, until in status.bounds:
            cost = _cost_in(unit, costs, waiting) if until > start else 0
            if cost and cost - self.leased_costs.of(lane, unit) > left:
                ends.append(until)
        return max(ends)

    # When to ask.

    def ask_at(self, now: float) -> float:
        """Return when to ask for more, for calls that wait without a lease; now: at once."""
        return max(now, self._scopes.next_at(now), self._not_before)

    def lacks(self, scope: Scope) -> None:
        """Note that a scope may need more leases than it has."""
        self._scopes.lacks(scope)

    def _asks_at(self, grants: ScopeGrants) -> float:
        used_up = -math.inf
        if grants.leases and not self._short:
            used_up = grants.leases[-1].at - self._soon()
        return max(used_up, grants.ask_at)

    def ask_soon(self, scope: Scope) -> None:
        """Ask before it is due: there is more than the authority knew when it named a time."""
        self._not_before = -math.inf
        self._scopes.open_all()
        for one in dict.fromkeys((scope, *key_queues(self._host).neighbours(scope))):
            self.grants_of(one).ask_at = -math.inf
            self.lacks(one)

    def ask_soon_in(self, lane: Hashable) -> None:
        """Do so for all scopes with a lane; None: for every scope."""
        if lane is None:
            self.ask_all_soon()
        for scope in list(key_queues(self._host).scopes_of(lane)):
            self.ask_soon(scope)

    def ask_all_soon(self) -> None:
        """Do so for every scope."""
        self._not_before = -math.inf
        self._scopes.open_all()
        for grants in self.grants.values():
            grants.ask_at = -math.inf
        self._scopes.rebuild()

    def permit_freed(self) -> None:
        """Ask before it is due, as a permit has become free."""
        self._not_before = -math.inf

    def compare_costs(self) -> None:
        """Ask before it is due if a call is now first that costs less than all that were."""
        if self._first_costs.fall():
            self.ask_all_soon()

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
        return Ask(requests, self._most(), slots, jitter, lateness, standings, lines)

    def _slack(self, lanes: Iterable[Hashable]) -> float:
        """Return how late slots are likely to be used, by this loop alone."""
        least = _TIMER_LAG if self._host.loop.is_real else 0.0
        if self._limits.has(lanes, Window) or self._lateness.always:
            return self._lateness.worst(least)
        allowed = self._catch_up - self._clock.uncertainty
        return min(self._lateness.usual(least), max(least, allowed))

    def _most_slots(self, scopes: Iterable[Scope]) -> int:
        """Return how many slots may be granted at once to calls of these scopes."""
        work_of = self._limits.work_of
        in_lanes = max((sum(map(work_of, scope.lanes)) for scope in scopes), default=0)
        return max(1, int(_MOST_SLOTS / (work_of(None) + _LANE * in_lanes)))

    def _most(self) -> float:
        """Return what may be granted at once, in calls: its share, by the last reply, or a few.

        Those left out may be overtaken by calls that use none of what is counted here.
        """
        return max(_FIRST_SHARE, self._share)

    def _requests(self, now: float) -> list[SlotRequest]:
        """Return what calls that wait without a lease need, in their order.

        Its share for each scope, as it may be that no other is due; of all together, no more than
        that is granted, so that no call left out here is overtaken. Scopes beyond the first
        few dozen lanes are asked for next.
        """
        waiters = key_queues(self._host)
        scopes, left_out = self._scopes.choose(now, now + self._ahead)
        covered = {scope: len(self.grants_of(scope).leases) for scope in scopes}
        open_ = {name: scope for scope in scopes for name in waiters.by_scope.get(scope, ())}
        share, slots = self._most(), self._most_slots(scopes)
        left, least = dict.fromkeys(scopes, share), max(_LEAST_COST, share / slots)
        # Each has a part of its own: one without any would be asked for again at once.
        parts = dict.fromkeys(scopes, max(1, _MOST_REQUESTS // max(1, len(scopes))))

        def close(scope: Scope) -> None:
            for one in waiters.by_scope[scope]:
                open_.pop(one, None)

        requests: list[SlotRequest] = []
        self._asked_for = []
        for rank, name, call in waiters.iter_in_order(open_):
            scope = open_[name]
            if covered[scope] > 0:
                covered[scope] -= 1
                continue
            if requests and rank >= left_out[scope]:
                close(scope)
                continue
            if requests and requests[-1][:2] == (scope, call.costs):
                requests[-1] = requests[-1]._replace(number=requests[-1].number + 1, last=rank)
            else:
                requests.append(SlotRequest(scope, call.costs, 1, rank, rank))
                self._asked_for.append(call)
                parts[scope] -= 1
            left[scope] -= max(call.costs[0], least)
            if left[scope] <= 0 or not parts[scope]:
                close(scope)
        return requests

    def apply(self, ask: Ask, granted: Granted) -> None:
        """Take what the authority has granted, and note when to ask for more."""
        now, to_local = self._host.loop.now(), self._clock.to_local
        soonest = now + 2 * TICK  # as timestamps are rounded, it may be a microsecond earlier there
        self._add_leases(ask, granted)
        self._apply_standings(ask, granted, soonest)
        for scope in dict.fromkeys(one.scope for one in ask.requests):
            self.lacks(scope)
        number, self._share = len(granted.grants), granted.share
        position = self._round_position = granted.round_position
        was_short, self._short = self._short, position > 0 and 0 < number < granted.share / 2
        if self._short and not was_short:  # what is leased is no reason to wait any more
            self._scopes.ignore_leases()
        self.short_of_permits = granted.short_of_permits
        self._not_before, self._standing = -math.inf, {}
        closed: Mapping[Kind, float] = {}
        if position > 0 and not self.short_of_permits:
            if not number or to_local(position) > now:  # else its share is greater than it knew
                closed_until = max(soonest, min(to_local(position), now + POLL))
                self._standing = self._standing_at_queue(ask, granted)
                closed = self._closed(ask, granted, closed_until)
        elif self.short_of_permits:
            self._not_before = now + _PERMITS_POLL
        elif number < min(ask.slots, ask.asked) and not granted.postponements:
            # This was its share: the others are to have theirs first.
            self._not_before = self._last - self._soon() if number else now + _RETRY
        self._scopes.close((one.scope.unused for one in ask.requests), closed)

    def _closed(self, ask: Ask, granted: Granted, until: float) -> Mapping[Kind, float]:
        """Return when to ask again for the kinds that wait for the queue's limits.

        That is when these have room; but earlier for calls before the first that waits for them, if
        these wait for a lane, and cost less: when that has room, the queue may have it for them.
        """
        if not self._standing:  # all were granted what they need: its share is used up
            return {request.scope.unused: until for request, *_ in granted.grants[-1:]}
        in_lanes = {one.scope for one in granted.postponements}
        firsts: dict[Kind, tuple[int, Call]] = {}
        for place, (request, call) in enumerate(zip(ask.requests, self._asked_for, strict=True)):
            if call in self._standing:
                firsts.setdefault(request.scope.unused, (place, call))
        closed: dict[Kind, float] = {}
        for kind, (place, _) in firsts.items():
            due = [
                self.grants_of(one.scope).ask_at
                for one in ask.requests[:place]
                if one.scope in in_lanes
                and set(one.scope.unused) <= set(kind)
                and any(_costs_less(one.costs, call.costs) for _, call in firsts.values())
            ]
            closed[kind] = min([until, *due])
        return closed

    def _apply_standings(self, ask: Ask, granted: Granted, soonest: float) -> None:
        """Note for which of its lanes each scope has to wait, and until when."""
        now, to_local = self._host.loop.now(), self._clock.to_local
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

    def _standing_at_queue(self, ask: Ask, granted: Granted) -> dict[Call, None]:
        """Return the first call of each scope that waits for the queue's limits, in their order.

        Those were granted less than they need, and do not wait for a lane.
        """
        left = [one.number for one in ask.requests]
        places = {id(one): place for place, one in enumerate(ask.requests)}
        for request, *_ in granted.grants:
            left[places[id(request)]] -= 1
        postponed = {one.scope for one in granted.postponements}
        waiting: dict[Scope, Call] = {}
        for request, number, call in zip(ask.requests, left, self._asked_for, strict=True):
            if number > 0 and request.scope not in postponed:
                waiting.setdefault(request.scope, call)
        return dict.fromkeys(waiting.values())

    def _add_leases(self, ask: Ask, granted: Granted) -> None:
        to_local, uncertainty = self._clock.to_local, self._clock.uncertainty
        # The authority knows how late a slot may be used. By now, the clock may be known better.
        slack = ask.lateness - uncertainty
        slack_of_rates = min(slack, self._slack(()))
        kinds: dict[Scope, tuple[bool, bool]] = {}
        for request, timestamp, latest in granted.grants:
            at, scope = to_local(timestamp), request.scope
            if scope not in kinds:
                lanes = (None, *scope.lanes)
                kinds[scope] = self._limits.has(lanes, Window), self._limits.has(lanes, Rate)
            has_window, has_rate = kinds[scope]
            until = max(at + slack_of_rates, to_local(latest) - uncertainty)
            if has_window:  # it lasts no longer than that
                until = min(at + slack, until) if has_rate else at + slack
            late = until - at + uncertainty
            self.grants_of(scope).leases.append(Lease(at, until, request.costs, timestamp, late))
            self.leased_costs.add(scope, request.costs)
            self._surplus.add(scope)  # the call that it is for may have left meanwhile
            self._last = max(self._last, at)


def _cost_in(unit: int, costs: Sequence[float] | None, waiting: Callable[[int], float]) -> float:
    """Return what those who wait cost with a newcomer (None: without); 0: it uses nothing of it."""
    if costs is None:
        return waiting(unit)
    return costs[unit] + waiting(unit) if cost_units.is_stated(costs, unit) and costs[unit] else 0
