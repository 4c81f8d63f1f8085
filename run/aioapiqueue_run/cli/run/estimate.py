"""Estimates a paced run from a dry run: which limits would delay calls, and how long it would take.

Each call of the dry run is charged to its limits, on the estimate's own clock. Between two calls,
this clock advances as much as the real one. If a call would have to wait, the clock jumps to the
instant at which all its limits have room. So a call that waits delays all later calls, as in a
program that continues with the response. Two Regions have separate limits, and each recovers while
calls to the other wait, so that their waits do not add up.

A call that a budget, or a limit with `or raise`, would refuse is not charged, and delays no other
call.

A throttled call is retried. With a limit, it would not have been throttled, and no retry needed. So
for each throttled call, the next call of its kind is not charged. The pause before a retry is left
out as well: the clock stands still while retries are expected and no call is in flight. Half a
minute after the latest throttled call, none is expected, and that time is added after all.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency
from aioapiqueue.registry.spi import plan_of
from aioapiqueue.spi import CALLS, cost_units, lane_states, limit_types
from aioapiqueue_run.cli.run.limits_in_words import limit_name
from aioapiqueue_run.hub import Ended, Watcher

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.registry import PacedCall, Registry
    from aioapiqueue.spi import algorithms
    from aioapiqueue_run.hub import Kind, Request

    _Kind = tuple[Kind, tuple[str, ...]]

__all__ = ["PacedEstimate"]

_CATCH_UP = 0.010  # the default of a queue
_LONGEST_PAUSE = 30.0  # seconds until a retry: SDKs pause for up to 20 s
_MOST_QUEUES = 2_000  # most queues whose limits are kept, in some 25 MB
_MOST_JUMPS = 100  # of the clock for one call: each is to the instant of another limit or period


class _EstimatedQueue:
    """The limits of one queue, and their state on the estimate's clock.

    Limits on calls in flight are left out, as the duration of calls at another pace is unknown.

    Args:
        own: the limits of the queue.
        lanes: the limits of keys and patterns.
    """

    def __init__(self, own: Sequence[Limit], lanes: Mapping[str, Sequence[Limit]]) -> None:
        self._units = cost_units.Units()
        to_wall = time.time() - time.monotonic()
        maker = lane_states.StateMaker(
            self._units, catch_up=_CATCH_UP, to_wall=lambda at: at + to_wall
        )
        every = [limit for limits in (own, *lanes.values()) for limit in limits]
        counted = _of_calls_in_time(every)
        self._units.declare(limit.unit for limit in counted if not isinstance(limit, Concurrency))
        self.counts_bodies = len(counted) < len(every)
        """Whether limits on calls in flight are left out."""
        rates = _of_calls_in_time(own)
        self._own = [*zip(rates, maker.states_of(rates), strict=True)]
        kept: dict[Hashable, Sequence[Limit]]
        kept = {name: _of_calls_in_time(limits) for name, limits in lanes.items()}
        self._lanes = lane_states.Lanes(kept, maker)

    def limits(
        self, call: PacedCall, now: float
    ) -> Iterator[tuple[str, Limit, algorithms.LimitState]]:
        """Yield the limits that apply to a call, each with its lane ("" for the queue)."""
        for limit, state in self._own:
            yield "", limit, state
        for lane in self._lanes.find_all(call.keys, now):
            for limit, state in zip(lane.limits, lane.kept, strict=True):
                yield str(lane.name), limit, state

    def charge(
        self, call: PacedCall, now: float
    ) -> tuple[float, tuple[str, Limit] | None, tuple[str, Limit] | None]:
        """Charge a call at `now`, unless a limit refuses it.

        Returns:
            When it starts, the limit that it waits for, and the limit that refuses it.
        """
        costs = self._units.costs_of(call.cost)
        found = [one for one in self.limits(call, now) if one[2].concerns(costs)]
        for _, _, state in found:
            state.on_idle(now)  # as a queue does: no call waits, because the clock jumps instead
        waits_for = None
        # At the instant of one limit, another one may be closed that has room now. So ask again.
        for _ in range(_MOST_JUMPS):
            for lane, one, state in found:
                if state.raises and state.lacks_room(now, costs):
                    return now, waits_for, (lane, one)
            dues = [(state.next_at(now, costs), name, limit) for name, limit, state in found]
            due, name, limit = max(dues, key=lambda one: one[0], default=(now, "", None))
            if due <= now or due == math.inf or limit is None:
                break
            now, waits_for = due, (name, limit)
        for _, _, state in found:
            state.consume(now, costs)
            if state.raises:  # it never settles at less
                state.end_reservation(now, costs[state.unit])
        return now, waits_for, None


def _of_calls_in_time(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    return tuple(one for one in limits if not isinstance(one, Concurrency))


class PacedEstimate(Watcher):
    """Estimates when the calls of a dry run would have started at its limits.

    Args:
        registry: the limits.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queues: OrderedDict[str | None, _EstimatedQueue] = OrderedDict()
        self._limits: dict[str, tuple[Sequence[Limit], Mapping[str, Sequence[Limit]]]] = {}
        self._retries: Counter[_Kind] = Counter()
        """Number of expected retries by kind; no kind has 0."""
        self._expected_until = 0.0
        """When they are no longer expected."""
        self._in_flight = 0
        """Number of calls in flight."""
        self._skipped = 0.0
        """Seconds that were not counted, because retries were expected."""
        self._last = self._clock = self._began = 0.0
        self._strictest: dict[tuple[str, tuple[str, ...]], float] = {}
        self.held: Counter[tuple[str, str]] = Counter()
        """Number of calls that each limit would have delayed, by the name of its calls and its
        text."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Number of calls that each limit would have refused, by the same."""
        self.left_out = False
        """Whether there are limits on calls in flight, which the estimate ignores."""

    def begin(self, now: float) -> None:
        """Note the start of the program."""
        self._last = self._clock = self._began = now

    def started(self, request: Request, now: float) -> None:
        """Charge a call that starts."""
        self._advance(now)
        self._in_flight += 1
        call = request.needs
        if call is None:
            return
        service = request.kind.service
        queue = self._queue_of(call, service)
        if (service, call.keys) not in self._strictest:
            limits = (limit for _, limit, _ in queue.limits(call, self._clock))
            rates = [limit_types.rate_of(x) for x in limits if limit_types.unit_of(x) == CALLS]
            self._strictest[service, call.keys] = min(rates, default=math.inf)
        kind = request.kind, call.keys
        if kind in self._retries:
            self._retries[kind] -= 1  # `-=` of counters would look at all kinds
            if not self._retries[kind]:
                del self._retries[kind]
            self._skipped = 0.0  # the pause before it
            return
        self._clock, waits_for, refused_by = queue.charge(call, self._clock)
        for counts, found in ((self.held, waits_for), (self.refused, refused_by)):
            if found is not None:
                lane, limit = found
                counts[limit_name(str(call.queue.name), service, lane), str(limit)] += 1

    def _queue_of(self, call: PacedCall, service: str) -> _EstimatedQueue:
        queue = self._queues.get(call.queue.name)
        if queue is None:
            if service not in self._limits:
                plan = plan_of(self._registry, service)
                self._limits[service] = (plan.queue.limits, plan.queue.lanes) if plan else ((), {})
            queue = self._queues[call.queue.name] = _EstimatedQueue(*self._limits[service])
            self.left_out |= queue.counts_bodies
            if len(self._queues) > _MOST_QUEUES:
                self._queues.popitem(last=False)
        self._queues.move_to_end(call.queue.name)
        return queue

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """Note the end of a call. If it was throttled, a retry is expected."""
        self._advance(now)
        self._in_flight -= 1
        if outcome is Ended.THROTTLED and request.needs is not None:
            self._retries[request.kind, request.needs.keys] += 1
            self._expected_until = now + _LONGEST_PAUSE

    def _advance(self, now: float) -> None:
        """Advance the clock to `now`."""
        passed, self._last = now - self._last, now
        if now > self._expected_until:
            self._retries.clear()
        if self._retries and not self._in_flight:
            self._skipped += passed
            return
        self._clock += passed
        if not self._retries:
            self._clock += self._skipped
            self._skipped = 0.0

    def seconds(self, now: float) -> float:
        """Return the duration of the paced run, if the dry run ends now."""
        self._advance(now)
        return self._clock - self._began

    def strictest(self, service: str, lane: str) -> float:
        """Return the lowest rate of the limits of a lane, in calls a second; inf if it has none."""
        rates = (
            rate
            for (of, keys), rate in self._strictest.items()
            if of == service and keys[0] == lane
        )
        return min(rates, default=math.inf)
