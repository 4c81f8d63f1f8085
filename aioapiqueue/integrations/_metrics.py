"""The metrics that all exporters have: their names and units, and how they are read.

The names follow ASP.NET Core (`aspnetcore.rate_limiting`), the only semantic conventions for rate
limiting in OpenTelemetry. Counters and gauges are read from `stats` when the exporter collects
them, so a slot does no work for them. Only two histograms record every call: the wait, and the time
that the body ran.

The histograms have the attribute `lane`: the name, in `lanes=` or `set_rate`, of the first key of a
call that has one. So the histograms count each call once. A call under two lanes counts in both
lanes. The metrics of lanes (`lane.slots`) are therefore separate from those of the queue (`slots`).
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar, get_args

from aioapiqueue.spi import QueueReader, events

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from aioapiqueue import ApiQueue, Event, LaneStats, Stats

T = TypeVar("T")

BOUNDARIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of histogram buckets, in seconds. The first bucket is for calls that did not wait.
Prometheus's defaults end at 10 s, a common wait for a paced call; OpenTelemetry's have
none between 0 and 5 s."""
Kind = Literal["counter", "updown", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """The definition of a metric.

    Attributes:
        name: name without the prefix `aioapiqueue.`.
        kind: a `counter` never falls; an `updown` is a sum that may fall; a `gauge` is not a sum.
        unit: UCUM code of the unit.
        description: text for the users of the exporter.
        attributes: names of the attributes, without the queue's name.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


class Reading(NamedTuple):
    """A value of a metric.

    Attributes:
        metric: the metric.
        value: the value.
        attributes: the values of the metric's attributes, in their order.
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
_BUDGET = Metric(
    "budget",
    "gauge",
    "{unit}",
    "Amount of a budget or calendar limit that is spent, reserved or left.",
    ("limit", "state"),
)
_OVERDRAWN = Metric(
    "overdrawn",
    "counter",
    "{call}",
    "Calls that settled above their charge in a limit that raises.",
)
_ASKS = Metric(
    "shared.asks", "counter", "{request}", "Requests to the hub or server of a shared quota."
)
_FAULTS = Metric(
    "shared.faults",
    "counter",
    "{request}",
    "Failed requests to the hub or server of a shared quota.",
)


def _of_lane(metric: Metric, description: str) -> Metric:
    attributes = "lane", *metric.attributes
    return Metric(f"lane.{metric.name}", metric.kind, metric.unit, description, attributes)


_LANE_QUEUED = _of_lane(_QUEUED, "Calls of a lane waiting for a slot.")
_LANE_SLOTS = _of_lane(_SLOTS, "Calls of a lane by the result of their wait.")
_LANE_COST = _of_lane(_COST, "Total cost of the calls of a lane, after settling.")
_LANE_THROTTLED = _of_lane(_THROTTLED, "Calls of a lane that the server throttled.")
_LANE_REMAINING = _of_lane(_REMAINING, "Amount that could start now in a lane.")
_LANE_BUDGET = _of_lane(
    _BUDGET, "Amount of a lane's budget or calendar limit that is spent, reserved or left."
)

# All constants above, so that a new one needs no second entry.
METRICS = tuple(one for one in globals().values() if isinstance(one, Metric))
"""All metrics."""


def read(stats: Stats) -> Iterator[Reading]:
    """Yield the values that are read from the `stats` of a queue."""
    yield from _read_calls(stats, _QUEUED, _SLOTS, _COST, _THROTTLED, _REMAINING, _BUDGET)
    yield Reading(_ACTIVE, stats.running)
    yield Reading(_BACKED_OFF, stats.backed_off)
    yield Reading(_REFUSED, stats.refused_by_server)
    yield Reading(_MALFORMED, stats.malformed)
    yield Reading(_OVERDRAWN, stats.overdrawn)
    # Infinite unless `adaptive` has lowered it.
    if stats.rate < math.inf:
        yield Reading(_RATE, stats.rate)
    # 0 if the limits are kept in this process.
    if stats.asks:
        yield Reading(_ASKS, stats.asks)
        yield Reading(_FAULTS, stats.faults)
    of_lane = (
        *(_LANE_QUEUED, _LANE_SLOTS, _LANE_COST),
        *(_LANE_THROTTLED, _LANE_REMAINING, _LANE_BUDGET),
    )
    for name, lane in stats.lanes.items():
        yield from _read_calls(lane, *of_lane, lane=(as_text(name),))


def _read_calls(
    stats: Stats | LaneStats, *metrics: Metric, lane: tuple[str, ...] = ()
) -> Iterator[Reading]:
    """Yield what a queue and a lane both count, as these metrics."""
    queued, slots, cost, throttled, remaining, budget = metrics
    yield Reading(queued, stats.waiting, lane)
    # A refund takes a slot out of `released`, and a counter must not fall.
    yield Reading(slots, stats.released + stats.refunded, (*lane, "released"))
    yield Reading(slots, stats.cancelled, (*lane, "cancelled"))
    yield Reading(slots, stats.timed_out, (*lane, "timed_out"))
    yield Reading(slots, stats.refused, (*lane, "refused"))
    for unit, amount in stats.costs.items():
        yield Reading(cost, amount, (*lane, unit))
    yield Reading(throttled, stats.throttled, lane)
    for unit, amount in stats.remaining.items():
        yield Reading(remaining, amount, (*lane, unit))
    for limit, use in stats.budgets.items():
        for state in ("spent", "reserved", "left"):
            yield Reading(budget, getattr(use, state), (*lane, limit, state))


def as_text(name: object) -> str:
    """Return a name as text that can be exported; "" for None."""
    # Half of a surrogate pair cannot be exported.
    return "" if name is None else str(name).encode("utf-8", "replace").decode()


class SlotRecorder(Generic[T]):
    """Base class of the observers of one queue: it has a histogram series for each lane.

    A subclass has `record_start` and `record_end`, as a `Recorder` does. Each slot runs both, so
    they look a series up in `waits` or `ends`, and call a method only if the lane is new.

    Args:
        queue: the queue.
        make: returns the series of a histogram with these attributes.
    """

    event_kinds: tuple[events.EventKind, ...] = ()

    def __init__(self, queue: ApiQueue, make: Callable[[Metric, tuple[str, ...]], T]) -> None:
        self._make = make
        self.lane_of = QueueReader(queue).lane_of
        # Bounded by the names in `lanes=` and `set_rate`, whatever the keys of calls are.
        self.waits: dict[Hashable, T] = {}
        # All outcomes exist from the start, so that a slot looks up two keys and makes no
        # dictionary.
        self.ends: dict[events.Outcome, dict[Hashable, T]] = {
            one: {} for one in get_args(events.Outcome)
        }

    def on_event(self, event: Event, /) -> None:
        """Do nothing. A recorder receives no events."""

    def add_wait(self, lane: Hashable) -> T:
        """Return the series of waits of a new lane."""
        series = self.waits[lane] = self._make(TIME_IN_QUEUE, (as_text(lane),))
        return series

    def add_end(self, lane: Hashable, outcome: events.Outcome) -> T:
        """Return the series of durations of a new lane."""
        series = self.ends[outcome][lane] = self._make(SLOT_DURATION, (as_text(lane), outcome))
        return series


_SeriesKey = tuple[str, Metric, tuple[str, ...]]
"""A queue's name, a metric, and the values of the metric's attributes."""


class WatchedQueues:
    """The queues that one exporter watches, and the sums of those that were garbage collected.

    No counter falls. The counts of a queue remain under its name when the queue is garbage
    collected, and a lower value, which a thread may read during a change, is ignored.
    """

    def __init__(self) -> None:
        self._queues: dict[int, tuple[str, Callable[[], Stats]]] = {}
        self._deleted: dict[_SeriesKey, float] = {}
        self._highest: dict[_SeriesKey, float] = {}

    def add(self, queue: ApiQueue) -> None:
        """Watch a queue until it is garbage collected."""
        # No other queue can have this id before `_forget` has removed it.
        number = id(queue)
        # The queue itself must not be referenced here, or it would never be collected.
        self._queues[number] = as_text(queue.name), QueueReader(queue).stats
        weakref.finalize(queue, self._forget, number).atexit = False

    def _forget(self, number: int) -> None:
        name, stats = self._queues.pop(number)
        for metric, value, attributes in read(stats()):
            # A refund lowers a cost, but like a counter, it is a sum over all calls.
            if metric.kind == "counter" or metric in (_COST, _LANE_COST):
                place = name, metric, attributes
                self._deleted[place] = self._deleted.get(place, 0.0) + value

    def read(self) -> Mapping[Metric, Sequence[tuple[str, Reading]]]:
        """Return the readings of each metric, with the names of their queues.

        The values of queues with the same name are added up; of their rates, the lowest counts.
        Any thread may call this.
        """
        sums = dict(self._deleted)
        # A copy, as a queue may be collected meanwhile, in any thread.
        for name, stats in list(self._queues.values()):
            figures = stats()
            for metric, value, attributes in read(figures):
                place = name, metric, attributes
                if metric is _RATE:
                    sums[place] = min(value, sums.get(place, math.inf))
                elif metric in (_BUDGET, _LANE_BUDGET) and figures.asks:  # all share one budget
                    sums[place] = max(value, sums.get(place, 0.0))
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
