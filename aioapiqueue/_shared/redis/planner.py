"""Decides which slots a queue that shares a quota requests, and when.

It requests slots shortly before they can be due, for calls that wait without a lease.

Invariants:

- Requests are in the order of the calls, and the authority leaves room for each request before it
  grants a later one. So no call overtakes an earlier one. A queue may request less than it needs,
  but never slots for later calls without the earlier ones.
- A lease belongs to a scope, not to a call: see `leases.py`.
- The authority decides when to ask again: each process that finds no slot gets a place in a round,
  by lane and for the queue. So processes take turns without knowing each other. Calls of several
  lanes wait for one of them at a time, and have their place there.

Alternatives: a slot for each call that joins needs a round trip for each, and has to be undone if
the call is cancelled or a more urgent one joins. A share of the rate for each process (distributed
rate limiting, Raghavan et al., 2007) needs no round trip, but is wrong until idle processes are
detected, and cannot keep a window. Leases of a few slots ahead are between the two; `ahead` sets
where.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING

from aioapiqueue import Rate, Window
from aioapiqueue._shared.clock import TICK
from aioapiqueue._shared.redis.lane_statuses import LaneStatuses
from aioapiqueue._shared.redis.leases import Lease, Leases
from aioapiqueue._shared.redis.messages import Ask, LanePlace, ScopeWait, SlotRequest
from aioapiqueue._shared.redis.scope_queue import ScopeQueue
from aioapiqueue._shared.redis.waiting_scopes import FirstCosts
from aioapiqueue._shared.statement_json import plain_costs

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._shared.clock import Clock
    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue._shared.redis.leases import ScopeGrants
    from aioapiqueue._shared.redis.messages import Granted
    from aioapiqueue._shared.redis.scope_queue import Kind
    from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes
    from aioapiqueue.spi import Call, Host

POLL = 1.0
"""Seconds after which a waiting call asks again at the latest, because what it waits for may have
ended in another process. The server counts a process as waiting for 1.5 s (`RECENT`)."""
_PERMITS_POLL = 0.1
"""The same if all permits are in use: a body may end in any process at any time."""
_FIRST_SHARE = 16
"""Slots to request at once: at least, and until a reply names this queue's share."""
_LEAST_COST = 0.01
"""The cost that a call counts at least, so that requests end even if calls cost nothing."""
_MOST_SLOTS = 400
"""Slots to request at once, if calls come under one limit: a server works on them for a millisecond
or two, and on nothing else. For more limits, accordingly fewer."""
_LANE = 3
"""Limits of the queue that take as much work for each slot as one limit of a lane."""
_MOST_REQUESTS = 128
"""Parts of one request, each for calls of one scope and the same costs: they delay the server's
other clients, and this loop."""
_TIMER_LAG = 0.005
"""Seconds by which a real loop's timer is often late."""
_QUANTUM = 0.005
"""Longest time between two groups of calls, in seconds; see `algorithms.QUANTUM`. It must not be
longer than that: `Timeouts` has calls start one by one only for so long before a timeout ends."""
_NO_GROUPS = 1.0
"""Seconds without groups after a lease was missed: this loop may need all of `catch_up`."""
_RETRY = 0.02
"""Seconds until the next attempt after a reply that granted nothing and named no time."""


def _ranks_before(call: Call, other: Call) -> bool:
    return (call.priority, call.arrival) < (other.priority, other.arrival)


