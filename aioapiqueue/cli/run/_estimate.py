"""How a dry run would have gone at its limits: which would have held, and how long it would take.

Each call of the dry run is charged to its limits, on a clock of its own. Between two calls, that
clock goes as far as the real one; where a call would have had to wait, it jumps to the instant at
which all limits have room. So one call that waits delays all that come after it, as in a program
that goes on with what it was answered. Calls to two Regions, whose limits are apart, go by turns,
and have each other's waits to recover in: their waits do not add up.

What was throttled comes again, and would not have come twice at a limit that holds: for each
push-back, the next call of its kind takes nothing of any limit; and no time passes while nothing is
under way and such calls are awaited, as that is the pause before they come again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue._lanes import Lanes, StateMaker
from aioapiqueue._rate import Concurrency, Rate, Window
from aioapiqueue._units import Units
from aioapiqueue.registry._buckets import bucket_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._rate import Limit
    from aioapiqueue.hub import Request
    from aioapiqueue.registry import PacedCall, Registry

__all__ = ["Held", "PacedEstimate"]

_CATCH_UP = 0.010  # a queue's default
_MOST_JUMPS = 100  # of one call: each brings it to another limit's instant, or another period


class Held(NamedTuple):
    """A limit that would have made calls wait.

    Attributes:
        name: as `--limit` takes it, without the limit.
        limit: what it is.
    """

    name: str
    limit: str

    def __str__(self) -> str:
        return f"{self.name} {self.limit}"


class _Queue:
    """The limits of one queue, and what has been used of them.

    Of calls at once, nothing is known here: how long they would take at another pace.

    Args:
        own: the limits of all calls.
        lanes: those of single keys and patterns.
    """

    def __init__(self, own: Sequence[Limit], lanes: Mapping[str, Sequence[Limit]]) -> None:
        self._units = Units()
        to_wall = time.time() - time.monotonic()
        maker = StateMaker(self._units, catch_up=_CATCH_UP, to_wall=lambda at: at + to_wall)
        rates = _of_calls_in_time(own)
        self._own = [*zip(rates, maker.states_of(rates), strict=True)]
        kept: dict[Hashable, Sequence[Limit]]
        kept = {name: _of_calls_in_time(limits) for name, limits in lanes.items()}
        self._lanes = Lanes(kept, maker)

    def limits(self, call: PacedCall, now: float) -> Iterator[tuple[str, Limit, LimitState]]:
        """Yield the limits that a call comes under, each with the lane's name; "": the queue's."""
        for limit, state in self._own:
            yield "", limit, state
        for lane in self._lanes.find_all(call.keys, now):
            for limit, state in zip(lane.limits, lane.kept, strict=True):
                yield str(lane.name), limit, state

    def charge(self, call: PacedCall, now: float) -> tuple[float, tuple[str, Limit] | None]:
        """Charge a call that comes now; return when it starts, and the limit that it waits for."""
        costs = self._units.costs_of(call.cost)
        found = [one for one in self.limits(call, now) if one[2].concerns(costs)]
        for _, _, state in found:
            state.on_idle(now)
        waits_for = None
        for _ in range(_MOST_JUMPS):
            dues = [(state.next_at(now, costs), name, limit) for name, limit, state in found]
            due, name, limit = max(dues, key=lambda one: one[0], default=(now, "", None))
            if due <= now or due == math.inf or limit is None:
                break
            now, waits_for = due, (name, limit)
        for _, _, state in found:
            state.consume(now, costs)
        return now, waits_for


def _of_calls_in_time(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    return tuple(one for one in limits if not isinstance(one, Concurrency))


class PacedEstimate:
    """Reckons what would become of the calls of a dry run at its limits.

    Args:
        registry: the limits.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queues: dict[str | None, _Queue] = {}
        self._again: Counter[tuple[object, ...]] = Counter()
        self._awaited = self._under_way = 0
        self._last = self._clock = self._began = 0.0
        self._strictest: dict[tuple[str, str], float] = {}
        self.held: Counter[Held] = Counter()
        """How many calls each limit would have made wait."""

    def begin(self, now: float) -> None:
        """Note that the program is started now."""
        self._last = self._clock = self._began = now

    def started(self, request: Request, now: float) -> None:
        """Charge a call that has started."""
        self._go_on(now)
        self._under_way += 1
        call = request.needs
        if call is None:
            return
        service = request.kind.service
        queue = self._queues.get(call.queue.name)
        if queue is None:
            own, lanes = self._registry.limits_of_queue(service)
            queue = self._queues[call.queue.name] = _Queue(own, lanes)
        place = service, call.keys[0]
        if place not in self._strictest:
            rates = [_per_second(limit) for _, limit, _ in queue.limits(call, self._clock)]
            self._strictest[place] = min(rates, default=math.inf)
        kind = (*request.kind, call.keys)
        if self._again[kind]:
            self._again[kind] -= 1
            self._awaited -= 1
            return
        self._clock, waits_for = queue.charge(call, self._clock)
        if waits_for is not None:
            lane, limit = waits_for
            self.held[Held(_name(service, lane), str(limit))] += 1

    def ended(self, request: Request, now: float, *, throttled: bool) -> None:
        """Note that a call has ended; if it was throttled, it will come again."""
        self._go_on(now)
        self._under_way -= 1
        if throttled and request.needs is not None:
            self._again[(*request.kind, request.needs.keys)] += 1
            self._awaited += 1

    def _go_on(self, now: float) -> None:
        """Have time pass until now."""
        if self._under_way or not self._awaited:
            self._clock += now - self._last
        self._last = now

    def seconds(self, now: float) -> float:
        """Return how long the run would have taken, if it has ended now."""
        return self._clock - self._began + (now - self._last)

    def strictest(self, service: str, lane: str) -> float:
        """Return the lowest rate of all limits of calls of a lane, per second; inf: it has none."""
        return self._strictest.get((service, lane), math.inf)


def _name(service: str, lane: str) -> str:
    """Return what a limit is called in messages."""
    if bucket := bucket_of(lane):
        return f"{service} ({bucket})"
    return f"{service}.{lane}" if lane else service


def _per_second(limit: Limit) -> float:
    return limit.calls / limit.per if isinstance(limit, Rate | Window) else math.inf
