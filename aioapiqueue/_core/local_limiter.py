"""The limiter of a queue that keeps its limits for itself.

A queue whose calls all come under the same limits has one line, and asks them for its first call.
Where calls come under others besides (lanes, or limits that some of them use nothing of), a
`Scheduler` says which line is next as long as there is more than one.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue._core.events import report_error
from aioapiqueue._core.limiter import FastAcquire, LimiterStats, LimiterTraits, PushbackRounds
from aioapiqueue._core.resorting import Sorter
from aioapiqueue._core.slot import Call, DetailedCall
from aioapiqueue._core.statements import (
    Answered,
    Hold,
    Learn,
    Learnt,
    Pause,
    Resume,
    ServerCount,
    SetLimits,
    Settled,
    Throttled,
)
from aioapiqueue._core.wait_lists import has_waiters, is_waited_for
from aioapiqueue._core.wait_queue import WaitQueue
from aioapiqueue._limits.algorithms import (
    LimitState,
    TokenBucket,
    consume_if_due,
    consume_two_full_buckets,
    try_consume,
)
from aioapiqueue._limits.lanes import Lanes, StateMaker, check_costs, limits_charged_by
from aioapiqueue._limits.own_limits import OwnLimits
from aioapiqueue._limits.rates import PERMITS, Concurrency, largest_of, unit_of
from aioapiqueue._limits.units import ONE_CALL, UNSTATED, LateCosts, is_stated
from aioapiqueue._limits.windows import Permits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._core.limiter import Host
    from aioapiqueue._core.line import Line
    from aioapiqueue._core.statements import Statement
    from aioapiqueue._limits.lanes import AdaptivePolicy, Lane
    from aioapiqueue._limits.rates import Limit
    from aioapiqueue._limits.units import CostTotals
    from aioapiqueue._server_quotas.local import LocalQuotas

__all__ = ["LocalLimiter"]

_AT_ONCE = 5000
"""Calls of one line that start in one step: 5 to 10 milliseconds, as with `BUDGET`."""


States = tuple[LimitState, ...]


class _QueuePermits(Permits):
    """The permits of a queue's own `Concurrency`: every body that runs has one."""

    __slots__ = ("_host",)

    def __init__(self, host: Host, concurrency: Concurrency) -> None:
        super().__init__(concurrency)
        self._host = host

    def in_use(self) -> int:
        return self._host.started - self._host.ended

    def consume(self, now: float, costs: Sequence[float]) -> None:
        """Do nothing: the host counts."""

    def release(self, at: float) -> bool:  # noqa: ARG002 - none is counted here
        """Do nothing: the host counts."""
        return True

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        """Do nothing: the host counts."""


