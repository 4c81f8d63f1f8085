"""Applies servers' reports to a `LocalLimiter`: bounds, and lanes that wait for a first response.

A limiter gets this policy with the first such statement. Bounds, and the permits for first
responses, are states like those of limits: of a lane, or of all calls.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from aioapiqueue._core.statements import Answered, Learn, Learnt, ServerCount, SetLimits
from aioapiqueue._limits.algorithms import LearntBucket
from aioapiqueue._limits.rates import Concurrency, LearntRate
from aioapiqueue._limits.units import is_stated
from aioapiqueue._limits.windows import Permits
from aioapiqueue._server_quotas.server_bound import ServerBound, bound_for, refill_time

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from aioapiqueue._core.limiter import Host
    from aioapiqueue._core.quota_policy import QuotaLimiter
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.statements import Statement
    from aioapiqueue._limits.algorithms import LimitState
    from aioapiqueue._limits.lanes import Lane

__all__ = ["LocalQuotas"]

_MANY_KEYS = 10_000
"""Keys that are remembered to have been answered: of others, one call is out at first again."""

States = tuple["LimitState", ...]


class LocalQuotas:
    """Has one limiter obey what servers say.

    Args:
        limiter: which one.
        host: the queue's dispatcher.
        permits: makes the permits of all calls of the queue.
    """

    __slots__ = ("_answered", "_calls", "_first", "_host", "_learns", "_limiter", "_permits")

    def __init__(
        self, limiter: QuotaLimiter, host: Host, permits: Callable[[Concurrency], Permits]
    ) -> None:
        self._limiter = limiter
        self._host = host
        self._calls = host.server_quotas()
        self._permits = permits
        self._learns = False
        self._first: tuple[Permits, ...] = ()
        """Those of all calls, until the first answer."""
        self._answered: dict[Hashable, None] = {}
        """Keys that the server has answered a call of, the latest last; None: any."""

    def apply(self, statement: Statement) -> None:
        """Apply what a server has said, or what is to be learnt of it."""
        match statement:
            case ServerCount():
                self._sync(statement)
            case Answered(call):
                self._answer(call)
            case Learn():
                self._learn()
            case Learnt(key, limits):
                known = self._limiter.limits_of(key) or ()
                rest = tuple(one for one in known if not isinstance(one, LearntRate))
                self._limiter.apply(SetLimits(key, (*rest, *limits)))

    # What remains.

    def _sync(self, count: ServerCount) -> None:
        """Let no more start than the server says: in the answer to a call, or (None) of a key."""
        limiter, host, now = self._limiter, self._host, self._host.loop.now()
        call, key, unit = count.call, count.key, count.unit
        if call is not None:
            key = limiter.lanes.first_with_limits(call.keys)
        lane = None if key is None else limiter.lanes.find(key, now)
        states = limiter.own.states if lane is None else lane.extra
        bounds = [one for one in states if isinstance(one, ServerBound) and one.unit == unit]
        bound = bound_for(count, bounds, now)
        if bound not in bounds:
            limiter.add_state(lane, bound, now)
        scope = None if lane is None else key
        bound.cost_out = partial(self._calls.cost_out, scope, unit, with_ended=False)
        reset = count.reset
        if reset is None:
            limits = limiter.own.limits if lane is None else lane.limits
            reset = refill_time(limits, host.units.names[unit])
        out, answered = self._calls.costs_uncounted(call, scope, count)
        own: float = 0
        if call is not None and is_stated(call.costs, unit):
            own = call.costs[unit]
        for other in bounds:
            if other is not bound:
                other.doubt(count)
        if bound.set(count, until=now + reset, out=out, answered=answered, now=now, own=own):
            limiter.state_changed(bound)
            for state in limiter.own.states if lane is None else lane.kept:
                if isinstance(state, LearntBucket) and (state.unit, state.burst) == (
                    unit,
                    count.limit,
                ):
                    state.follow(bound.left, now)
                    limiter.state_changed(state)
            host.wake()

    def _bounds_over(self, call: Call, now: float) -> list[ServerBound]:
        lanes = self._limiter.lanes.find_all(call.keys, now)
        states = [*self._limiter.own.states, *(state for lane in lanes for state in lane.extra)]
        return [state for state in states if isinstance(state, ServerBound)]

    def refunded(self, charged: States, call: Call, now: float) -> States:
        """Return what an unused slot comes back to: what it was charged, and all bounds over it.

        What the server has said since was reckoned as if the call were out.
        """
        return tuple(dict.fromkeys((*charged, *self._bounds_over(call, now))))

    def settled(self, charged: States, call: Call, now: float) -> States:
        """Return what a call was charged to, with those bounds alone that it was taken off."""
        outcome, bounds, at = (
            self._calls.outcome(call),
            self._bounds_over(call, now),
            call.waited_until,
        )
        rest = [state for state in charged if state not in bounds]
        off = [one for one in bounds if one.was_taken_off(at, outcome, charged=one in charged)]
        return (*rest, *off)

    # First answers.

    def _learn(self) -> None:
        """Let one call of a lane out at a time until it has its first answer, from now on."""
        if self._learns:
            return
        limiter, now = self._limiter, self._host.loop.now()
        self._learns = limiter.counts_permits = True
        if not limiter.lanes.limits and None not in self._answered:
            self._first = (self._permits(Concurrency(1)),)
            limiter.add_state(None, self._first[0], now)
        for key, lane in limiter.lanes.by_key.items():
            if key not in self._answered:
                limiter.add_state(lane, Permits(Concurrency(1)), now)
        limiter.lanes.on_new.append(self._begin_lane)

    def _begin_lane(self, key: Hashable, lane: Lane) -> None:
        if key not in self._answered:
            lane.add(Permits(Concurrency(1)))

    def _answer(self, call: Call) -> None:
        """Note that the server has answered a call: more of its lanes may be out from now on."""
        limiter = self._limiter
        for limit in limiter.states_of(call):
            # One that went first into a window lets the others go, too.
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

    def _open(self, states: Iterable[LimitState]) -> None:
        for state in states:
            if isinstance(state, Permits):
                state.number = state.most = math.inf
                self._limiter.state_changed(state)
        self._host.wake()
