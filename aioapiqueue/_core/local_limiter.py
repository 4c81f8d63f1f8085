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
from aioapiqueue._core.wait_lists import is_stood_at, is_waited_for, lines_under
from aioapiqueue._limits.algorithms import LimitState, Permits, TokenBucket
from aioapiqueue._limits.charging import charge_full_pair, consume_if_due, try_consume
from aioapiqueue._limits.lanes import (
    Lanes,
    StateMaker,
    bounds_of,
    find_patterns,
    name_of,
    refuse_cost,
    takes_one,
    those_concerned,
)
from aioapiqueue._limits.rates import PERMITS, Concurrency, largest_of, unit_of
from aioapiqueue._limits.units import ONE_CALL, UNSTATED, LateCosts, is_stated

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._core.limiter import Host
    from aioapiqueue._core.statements import Statement
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.lanes import AdaptivePolicy, Bounds, Lane
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


class _Terms:
    """What follows from the limits in force for all newcomers.

    Args:
        own: the limits of the queue.
        has_lanes: whether any key has limits besides.
        units: how many there are.
    """

    __slots__ = ("bounds", "has_optional", "takes_any", "takes_one")

    def __init__(self, own: States, *, has_lanes: bool, units: int) -> None:
        self.bounds = bounds_of(own)
        self.has_optional = any(state.optional for state in own)
        self.takes_one = not has_lanes and takes_one(own)
        """Whether a call with the default cost is subject only to the queue's own limits, which
        accept this cost."""
        unbounded = not has_lanes and all(largest == math.inf for _, largest in self.bounds)
        self.takes_any = units if unbounded else -1
        """The same for an explicit cost with this many units, all positive; -1: for none."""


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

    traits = LimiterTraits((Call, DetailedCall), alone=True)
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
        self.limits = tuple(limits)
        self._host = host
        new_maker = partial(
            StateMaker,
            host.units,
            catch_up=catch_up,
            adaptive=adaptive,
            report=report_error,
            to_wall=host.loop.to_wall,
        )
        self._maker = new_maker(permits=partial(_QueuePermits, host), concurrency=concurrency)
        self._fixed: States = ()
        if concurrency < math.inf:
            self._fixed = (_QueuePermits(host, Concurrency(int(concurrency))),)
        self._own = (*self._maker.states_of(self.limits), *self._fixed)
        self._own_since: dict[LimitState, float] = {}
        """Of own limits that replaced others: when."""
        self._lane_maker = new_maker()
        for limits_of_lane in lanes.values():
            # Refuses now what it would refuse at the first call.
            self._lane_maker.states_of(limits_of_lane)
        self._lanes = Lanes(lanes, self._lane_maker, in_use=self._is_in_use)
        self.counts_permits = False
        self._paused = self._held = self._held_until = -math.inf
        """The instants until which users and the other side hold everything; the later of them."""
        self._rounds = PushbackRounds(host)
        self._note_limits(limits, *lanes.values())

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop; what was let through still counts, unless time is another."""
        if clock_changed:
            self._paused = self._held = self._held_until = -math.inf
            self._fixed = tuple(one for one in self._fixed if isinstance(one, Permits))
            self._own = (*self._maker.states_of(self.limits), *self._fixed)
            self._own_since = {}
            self._lanes = self._lanes.empty_copy()
        self._lanes.forget_callers()
        for state in self._own:
            state.forget_callers()
        self._sorter = Sorter(
            self._host,
            self._lanes,
            own=lambda: self._own,
            limits_of=self._limits_of_line,
            find_limits=self._find_again,
        )
        self._scheduler = self._sorter.scheduler

    def _note_limits(self, *changed: Sequence[Limit]) -> None:
        """Note what follows from the limits in force.

        Args:
            changed: those of the queue and of lanes that have changed.
        """
        has_lanes, units = bool(self._lanes.limits), len(self._host.units)
        self._terms = _Terms(self._own, has_lanes=has_lanes, units=units)
        # For good: bodies may hold permits of a limit that is gone, and comes back.
        self.counts_permits |= bool(self._fixed) or any(
            isinstance(limit, Concurrency) for limits in changed for limit in limits
        )

    # What a call comes under.

    def _limits_of_line(self, line: Line[Call]) -> States:
        return self._own if line.limits is None else line.limits

    def states_of(self, call: Call) -> States:
        """Return the states that a call comes under."""
        return self._own if call.limits is None else call.limits

    def _is_in_use(self, _key: Hashable, lane: Lane) -> bool:
        # While all are sorted again, no lane looks as if somebody waited in it.
        return self._sorter.is_sorting or any(map(is_waited_for, lane.all_states()))

    def _find_limits(self, call: Call, now: float, *, evicts: bool = True) -> States:
        """Find what a newcomer comes under, and note it in the call.

        Raises:
            ValueError: one of the limits is too small for it, or counts a unit of which it says
                nothing.
        """
        limits, terms, costs = self._own, self._terms, call.costs
        self._check(terms.bounds, costs, self.limits, None)
        if 0 in costs or terms.has_optional:
            limits = those_concerned(limits, costs)
        if self._lanes.limits:
            if len(call.keys) == 1 and costs is ONE_CALL:  # most
                find = self._lanes.find if evicts else self._lanes.get
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
            elif evicts and not self._own:  # of a newcomer
                self._host.starts_unpaced(call)
        if limits != self._own:
            call.limits = limits
        return limits

    def _find_again(self, call: Call, now: float) -> None:
        """Find what a call that waits comes under now, and note it in the call."""
        call.limits = None
        self._find_limits(call, now, evicts=False)

    def _with_lanes(self, limits: States, call: Call, now: float, *, evicts: bool) -> States:
        """Return limits of the queue and those of a call's lanes, checked as by `_find_limits`."""
        costs = call.costs
        lanes = self._lanes.find_all(call.keys, now, evicts=evicts)
        if evicts and not lanes and not self._own:
            self._host.starts_unpaced(call)
        for lane in lanes:
            if costs is ONE_CALL and lane.takes_one and lane.states:  # most
                limits += lane.states
                continue
            self._check(lane.bounds, costs, lane.limits, lane.name)
            limits += lane.states_for(costs)
        return tuple(dict.fromkeys(limits)) if len(lanes) > 1 else limits

    def _check(
        self, bounds: Bounds, costs: Sequence[float], limits: Sequence[Limit], name: Hashable
    ) -> None:
        """Refuse costs that limits could never let through, or say nothing of what they count."""
        for unit, largest in bounds:
            if unit >= len(costs) or not costs[unit] <= largest:  # NaN is neither
                refuse_cost(unit, costs, self._host.units, limits, name)

    # From arrival to release.

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:
        own = self._own
        if not own or self._lanes.limits or self.counts_permits or self._terms.has_optional:
            return FastAcquire(follows_ends=self.counts_permits)
        one = None
        if not any(state.unit for state in own):
            one = partial(try_consume, own, costs=ONE_CALL)
            if len(own) == 1:
                one = own[0].try_consume_one
        return FastAcquire(one, charge_full_pair(own, totals))

    def check(self, costs: Sequence[float]) -> None:
        """Refuse a cost that the queue's own limits could never let through."""
        self._check(self._terms.bounds, costs, self.limits, None)

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a newcomer to all its limits, if all of them have room."""
        waiters, terms, costs = self._host.waiters, self._terms, call.costs
        if costs is ONE_CALL:
            is_usual = terms.takes_one
        else:
            is_usual = len(costs) == terms.takes_any and 0 not in costs and UNSTATED not in costs
        limits = self._own if is_usual else self._find_limits(call, now)
        if waiters.live:
            # Most are behind others of their line.
            line = waiters.name_of_line(call) if waiters.ordering is not None else call.limits
            return line not in waiters.lines and self._try_overtake(call, limits, now)
        for limit in limits:
            limit.on_idle(now)
        if self.counts_permits:
            self._adapt_permits()  # after a long rest there may be more permits again
        return now >= self._held_until and consume_if_due(limits, now, costs) <= now

    def _try_overtake(self, call: Call, limits: States, now: float) -> bool:
        """Charge a newcomer while others wait, if none of them comes before it at its limits."""
        if call.limits is not None:
            for limit in limits:
                if not is_waited_for(limit) and limit not in self._own:
                    limit.on_idle(now)
        if now < self._held_until or not self._sorter.is_settled:
            return False
        self._sorter.schedule(now)
        if self._scheduler.is_late(now) and self._is_shared(limits):
            return False  # somebody who waits may be due, and goes before
        return self._scheduler.try_start(call, limits, now)

    def _is_shared(self, limits: States) -> bool:
        """Return whether somebody who waits may come under one of these limits, or under none."""
        shared = any(limit in self._own or is_waited_for(limit) for limit in limits)
        return shared or is_stood_at(self._scheduler.nothing)

    def joined(self, call: Call) -> None:
        """Note that a call waits now."""
        line = call.line
        if line.counted and not self._scheduler.active and len(self._host.waiters.lines) == 1:
            return  # there is no other line to be compared with
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
        return max([self._held_until, *(due for due in dues if due < math.inf)])

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer would start, if all who wait are charged first.

        Unless they are less urgent, all of them.
        """
        if call is None:
            return self._all_started(now)
        if alone:
            return self._earliest(call, now)
        waiters, limits = self._host.waiters, self._find_limits(call, now)
        when = max(now, self._held_until)
        for limit in limits:
            is_own = limit in self._own
            lines = waiters.lines.values() if is_own else lines_under(limit)
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
        waiters, when = self._host.waiters, max(now, self._held_until)
        lines = list(waiters.lines.values())
        first: dict[LimitState, float] = dict.fromkeys(self._own, 0)
        for line in lines:
            call = line.first()
            if call is None:
                continue
            for limit in self._limits_of_line(line):
                cost = call.costs[limit.unit] if is_stated(call.costs, limit.unit) else 0
                first[limit] = max(first.get(limit, 0), cost)
        for limit, largest in first.items():
            # The queue's own counts all of them, be it that they are being sorted again.
            own = limit in self._own
            under = () if own else lines_under(limit)
            cost = waiters.total(limit.unit) if own else sum(one.total(limit.unit) for one in under)
            if cost:
                when = max(when, limit.all_started(now, cost, min(largest, cost)))
        return when

    def release_due(self, now: float) -> float | None:
        """Grant all that are due; return when to look again (None: nobody waits)."""
        waiters = self._host.waiters
        self._scheduler.disturbed = False
        if not waiters.live:
            return None
        sorter = self._sorter
        if not (sorter.is_settled or sorter.go_on(now)):
            return now
        if now < (held := self._held_until):
            return held
        if self._scheduler.active:
            wake = self._scheduler.step(now)
            if not waiters.live:
                self._scheduler.end()
            return wake
        for line in list(waiters.lines.values()):  # there is at most one
            return self._release_line(line, now)
        return math.inf  # all who wait have gone, and not left yet

    def _release_line(self, line: Line[Call], now: float) -> float | None:
        """As `release_due`, where all who wait come under the same limits."""
        waiters, grant, limits = self._host.waiters, self._host.grant, self._limits_of_line(line)
        consume: Callable[[float, Sequence[float]], float] = partial(consume_if_due, limits)
        consume_one: Callable[[float], float] = partial(consume_if_due, limits, costs=ONE_CALL)
        if len(limits) == 1:
            consume, consume_one = limits[0].consume_if_due, limits[0].consume_one_if_due
        for _ in range(_AT_ONCE):
            call = line.first()
            if call is None:
                break
            costs = call.costs
            due = consume_one(now) if costs is ONE_CALL else consume(now, costs)
            if due > now:
                return due
            waiters.pop(call)
            if not line.live:
                self._sorter.drop(line)
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
        self._adapt_permits()
        for limit in call.limits or self._fixed:
            if limit.release(call.waited_until):
                self._scheduler.changed(limit)
        for limit in self._own:
            if isinstance(limit, Permits):
                self._scheduler.changed(limit)
        self._host.wake()

    def _refund(self, call: Call) -> None:
        now, at = self._host.loop.now(), call.waited_until
        charged = self.states_of(call)
        if self.server is not None:
            charged = self.server.refunded(charged, call, now)
        for limit in charged:
            if call.limits is None and self._own_since.get(limit, -math.inf) >= at:
                continue  # it has replaced the one that was charged; as in `_settle`
            if limit.concerns(call.costs):  # one that came later may not
                limit.refund(now, at, call.costs)
                self._scheduler.changed(limit)
        self._host.wake()

    def apply(self, *statements: Statement) -> None:
        """Apply statements; of limits, none if one is too small for a call that waits."""
        if limits := {one.key: one.limits for one in statements if isinstance(one, SetLimits)}:
            self._check_waiters(limits)
        for statement in statements:
            self._handlers[type(statement)](self, statement)

    def _settle(self, settled: Settled) -> None:
        """Charge the difference to the true costs."""
        call, costs = settled.call, settled.costs
        now, at = self._host.loop.now(), call.waited_until
        charged = self.states_of(call)
        if call.limits is None and self._own_since:
            # The limits that it was charged to may have been replaced since. At one and the same
            # instant, it is not known which came first: to give nothing back is safe.
            charged = tuple([x for x in charged if self._own_since.get(x, -math.inf) < at])
        if self.server is not None:
            charged = self.server.settled(charged, call, now)
        # What is owed besides is owed to all limits in force, even if the call used nothing of one
        # when it started, or if its lane was forgotten meanwhile, as nobody called for long.
        in_force = dict.fromkeys((*charged, *self._own))
        if self._lanes.limits:
            for lane in self._lanes.find_all(call.keys, now):
                in_force.update(dict.fromkeys(lane.states))
        late = call.costs.late if isinstance(call.costs, LateCosts) else {}
        for limit in in_force:
            unit = limit.unit
            if isinstance(limit, Permits) or not is_stated(costs, unit):
                continue
            before, cost = call.costs[unit] if is_stated(call.costs, unit) else 0, costs[unit]
            first, late_at = late.get(unit, (before, -math.inf))
            was_charged_late = late_at > self._own_since.get(limit, -math.inf)
            if cost < before and was_charged_late and isinstance(limit, TokenBucket):
                # What it was charged last comes back first, as of when it was charged.
                limit.adjust(now, late_at, before, max(first, cost))
                self._scheduler.changed(limit)
                before = max(first, cost)
            if cost > before or (cost < before and limit in charged):
                limit.adjust(now, at, before, cost)
                self._scheduler.changed(limit)
        self._host.wake()

    def _adapt_permits(self) -> None:
        most = min((state.permits() for state in self._own), default=math.inf)
        for state in self._own:
            if isinstance(state, Permits):
                state.most = min(state.number, most)

    # What the other side and users say.

    def _throttle(self, throttled: Throttled) -> None:
        """Hold, and slow down once for each round of calls."""
        host, now = self._host, self._host.loop.now()
        call, key = throttled.call, throttled.key
        if call is not None and key == call.key:
            key = self._lanes.first_with_limits(call.keys)
        # Of lanes found by one pattern, each slows down for itself.
        scope = None if key is None or self._lanes.limits_of(key) is None else (key,)
        if call is not None and call.started:
            released_at = call.waited_until
        else:
            released_at = now if self._rounds.is_news(scope) else -math.inf
        if throttled.retry_after is not None:
            self._hold(Hold(key, now + throttled.retry_after))
        lane = None if key is None else self._lanes.find(key, now)
        states = self._own if lane is None else lane.states
        running = host.started - host.ended
        if any([state.push_back(now, released_at, running) for state in states]):  # noqa: C419 - each is to hear
            self._adapt_permits()
            for state in states:
                self._scheduler.changed(state)
            host.wake()
            self._rounds.begin(scope)
            rate = _calls_allowed(states)
            host.emit("backed_off", call, key=key, rate=None if rate == math.inf else rate)

    def _hold(self, hold: Hold) -> None:
        """Start nothing of a key's lane, if it has one, or nothing at all."""
        now, key = self._host.loop.now(), hold.key
        lane = None if key is None else self._lanes.find(key, now)
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

    @property
    def lanes(self) -> Lanes:
        """The limits of single keys."""
        return self._lanes

    @property
    def own_states(self) -> States:
        """The states of the queue's own limits, in their order, and others after them."""
        return self._own

    def state_changed(self, state: LimitState) -> None:
        """Look again at who comes under a state."""
        self._scheduler.changed(state)

    def add_state(self, lane: Lane | None, state: LimitState, now: float) -> None:
        """Have one more state, which is not that of a limit, in a lane or (None) for all calls."""
        self._scheduler.disturbed = True
        if lane is not None:
            lines = self._sorter.lines_in(lane)
            lane.add(state)
            self._sorter.sort_lines_again(lines, now)
        else:
            state.held = self._held_until
            self._fixed += (state,)
            self._own += (state,)
            self._note_limits()
            self._sorter.sort_again(now)

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        if key is None:
            return self.limits
        limits = self._lanes.limits_of(key)
        return None if limits is None else tuple(limits)

    def _pause(self, pause: Pause) -> None:
        self._paused = max(self._paused, pause.until)
        self._hold_all()

    def _resume(self, _: Resume) -> None:
        """End a pause; what it has missed is not made up for."""
        self._paused = min(self._paused, self._host.loop.now())
        self._hold_all()

    def _hold_all(self) -> None:
        self._held_until = max(self._paused, self._held)
        self._scheduler.disturbed = True
        for state in self._own:
            state.held = self._held_until
            self._scheduler.changed(state)
        self._host.wake()

    def _set_limits(self, changed: SetLimits) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        host, now = self._host, self._host.loop.now()
        key, limits = changed.key, changed.limits
        self._lanes.altered = self._scheduler.disturbed = True
        if key is None:
            old = self._own
            rest = [state for state in old if state not in self._fixed]
            self.limits = limits
            self._own = (*self._maker.changed(rest, limits, now), *self._fixed)
            kept = {one: self._own_since.get(one, -math.inf) for one in old}
            self._own_since = {one: kept.get(one, now) for one in self._own}
            others = self._own != old
            for state in self._own:  # also where there was none before that knew of it
                state.held = self._held_until
            self._adapt_permits()
        elif key in self._lanes.by_key and not find_patterns((key,)):
            others = False
            self._change_lane(key, limits, now)
        else:
            others = key not in self._lanes.limits
            self._lanes.set_limits(key, limits, now)
            if host.waiters.live:  # else each is brought up to date when it is looked up
                self._sorter.outdate(self._lanes.those_under(key))
        self._note_limits(limits)
        self._sorter.refresh_lanes(now)
        if others:
            self._sorter.sort_again(now, key)
        elif self._sorter.is_sorting:
            self._sorter.sort_again(now)
        for state in self._own:
            self._scheduler.changed(state)
        host.wake()

    def _change_lane(self, key: Hashable, limits: tuple[Limit, ...], now: float) -> None:
        """Replace the limits of one key that is in use: only those who wait in it are concerned."""
        lane, others_too = self._lanes.by_key[key], self._lanes.states_replaced
        lines, states = self._sorter.lines_in(lane), lane.states
        self._lanes.set_limits(key, limits, now)
        for state in self._lanes.refresh(key):
            self._scheduler.changed(state)
        self._lanes.states_replaced = others_too
        if lane.states != states:
            self._sorter.sort_lines_again(lines, now)

    def _check_waiters(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        bounds: dict[Hashable, Bounds] = {}
        for key, limits in changes.items():
            maker = self._maker if key is None else self._lane_maker
            its = bounds_of(maker.states_of(limits))
            # Most: no cost is too large for them; or they are as before, beside what was learnt.
            # What a pattern fits may have come under another one: only its own limits say.
            was = self._lanes.limits.get(key) if find_patterns((key,)) else self.limits_of(key)
            if any(bound != (0, math.inf) for bound in its) and its != bounds_of(
                maker.states_of(was or ())
            ):
                bounds[key] = its
        if not bounds:
            return
        tightest = [bound for its in bounds.values() for bound in its]
        names = {*self._lanes.limits, *changes}
        patterns = find_patterns(names)
        fit: Sequence[float] = ()
        for call in self._host.waiters:
            costs = call.costs
            if costs is fit or all(
                unit < len(costs) and costs[unit] <= largest for unit, largest in tightest
            ):
                fit = costs  # most have the same
                continue
            for key in (None, *(name_of(one, names, patterns) for one in call.keys)):
                if key in bounds:
                    self._check(bounds[key], costs, changes[key], key)

    # Figures, and the end.

    def idle_at(self, now: float) -> float:
        """Return the instant from which no limit owes a wait."""
        idle_at = max([self._held_until, *(state.idle_at() for state in self._own)])
        return float(max(idle_at, self._lanes.idle_at(now)))

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> LimiterStats:
        """Return the figures of this moment."""
        now = self._host.loop.now()
        return LimiterStats(
            lanes=len(self._lanes.by_key),
            remaining=self._remaining(key, now),
            idle_at=self.idle_at(now) if deep and not self._lanes.altered else math.inf,
            rate=_calls_allowed(self._own),
            paused=self._paused == math.inf,
            permits=min(
                (state.most for state in self._own if isinstance(state, Permits)), default=math.inf
            ),
        )

    def _remaining(self, key: Hashable, now: float) -> dict[str, float]:
        """Return how much could start now, by unit; of permits: "permits"."""
        names = self._host.units.names
        lane = None if key is None else self._lanes.by_key.get(key)
        states = self._own if key is None else () if lane is None else lane.states
        found: dict[str, float] = {}
        if key is not None and lane is None:  # nobody uses it now
            for limit in self._lanes.limits.get(key, ()):
                found[unit_of(limit) or PERMITS] = min(
                    largest_of(limit), found.get(unit_of(limit) or PERMITS, math.inf)
                )
        for state in states:
            unit = PERMITS if isinstance(state, Permits) else names[state.unit]
            room = 0 if self._held_until > now and key is None else state.room(now)
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


def _is_less_urgent(line: Line[Call], priority: float) -> bool:
    """Return whether a newcomer of this priority goes before all who wait in a line."""
    first = line.first()
    return first is None or priority < first.priority


def _calls_allowed(states: Iterable[LimitState]) -> float:
    """Return the calls a second that push-back has left; inf: what the limits say."""
    return min((state.allowed() for state in states if not state.unit), default=math.inf)
