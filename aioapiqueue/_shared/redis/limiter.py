"""The limiter of a queue that shares its limits with processes on other hosts.

It requests slots from an authority (over a `Transport`). Each slot has an instant on the
authority's clock and is only a permission: which call uses it is decided at that instant. So order,
priority and cancellation need no messages. Slots that no call needs are returned.

`planner.py` decides what to request, and when; `session.py` sends it, and handles failures.

The authority also keeps what API servers report of their own quotas (`sync`), because it bounds all
processes. Each process reports its calls in flight, which the authority subtracts.
"""

from __future__ import annotations

import math
from itertools import chain, zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue._shared.clock import ROUNDING, Clock
from aioapiqueue._shared.limit_table import key_to_send, throttled_key
from aioapiqueue._shared.outage import Outage
from aioapiqueue._shared.redis import messages
from aioapiqueue._shared.redis.known_decisions import KnownDecisions
from aioapiqueue._shared.redis.leases import LeasedCall, LeasedCosts
from aioapiqueue._shared.redis.planner import Planner
from aioapiqueue._shared.redis.refusals import LimiterSteps, SharedRefusals, raises
from aioapiqueue._shared.redis.server_counts import ServerCounts
from aioapiqueue._shared.redis.session import RedisSession
from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes
from aioapiqueue._shared.statement_json import check_key, plain_costs
from aioapiqueue.spi import lane_states, seam, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.decisions import Decided, Decision, Limiting
    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue._shared.redis.leases import Lease
    from aioapiqueue.spi import Call, Host, Line, cost_units


