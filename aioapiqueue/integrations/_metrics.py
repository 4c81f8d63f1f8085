"""What the exporters of metrics have in common: names, units, and where each figure comes from.

Names are those of OpenTelemetry's conventions for rate limiting, under `aioapiqueue`. Counters and
gauges are read from `stats` when somebody asks, so that a slot costs nothing more for them. Only
two histograms need every call: how long it waited, and how long its body ran.

The histograms have the attribute `lane`: the name, in `lanes=` or `set_rate`, of the first of a
call's keys that has one. So each call is in them once. A call under two lanes counts in the figures
of both, which are therefore metrics of their own (`lane.slots`) beside the queue's (`slots`).
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from aioapiqueue._lanes import find_patterns, name_of
from aioapiqueue._queue import dispatcher_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from aioapiqueue import ApiQueue, LaneStats, Stats

__all__ = [
    "BOUNDARIES",
    "METRICS",
    "SLOT_DURATION",
    "TIME_IN_QUEUE",
    "LaneNames",
    "Metric",
    "Reading",
    "Watched",
    "forget_some",
    "read",
]

BOUNDARIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Of histograms, in seconds. The first is for calls that did not wait at all; the defaults of both
libraries end at ten seconds, which a paced call may well wait."""
_KEYS = 10_000
"""Sets of keys of which the lane is remembered: of tenants, there may be any number."""

