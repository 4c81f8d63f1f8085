"""What the exporters of metrics have in common: names, units, and where each figure comes from.

Names are modelled on ASP.NET Core's (`aspnetcore.rate_limiting`), the only ones that OpenTelemetry
has for rate limiting. Counters and gauges are read from `stats` when somebody asks, so that a slot
costs nothing more for them. Only two histograms need every call: how long it waited, and how long
its body ran.

The histograms have the attribute `lane`: the name, in `lanes=` or `set_rate`, of the first of a
call's keys that has one. So each call is in them once. A call under two lanes counts in the figures
of both, which are therefore metrics of their own (`lane.slots`) beside the queue's (`slots`).
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from aioapiqueue.spi import dispatcher_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aioapiqueue import ApiQueue, LaneStats, Stats

__all__ = [
    "BOUNDARIES",
    "METRICS",
    "SLOT_DURATION",
    "TIME_IN_QUEUE",
    "Metric",
    "Reading",
    "WatchedQueues",
    "as_text",
]

BOUNDARIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Of histograms, in seconds. The first is for calls that did not wait at all; the defaults of both
libraries end at ten seconds, which a paced call may well wait."""
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
    "time_in_queue", "histogram", "s", "Time that calls waited for a slot.", ("lane",)
)
SLOT_DURATION = Metric(
    "slot.duration", "histogram", "s", "Time that slots were in use.", ("lane", "outcome")
)
_QUEUED = Metric("queued", "updown", "{call}", "Calls waiting for a slot.")
_ACTIVE = Metric("active", "updown", "{call}", "Slots in use.")
_SLOTS = Metric("slots", "counter", "{call}", "Calls by the result of their wait.", ("result",))
_COST = Metric("cost", "updown", "{unit}", "Total cost of calls, after settling.", ("unit",))
_THROTTLED = Metric("throttled", "counter", "{call}", "Calls that the server throttled.")
_BACKED_OFF = Metric(
    "backed_off", "counter", "{event}", "Number of times that adaptive lowered the rate."
)
_REFUSED = Metric(
    "refused_by_server", "counter", "{call}", "Calls that the server refused permanently."
)
_MALFORMED = Metric("malformed", "counter", "{event}", "Malformed responses from the server.")
_RATE = Metric("rate", "gauge", "{call}/s", "Rate that adaptive allows while the rate is lowered.")
_REMAINING = Metric("limit.remaining", "gauge", "{unit}", "Amount that could start now.", ("unit",))
_ASKS = Metric(
    "shared.asks", "counter", "{request}", "Requests to the hub or server of a shared quota."
)
_FAULTS = Metric(
    "shared.faults",
    "counter",
    "{request}",
    "Failed requests to the hub or server of a shared quota.",
)
_LANE_QUEUED = Metric(
    "lane.queued", "updown", "{call}", "Calls of a lane waiting for a slot.", ("lane",)
)
_LANE_SLOTS = Metric(
    "lane.slots",
    "counter",
    "{call}",
    "Calls of a lane by the result of their wait.",
    ("lane", "result"),
)
_LANE_COST = Metric(
    "lane.cost",
    "updown",
    "{unit}",
    "Total cost of the calls of a lane, after settling.",
    ("lane", "unit"),
)
_LANE_THROTTLED = Metric(
    "lane.throttled", "counter", "{call}", "Calls of a lane that the server throttled.", ("lane",)
)
_LANE_REMAINING = Metric(
    "lane.limit.remaining",
    "gauge",
    "{unit}",
    "Amount that could start now in a lane.",
    ("lane", "unit"),
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


def read(stats: Stats) -> Iterator[Reading]:
    """Yield the figures of a queue that are read from its `stats`."""
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
        text = as_text(name)
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


def as_text(name: object) -> str:
    """Return a name that can be exported: "" for none."""
    return "" if name is None else str(name).encode("utf-8", "replace").decode()


_Place = tuple[str, Metric, tuple[str, ...]]
"""Of a figure: the queue's name, and what it is of that."""


class WatchedQueues:
    """The queues that one exporter watches, and the sums of those that are gone.

    No counter falls: what a queue has counted stays under its name when it is collected, and what
    another thread reads in the middle of a change counts only if it is more.
    """

    def __init__(self) -> None:
        self._queues: dict[int, tuple[str, Callable[[], Stats]]] = {}
        self._gone: dict[_Place, float] = {}
        self._highest: dict[_Place, float] = {}

    def add(self, queue: ApiQueue) -> None:
        """Watch a queue, as long as it is in use anywhere else."""
        number = id(queue)
        # Not the queue: that is to be collected. Its dispatcher goes with it.
        self._queues[number] = as_text(queue.name), dispatcher_of(queue).stats
        weakref.finalize(queue, self._forget, number).atexit = False

    def _forget(self, number: int) -> None:
        name, stats = self._queues.pop(number)
        for metric, value, attributes in read(stats()):
            if metric.kind == "counter" or metric in (_COST, _LANE_COST):
                place = name, metric, attributes
                self._gone[place] = self._gone.get(place, 0.0) + value

    def read(self) -> Mapping[Metric, Sequence[tuple[str, Reading]]]:
        """Return the figures of each metric, each after the name of its queue.

        Those of queues of one name are added up; of rates, the lowest counts. Any thread may ask.
        """
        sums = dict(self._gone)
        for name, stats in list(self._queues.values()):
            for metric, value, attributes in read(stats()):
                place = name, metric, attributes
                if metric is _RATE:
                    sums[place] = min(value, sums.get(place, math.inf))
                else:
                    sums[place] = sums.get(place, 0.0) + value
        found: dict[Metric, list[tuple[str, Reading]]] = {metric: [] for metric in METRICS}
        for place, value in sums.items():
            name, metric, attributes = place
            if metric.kind == "counter":
                self._highest[place] = max(value, self._highest.get(place, 0.0))
            highest = self._highest.get(place, value)
            found[metric].append((name, Reading(metric, highest, attributes)))
        return found