class SharedLimiter:
    """One queue's part in a quota that an authority keeps.

    Args:
        host: the queue's dispatcher.
        transport: to the authority.
        limits: of the queue and its lanes.
        catch_up: seconds by which a slot may be used late; after that it is lost.
    """

    traits = seam.LimiterTraits((LeasedCall, LeasedCall), alone=False)

    def __init__(
        self, host: Host, transport: messages.Transport, limits: LimitTable, *, catch_up: float
    ) -> None:
        self._host = host
        self._transport = transport
        self._limits = limits
        self._catch_up = catch_up
        self._rounds = seam.SlowDownRounds(host)
        self._counts = ServerCounts(host, limits)
        self._known = KnownDecisions(host)
        self._outage = Outage(host, transport.settings.fallback, catch_up=catch_up)
        self._session = RedisSession(
            host, transport, limits, self, self._known, counts=self._counts, outage=self._outage
        )
        self._outbox = self._session.outbox
        self._waiting = waiting = WaitingScopes(host)
        limits.waits_in = lambda lane: bool(waiting.scopes_of(lane))
        self._started = self._counts.first.started
        self._begin(-math.inf, clock_changed=False)
        self._raise_at(limits.limits, *limits.lanes.limits.values())

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: what waited or ran on the old one is gone with it."""
        if clock_changed:  # instants in their states are of the old clock
            self._limits.forget_lanes()
        self._waiting.reset()
        held_until = -math.inf if clock_changed else self._statuses.whole.held_until
        self._begin(held_until, clock_changed=clock_changed)

    def _begin(self, held_until: float, *, clock_changed: bool) -> None:
        clock = Clock()
        self._known.reset(clock, clock_changed=clock_changed)
        self._session.reset(clock_changed=clock_changed)
        self._recalled: set[Hashable] = set()
        """Lanes whose slots in the reply that is under way must not be used; None: all lanes."""
        self._look_at = -math.inf
        """When the next look is planned; -inf: no call waited, or a look is about to come."""
        self._ended_at_ask = 0
        """Number of bodies that had ended at the last `Ask`."""
        ahead, catch_up = self._transport.settings.ahead, self._catch_up
        self._planner = Planner(
            self._host, self._limits, clock, self._waiting, ahead=ahead, catch_up=catch_up
        )
        self._leases, self._statuses = self._planner.leases, self._planner.statuses
        self._statuses.whole.held_until = held_until
        self._counts.reset(self._leases, self._statuses, clock)
        if self._session.refusals is not None:
            self._session.refusals.reset(self._planner)

    def _raise_at(self, *limits: Sequence[Limit]) -> None:
        """Have calls raise `LimitExceeded` from now on, if one of these limits asks for it."""
        before, session = self._session.refusals, self._session
        if before is None and any(raises(one) for its in limits for one in its):
            after = LimiterSteps(
                self._started, self._settle, self.ended, self.processed, self.snapshot
            )
            before = SharedRefusals(self._host, self._limits, self._waiting, session, after)
            before.reset(self._planner)
            session.refusals = before
            # In front of these methods, so that other queues do nothing for it.
            self._started = before.started
            self.ended = before.ended  # type: ignore[method-assign]  # the same type
            self.processed = before.processed  # type: ignore[method-assign]  # as above
            self.snapshot = before.snapshot  # type: ignore[method-assign]  # as above
            own = {statements.Settled: before.settle}
            self._handlers = self._handlers | own  # type: ignore[misc]  # of this queue alone
        if before is not None:
            before.note_limits(chain.from_iterable(limits))

    # From arrival to release.

    @property
    def _counts_permits(self) -> bool:
        return self._limits.concurrency < math.inf

    @property
    def permits(self) -> int:
        """Number of bodies that run, or may start without another request."""
        return self._host.started - self._host.ended + self._leases.number

    def fast_acquire(self, totals: cost_units.CostTotals) -> seam.FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: the authority has to grant every call."""
        return None, None, True  # every end is reported: others may add a `Concurrency` at any time

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's limits could never admit."""
        self._limits.check_own(costs)

    def try_acquire(self, call: Call, now: float) -> bool:
        """Note a newcomer, which has to wait at least for a reply."""
        limits = self._limits
        limits.check_call(call, now)
        LeasedCall.of(call).limits = limits.scope_of(call.keys, call.costs)
        self._planner.arrives(call, now)
        return False

    def joined(self, call: Call) -> None:
        """Note that a call waits now: its scope may need another lease."""
        self._waiting.joined(call)
        self._planner.lacks(call.limits)
        # Most calls join behind others, whose next look is early enough to ask for their slots.
        now = call.joined_at
        if (
            now < self._look_at
            and not self._session.busy
            and self._next_ask_at(now) < self._look_at
        ):
            self._look_at = -math.inf
            self._host.wake()

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call no longer waits: a lease for it would be surplus."""
        self._waiting.left(line)
        self._planner.left(call, None if line is None else line.first())

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer may start, by the last reply."""
        if call is None:
            return self._statuses.all_started(now)
        # A lower bound: only the authority knows whether there is room, so that only the end of a
        # hold is certain.
        if alone:
            return self._statuses.whole.held_until
        limits = self._limits
        limits.check(call.keys, call.costs, now)
        lanes = limits.scope_of(call.keys, call.costs).lanes
        return self._statuses.estimate(lanes, call.costs, now)

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:
        """Grant all calls that are due; return when to look again (None: no call waits)."""
        wake = self._release_due(now, planned)
        self._look_at = -math.inf if wake is None else wake
        return wake

    def _release_due(self, now: float, planned: float) -> float | None:
        planner, session, waiting = self._planner, self._session, self._waiting
        waiting.wake(now)
        while (call := waiting.first()) is not None:
            due = self._due(call, now)
            if due - now > ROUNDING:
                # Its whole line waits, even if `due` is inf (no lease): what changes that unparks
                # it. So a step does not look at lines that cannot start.
                waiting.park(call, due, planner.next_look(call.limits, due, now, planned))
                continue
            waiting.pop(call)
            self._charge(call, now)
            self._host.grant(call, now)
        if self._counts_permits and self._host.started > self._host.ended:
            session.keep_alive()
        planner.compare_costs()
        wake = waiting.next_look(exact=planned == -math.inf)
        if wake is None:  # no line is parked, so no call waits
            self._return(self._leases.take_all([None]))
            # The authority may count permits that are free: the next `Ask` would have reported
            # them, or the reply to the last one was lost. As no call waits, none will be sent.
            if self._counts_permits and (planner.short_of_permits or session.ask_unanswered):
                self._outbox.add_permits()
            planner.short_of_permits = session.ask_unanswered = False
            return None
        self._return(self._leases.take_surplus())
        if session.busy:  # it wakes the queue when it ends
            return wake
        ask_at = self._next_ask_at(now)
        if ask_at > now + ROUNDING:
            return min(wake, ask_at)
        session.start()
        return wake

    def _next_ask_at(self, now: float) -> float:
        """Return when to ask for slots, if that is not under way."""
        # At the fallback rate, slots are asked for only to find out whether the authority is back.
        return self._ask_at(now) if self._outage.fallback is None else self._session.retry_at

    def _due(self, call: Call, now: float) -> float:
        planner, scope = self._planner, call.limits
        # With order="fair", several keys may share the leases of one scope. Which key's turn the
        # next lease is, is known only when it is due.
        in_turns = len(self._waiting.by_scope[scope]) > 1
        while (lease := self._next_lease(scope, now)) is not None:
            if lease.costs == call.costs or (in_turns and lease.at - now > ROUNDING):
                return lease.at
            in_turns = False  # it is due, and this call is the first
            self._return([(scope, self._leases.take(scope))])
        planner.lacks(scope)
        if (fallback := self._outage.fallback) is None:
            return math.inf
        limits, running = self._limits, self._host.started - self._host.ended
        # Of a budget, only the authority knows what is left.
        if running >= limits.concurrency or limits.has_budget(call.keys):
            return math.inf
        # Holds and pauses apply at the fallback rate, too: the API asked for them.
        return max(fallback.next_at(now, call.costs), self._statuses.held_until_of(scope))

    def _next_lease(self, scope: Scope, now: float) -> Lease | None:
        lease, lost = self._leases.usable(scope, now)
        # A rate has recovered meanwhile; all others get the slot back.
        if lost and (self._counts.follows or self._limits.keeps_charges((None, *scope.lanes))):
            self._return([(scope, one) for one in lost])
        return lease

    def _charge(self, call: Call, now: float) -> None:
        scope, fallback = call.limits, self._outage.fallback
        if not (scope.lanes or self._limits.limits or self._counts_permits):
            # Not earlier: until the first reply, lanes that others have made are unknown.
            self._host.starts_unpaced(call)
        # `_due` has left a lease that is due and has this call's costs, or none.
        if self._leases.of(scope).leases:
            LeasedCall.of(call).lease = self._leases.use(scope, now)
        elif fallback is not None:
            fallback.consume(now, call.costs)
        self._started(call)

    # Afterwards: what is reported to the authority.

    def ended(self, call: Call, *, used: bool) -> None:
        """Report that a permit is free; or return an unused slot."""
        if not used:
            self._refund(call)
            return
        self._end_first(call)
        if not self._counts_permits:
            return
        if self._outage.fallback is not None:  # no reply will unpark what waits for this permit
            self._waiting.wake_all()
        if self._planner.short_of_permits and self._host.waiters.live:
            self._planner.permit_freed()  # the next request reports it
        else:
            self._outbox.add_permits()
        self._host.wake()

    def _refund(self, call: Call) -> None:
        """Pass the slot of a call that never ran to the next call, or return it."""
        scope, granted = call.limits, LeasedCall.of(call)
        lease, granted.lease = granted.lease, None  # else `settle` would return it again
        self._end_first(call)
        self._waiting.wake_all()
        if lease is not None:
            following = self._waiting.first()
            in_time = lease.until >= self._host.loop.now() - ROUNDING
            # Only the first of all waiting calls may inherit it: another call of this scope would
            # overtake that one. Only the authority knows whether a call of other lanes or costs may
            # use the slot.
            fits = following and (following.limits, following.costs) == (scope, call.costs)
            if fits and in_time:
                self._leases.add(scope, lease, is_next=True)
            else:
                self._return([(scope, lease)])
        self._host.wake()

    def apply(self, *given: statements.Statement) -> None:
        """Apply statements here, as far as they concern this process, and pass them on."""
        checked = [self._handlers[type(statement)](self, statement) for statement in given]
        if decided := [one for one in checked if one is not None]:
            self._decide(decided)

    def _decide(self, decided: Sequence[Decided]) -> None:
        """Apply decisions here at once, and send them."""
        if any(isinstance(one, statements.SetLimits) for one in decided):
            self._planner.ask_all_soon()
            # Slots were granted by the old limits. `Return` is sent before `Decide`, so that they
            # are returned as they were charged.
            self._recall([None])
        for one in decided:
            self._effects[type(one)](self, one)
        self._outbox.add_decisions(self._known.make(*decided))
        self._apply_known_holds()  # a resume ends pauses only: a hold of everything goes on

    def _settle(self, settled: statements.Settled) -> None:
        """Charge or return the difference to the true costs of a call that has started."""
        call, costs = settled.call, settled.costs
        # Without a lease (at the fallback rate), the authority has charged nothing.
        if (lease := LeasedCall.of(call).lease) is not None:
            old, new = plain_costs(call.costs), plain_costs(costs)
            more = tuple(now - before for now, before in zip_longest(new, old, fillvalue=0))
            if any(more):
                started = plain_costs(lease.costs)
                lanes, at = call.limits.lanes, lease.timestamp
                change = messages.CostChange(lanes, at, more, old, started, lease.late)
                self._outbox.add_changes(messages.Adjust, [change])
            if min(more) < 0:
                self._planner.ask_soon(call.limits)

    def _end_first(self, call: Call) -> None:
        if (message := self._counts.first.ended(call)) is not None:
            self._outbox.add(message)

    # What servers report.

    def _sync(self, count: statements.ServerCount) -> None:
        """Bound all processes by a server's own count, in the answer to a call or of a key."""
        call, key = count.call, count.key
        self._counts.follow()
        lease = None
        if call is not None:
            key, lease = self._limits.lanes.first_with_limits(call.keys), LeasedCall.of(call).lease
        lane = key_to_send(key, self._limits.lane_of)
        if self._counts.exceeds(lane, count):
            self._recall([lane])
        counted = self._counts.count_of(lane, count, lease, is_answer=call is not None)
        self._outbox.add_count(counted)

    def _answered(self, answered: statements.Answered) -> None:
        """Note that the server has answered a call: its lanes may have more calls in flight."""
        lanes = [
            lane for key in answered.call.keys if (lane := self._limits.lane_of(key)) is not None
        ]
        first = self._counts.first
        if first.answered(lanes):
            # After the limits that the same response states, so that the other processes know
            # these before they may start more calls.
            self._session.send_soon("first answers", first.drain_updates)

    def _throttled(self, throttled: statements.Throttled) -> None:
        """Report a throttled call, or (None) some throttled call of a key."""
        call, retry_after = throttled.call, throttled.retry_after
        key = throttled_key(throttled, self._limits.lane_of)
        lane = key_to_send(key, self._limits.lane_of)
        lease = LeasedCall.of(call).lease if call is not None and call.started else None
        # The authority slows down once for all calls that were in flight at a slow-down. It tells
        # them by their slots; without one, this process decides.
        if lease is not None:
            released_at: float = lease.timestamp
        else:
            released_at = math.inf if self._rounds.is_new(lane) else -math.inf
        until = -math.inf
        if retry_after is not None:
            until = self._host.loop.now() + retry_after
            self._hold_locally(lane, until)
            self._known.make(statements.Hold(lane, until))  # `SlowDown` contains it
        self._outbox.add(messages.SlowDown(lane, until, released_at, call, key))

    def _checked_hold(self, hold: statements.Hold) -> statements.Hold:
        return hold._replace(key=key_to_send(hold.key, self._limits.lane_of))

    def _hold_locally(self, lane: Hashable, until: float) -> None:
        """Use no slot that was leased before a hold: the authority may not know the hold yet."""
        self._recall([lane])
        self._planner.hold(lane, until)
        self._host.wake()

    def _resume(self) -> None:
        """End pauses."""
        whole = self._statuses.whole
        whole.held_until = min(whole.held_until, self._host.loop.now())
        self._planner.ask_all_soon()
        self._waiting.wake_all()
        self._host.wake()

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        return self._limits.of_key(key)

    def _checked_limits(self, given: Limiting) -> statements.SetLimits:
        """Return a change of limits that fits the waiting calls, and whose keys can be sent."""
        change = self._limits.checked(given)
        for call in self._host.waiters:  # keys without a lane were not checked before
            for key in call.keys:
                if lane_states.fits(change.key, key):
                    check_key(key)
        return change

    def _change_limits(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        self._raise_at(limits)
        self._limits.change(key, limits, self._host.loop.now())
        if key is None:
            self._waiting.wake_all()
        else:  # the key may have got a lane: scopes change
            for call in self._host.waiters:
                LeasedCall.of(call).limits = self._limits.scope_of(call.keys, call.costs)
            self._waiting.rebuild()
            self._planner.lanes_changed()
        self._host.wake()

    def _recall(self, lanes: Iterable[Hashable]) -> None:
        """Return all leases of these lanes; use none in a reply that is under way."""
        self._recalled.update(lanes)
        self._return(self._leases.take_all(lanes))

    def _return(self, leases: Sequence[tuple[Scope, Lease]]) -> None:
        for scope in dict.fromkeys(scope for scope, _ in leases):
            self._planner.ask_soon(scope)  # its calls may have room as soon as these are returned
        changes = []
        for scope, lease in leases:
            charged = plain_costs(lease.costs)
            back = tuple(-cost for cost in charged)
            changes.append(messages.CostChange(scope.lanes, lease.timestamp, back, charged))
        if changes:
            # The latest first, even if they do not fit one message: a rate takes back only slots
            # after which nothing started.
            changes.sort(key=attrgetter("timestamp"), reverse=True)
            self._outbox.add_changes(messages.Return, changes)

    # For the session.

    def unpark_all(self) -> None:
        """Look at all waiting calls again: instants at which they are due have changed."""
        self._waiting.wake_all()

    def next_ask(self) -> messages.Ask | None:
        """Return what to ask for now; None: no slot is needed."""
        now = self._host.loop.now()
        ask = self._planner.next_ask(now) if self._ask_at(now) <= now + ROUNDING else None
        if ask is not None:
            # The outbox was sent before, so the reply accounts for all that was decided, and all
            # bodies that ended, until now.
            self._ended_at_ask = self._host.ended
            self._recalled.clear()
        return ask

    def _ask_at(self, now: float) -> float:
        return max(self._planner.ask_at(now), self._session.retry_at)

    def processed(
        self, message: messages.Message, reply: messages.Reply, *, forgotten: bool
    ) -> None:
        """Apply a reply; `forgotten`: the authority has lost all that it knew."""
        if forgotten:
            self._planner.forget_leases()
            self._restore_holds()
        self._apply_statuses(message, reply.statuses)
        if isinstance(message, messages.Ask) and reply.granted is not None:
            self._apply_grants(message, reply.granted)
        elif isinstance(message, messages.SlowDown) and reply.backed_off:
            self._recall([message.lane])
            self._rounds.begin(message.lane)
            self._host.emit("backed_off", message.call, key=message.key)

    def _restore_holds(self) -> None:
        """Send the holds that still last to an authority that has lost them; use no slot before."""
        holds = self._known.holds()
        self._recalled.update(
            one.statement.key for one in holds if isinstance(one.statement, statements.Hold)
        )
        self._outbox.add_decisions(holds)

    def _apply_statuses(
        self, message: messages.Message, statuses: Mapping[Hashable, messages.LimitStatus]
    ) -> None:
        planner = self._planner
        asked = isinstance(message, messages.Ask)  # then the grants say more
        # Compared with the room after the reply: if a server's quota has more room then, calls that
        # were postponed may be due at once.
        room = {} if asked else {lane: self._statuses.room_in(lane) for lane in statuses}
        self._statuses.apply(statuses)
        now = self._host.loop.now()
        # While a resume is unsent, a pause that it ends looks like a hold. A later reply will tell
        # which holds remain.
        unclear = (None,) if self._session.has_unsent else ()
        for lane, status in statuses.items():
            ends = self._statuses.lane(lane).held_until > now and status.held_until < math.inf
            if ends and lane not in unclear:
                self._known.note_end(lane, status.held_until)
        self._apply_known_holds()
        self._return(self._counts.apply(statuses))
        more = [lane for lane, before in room.items() if self._statuses.room_in(lane) > before]
        if isinstance(message, messages.FirstEnded):
            more += [None, *message.lanes]
        for lane in more:
            planner.ask_soon_in(lane)
        if more:
            self._host.wake()

    def _apply_grants(self, message: messages.Ask, granted: messages.Granted) -> None:
        planner, waiting = self._planner, self._waiting
        planner.apply(message, granted)
        # Counts that wait to be sent were made when these slots were not leased yet.
        costs = LeasedCosts()
        for request, *_ in granted.grants:
            costs.add(request.scope, request.costs)
        self._outbox.charge(costs.sums)
        # A pause or hold that was decided while the request was under way applies to its slots.
        self._return(self._leases.take_all(self._recalled))
        if granted.refusals and self._session.refusals is not None:
            self._session.refusals.refuse(granted.refusals)
        if planner.short_of_permits and self._host.ended > self._ended_at_ask:
            planner.permit_freed()  # the reply does not know that yet
        for scope in dict.fromkeys(one.scope for one in message.requests):
            waiting.wake_scope(scope)
        if not self._host.waiters.live:  # then `release_due` is not called
            self._return(self._leases.take_all([None]))
        self._host.wake()

    def adopt(self, decisions: Sequence[Decision], *, whole: bool) -> None:
        """Apply what other processes have decided; `whole`: that is all the authority knows."""
        given = self._known.merge(decisions, whole=whole)
        # First the resume, which ends all pauses here; then the pauses that are later than it.
        if any(isinstance(one, statements.Resume) for one in given):
            self._resume()
        self._apply_known_holds()
        changed = {one.key: one.limits for one in given if isinstance(one, statements.SetLimits)}
        for key, limits in changed.items():
            self._host.note_remote_limits(key, limits)
            self._change_limits(key, limits)
        self._limits.changed_elsewhere(changed)

    def _apply_known_holds(self) -> None:
        self._planner.hold(None, self._known.held_until)
        self._host.wake()

    # Figures, and the end.

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> seam.LimiterStats:  # noqa: ARG002 - the authority knows what remains
        """Return the figures of this moment."""
        held = self._statuses.whole.held_until  # also by other processes
        return self._outage.stats(
            lanes=len(self._limits.lanes.by_key),
            rate=self._statuses.lane(None).rate,
            paused_until=held if held == math.inf else self._known.paused_until,
            held_until=held,
            asks=self._session.asks,
        )

    async def aclose(self) -> None:
        """Return all leases, and report that this queue is gone.

        Takes twice the `timeout` of the transport at most. Bodies that still run keep their
        permits until these expire.
        """
        self._return(self._leases.take_all([None]))
        # `Leave` would free the permits of bodies that still run.
        runs = self._host.started > self._host.ended
        await self._session.aclose(messages.Renew() if runs else messages.Leave())

    _handlers: ClassVar[
        dict[type[statements.Statement], Callable[[SharedLimiter, Any], Decided | None]]
    ] = {
        statements.SetLimits: _checked_limits,
        statements.Learnt: _checked_limits,
        statements.Pause: lambda _, pause: pause,
        statements.Resume: lambda _, resume: resume,
        statements.Hold: _checked_hold,
        statements.Throttled: _throttled,
        statements.ServerCount: _sync,
        statements.Answered: _answered,
        statements.Settled: _settle,
        statements.Learn: lambda self, _: self._counts.learn(),
    }
    """Handlers of statements: those of decisions check them, and return them as they are sent."""
    _effects: ClassVar[dict[type[Decided], Callable[[SharedLimiter, Any], None]]] = {
        statements.SetLimits: lambda self, given: self._change_limits(given.key, given.limits),
        statements.Pause: lambda self, pause: self._hold_locally(None, pause.until),
        statements.Resume: lambda self, _: self._resume(),
        statements.Hold: lambda self, hold: self._hold_locally(hold.key, hold.until),
    }
    """What decisions do here before the authority knows them."""