_Found = TypeVar("_Found")
Kind = Literal["counter", "updown", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: after `aioapiqueue.`.
        kind: `counter`: it never falls; `updown`: a sum that may; `gauge`: no sum.
        unit: as the UCUM code has it.
        description: what it is.
        attributes: besides the queue's name.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


class Reading(NamedTuple):
    """A figure of a metric.

    Attributes:
        metric: which.
        value: how much.
        attributes: their values, in the order of the metric's.
    """

    metric: Metric
    value: float
    attributes: tuple[str, ...] = ()


TIME_IN_QUEUE = Metric(
    "time_in_queue", "histogram", "s", "How long calls waited for their slots.", ("lane",)
)
SLOT_DURATION = Metric(
    "slot.duration", "histogram", "s", "How long the bodies of calls ran.", ("lane", "outcome")
)
_QUEUED = Metric("queued", "updown", "{call}", "Calls that wait.")
_ACTIVE = Metric("active", "updown", "{call}", "Calls whose bodies run.")
_SLOTS = Metric("slots", "counter", "{call}", "Calls by how their wait has ended.", ("result",))
_COST = Metric("cost", "updown", "{unit}", "What calls have cost, as settled.", ("unit",))
_THROTTLED = Metric("throttled", "counter", "{call}", "Times that the other side pushed back.")
_BACKED_OFF = Metric("backed_off", "counter", "{event}", "Times that the rate was lowered for it.")
_REFUSED = Metric(
    "refused_by_server", "counter", "{call}", "Calls that the other side refused for good."
)
_MALFORMED = Metric("malformed", "counter", "{event}", "Invalid messages of the other side.")
_RATE = Metric("rate", "gauge", "{call}/s", "What adaptive allows; none unless it was lowered.")
_REMAINING = Metric("limit.remaining", "gauge", "{unit}", "What could start now.", ("unit",))
_ASKS = Metric("shared.asks", "counter", "{request}", "Requests to a hub or server.")
_FAULTS = Metric("shared.faults", "counter", "{request}", "Those of them that failed.")
_LANE_QUEUED = Metric("lane.queued", "updown", "{call}", "Calls of a lane that wait.", ("lane",))
_LANE_SLOTS = Metric(
    "lane.slots",
    "counter",
    "{call}",
    "Calls of a lane by how their wait has ended.",
    ("lane", "result"),
)
_LANE_COST = Metric(
    "lane.cost", "updown", "{unit}", "What calls of a lane have cost.", ("lane", "unit")
)
_LANE_THROTTLED = Metric(
    "lane.throttled", "counter", "{call}", "Times of push-back on a lane.", ("lane",)
)
_LANE_REMAINING = Metric(
    "lane.limit.remaining", "gauge", "{unit}", "What of a lane could start now.", ("lane", "unit")
)

METRICS = (
    TIME_IN_QUEUE,
    SLOT_DURATION,
    _QUEUED,
    _ACTIVE,
    _SLOTS,
    _COST,
    _THROTTLED,
    _BACKED_OFF,
    _REFUSED,
    _MALFORMED,
    _RATE,
    _REMAINING,
    _ASKS,
    _FAULTS,
    _LANE_QUEUED,
    _LANE_SLOTS,
    _LANE_COST,
    _LANE_THROTTLED,
    _LANE_REMAINING,
)
"""All of them."""


def read(queue: ApiQueue) -> Iterator[Reading]:
    """Yield the figures of a queue that are read from its `stats`; any thread may ask."""
    stats = queue.stats
    yield Reading(_QUEUED, stats.waiting)
    yield Reading(_ACTIVE, stats.running)
    for result, number in _results(stats):
        yield Reading(_SLOTS, number, (result,))
    for unit, cost in stats.costs.items():
        yield Reading(_COST, cost, (unit,))
    yield Reading(_THROTTLED, stats.throttled)
    yield Reading(_BACKED_OFF, stats.backed_off)
    yield Reading(_REFUSED, stats.refused_by_server)
    yield Reading(_MALFORMED, stats.malformed)
    if stats.rate < math.inf:
        yield Reading(_RATE, stats.rate)
    for unit, room in stats.remaining.items():
        yield Reading(_REMAINING, room, (unit,))
    if stats.asks:
        yield Reading(_ASKS, stats.asks)
        yield Reading(_FAULTS, stats.faults)
    for name, lane in stats.lanes.items():
        text = str(name)
        yield Reading(_LANE_QUEUED, lane.waiting, (text,))
        for result, number in _results(lane):
            yield Reading(_LANE_SLOTS, number, (text, result))
        for unit, cost in lane.costs.items():
            yield Reading(_LANE_COST, cost, (text, unit))
        yield Reading(_LANE_THROTTLED, lane.throttled, (text,))
        for unit, room in lane.remaining.items():
            yield Reading(_LANE_REMAINING, room, (text, unit))


def _results(stats: Stats | LaneStats) -> Iterator[tuple[str, int]]:
    # What was refunded is in both of these, so that neither ever falls.
    yield "released", stats.released + stats.refunded
    yield "cancelled", stats.cancelled
    yield "timed_out", stats.timed_out
    yield "refused", stats.refused


class LaneNames:
    """Finds the lane that a call is counted in, by its keys: "" where none has a name.

    Args:
        queue: whose lanes.
    """

    def __init__(self, queue: ApiQueue) -> None:
        self._queue = weakref.ref(queue)

    def find(self, keys: tuple[Hashable, ...]) -> str:
        """Return the name of the first key that has one."""
        queue = self._queue()
        names = () if queue is None else dispatcher_of(queue).lane_names()
        if names:
            patterns = find_patterns(names)
            for key in keys:
                name = name_of(key, names, patterns)
                if name in names:
                    return str(name)
        return ""


class Watched:
    """The queues that one exporter watches, as long as they are in use anywhere else."""

    def __init__(self) -> None:
        self._queues: weakref.WeakValueDictionary[int, ApiQueue] = weakref.WeakValueDictionary()

    def add(self, queue: ApiQueue) -> None:
        """Watch a queue."""
        self._queues[id(queue)] = queue

    def read(self) -> Iterator[tuple[str, Reading]]:
        """Yield the figures of each, after its name; of queues of one name, their sums."""
        sums: dict[tuple[str, Metric, tuple[str, ...]], float] = {}
        for queue in list(self._queues.values()):
            for metric, value, attributes in read(queue):
                place = queue.name or "", metric, attributes
                sums[place] = sums.get(place, 0.0) + value
        for (name, metric, attributes), value in sums.items():
            yield name, Reading(metric, value, attributes)


def forget_some(found: dict[tuple[Hashable, ...], _Found]) -> None:
    """Forget what was found for keys, if that was for too many."""
    if len(found) >= _KEYS:
        found.clear()