class LocalLimiter:
    """Limits kept in this process, for one queue.

    Args:
        host: the queue's dispatcher.
        limits: of all calls together.
        lanes: limits of single keys and patterns.
        concurrency: how many bodies may run at once, whatever `set_limits` sets; inf: any number.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how to slow down on push-back.

    Raises:
        ValueError: what `adaptive` wants does not fit the limits.
    """

    traits = LimiterTraits((Call, DetailedCall), WaitQueue, alone=True)
    server: LocalQuotas | None = None
    """Has what servers say obeyed, once one has said something."""

    def __init__(
        self,
        host: Host,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        *,
        concurrency: float,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
    ) -> None:
        self._host = host
        new_maker = partial(
            StateMaker,
            host.units,
            catch_up=catch_up,
            adaptive=adaptive,
            report=report_error,
            to_wall=host.loop.to_wall,
        )
        own_permits = partial(_QueuePermits, host)
        permanent: States = ()
        if concurrency < math.inf:
            permanent = (own_permits(Concurrency(int(concurrency))),)
        self.own = OwnLimits(
            limits, new_maker(permits=own_permits, concurrency=concurrency), permanent
        )
        """The limits of all calls."""
        lane_maker = new_maker()
        for limits_of_lane in lanes.values():
            # Refuses now what it would refuse at the first call.
            lane_maker.states_of(limits_of_lane)
        self.lanes = Lanes(lanes, lane_maker, in_use=self._is_in_use)
        """The limits of single keys."""
        self.own.note_terms(has_lanes=bool(lanes), units=len(host.units))
        self.counts_permits = bool(permanent) or _has_permits(limits, *lanes.values())
        """Whether the ends of bodies matter. For good, as bodies may hold permits of a limit that
        is gone, and that may come back."""
        self._paused = self._held = -math.inf
        """The instants until which users pause the queue, and servers hold it."""
        self._rounds = PushbackRounds(host)

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop; charges still count, unless its clock is another one."""
        if clock_changed:
            self._paused = self._held = -math.inf
            self.own.start_over()
            self.lanes = self.lanes.empty_copy()
        self.lanes.forget_callers()
        for state in self.own.states:
            state.forget_callers()
        self._sorter = Sorter(self._host, self.own, self.lanes, self._find_again)
        self._scheduler = self._sorter.scheduler

    # The limits that apply to a call.

    def states_of(self, call: Call) -> States:
        """Return the states of the limits that apply to a call."""
        return self.own.states if call.limits is None else call.limits

    def _is_in_use(self, _key: Hashable, lane: Lane) -> bool:
        # While all calls are sorted again, a lane in which calls wait does not look like it.
        sorter = self._sorter
        return sorter.steps is not None or any(map(sorter.is_waited_for, lane.all_states()))

    def find_limits(self, call: Call, now: float, *, evicts: bool = True) -> States:
        """Find the limits that apply to a new call, and note them in the call.

        Args:
            call: the call.
            now: the present instant.
            evicts: False: the call waits already, and its own lane must not be evicted.

        Raises:
            ValueError: one of the limits is too small for it, or counts a unit that its cost does
                not name.
        """
        own, table, costs = self.own, self.lanes, call.costs
        limits = own.states
        check_costs(own.bounds, costs, self._host.units, own.limits, None)
        if 0 in costs or own.has_optional:
            limits = limits_charged_by(limits, costs)
        if table.limits:
            if len(call.keys) == 1 and costs is ONE_CALL:  # most
                find = table.find if evicts else table.get
                lane = find(call.keys[0], now)
                if lane is not None and lane.takes_one and lane.states:
                    if lane.own is not limits:
                        lane.join(limits)
                    call.limits = lane.together
                    return lane.together
                has_lanes = lane is not None
            else:
                has_lanes = True  # perhaps
            if has_lanes:
                limits = self._with_lanes(limits, call, now, evicts=evicts)
            elif evicts and not own.states:
                self._host.starts_unpaced(call)
        if limits != own.states:
            call.limits = limits
        return limits

    def _find_again(self, call: Call, now: float) -> None:
        call.limits = None
        self.find_limits(call, now, evicts=False)

    def _with_lanes(self, limits: States, call: Call, now: float, *, evicts: bool) -> States:
        """Return limits of the queue and those of a call's lanes, checked as by `find_limits`."""
        costs = call.costs
        lanes = self.lanes.find_all(call.keys, now, evicts=evicts)
        if evicts and not lanes and not self.own.states:
            self._host.starts_unpaced(call)
        for lane in lanes:
            if costs is ONE_CALL and lane.takes_one and lane.states:  # most
                limits += lane.states
                continue
            check_costs(lane.bounds, costs, self._host.units, lane.limits, lane.name)
            limits += lane.states_for(costs)
        return tuple(dict.fromkeys(limits)) if len(lanes) > 1 else limits

    # From arrival to release.

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:
        own = self.own.states
        if not own or self.lanes.limits or self.counts_permits or self.own.has_optional:
            return FastAcquire(follows_ends=self.counts_permits)
        one: Callable[[float], float] | None = None
        if not any(state.unit for state in own):
            one = partial(try_consume, own, costs=ONE_CALL)
            if len(own) == 1 and type(own[0]) is TokenBucket:
                one = own[0].try_consume_one
        return FastAcquire(one, consume_two_full_buckets(own, totals))

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's own limits could never admit."""
        check_costs(self.own.bounds, costs, self._host.units, self.own.limits, None)

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a newcomer to all its limits, if all of them have room."""
        waiters, own, costs = self._host.waiters, self.own, call.costs
        if costs is ONE_CALL:
            is_usual = own.takes_one
        else:
            is_usual = len(costs) == own.takes_any and 0 not in costs and UNSTATED not in costs
        limits = own.states if is_usual else self.find_limits(call, now)
        if waiters.live:
            # Most are behind others of their line.
            line = waiters.name_of_line(call) if waiters.fair else call.limits
            return line not in waiters.lines and self._try_overtake(call, limits, now)
        for limit in limits:
            limit.on_idle(now)
        if self.counts_permits:
            own.adapt_permits()  # after a long rest there may be more permits again
        return now >= own.held and consume_if_due(limits, now, costs) <= now

    def _try_overtake(self, call: Call, limits: States, now: float) -> bool:
        """Charge a new call while others wait, if none of them comes before it at its limits."""
        sorter, own = self._sorter, self.own
        if call.limits is not None:
            for limit in limits:
                if not sorter.is_waited_for(limit) and limit not in own.states:
                    limit.on_idle(now)
        if now < own.held or not sorter.is_settled:
            return False
        sorter.schedule(now)
        if self._scheduler.is_late(now) and self._is_shared(limits):
            return False  # a waiting call may be due, and goes before
        return self._scheduler.try_start(call, limits, now)

    def _is_shared(self, limits: States) -> bool:
        """Return whether one of these limits may apply to a waiting call, or no limit does."""
        shared = any(limit in self.own.states or is_waited_for(limit) for limit in limits)
        return shared or has_waiters(self._scheduler.nothing)

    def joined(self, call: Call) -> None:
        """Note that a call waits now."""
        if not self._scheduler.active and len(self._host.waiters.lines) == 1:
            return  # there is no other line to compare its line with
        line = call.line
        head = line.head
        if (
            line.entry is not None
            and head is not None
            and head is not call
            and not head.future.done()
        ):
            return  # most go behind those of their line
        if self._host.waiters.unsorted is not None:
            return
        if line.entry is None or line.rank_now() is None or line.head is call:
            self._sorter.note(line, call.joined_at)

    def left(self, call: Call, line: Line[Call] | None) -> None:  # noqa: ARG002 - its line is enough
        """Note that a call waits no more."""
        if line is not None:
            if self._scheduler.active:
                self._scheduler.left(line)
            if not line.live:
                self._sorter.drop(line)

    def _earliest(self, call: Call, now: float) -> float:
        """Return when its limits will have room, if nobody else comes first."""
        costs = call.costs
        # While all are sorted again, it may be that some of the queue's own do not concern it.
        limits = [limit for limit in self.states_of(call) if limit.concerns(costs)]
        dues = [limit.next_at(now, costs) for limit in limits]
        return max([self.own.held, *(due for due in dues if due < math.inf)])

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer would start, if all who wait are charged first.

        Unless they are less urgent, all of them.
        """
        if call is None:
            return self._all_started(now)
        if alone:
            return self._earliest(call, now)
        waiters, limits = self._host.waiters, self.find_limits(call, now)
        when = max(now, self.own.held)
        for limit in limits:
            is_own = limit in self.own.states
            lines = waiters.lines.values() if is_own else self._sorter.lines_under(limit)
            if all(_is_less_urgent(line, call.priority) for line in lines):
                ahead: float = 0
            elif is_own:
                ahead = waiters.total(limit.unit)
            else:
                ahead = sum(line.total(limit.unit) for line in lines)
            when = max(when, limit.estimate(now, ahead + call.costs[limit.unit]))
        return when

    def _all_started(self, now: float) -> float:
        """Return when the last of those who wait will have started, as far as limits tell."""
        waiters, when = self._host.waiters, max(now, self.own.held)
        lines = list(waiters.lines.values())
        first: dict[LimitState, float] = dict.fromkeys(self.own.states, 0)
        for line in lines:
            call = line.first()
            if call is None:
                continue
            for limit in self.states_of(call):
                cost = call.costs[limit.unit] if is_stated(call.costs, limit.unit) else 0
                first[limit] = max(first.get(limit, 0), cost)
        for limit, largest in first.items():
            # The queue's own counts all of them, be it that they are being sorted again.
            own = limit in self.own.states
            under = () if own else self._sorter.lines_under(limit)
            cost = waiters.total(limit.unit) if own else sum(one.total(limit.unit) for one in under)
            if cost:
                when = max(when, limit.all_started(now, cost, min(largest, cost)))
        return when

    def release_due(self, now: float) -> float | None:
        """Grant all that are due; return when to look again (None: nobody waits)."""
        waiters = self._host.waiters
        scheduler, sorter = self._scheduler, self._sorter
        scheduler.disturbed = False
        if not waiters.live:
            return None
        # As `is_settled`, without a call: this is done for each wake-up.
        unsettled = sorter.outdated or sorter.steps is not None or self.lanes.states_replaced
        if unsettled and not sorter.go_on(now):
            return now
        if now < (held := self.own.held):
            return held
        if scheduler.active:
            wake = scheduler.step(now)
            if not waiters.live:
                scheduler.end()
            return wake
        for line in waiters.lines.values():  # there is at most one
            return self._release_line(line, now)
        return math.inf  # all waiting calls were cancelled, and have not left yet

    def _release_line(self, line: Line[Call], now: float) -> float | None:
        """Do the same as `release_due`, where there is one line."""
        waiters, grant = self._host.waiters, self._host.grant
        limits: States = self.own.states if line.limits is None else line.limits
        bucket = limits[0] if len(limits) == 1 and type(limits[0]) is TokenBucket else None
        for _ in range(_AT_ONCE):
            call = line.first()
            if call is None:
                break
            costs = call.costs
            if bucket is not None and costs is ONE_CALL:
                due = bucket.consume_one_if_due(now)
            else:
                due = consume_if_due(limits, now, costs)
            if due > now:
                return due
            waiters.pop(call)
            grant(call, now)
            if self._scheduler.disturbed:  # an observer has changed something: look again
                return now
        else:
            return now
        return math.inf if waiters.live else None

    # Afterwards.

    def ended(self, call: Call, *, used: bool) -> None:
        """Let the next have the permit, or all that an unused slot was charged."""
        if used:
            self._release(call)
        else:
            self._refund(call)

    def _release(self, call: Call) -> None:
        own = self.own
        own.adapt_permits()
        for limit in call.limits or own.permanent:
            if limit.release(call.waited_until):
                self._scheduler.changed(limit)
        for limit in own.states:
            if isinstance(limit, Permits):
                self._scheduler.changed(limit)
        self._host.wake()

    def _charged(self, call: Call) -> States:
        """Return the states that a call was charged to, less those that have been replaced."""
        return self.own.charged(call.waited_until) if call.limits is None else call.limits

    def _refund(self, call: Call) -> None:
        now, at = self._host.loop.now(), call.waited_until
        charged = self._charged(call)
        if self.server is not None:
            charged = self.server.refunded(charged, call, now)
        for limit in charged:
            if limit.concerns(call.costs):  # one that came later may not
                limit.refund(now, at, call.costs)
                self._scheduler.changed(limit)
        self._host.wake()

    def apply(self, *statements: Statement) -> None:
        """Apply statements; of limits, none if one is too small for a call that waits."""
        if limits := {one.key: one.limits for one in statements if isinstance(one, SetLimits)}:
            self._sorter.check(limits)
        for statement in statements:
            self._handlers[type(statement)](self, statement)

    def _settle(self, settled: Settled) -> None:
        """Charge the difference to the true costs."""
        call, costs = settled.call, settled.costs
        now, at = self._host.loop.now(), call.waited_until
        charged = self._charged(call)
        if self.server is not None:
            charged = self.server.settled(charged, call, now)
        # What is owed besides is owed to all limits in force, even if the call used nothing of one
        # when it started, or if its lane was forgotten meanwhile, as nobody called for long.
        in_force = dict.fromkeys((*charged, *self.own.states))
        if self.lanes.limits:
            for lane in self.lanes.find_all(call.keys, now):
                in_force.update(dict.fromkeys(lane.states))
        late = call.costs.late if isinstance(call.costs, LateCosts) else {}
        for limit in in_force:
            unit = limit.unit
            if isinstance(limit, Permits) or not is_stated(costs, unit):
                continue
            before, cost = call.costs[unit] if is_stated(call.costs, unit) else 0, costs[unit]
            first, late_at = late.get(unit, (before, -math.inf))
            was_charged_late = late_at > self.own.since(limit)
            if cost < before and was_charged_late and isinstance(limit, TokenBucket):
                # What it was charged last comes back first, as of when it was charged.
                limit.adjust(now, late_at, before, max(first, cost))
                self._scheduler.changed(limit)
                before = max(first, cost)
            if cost > before or (cost < before and limit in charged):
                limit.adjust(now, at, before, cost)
                self._scheduler.changed(limit)
        self._host.wake()

    # What the other side and users say.

    def _throttle(self, throttled: Throttled) -> None:
        """Hold, and slow down once for each round of calls."""
        host, now = self._host, self._host.loop.now()
        call, key = throttled.call, throttled.key
        if call is not None and key == call.key:
            key = self.lanes.first_with_limits(call.keys)
        # Of lanes found by one pattern, each slows down for itself.
        scope = None if key is None or self.lanes.limits_of(key) is None else (key,)
        if call is not None and call.started:
            released_at = call.waited_until
        else:
            released_at = now if self._rounds.is_news(scope) else -math.inf
        if throttled.retry_after is not None:
            self._hold(Hold(key, now + throttled.retry_after))
        lane = None if key is None else self.lanes.find(key, now)
        states = self.own.states if lane is None else lane.states
        running = host.started - host.ended
        if any([state.push_back(now, released_at, running) for state in states]):  # noqa: C419 - each is to hear
            self.own.adapt_permits()
            for state in states:
                self._scheduler.changed(state)
            host.wake()
            self._rounds.begin(scope)
            rate = _calls_allowed(states)
            host.emit("backed_off", call, key=key, rate=None if rate == math.inf else rate)

    def _hold(self, hold: Hold) -> None:
        """Start nothing of a key's lane, if it has one, or nothing at all."""
        now, key = self._host.loop.now(), hold.key
        lane = None if key is None else self.lanes.find(key, now)
        if lane is not None:
            lane.hold(hold.until)
            for state in lane.all_states():
                self._scheduler.changed(state)
            self._host.wake()
        else:
            self._held = max(self._held, hold.until)
            self._hold_all()

    # What servers say of their quotas.

    def _hear_of_server(self, statement: Statement) -> None:
        if self.server is None:
            # Imported late: few queues are told what a server has said.
            from aioapiqueue._server_quotas.local import LocalQuotas  # noqa: PLC0415

            permits = partial(_QueuePermits, self._host)
            self.server = LocalQuotas(self, self._host, permits=permits)
        self.server.apply(statement)

    def state_changed(self, state: LimitState) -> None:
        """Look again at who comes under a state."""
        self._scheduler.changed(state)

    def add_state(self, lane: Lane | None, state: LimitState, now: float) -> None:
        """Have one more state, which is not that of a limit, in a lane or (None) for all calls."""
        self.counts_permits |= lane is None
        self._sorter.add_state(lane, state, now)

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        if key is None:
            return self.own.limits
        limits = self.lanes.limits_of(key)
        return None if limits is None else tuple(limits)

    def _pause(self, pause: Pause) -> None:
        self._paused = max(self._paused, pause.until)
        self._hold_all()

    def _resume(self, _: Resume) -> None:
        """End a pause; what it has missed is not made up for."""
        self._paused = min(self._paused, self._host.loop.now())
        self._hold_all()

    def _hold_all(self) -> None:
        self._scheduler.disturbed = True
        self.own.hold(max(self._paused, self._held))
        for state in self.own.states:
            self._scheduler.changed(state)
        self._host.wake()

    def _set_limits(self, changed: SetLimits) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        self._sorter.set_limits(changed.key, changed.limits, self._host.loop.now())
        self.counts_permits |= _has_permits(changed.limits)
        self._host.wake()

    # Figures, and the end.

    def idle_at(self, now: float) -> float:
        """Return the instant from which no limit owes a wait."""
        return max(self.own.idle_at(), self.lanes.idle_at(now))

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> LimiterStats:
        """Return the figures of this moment."""
        now = self._host.loop.now()
        permits = [state.most for state in self.own.states if isinstance(state, Permits)]
        return LimiterStats(
            lanes=len(self.lanes.by_key),
            remaining=self._remaining(key, now),
            idle_at=self.idle_at(now) if deep and not self.lanes.altered else math.inf,
            rate=_calls_allowed(self.own.states),
            paused=self._paused == math.inf,
            permits=min(permits, default=math.inf),
        )

    def _remaining(self, key: Hashable, now: float) -> dict[str, float]:
        """Return how much could start now, by unit; of permits: "permits"."""
        names = self._host.units.names
        lane = None if key is None else self.lanes.by_key.get(key)
        states = self.own.states if key is None else () if lane is None else lane.states
        found: dict[str, float] = {}
        if key is not None and lane is None:  # nobody uses it now
            for limit in self.lanes.limits.get(key, ()):
                found[unit_of(limit) or PERMITS] = min(
                    largest_of(limit), found.get(unit_of(limit) or PERMITS, math.inf)
                )
        for state in states:
            unit = PERMITS if isinstance(state, Permits) else names[state.unit]
            room = 0 if self.own.held > now and key is None else state.room(now)
            if room < math.inf:
                found[unit] = min(room, found.get(unit, math.inf))
        return found

    async def aclose(self) -> None:
        """Do nothing: nothing is running."""

    _handlers: ClassVar[dict[type[Statement], Callable[[LocalLimiter, Any], None]]] = {
        SetLimits: _set_limits,
        Learnt: _hear_of_server,
        Pause: _pause,
        Resume: _resume,
        Hold: _hold,
        Throttled: _throttle,
        Settled: _settle,
        ServerCount: _hear_of_server,
        Answered: _hear_of_server,
        Learn: _hear_of_server,
    }
    """Where each statement takes effect."""


def _has_permits(*limits: Sequence[Limit]) -> bool:
    return any(isinstance(one, Concurrency) for its in limits for one in its)


def _is_less_urgent(line: Line[Call], priority: float) -> bool:
    """Return whether a newcomer of this priority goes before all who wait in a line."""
    first = line.first()
    return first is None or priority < first.priority


def _calls_allowed(states: Iterable[LimitState]) -> float:
    """Return the calls a second that push-back has left; inf: what the limits say."""
    return min((state.allowed() for state in states if not state.unit), default=math.inf)