def _costs_less(costs: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether a call with some costs may have room while one with others has none."""
    pairs = zip_longest(plain_costs(costs), plain_costs(others), fillvalue=0)
    return any(mine < its for mine, its in pairs)


class Planner:
    """Decides what one queue requests, and applies the replies.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
        clock: reads the authority's.
        waiting: the scopes in which calls wait.
        ahead: seconds by which slots are fetched ahead of their time, at most.
        catch_up: seconds by which a slot may be used late; after that it is lost.

    Attributes:
        leases: the slots that were granted.
        statuses: the status of each limit.
        short_of_permits: whether permits (`concurrency`) are missing.
    """

    def __init__(
        self,
        host: Host,
        limits: LimitTable,
        clock: Clock,
        waiting: WaitingScopes,
        *,
        ahead: float,
        catch_up: float,
    ) -> None:
        self.leases = Leases(host, waiting, self.lacks)
        self.statuses = LaneStatuses(host, limits, clock, self.leases, waiting)
        self.short_of_permits = False
        self._host = host
        self._limits = limits
        self._clock = clock
        self._waiting = waiting
        self._ahead = ahead
        self._catch_up = catch_up
        self._round_position = 0
        self._waiting_since = math.inf
        """The instant since which a call has always been waiting."""
        self._last = self._not_before = -math.inf
        """The instants of the latest slot granted, and before which nothing is requested."""
        self._share: float = _FIRST_SHARE
        self._short = False
        """Whether the last reply had less than half of its share."""
        self._first_costs = FirstCosts(host, limits, waiting)
        self._scopes = ScopeQueue(waiting, limits, self.leases.of, self._asks_at)
        self._asked_for: list[Call] = []
        """The first call of each request of the last `Ask`."""
        self._blocked: dict[Call, None] = {}
        """The first call of each scope that waits for the queue's limits, by the last reply."""

    # Waiting calls.

    def arrives(self, call: Call, now: float) -> None:
        """Note a newcomer, before it waits."""
        waiting, scope = self._waiting, call.limits
        # Since when calls have been waiting, not how long the first one has: a bucket stays idle
        # only while no call waits, whichever call that is.
        if not self._host.waiters.live:
            self._waiting_since = now
        self._first_costs.arrives(call)
        for lane in scope.lanes:
            if not waiting.scopes_of(lane):
                self.statuses.lane(lane).waiting_since = now
        # The other calls may wait for a limit that does not count this one: it may have room now.
        if scope.unused and scope not in waiting.by_scope:
            self._not_before = -math.inf
        # It goes before a call that waits for the queue's limits, so that call does not block it:
        # there may be room for this one already, if it costs less.
        last = next(reversed(self._blocked), None)
        if last is not None and call.priority < last.priority and self._may_precede(call):
            self._blocked, self._not_before = {call: None}, -math.inf
            self._scopes.open(scope.unused)
        # When to ask was named for a call that it goes before.
        first = waiting.place_in(scope) if scope.lanes else None
        if first is not None and call.priority < first[0]:
            self.leases.of(scope).ask_at = -math.inf

    def _may_precede(self, call: Call) -> bool:
        """Return whether a newcomer, which may need less, goes before a call that blocks it."""
        unused = set(call.limits.unused)
        return any(
            call.priority < one.priority and unused <= set(one.limits.unused)
            for one in self._blocked
        )

    def left(self, call: Call, after: Call | None) -> None:
        """Note that a call no longer waits.

        Args:
            call: the call.
            after: the first call of its scope now; None: no call waits there.
        """
        scope = call.limits
        self.leases.note_surplus((scope,))  # a slot may be leased for it
        # If it was the first of its scope, and had no room, the calls behind it that cost less may
        # have some.
        grants = self.leases.by_scope.get(scope)
        was_blocked = self._blocked.pop(call, call) is None or (
            grants is not None and grants.waits_for is not None
        )
        if was_blocked and (after is None or _ranks_before(call, after)):
            # A call that is being refused has left its line, and has no rank any more.
            blocked = [one for one in self._blocked if one.waits]
            between = [one for one in blocked if after and _ranks_before(one, after)]
            if after is None or any(one.costs != call.costs for one in (after, *between)):
                self.ask_soon(scope)
        if scope.lanes and not self._waiting.waiting_in(scope):
            self._scopes.leave(scope)

    def lanes_changed(self) -> None:
        """Note that other keys than before may have lanes."""
        self.leases.note_surplus(self.leases.by_scope)
        self._scopes.rebuild()

    def hold(self, lane: Hashable, until: float) -> None:
        """Start nothing of a lane (None: nothing at all) before an instant."""
        status = self.statuses.lane(lane)
        status.held_until = max(status.held_until, until)
        for scope in self._waiting.scopes_of(lane):
            self.leases.of(scope).ask_at = min(until, self._host.loop.now() + POLL)

    def forget_leases(self) -> None:
        """Forget all leases, and places in rounds: the authority has lost them."""
        self.leases.forget()
        self.statuses.forget_rounds()
        self._round_position = 0
        self._scopes.rebuild()

    # When to look, and when to ask.

    def next_look(self, scope: Scope, due: float, now: float, planned: float) -> float:
        """Return when to look at the calls of a scope again, if nothing else causes a look before.

        Under rates, they start in groups, as `algorithms.next_look` says. But a lease ends, so a
        group is planned early enough for this loop, as late as it usually is, to use the first one.

        Args:
            scope: the scope.
            due: when its next call is due.
            now: the present instant.
            planned: the instant for which this look was planned.
        """
        grants = self.leases.of(scope)
        grants.look_at = -math.inf
        latest = min(now, planned) + min(_QUANTUM, self._catch_up / 2)
        if due >= latest or grants.used_at != now or not grants.leases:
            return due
        if now < self.leases.lateness.missed_at + _NO_GROUPS:
            return due
        # A window makes up for nothing, and a permit is idle until its call starts.
        if self._limits.concurrency < math.inf or self._limits.has((None, *scope.lanes), Window):
            return due
        in_time = grants.leases[0].until - self._slack(())
        grants.look_at = max(due, min(latest, in_time))
        return grants.look_at

    def ask_at(self, now: float) -> float:
        """Return when to ask for slots, for calls that wait without a lease; now: at once."""
        return max(now, self._scopes.next_at(now), self._not_before)

    def lacks(self, scope: Scope) -> None:
        """Note that a scope may need more leases than it has."""
        self._scopes.lacks(scope)

    def _asks_at(self, grants: ScopeGrants) -> float:
        used_up = -math.inf
        # If the last reply had little of its share, the queue asks again at its next turn, whatever
        # it has leased.
        if grants.leases and not self._short:
            used_up = grants.leases[-1].at - self._soon()
        return max(used_up, grants.ask_at)

    def ask_soon(self, scope: Scope) -> None:
        """Ask earlier than the authority named: something has been freed since."""
        self._not_before = -math.inf
        self._scopes.open_all()
        for one in dict.fromkeys((scope, *self._waiting.scopes_beside(scope))):
            self.leases.of(one).ask_at = -math.inf
            self.lacks(one)

    def ask_soon_in(self, lane: Hashable) -> None:
        """Ask earlier for all scopes with a lane; None: for every scope."""
        if lane is None:
            self.ask_all_soon()
        for scope in list(self._waiting.scopes_of(lane)):
            self.ask_soon(scope)

    def ask_all_soon(self) -> None:
        """Ask earlier for every scope."""
        self._not_before = -math.inf
        self._scopes.open_all()
        for grants in self.leases.by_scope.values():
            grants.ask_at = -math.inf
        self._scopes.rebuild()

    def permit_freed(self) -> None:
        """Ask earlier: a permit is free."""
        self._not_before = -math.inf

    def compare_costs(self) -> None:
        """Ask earlier if a call is first now that costs less than all former first calls."""
        if self._first_costs.have_fallen():
            self.ask_all_soon()

    def _soon(self) -> float:
        """Return how many seconds before a slot is needed to request it."""
        # A round trip, so that the slot is here in time; but not before half of what one request
        # gets (the slots of the next `ahead` seconds) is used up.
        return min(self._ahead / 2, self._clock.rtt + _TIMER_LAG)

    # What to ask for.

    def next_ask(self, now: float) -> Ask | None:
        """Return what to request now; None: no slot is needed."""
        requests = self._requests(now)
        if not requests:
            return None
        scopes = dict.fromkeys(one.scope for one in requests)
        lanes = list(dict.fromkeys(lane for scope in scopes for lane in scope.lanes))
        places = [LanePlace(None, now - self._waiting_since, self._round_position)]
        for lane in lanes:
            status = self.statuses.lane(lane)
            # It is inf if the lane got its limits while the calls were waiting.
            status.waiting_since = min(now, status.waiting_since)
            places.append(LanePlace(lane, now - status.waiting_since, status.round_position))
        lines = [
            ScopeWait(scope, self.leases.of(scope).waits_for) for scope in scopes if scope.lanes
        ]
        # The authority leaves this much of `catch_up` to the call that uses the slot, and counts
        # windows as this much longer.
        lateness = self._clock.uncertainty + self._slack((None, *lanes))
        jitter = min(self._clock.jitter, self._ahead / 2)
        slots = self._most_slots(scopes)
        return Ask(requests, self._most(), slots, jitter, lateness, places, lines)

    def _slack(self, lanes: Iterable[Hashable]) -> float:
        """Return how many seconds late this loop is likely to use slots."""
        least = _TIMER_LAG if self._host.loop.is_real else 0.0
        # A window is counted as longer by any lateness. Of a rate, a slot may be late by `catch_up`
        # in all, unless this loop would then use none: see `lateness.py`.
        if self._limits.has(lanes, Window) or self.leases.lateness.stalls.always:
            return self.leases.lateness.worst(least)
        allowed = self._catch_up - self._clock.uncertainty
        return min(self.leases.lateness.usual(least), max(least, allowed))

    def _most_slots(self, scopes: Iterable[Scope]) -> int:
        """Return the highest number of slots to grant at once to calls of these scopes."""
        work_of = self._limits.work_of
        in_lanes = max((sum(map(work_of, scope.lanes)) for scope in scopes), default=0)
        return max(1, int(_MOST_SLOTS / (work_of(None) + _LANE * in_lanes)))

    def _most(self) -> float:
        """Return the highest cost to grant at once: its share, by the last reply, or a few calls.

        Calls beyond it may be overtaken by calls that do not use the units counted here.
        """
        return max(_FIRST_SHARE, self._share)

    def _requests(self, now: float) -> list[SlotRequest]:
        """Return requests for the calls that wait without a lease, in their order.

        The number of lanes is bounded (`ScopeQueue.choose`); the next request has the others.
        """
        waiting = self._waiting
        scopes, left_out = self._scopes.choose(now, now + self._ahead)
        # A scope's leases are for its first calls: these are skipped below.
        covered = {scope: len(self.leases.of(scope).leases) for scope in scopes}
        open_ = {line: scope for scope in scopes for line in waiting.by_scope.get(scope, ())}
        # The whole share for each scope, as no other may be due. The authority grants no more than
        # that in total (`Ask.most`), so that calls left out here are not overtaken.
        share, slots = self._most(), self._most_slots(scopes)
        left, least = dict.fromkeys(scopes, share), max(_LEAST_COST, share / slots)
        # Each scope has a part of its own: one without any would be asked for again at once.
        parts = dict.fromkeys(scopes, max(1, _MOST_REQUESTS // max(1, len(scopes))))

        def close(scope: Scope) -> None:
            for one in waiting.by_scope[scope]:
                open_.pop(one, None)

        requests: list[SlotRequest] = []
        self._asked_for = []
        for place, line, call in waiting.iter_in_order(open_):
            scope = open_[line]
            if covered[scope] > 0:
                covered[scope] -= 1
                continue
            # A call of another scope, which is not asked for now, ranks before the rest of this
            # one. The first request is made in any case: with none, the queue would look again at
            # once, and for ever.
            if requests and place >= left_out[scope]:
                close(scope)
                continue
            if requests and requests[-1][:2] == (scope, call.costs):
                requests[-1] = requests[-1]._replace(number=requests[-1].number + 1, last=place)
            else:
                requests.append(SlotRequest(scope, call.costs, 1, place, place))
                self._asked_for.append(call)
                parts[scope] -= 1
            left[scope] -= max(call.costs[0], least)
            if left[scope] <= 0 or not parts[scope]:
                close(scope)
        return requests

    def apply(self, ask: Ask, granted: Granted) -> None:
        """Take the granted slots, and note when to ask for more."""
        now, to_local = self._host.loop.now(), self._clock.to_local
        # Asking again at this instant would get the same reply. Timestamps are rounded: by the
        # authority's clock, the next microsecond may be the same instant.
        soonest = now + 2 * TICK
        self._add_leases(ask, granted)
        self._apply_places(ask, granted, soonest)
        for scope in dict.fromkeys(one.scope for one in ask.requests):
            self.lacks(scope)
        number, self._share = len(granted.grants), granted.share
        position = self._round_position = granted.round_position
        was_short, self._short = self._short, position > 0 and 0 < number < granted.share / 2
        if self._short and not was_short:  # leases are no longer a reason to wait
            self._scopes.ignore_leases()
        self.short_of_permits = granted.short_of_permits
        self._not_before, self._blocked = -math.inf, {}
        closed: Mapping[Kind, float] = {}
        if position > 0 and not self.short_of_permits:
            # With slots, and a next turn that is now, its share has grown: it asks again at once.
            if not number or to_local(position) > now:
                closed_until = max(soonest, min(to_local(position), now + POLL))
                self._blocked = self._blocked_at_queue(ask, granted)
                closed = self._closed(ask, granted, closed_until)
        elif self.short_of_permits:
            self._not_before = now + _PERMITS_POLL
        elif number < min(ask.slots, ask.asked) and not granted.postponements:
            # It has used its share: the other processes get theirs first.
            self._not_before = self._last - self._soon() if number else now + _RETRY
        self._scopes.close((one.scope.unused for one in ask.requests), closed)

    def _closed(self, ask: Ask, granted: Granted, until: float) -> Mapping[Kind, float]:
        """Return when to ask again for the kinds of calls that wait for the queue's limits.

        That is when these limits have room. It is earlier if a call that ranks before the first
        waiting one waits for a lane and costs less: the queue may have room for it when the lane
        does.
        """
        if not self._blocked:  # all requests were granted: its share is used up
            return {request.scope.unused: until for request, *_ in granted.grants[-1:]}
        in_lanes = {one.scope for one in granted.postponements}
        firsts: dict[Kind, tuple[int, Call]] = {}
        for place, (request, call) in enumerate(zip(ask.requests, self._asked_for, strict=True)):
            if call in self._blocked:
                firsts.setdefault(request.scope.unused, (place, call))
        closed: dict[Kind, float] = {}
        for kind, (place, _) in firsts.items():
            due = [
                self.leases.of(one.scope).ask_at
                for one in ask.requests[:place]
                if one.scope in in_lanes
                and set(one.scope.unused) <= set(kind)
                and any(_costs_less(one.costs, call.costs) for _, call in firsts.values())
            ]
            closed[kind] = min([until, *due])
        return closed

    def _apply_places(self, ask: Ask, granted: Granted, soonest: float) -> None:
        """Note for which lane each scope has to wait, and until when."""
        now, to_local = self._host.loop.now(), self._clock.to_local
        served = {request.scope for request, *_ in granted.grants}
        for scope, _ in ask.lines:
            grants = self.leases.of(scope)
            grants.ask_at, grants.waits_for = -math.inf, None
            # A scope of several lanes keeps its place at one of them until it is served.
            if len(scope.lanes) == 1 or scope in served:
                for lane in scope.lanes:
                    self.statuses.lane(lane).round_position = 0
        for scope, lane, position, ask_at in granted.postponements:
            grants = self.leases.of(scope)
            grants.ask_at = max(soonest, min(to_local(ask_at), now + POLL))
            grants.waits_for = lane
            self.statuses.lane(lane).round_position = position

    def _blocked_at_queue(self, ask: Ask, granted: Granted) -> dict[Call, None]:
        """Return the first call of each scope that waits for the queue's limits, in their order.

        Such a scope was granted fewer slots than it needs, and does not wait for a lane.
        """
        left = [one.number for one in ask.requests]
        # By identity, as hashing a request hashes its lanes and costs.
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
        # The authority counts on `lateness`, of which the uncertainty of the clock is a part. The
        # clock may be known better by now; then this loop has more time.
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
            # A window counts a slot for as much longer as `slack`: used later, the call would
            # outlast its entry.
            if has_window:
                until = min(at + slack, until) if has_rate else at + slack
            late = until - at + uncertainty
            self.leases.add(scope, Lease(at, until, request.costs, timestamp, late))
            self._last = max(self._last, at)
