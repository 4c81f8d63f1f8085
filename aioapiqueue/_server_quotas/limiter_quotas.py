"""The policy of one limiter: applies servers' reports as bounds and as permits for first calls.

Bounds and permits are limit states of a lane, or of all calls, in addition to those of its limits.
See `_core/quota_policy.py`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency
from aioapiqueue._server_quotas.server_bound import ServerBound, bound_for, refill_time
from aioapiqueue.spi import algorithms, cost_units, limit_types, statements, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from aioapiqueue.spi import Call, Host, lane_states, quota_policy

_MANY_KEYS = 10_000
"""Largest number of keys whose first response is remembered. A forgotten key starts with one call
at a time again."""

States = tuple["algorithms.LimitState", ...]


class LocalQuotas:
    """Applies servers' reports to one limiter.

    Args:
        limiter: the limiter.
        host: the queue's dispatcher.
        permits: makes permits that count all calls of the queue.
    """

    __slots__ = ("_answered", "_calls", "_first", "_host", "_learns", "_limiter", "_permits")

    def __init__(
        self,
        limiter: quota_policy.BoundedLimiter,
        host: Host,
        permits: Callable[[Concurrency], windows.Permits],
    ) -> None:
        self._limiter = limiter
        self._host = host
        self._calls = host.find_server_quotas()
        self._permits = permits
        self._learns = False
        self._first: tuple[windows.Permits, ...] = ()
        """The permits of all calls, until the first response."""
        self._answered: dict[Hashable, None] = {}
        """Keys with a response, the latest last; None: any key."""

    def apply(self, statement: statements.Statement) -> None:
        """Apply a report, or the request to learn limits."""
        match statement:
            case statements.ServerCount():
                self._sync(statement)
            case statements.Answered(call):
                self._answer(call)
            case statements.Learn():
                self._learn()
            case statements.Learnt(key, limits):
                known = self._limiter.limits_of(key) or ()
                rest = tuple(one for one in known if not isinstance(one, limit_types.LearntRate))
                self._limiter.apply(statements.SetLimits(key, (*rest, *limits)))

    # Remaining quotas.

    def _sync(self, count: statements.ServerCount) -> None:
        """Bound what may start, by a report on a call or on a key."""
        limiter, host, now = self._limiter, self._host, self._host.loop.now()
        call, key, unit = count.call, count.key, count.unit
        if call is not None:
            # A response names no lane: of several, that of the first key is assumed.
            key = limiter.lanes.first_with_limits(call.keys)
        lane = None if key is None else limiter.lanes.find(key, now)
        states = limiter.own.states if lane is None else lane.extra
        bounds = [one for one in states if isinstance(one, ServerBound) and one.unit == unit]
        bound = bound_for(count, bounds, now)
        if bound not in bounds:
            limiter.add_state(lane, bound, now)
        scope = None if lane is None else key  # without a lane, the report is on all calls
        bound.cost_out = partial(self._calls.cost_out, scope, unit, with_ended=False)
        reset = count.reset
        if reset is None:
            limits = limiter.own.limits if lane is None else lane.limits
            reset = refill_time(limits, host.units.names[unit])
        out, answered = self._calls.costs_uncounted(call, scope, count)
        own: float = 0
        if call is not None and cost_units.is_stated(call.costs, unit):
            own = call.costs[unit]
        for other in bounds:
            if other is not bound:
                other.widen_uncertainty(count)
        if bound.set(count, until=now + reset, out=out, answered=answered, now=now, own=own):
            limiter.state_changed(bound)
            # A limit that was learnt with this quota must not be stricter than its latest report.
            for state in limiter.own.states if lane is None else lane.kept:
                if (
                    isinstance(state, algorithms.LearntBucket)
                    and state.unit == unit
                    and state.is_of(count.limit)
                ):
                    state.follow(bound.left, now)
                    limiter.state_changed(state)
            host.wake()

    def _bounds_over(self, call: Call, now: float) -> list[ServerBound]:
        lanes = self._limiter.lanes.find_all(call.keys, now)
        states = [*self._limiter.own.states, *(state for lane in lanes for state in lane.extra)]
        return [state for state in states if isinstance(state, ServerBound)]

    def refunded(self, charged: States, call: Call, now: float) -> States:
        """Return the states that get back what an unused slot was charged.

        These are all bounds of the call as well: later reports were applied as if it was in flight.
        """
        return tuple(dict.fromkeys((*charged, *self._bounds_over(call, now))))

    def settled(self, charged: States, call: Call, now: float) -> States:
        """Return the charged states, with only those bounds from which its cost was subtracted."""
        outcome, at = self._calls.outcome(call), call.waited_until
        bounds = self._bounds_over(call, now)
        rest = [state for state in charged if state not in bounds]
        subtracted = [x for x in bounds if x.was_subtracted(at, outcome, charged=x in charged)]
        return (*rest, *subtracted)

    # First responses.

    def _learn(self) -> None:
        """Run one call of a lane at a time until its first response, from now on."""
        if self._learns:
            return
        limiter, now = self._limiter, self._host.loop.now()
        self._learns = limiter.counts_permits = True
        # With lanes, a server is assumed to count by key: each lane has a first call of its own.
        if not limiter.lanes.limits and None not in self._answered:
            self._first = (self._permits(Concurrency(1)),)
            limiter.add_state(None, self._first[0], now)
        for key, lane in limiter.lanes.by_key.items():
            if key not in self._answered:
                limiter.add_state(lane, windows.Permits(Concurrency(1)), now)
        limiter.lanes.on_new.append(self._begin_lane)

    def _begin_lane(self, key: Hashable, lane: lane_states.Lane) -> None:
        if key not in self._answered:
            lane.add(windows.Permits(Concurrency(1)))

    def _answer(self, call: Call) -> None:
        """Note that a call has its response: more calls of its lanes may run from now on."""
        limiter = self._limiter
        for limit in limiter.states_of(call):
            # The response to the first call of a window lets the next calls start.
            if isinstance(limit, ServerBound) and limit.release(call.waited_until):
                limiter.state_changed(limit)
                self._host.wake()
        if None not in self._answered:
            self._answered[None] = None
            self._open(self._first)
        for key in call.keys:
            if key in self._answered:
                continue
            self._answered[key] = None
            if len(self._answered) > _MANY_KEYS:
                del self._answered[next(key for key in self._answered if key is not None)]
            lane = limiter.lanes.by_key.get(key)
            if lane is not None:
                self._open(lane.extra)

    def _open(self, states: Iterable[algorithms.LimitState]) -> None:
        for state in states:
            # It stays as a state without effect: to remove it, calls would have to be sorted again.
            if isinstance(state, windows.Permits):
                state.number = state.most = math.inf
                self._limiter.state_changed(state)
        self._host.wake()
