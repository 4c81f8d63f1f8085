"""The limiter of a queue that shares its limits with others.

It asks an authority (over a `Transport`) for slots, each of which has its instant on the
authority's clock. That is only a permission: which call gets it is decided when the instant has
come, so that order, priority and cancellation stay matters of this queue. What no call waits for
any more is given back.

What to ask for, and when, is in `planner.py`; the exchange, and what goes wrong, in `session.py`.

What the other side says remains of its quotas is kept by the authority, as it bounds all processes
(`sync`). It is told what each of them has out, so that it can take that off what remains.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from aioapiqueue import Window
from aioapiqueue._shared.clock import ROUNDING, Clock
from aioapiqueue._shared.outage import Outage
from aioapiqueue._shared.redis import messages
from aioapiqueue._shared.redis.grants import LeasedCall
from aioapiqueue._shared.redis.key_queues import KeyQueues, key_queues
from aioapiqueue._shared.redis.known_decisions import KnownDecisions
from aioapiqueue._shared.redis.messages import plain_costs
from aioapiqueue._shared.redis.planner import Planner
from aioapiqueue._shared.redis.server_counts import ServerCounts, sums_of
from aioapiqueue._shared.redis.session import RedisSession
from aioapiqueue._shared.scope import NO_LANES, key_of
from aioapiqueue.spi import lane_states, seam, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.decisions import Decision
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.redis.grants import Lease
    from aioapiqueue._shared.scope import Scope
    from aioapiqueue.spi import Call, Host, Line, cost_units

    Lasting: TypeAlias = (
        statements.SetLimits | statements.Pause | statements.Resume | statements.Hold
    )

__all__ = ["SharedLimiter"]


class SharedLimiter:
    """One queue's part in a quota that it shares.

    Args:
        host: the queue's dispatcher.
        transport: to the authority.
        limits: of the queue and its lanes.
        catch_up: seconds by which a slot may be used late; later it is lost.
    """

    traits = seam.LimiterTraits((LeasedCall, LeasedCall), KeyQueues, alone=False)

    def __init__(
        self, host: Host, transport: messages.Transport, limits: LimitTable, *, catch_up: float
    ) -> None:
        self._host = host
        self._transport = transport
        self._limits = limits
        self._catch_up = catch_up
        self._rounds = seam.PushbackRounds(host)
        self._counts = ServerCounts(host, limits)
        self._known = KnownDecisions(host)
        self._outage = Outage(host, transport.fallback, catch_up=catch_up)
        self._session = RedisSession(
            host, transport, limits, self, self._known, outage=self._outage
        )
        self._begin(-math.inf, clock_changed=False)

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: what waited or ran on the old one is gone with it."""
        if clock_changed:
            self._limits.forget_lanes()
        waiters = key_queues(self._host)
        self._limits.in_use = lambda key, _: bool(waiters.scopes_of(self._limits.lane_of(key)))
        held_until = -math.inf if clock_changed else self._planner.held_until
        self._begin(held_until, clock_changed=clock_changed)

    def _begin(self, held_until: float, *, clock_changed: bool) -> None:
        clock = Clock()
        self._known.reset(clock, clock_changed=clock_changed)
        self._session.reset(clock_changed=clock_changed)
        self._recalled: set[Hashable] = set()
        """Lanes of which nothing is to be used that was asked for before."""
        self._ended_at_ask = 0
        """How many bodies had ended at the last `Ask`."""
        ahead, catch_up = self._transport.ahead, self._catch_up
        self._planner = Planner(self._host, self._limits, clock, ahead=ahead, catch_up=catch_up)
        self._planner.held_until = held_until
        self._counts.reset(self._planner, clock)

    # From arrival to release.

    @property
    def _counts_permits(self) -> bool:
        return self._limits.concurrency < math.inf

    @property
    def permits(self) -> int:
        """How many bodies run, or may start without asking."""
        return self._host.started - self._host.ended + self._planner.leased

    def fast_acquire(self, totals: cost_units.CostTotals) -> seam.FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: the authority has to be asked for every call, and told of every end."""
        return seam.FastAcquire(follows_ends=True)  # others may set a `Concurrency` at any time

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's limits could never let through."""
        self._limits.check_own(costs)

    def try_acquire(self, call: Call, now: float) -> bool:
        """Note a newcomer, which has to wait at least for a reply."""
        limits = self._limits
        limits.check(call.keys, call.costs, now)
        LeasedCall.of(call).limits = scope = limits.scope_of(call.keys, call.costs)
        for lane in scope.lanes:
            self._transport.check_key(key_of(lane))
        self._planner.arrives(call, now)
        return False

    def joined(self, call: Call) -> None:
        """Note that a call waits now: there may be more to ask for."""
        self._planner.lacks(call.limits)
        self._host.wake()

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call waits no more: what was leased for it is surplus."""
        self._planner.left(call, None if line is None else line.first())

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer may start, by the last reply."""
        if call is None:
            return self._planner.all_started(now)
        if alone:  # of what the authority knows, only the end of a hold is known here
            return self._planner.held_until
        limits = self._limits
        limits.check(call.keys, call.costs, now)
        return self._planner.estimate(limits.scope_of(call.keys, call.costs), call.costs, now)

    def release_due(self, now: float) -> float | None:
        """GrantedSlot all that are due; return when to look again (None: nobody waits)."""
        planner, session, waiters = self._planner, self._session, key_queues(self._host)
        wake = waiters.wake(now)
        while (call := waiters.first()) is not None:
            due = self._due(call, now)
            if due - now > ROUNDING:
                waiters.park(due)
                wake = due if wake is None or due < wake else wake
                continue
            waiters.pop(call)
            self._charge(call, now)
            self._host.grant(call, now)
        if self._counts_permits and self._host.started > self._host.ended:
            session.keep_alive()
        planner.compare_costs()
        if wake is None:
            self._return_all()
            # The authority may count permits that nobody has: the next request was to report that
            # they are free, or the last one had no reply.
            if self._counts_permits and (planner.short_of_permits or session.ask_in_doubt):
                session.send_permits()
            planner.short_of_permits = session.ask_in_doubt = False
            return None
        self._return(planner.take_surplus())
        if session.busy:  # when it ends, all this is done again
            return wake
        # With the fallback, try from time to time whether the authority is back.
        ask_at = self._ask_at(now) if self._outage.fallback is None else session.retry_at
        if ask_at > now + ROUNDING:
            return min(wake, ask_at)
        session.start()
        return wake

    def _due(self, call: Call, now: float) -> float:
        planner, scope = self._planner, call.limits
        # Keys that take turns and come under the same lanes share these leases: whose the next one
        # is, is known when it is due and all of them are looked at, in their turns.
        in_turns = len(key_queues(self._host).by_scope[scope]) > 1
        while (lease := self._next_lease(scope, now)) is not None:
            if lease.costs == call.costs or (in_turns and lease.at - now > ROUNDING):
                return lease.at
            in_turns = False  # it is due, and this call is the first
            self._return([(scope, planner.take(scope))])
        planner.lacks(scope)
        fallback = self._outage.fallback
        running = self._host.started - self._host.ended
        if fallback is None or running >= self._limits.concurrency:
            return math.inf
        return max(fallback.next_at(now, call.costs), planner.held_until_of(scope))

    def _next_lease(self, scope: Scope, now: float) -> Lease | None:
        lease, lost = self._planner.usable(scope, now)
        # Of a rate, what is lost is gone; of what the other side says remains, it is not.
        if lost and (self.follows or self._limits.has((None, *scope.lanes), Window)):
            self._return([(scope, one) for one in lost])
        return lease

    def _charge(self, call: Call, now: float) -> None:
        scope, fallback = call.limits, self._outage.fallback
        if not (scope.lanes or self._limits.limits or self._counts_permits):
            # Not before: until the first reply, it is not known which lanes others have made.
            self._host.starts_unpaced(call)
        if self._planner.grants_of(scope).leases:
            LeasedCall.of(call).lease = self._planner.use(scope, now)
        elif fallback is not None:
            fallback.consume(now, call.costs)
        self._counts.first.started(call)

    # What happens here, to be reported to the authority.

    def ended(self, call: Call, *, used: bool) -> None:
        """Report that a permit is free; or give an unused slot back."""
        if used:
            self._release(call)
        else:
            self._refund(call)

    def _refund(self, call: Call) -> None:
        """Pass the slot of a call that was granted and never used to the next, or give it back."""
        waiters, scope, granted = key_queues(self._host), call.limits, LeasedCall.of(call)
        lease, granted.lease = granted.lease, None  # so that `settle` gives nothing back again
        self._end_first(call)
        waiters.wake_all()
        if lease is not None:
            following = waiters.first()
            in_time = lease.until >= self._host.loop.now() - ROUNDING
            fits = following and (following.limits, following.costs) == (scope, call.costs)
            if fits and in_time:
                self._planner.put_back(scope, lease)
            else:  # only the authority knows whether a call of other lanes, or costs, may have it
                self._return([(scope, lease)])
        self._host.wake()

    def apply(self, *given: statements.Statement) -> None:
        """Apply statements here, as far as they concern this process, and pass them on."""
        decisions = []
        for statement in given:
            decided = self._handlers[type(statement)](self, statement)
            if decided is not None:
                decisions.append(decided)
        if decisions:
            self._decide(decisions)

    def _decide(self, decisions: Sequence[Lasting]) -> None:
        """Have decisions take effect here at once, and send them."""
        if any(isinstance(one, statements.SetLimits) for one in decisions):
            self._planner.ask_all_soon()
            self._recall([None])
        for one in decisions:
            match one:
                case statements.SetLimits(key, limits):
                    self._go_by(key, limits)
                case statements.Hold(lane, until):
                    self._hold_here(lane, until)
                case statements.Pause(until):
                    self._hold_here(None, until)
                case statements.Resume():
                    self._resume()
        self._session.decide(self._known.make(*decisions))
        self._hold_as_known()

    def _settle(self, settled: statements.Settled) -> None:
        """Charge the difference to the true costs of a call that has started, or give it back."""
        call, costs = settled.call, settled.costs
        if (lease := LeasedCall.of(call).lease) is not None:
            old, new = plain_costs(call.costs), plain_costs(costs)
            more = tuple(now - before for now, before in zip_longest(new, old, fillvalue=0))
            if any(more):
                started = plain_costs(lease.costs)
                lanes, at = call.limits.lanes, lease.timestamp
                change = messages.CostChange(lanes, at, more, old, started, lease.late)
                self._session.send_changes(messages.Adjust, [change])
            if min(more) < 0:
                self._planner.ask_soon(call.limits)

    def _release(self, call: Call) -> None:
        """Note that a body has ended: its permit is free, if it takes one."""
        self._end_first(call)
        if not self._counts_permits:
            return
        waiters = key_queues(self._host)
        if self._outage.fallback is not None:
            waiters.wake_all()
        if self._planner.short_of_permits and waiters.live:
            self._planner.permit_freed()  # the next request reports it
        else:
            self._session.send_permits()
        self._host.wake()

    def _end_first(self, call: Call) -> None:
        if (message := self._counts.first.ended(call)) is not None:
            self._session.send(message)

    # What the other side says.

    def _sync(self, count: statements.ServerCount) -> None:
        """Let no more start anywhere than the server says: in the answer to a call, or of a key."""
        call, key = count.call, count.key
        self._counts.follow()
        lease = None
        if call is not None:
            key, lease = self._limits.lanes.first_with_limits(call.keys), LeasedCall.of(call).lease
        lane = self._checked_lane(key)
        if self._counts.exceed(lane, count):
            self._recall([lane])
        counted = self._counts.count_of(lane, count, lease, is_answer=call is not None)
        self._session.send_count(counted)

    def _answered(self, answered: statements.Answered) -> None:
        """Note that the server has answered a call: more of its lanes may be out from now on."""
        lanes = [
            lane for key in answered.call.keys if (lane := self._limits.lane_of(key)) is not None
        ]
        first = self._counts.first
        if first.answered(lanes):
            # Not before the limits that the same answer states: others would know none.
            self._session.send_soon("first answers", first.take_news)

    def _throttled(self, throttled: statements.Throttled) -> None:
        """Report push-back: on one call, or (None) on some call of a key."""
        call, key, retry_after = throttled.call, throttled.key, throttled.retry_after
        if call is not None and key == call.key:
            key = self._limits.lanes.first_with_limits(call.keys)
        lane = self._checked_lane(key)
        lease = LeasedCall.of(call).lease if call is not None and call.started else None
        if lease is not None:
            released_at: float = lease.timestamp
        else:
            released_at = math.inf if self._rounds.is_news(lane) else -math.inf
        until = -math.inf
        if retry_after is not None:
            until = self._host.loop.now() + retry_after
            self._hold_here(lane, until)
            self._known.make(statements.Hold(lane, until))  # what is sent says it, too
        self._session.send(messages.PushBack(lane, until, released_at, call, key))

    def _checked_lane(self, key: Hashable) -> Hashable:
        """Return the lane of a key that may be new; None: the key is None, or has no lane.

        Raises:
            TypeError: the key has no text.
        """
        # The key None is no key, also where "*" has limits: what is said of it concerns everything.
        lane = None if key is None else self._limits.lane_of(key)
        if lane is not None:
            self._transport.check_key(key)
        return lane

    def _hold_here(self, lane: Hashable, until: float) -> None:
        """Use nothing that was leased before a hold: the authority may not know of it yet."""
        self._recall([lane])
        if lane is None:
            self._planner.held_until = max(self._planner.held_until, until)
        else:
            self._planner.hold(lane, until)
        self._host.wake()

    def _resume(self) -> None:
        """Hold nothing any more of what a pause holds."""
        self._planner.held_until = min(self._planner.held_until, self._host.loop.now())
        self._planner.ask_all_soon()
        key_queues(self._host).wake_all()
        self._host.wake()

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        return self._limits.of_key(key)

    def _checked_limits(self, change: statements.SetLimits) -> statements.SetLimits:
        """Return a change that no call that waits, and no key, forbids."""
        self._limits.check_change(change.key, change.limits, key_queues(self._host))
        self._check_keys(change.key)
        return change

    def _learn(self, _: statements.Learn) -> None:
        self._counts.learn()

    def _with_learnt(self, learnt: statements.Learnt) -> statements.SetLimits:
        limits = (*self._limits.given(learnt.key), *learnt.limits)
        return self._checked_limits(statements.SetLimits(learnt.key, limits))

    def _check_keys(self, key: Hashable) -> None:
        self._transport.check_key(key)
        if key is not None:
            for call in key_queues(self._host):  # a key may have had no lane, and needed no text
                for one in call.keys:
                    if lane_states.fits(key, one):
                        self._transport.check_key(one)

    def _go_by(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        waiters, now = key_queues(self._host), self._host.loop.now()
        self._limits.change(key, limits, now)
        if key is None:
            waiters.wake_all()
        else:
            for call in waiters:
                LeasedCall.of(call).limits = self._limits.scope_of(call.keys, call.costs)
            waiters.rebuild()
            self._planner.lanes_changed()
        self._host.wake()

    def _recall(self, lanes: Iterable[Hashable]) -> None:
        """Use nothing of these lanes that is leased, or is in a reply that is under way."""
        self._recalled.update(lanes)
        self._return(self._planner.take_all(lanes))

    def _return_all(self) -> None:
        if self._planner.leased:
            self._return(self._planner.take_all([None]))

    def _return(self, leases: Sequence[tuple[Scope, Lease]]) -> None:
        for scope in dict.fromkeys(scope for scope, _ in leases):
            self._planner.ask_soon(scope)
        changes = []
        for scope, lease in leases:
            charged = plain_costs(lease.costs)
            back = tuple(-cost for cost in charged)
            changes.append(messages.CostChange(scope.lanes, lease.timestamp, back, charged))
        if changes:
            # The latest first, also if they are too many for one message: of a rate, what started
            # before a slot that is not given back is gone.
            changes.sort(key=attrgetter("timestamp"), reverse=True)
            self._session.send_changes(messages.Return, changes)

    # For the session.

    def next_ask(self) -> messages.Ask | None:
        """Return what to ask for now; None: nothing."""
        now = self._host.loop.now()
        ask = self._planner.next_ask(now) if self._ask_at(now) <= now + ROUNDING else None
        if ask is not None:
            self._ended_at_ask = self._host.ended
            self._recalled.clear()
        return ask

    def _ask_at(self, now: float) -> float:
        return max(self._planner.ask_at(now), self._session.retry_at)

    def processed(
        self, message: messages.Message, reply: messages.Reply, *, forgotten: bool
    ) -> None:
        """Apply a reply. `forgotten`: the authority knows nothing of what it leased before."""
        if forgotten:
            self._planner.forget_leases()
            self._restore_holds()
        self._apply_statuses(message, reply.statuses)
        if isinstance(message, messages.Ask) and reply.granted is not None:
            self._apply_grants(message, reply.granted)
        elif isinstance(message, messages.PushBack) and reply.backed_off:
            self._recall([message.lane])
            self._rounds.begin(message.lane)
            self._host.emit("backed_off", message.call, key=message.key)

    def _restore_holds(self) -> None:
        """Tell an authority that knows nothing which holds still last, and use no slot before."""
        holds = self._known.holds()
        self._recalled.update(
            one.statement.key for one in holds if isinstance(one.statement, statements.Hold)
        )
        self._session.decide(holds)

    def _apply_statuses(
        self, message: messages.Message, statuses: Mapping[Hashable, messages.LimitStatus]
    ) -> None:
        planner = self._planner
        asked = isinstance(message, messages.Ask)  # of what it was granted, more is known
        room = {} if asked else {lane: planner.room_in(lane) for lane in statuses}
        planner.apply_status(statuses)
        now = self._host.loop.now()
        # While the authority has yet to hear of a resume, nobody can tell a pause that it ends from
        # a hold; a later reply says which holds there are, too.
        unclear = (None,) if self._session.has_unsent else ()
        for lane, status in statuses.items():
            ends = planner.lane(lane).held_until > now and status.held_until < math.inf
            if ends and lane not in unclear:
                self._known.note_end(lane, status.held_until)
        self._hold_as_known()
        self._return(self._counts.apply(statuses))
        more = [lane for lane, before in room.items() if planner.room_in(lane) > before]
        if isinstance(message, messages.FirstEnded):
            more += [None, *message.lanes]
        for lane in more:
            planner.ask_soon_in(lane)
        if more:
            self._host.wake()

    def _apply_grants(self, message: messages.Ask, granted: messages.Granted) -> None:
        planner, waiters = self._planner, key_queues(self._host)
        planner.apply(message, granted)
        self._session.charge_unsent(sums_of(granted))
        self._return(planner.take_all(self._recalled))
        if planner.short_of_permits and self._host.ended > self._ended_at_ask:
            planner.permit_freed()  # the reply knows nothing of those
        waiters.wake_scope(NO_LANES)
        for scope in dict.fromkeys(one.scope for one in message.requests):
            waiters.wake_scope(scope)
        if not waiters.live:  # `release_due` is called for those who wait only
            self._return_all()
        self._host.wake()

    @property
    def follows(self) -> bool:
        """Whether it notes which calls have no answer yet."""
        return self._counts.follows

    def report(self, lanes: Sequence[Hashable]) -> Mapping[Hashable, messages.LaneReport]:
        """Return what is out in all (None) and, if that is noted, in each of these lanes."""
        return self._counts.report(lanes)

    def adopt(self, decisions: Sequence[Decision], *, whole: bool) -> None:
        """Adopt what others have decided; `whole`: that is all that the authority knows."""
        news = self._known.merge(decisions, whole=whole)
        if any(isinstance(one, statements.Resume) for one in news):
            self._resume()
        self._hold_as_known()
        if changed := {
            one.key: one.limits for one in news if isinstance(one, statements.SetLimits)
        }:
            self._go_by_others(changed)

    def _hold_as_known(self) -> None:
        planner = self._planner
        planner.held_until = max(planner.held_until, self._known.held_until)
        self._host.wake()

    def _go_by_others(self, changed: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        for key, limits in changed.items():
            self._host.others_set(key, limits)
            self._go_by(key, limits)
        self._limits.fail_impossible(self._host, self._transport.check_key)
        for key, limits in changed.items():
            self._host.emit("limits_changed", key=key, limits=limits, origin="others")

    # Figures, and the end.

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> seam.LimiterStats:  # noqa: ARG002 - the authority knows what remains
        """Return the figures of this moment."""
        return self._outage.stats(
            lanes=len(self._limits.lanes.by_key),
            rate=self._planner.lane(None).rate,
            held_until=self._planner.held_until,
            asks=self._session.asks,
        )

    async def aclose(self) -> None:
        """Give back what is leased, and report that this queue is gone.

        Takes twice the `timeout` of the transport at most. Permits of bodies that go on are kept
        until their lease is up.
        """
        self._return_all()
        runs = self._host.started > self._host.ended
        await self._session.aclose(messages.Renew() if runs else messages.Leave())

    _handlers: ClassVar[
        dict[type[statements.Statement], Callable[[SharedLimiter, Any], Lasting | None]]
    ] = {
        statements.SetLimits: _checked_limits,
        statements.Learnt: _with_learnt,
        statements.Pause: lambda _, pause: pause,
        statements.Resume: lambda _, resume: resume,
        statements.Hold: lambda self, hold: statements.Hold(
            self._checked_lane(hold.key), hold.until
        ),
        statements.Throttled: _throttled,
        statements.ServerCount: _sync,
        statements.Answered: _answered,
        statements.Settled: _settle,
        statements.Learn: _learn,
    }
    """What handles each: what is decided is checked, and returned as it is to be sent."""
