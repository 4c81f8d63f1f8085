"""The limiter of a queue that shares its limits with no other queue.

If the same limits apply to all waiting calls, they wait in one line, and the limiter starts its
first call as soon as they have room. If different limits apply (because of lanes, or because some
calls use nothing of a limit), there are several lines, and a `Scheduler` decides which is next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue._core.quota_policy import policy
from aioapiqueue._core.resorting import Sorter
from aioapiqueue._core.seam import LimiterStats, LimiterTraits
from aioapiqueue._core.slot import Call, DetailedCall
from aioapiqueue._core.slow_downs import SlowDownRounds
from aioapiqueue._core.statements import Hold, Pause, Resume, SetLimits, Settled, Throttled
from aioapiqueue._limits.algorithms import (
    QUANTUM,
    TokenBucket,
    consume_if_due,
    consume_two_full_buckets,
    default_step,
    next_look,
)
from aioapiqueue._limits.cost_units import ONE_CALL, UNSTATED, LateCosts, is_stated
from aioapiqueue._limits.lane_states import Lanes, check_costs, limits_charged_by
from aioapiqueue._limits.limit_state import LimitState
from aioapiqueue._limits.limit_types import Concurrency, raises
from aioapiqueue._limits.own_limits import OwnLimits
from aioapiqueue._limits.windows import Permits, QueuePermits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.quota_policy import LimiterQuotas
    from aioapiqueue._core.refusals import Refusals
    from aioapiqueue._core.seam import FastAcquire, Host, LimitSettings
    from aioapiqueue._core.statements import Statement
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.cost_units import CostTotals
    from aioapiqueue._limits.lane_states import Lane
    from aioapiqueue._limits.limit_types import Limit

_AT_ONCE = 5000
"""Largest number of calls of one line that start in one step: 5 to 10 milliseconds, as `BUDGET`."""

States = tuple[LimitState, ...]


class LocalLimiter:
    """Decides when the calls of one queue start, by limits that are kept in this process.

    Args:
        host: the queue's dispatcher.
        settings: the queue's limits.

    Raises:
        ValueError: the settings of `adaptive` do not fit the limits.
    """

    traits = LimiterTraits((Call, DetailedCall), alone=True)
    server_quotas: LimiterQuotas | None = None
    """The policy for servers' reports, attached by the first of them."""
    refusals: Refusals | None = None
    """Raises `LimitExceeded`; attached by the first limit that needs it."""

    def __init__(self, host: Host, settings: LimitSettings) -> None:
        self._host = host
        limits, lanes, concurrency = settings.limits, settings.lanes, settings.concurrency
        permanent: States = ()
        if concurrency < math.inf:
            permanent = (self._own_permits(Concurrency(int(concurrency))),)
        own_maker = settings.state_maker(host, permits=self._own_permits, concurrency=concurrency)
        self.own = OwnLimits(limits, own_maker, permanent)
        """The limits of all calls."""
        self.own.note_terms(len(host.units), has_lanes=bool(lanes))
        lane_maker = settings.state_maker(host)
        for limits_of_lane in lanes.values():
            # Refuses limits that do not fit `adaptive` now, and not at the first call of the key.
            lane_maker.states_of(limits_of_lane)
        self.lanes = Lanes(lanes, lane_maker, in_use=self._is_in_use)
        """The limits of single keys."""
        self.counts_permits = bool(permanent) or _has_permits(limits, *lanes.values())
        """Whether the ends of bodies matter. Once True, it stays so: bodies may hold permits of a
        limit that was replaced, and that may come back."""
        self._paused = self._held = -math.inf
        """The instants until which a pause and a hold of the whole queue last."""
        self._rounds = SlowDownRounds(host)
        self._raise_at(limits, *lanes.values())

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop; charges still count, unless its clock is another one."""
        if clock_changed:
            self._paused = self._held = -math.inf
            self.own.start_over()
            self.lanes = self.lanes.empty_copy()
        self.lanes.forget_callers()
        for state in self.own.states:
            state.forget_callers()
        # All heaps and wait lists are made again: those of before hold calls of the old loop.
        self._sorter = Sorter(self._host, self.own, self.lanes, self._find_again)
        self._scheduler = self._sorter.scheduler
        if self.refusals is not None:
            self.refusals.reset()

    def _raise_at(self, *limits: Sequence[Limit]) -> None:
        """Have calls raise `LimitExceeded` from now on, if one of these limits asks for it."""
        if self.refusals is None and any(raises(one) for its in limits for one in its):
            from aioapiqueue._core.refusals import Refusals  # noqa: PLC0415 - few queues need it

            self.refusals = before = Refusals(self, self._host)
            # In front of these methods, so that other queues do nothing for it.
            self.try_acquire = before.try_acquire  # type: ignore[method-assign]  # the same type
            self.release_due = before.release_due  # type: ignore[method-assign]  # as above
            self.estimate = before.estimate  # type: ignore[method-assign]  # as above
            self.ended = before.ended  # type: ignore[method-assign]  # as above

    def _own_permits(self, concurrency: Concurrency) -> Permits:
        host = self._host
        return QueuePermits(lambda: host.started - host.ended, concurrency)

    # The limits that apply to a call.

    @property
    def sorter(self) -> Sorter:
        """Sorts the waiting calls into lines; replaced by each `reset`."""
        return self._sorter

    def states_of(self, call: Call) -> States:
        """Return the states of the limits that apply to a call."""
        return self.own.states if call.limits is None else call.limits

    def _is_in_use(self, _key: Hashable, lane: Lane) -> bool:
        sorter = self._sorter
        if not self._host.waiters.live:
            return False
        if sorter.steps is not None:  # a lane in which calls wait does not look like it meanwhile
            return True
        for state in lane.all_states():  # noqa: SIM110 - `any` would take longer, for each call
            if sorter.is_waited_for(state):
                return True
        return False

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
        if costs is not ONE_CALL or not own.takes_one:
            check_costs(own.bounds, costs, self._host.units, own.limits, None)
            if 0 in costs or own.has_optional:
                limits = limits_charged_by(limits, costs)
        if table.limits:
            keys = call.keys
            if len(keys) == 1 and costs is ONE_CALL:  # most calls
                lane = table.find(keys[0], now) if evicts else table.get(keys[0], now)
                if lane is not None and lane.takes_one:
                    if lane.own is not limits:
                        lane.join(limits)
                    call.limits = limits = lane.together
                    return limits
                has_lanes = lane is not None
            else:
                has_lanes = True  # `_with_lanes` looks for them
            if has_lanes:
                limits = self._with_lanes(limits, call, now, evicts=evicts)
            elif evicts and not own.states:
                self._host.starts_unpaced(call)
        # Otherwise None: the call waits in the plain line, and its limits are the queue's at any
        # time, so that it needs no sorting when those change.
        if limits != own.states:
            call.limits = limits
        return limits

    def _find_again(self, call: Call, now: float) -> None:
        call.limits = None
        self.find_limits(call, now, evicts=False)

    def _with_lanes(self, limits: States, call: Call, now: float, *, evicts: bool) -> States:
        """Return `limits` and those of the lanes of a call, which are checked."""
        costs = call.costs
        lanes = self.lanes.find_all(call.keys, now, evicts=evicts)
        if evicts and not lanes and not self.own.states:
            self._host.starts_unpaced(call)
        for lane in lanes:
            if costs is ONE_CALL and lane.takes_one:  # most calls
                limits += lane.states
                continue
            check_costs(lane.bounds, costs, self._host.units, lane.limits, lane.name)
            limits += lane.states_for(costs)
        return limits

    # From arrival to release.

    @property
    def follows_ends(self) -> bool:
        """Whether `ended` must be called at the end of every body."""
        return self.counts_permits or self.refusals is not None

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:
        # A step in advance is only for queues where every call is charged to the same limits, and
        # nothing happens at its end.
        own = self.own.states
        follows_ends = self.follows_ends
        if not own or self.lanes.limits or follows_ends or self.own.has_optional:
            return None, None, follows_ends
        one = None if any(state.unit for state in own) else default_step(own)
        return one, consume_two_full_buckets(own, totals), False

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's own limits could never admit."""
        check_costs(self.own.bounds, costs, self._host.units, self.own.limits, None)

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a new call to all its limits, if all of them have room."""
        waiters, own, costs = self._host.waiters, self.own, call.costs
        if costs is ONE_CALL:
            is_usual = own.decide_one
        else:
            is_usual = len(costs) == own.decide_any and 0 not in costs and UNSTATED not in costs
        limits = own.states if is_usual else self.find_limits(call, now)
        if waiters.live:
            # If its line exists, a call waits there and goes first. That is the most common case,
            # and one look-up decides it.
            line = waiters.name_of_line(call) if waiters.ordering is not None else call.limits
            return line not in waiters.lines and self._try_overtake(call, limits, now)
        for limit in limits:  # no call waits: what was not used before `now` is lost
            limit.on_idle(now)
        if self.counts_permits:
            own.adapt_permits()  # after a long rest, a slow-down is forgotten
        return now >= own.held and consume_if_due(limits, now, costs) <= now

    def _try_overtake(self, call: Call, limits: States, now: float) -> bool:
        """Charge a new call while others wait, if none of them goes before it at its limits."""
        sorter, own = self._sorter, self.own
        if call.limits is not None:
            # A lane in which no call waits is idle, even if calls wait in others.
            for limit in limits:
                if limit not in own.states and not sorter.is_waited_for(limit):
                    limit.on_idle(now)
        if now < own.held or not sorter.is_settled:
            return False
        sorter.schedule(now)
        if self._scheduler.is_late(limits, now):
            return False  # the call that is due goes before
        return self._scheduler.try_start(call, limits, now)

    def joined(self, call: Call) -> None:
        """Note that a call waits now."""
        if not self._scheduler.active and len(self._host.waiters.lines) == 1:
            return  # there is no other line to compare its line with
        line = call.line
        head = line.head
        if head is not None and head is not call and line.entry is not None:
            return  # it is not the first of its line, which has a place already
        if self._host.waiters.unsorted is not None:
            return  # its line is a temporary one
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
        """Return when all limits of a call will have room, if no other call starts before."""
        costs = call.costs
        # While all calls are sorted again, `states_of` may contain limits that do not apply to it.
        limits = [limit for limit in self.states_of(call) if limit.concerns(costs)]
        dues = [limit.next_at(now, costs) for limit in limits]
        return max([self.own.held, *(due for due in dues if due < math.inf)])

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a new call would start, if the waiting calls go first.

        At a limit where it goes before all of them by priority and order, it waits for none.
        """
        if call is None:
            return self._all_started(now)
        if alone:
            return self._earliest(call, now)
        limits, when = self.find_limits(call, now), max(now, self.own.held)
        for limit in limits:
            lines = None if limit in self.own.states else self._sorter.lines_under(limit)
            ahead = self._host.waiters.cost_ahead(call, limit.unit, lines)
            when = max(when, limit.estimate(now, ahead + call.costs[limit.unit]))
        return when

    def _all_started(self, now: float) -> float:
        """Return when the last waiting call will have started, as far as the limits tell."""
        waiters, when = self._host.waiters, max(now, self.own.held)
        largest: dict[LimitState, float] = dict.fromkeys(self.own.states, 0)
        for call in [call for line in waiters.lines.values() if (call := line.first()) is not None]:
            for limit in self.states_of(call):
                cost = call.costs[limit.unit] if is_stated(call.costs, limit.unit) else 0
                largest[limit] = max(largest.get(limit, 0), cost)
        for limit, first in largest.items():
            if limit in self.own.states:
                cost = waiters.total(limit.unit)
            else:
                cost = sum(line.total(limit.unit) for line in self._sorter.lines_under(limit))
            if cost:
                when = max(when, limit.all_started(now, cost, min(first, cost)))
        return when

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:
        """Grant all calls that are due; return when to look again (None: no call waits)."""
        waiters = self._host.waiters
        scheduler, sorter = self._scheduler, self._sorter
        scheduler.disturbed = False
        # Nothing is granted if no call waits, while calls are being sorted, or during a hold.
        if not waiters.live:
            return None
        # No call starts while some are unsorted: one of them may be the first by rank.
        # The same as `sorter.is_settled`, inlined: a queued call comes here twice.
        unsettled = sorter.outdated or sorter.steps is not None or self.lanes.states_replaced
        if unsettled and not sorter.go_on(now):
            return now
        if now < (held := self.own.held):
            return held
        if scheduler.active:
            return scheduler.step(now, planned)
        for line in waiters.lines.values():  # there is at most one
            return self._release_line(line, now, planned)
        return math.inf  # all waiting calls were cancelled, and have not left yet

    def _release_line(self, line: Line[Call], now: float, planned: float) -> float | None:
        """Do the same as `release_due`, where there is one line."""
        waiters, grant, scheduler = self._host.waiters, self._host.grant, self._scheduler
        limits: States = self.own.states if line.limits is None else line.limits
        alone = limits[0] if len(limits) == 1 else None
        bucket = alone if type(alone) is TokenBucket else None
        for _ in range(_AT_ONCE):
            call = line.first()
            if call is None:
                break
            costs = call.costs
            # Three ways to do the same, `consume_if_due`: for most queues, in one call or two.
            if bucket is not None and costs is ONE_CALL:
                due = bucket.consume_one_if_due(now)
            elif alone is None:
                due = consume_if_due(limits, now, costs)
            elif (due := alone.next_at(now, costs)) <= now:
                alone.consume(now, costs)
            if due > now:
                if due < planned + QUANTUM:
                    return next_look(limits, costs, due, now, planned)
                return due
            waiters.pop(call)
            grant(call, now)
            if scheduler.disturbed:  # an observer of the grant has changed something
                return now
        else:  # `_AT_ONCE` calls have started: other tasks run before the next ones do
            return now
        # inf: those that still count are cancelled, and will leave.
        return math.inf if waiters.live else None

    # Afterwards.

    def ended(self, call: Call, *, used: bool) -> None:
        """Give back the permits of a call, or all charges of a call that was not made."""
        if used:
            self._release(call)
        else:
            self._refund(call)

    def _release(self, call: Call) -> None:
        own = self.own
        own.adapt_permits()
        # Of the queue's own limits, only permanent states need the end of a body (servers' reports
        # may wait for it): `QueuePermits` read the dispatcher's count.
        for limit in call.limits or own.permanent:
            if limit.release(call.waited_until):
                self._scheduler.changed(limit)
        self._look_again([limit for limit in own.states if isinstance(limit, Permits)])

    def charged(self, call: Call) -> States:
        """Return the states that a call was charged to, less those that have been replaced."""
        return self.own.charged(call.waited_until) if call.limits is None else call.limits

    def _refund(self, call: Call) -> None:
        now, at = self._host.loop.now(), call.waited_until
        charged = self.charged(call)
        if self.server_quotas is not None:
            charged = self.server_quotas.refunded(charged, call, now)
        for limit in charged:
            if limit.concerns(call.costs):  # one that was added since may not concern it
                limit.refund(now, at, call.costs)
                self._scheduler.changed(limit)
        self._host.wake()

    def apply(self, *statements: Statement) -> None:
        """Apply statements. If a limit is too small for a waiting call, none is applied."""
        if limits := {one.key: one.limits for one in statements if isinstance(one, SetLimits)}:
            self._sorter.check(limits)
        for statement in statements:
            handle = self._handlers.get(type(statement), LocalLimiter._pass_to_server)
            handle(self, statement)

    def _settle(self, settled: Settled) -> None:
        """Charge the difference to the true costs."""
        call, costs = settled.call, settled.costs
        now, at = self._host.loop.now(), call.waited_until
        charged = self.charged(call)
        if self.server_quotas is not None:
            charged = self.server_quotas.settled(charged, call, now)
        # A higher cost is charged to all limits in force: also to one whose unit the call was not
        # expected to use, and to a lane that has been evicted meanwhile.
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
            # A state that was added after the late charge was not charged by it.
            first, late_at = late.get(unit, (before, -math.inf))
            was_charged_late = late_at > self.own.since(limit)
            if cost < before and was_charged_late and isinstance(limit, TokenBucket):
                # The last charge comes back first, as of the instant of that charge.
                limit.adjust(now, late_at, before, max(first, cost))
                self._scheduler.changed(limit)
                before = max(first, cost)
            # What was charged late was charged to states that did not concern the call at first.
            if cost > before or (cost < before and (was_charged_late or limit in charged)):
                limit.adjust(now, at, before, cost)
                self._scheduler.changed(limit)
        if self.refusals is not None:
            self.refusals.settled(call, charged)
        self._host.wake()

    # Decisions and reports.

    def _throttle(self, throttled: Throttled) -> None:
        """Hold, and slow down once for each round of calls."""
        host, now = self._host, self._host.loop.now()
        call, key = throttled.call, throttled.key
        if call is not None and key == call.key:
            key = self.lanes.first_with_limits(call.keys)
        # Each key has a round of its own, also if a pattern gives many of them their limits.
        scope = None if key is None or self.lanes.limits_of(key) is None else (key,)
        if call is not None and call.started:
            released_at = call.waited_until
        else:  # a report without a call counts once until the calls of its round have ended
            released_at = now if self._rounds.is_new(scope) else -math.inf
        # In any case, also if this round has been slowed down already.
        if throttled.retry_after is not None:
            self._hold(Hold(key, now + throttled.retry_after))
        lane = None if key is None else self.lanes.find(key, now)
        states = self.own.states if lane is None else lane.states
        running = host.started - host.ended
        if any([state.back_off(now, released_at, running) for state in states]):  # noqa: C419 - none may be skipped
            self.own.adapt_permits()
            self._look_again(states)
            self._rounds.begin(scope)
            rate = _calls_allowed(states)
            host.emit("backed_off", call, key=key, rate=None if rate == math.inf else rate)

    def _hold(self, hold: Hold) -> None:
        """Start no call of a key if it has a lane, and else no call at all."""
        now, key = self._host.loop.now(), hold.key
        lane = None if key is None else self.lanes.find(key, now)
        if lane is not None:
            lane.hold(hold.until)
            self._look_again(lane.all_states())
        else:
            self._held = max(self._held, hold.until)
            self._hold_all()

    def _pass_to_server(self, statement: Statement) -> None:
        if self.server_quotas is None:
            self.server_quotas = policy.load()[1](self, self._host, self._own_permits)
        self.server_quotas.apply(statement)

    def state_changed(self, state: LimitState) -> None:
        """Look again at the calls to which a state applies."""
        self._scheduler.changed(state)

    def add_state(self, lane: Lane | None, state: LimitState, now: float) -> None:
        """Add a state beside those of the limits, to a lane or (None) to the queue."""
        self.counts_permits |= lane is None
        self._sorter.add_state(lane, state, now)

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane, or (key None) of the queue; None: no lane."""
        if key is None:
            return self.own.limits
        limits = self.lanes.limits_of(key)
        return None if limits is None else tuple(limits)

    def _pause(self, pause: Pause) -> None:
        self._paused = max(self._paused, pause.until)
        self._hold_all()

    def _resume(self, _: Resume) -> None:
        """End all pauses; the time that was lost is not made up for."""
        self._paused = min(self._paused, self._host.loop.now())
        self._hold_all()

    def _hold_all(self) -> None:
        self._scheduler.disturbed = True  # an observer of a grant may call this within a step
        self.own.hold(max(self._paused, self._held))
        self._look_again(self.own.states)

    def _look_again(self, states: Iterable[LimitState]) -> None:
        """Look again at the calls to which these states apply."""
        for state in states:
            self._scheduler.changed(state)
        self._host.wake()

    def _set_limits(self, changed: SetLimits) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        self._sorter.set_limits(changed.key, changed.limits, self._host.loop.now())
        self.counts_permits |= _has_permits(changed.limits)
        self._raise_at(changed.limits)
        self._host.wake()

    # Figures, and the end.

    def idle_at(self, now: float) -> float:
        """Return the instant from which all limits are fully recovered."""
        return max(self.own.idle_at(now), self.lanes.idle_at(now))

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> LimiterStats:
        """Return the figures of this moment."""
        from aioapiqueue._core import limit_figures  # noqa: PLC0415 - only figures need it

        now = self._host.loop.now()
        limits, states = self._limits_at(key)
        permits = [state.most for state in self.own.states if isinstance(state, Permits)]
        return LimiterStats(
            lanes=len(self.lanes.by_key),
            remaining=limit_figures.remaining(
                states,
                self._host.units.names,
                now,
                is_held=key is None and self.own.held > now,
            ),
            budgets=limit_figures.budgets(limits, states, now),
            idle_at=self.idle_at(now) if deep and not self.lanes.altered else math.inf,
            rate=_calls_allowed(self.own.states),
            paused_until=self._paused,
            held_until=self._held,
            permits=min(permits, default=math.inf),
        )

    def _limits_at(self, key: Hashable) -> tuple[Sequence[Limit], Sequence[LimitState]]:
        """Return the queue's own limits (None), or those of a key's lane, and their states."""
        lanes = self.lanes
        if key is None:
            return self.own.limits, self.own.states
        if (lane := lanes.by_key.get(key)) is not None:
            return lane.limits, lane.states
        # Not in memory: it is fully recovered, and must not be made for a figure.
        limits = lanes.limits.get(key, ())
        return limits, lanes.maker.states_of(limits)

    async def aclose(self) -> None:
        """Do nothing: nothing is running."""

    _handlers: ClassVar[dict[type[Statement], Callable[[LocalLimiter, Any], None]]] = {
        SetLimits: _set_limits,
        Pause: _pause,
        Resume: _resume,
        Hold: _hold,
        Throttled: _throttle,
        Settled: _settle,
    }
    """Where a statement takes effect; those that are not listed go to the policy for reports."""


def _has_permits(*limits: Sequence[Limit]) -> bool:
    return any(isinstance(one, Concurrency) for its in limits for one in its)


def _calls_allowed(states: Iterable[LimitState]) -> float:
    """Return the calls per second that a slow-down has left; inf: whatever the limits say."""
    return min((state.allowed() for state in states if not state.unit), default=math.inf)
