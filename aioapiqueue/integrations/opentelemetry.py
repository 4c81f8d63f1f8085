"""Metrics of queues for OpenTelemetry: needs `opentelemetry-api`, the extra `opentelemetry`.

>>> from aioapiqueue.integrations.opentelemetry import OpenTelemetryObserver
>>> metrics = OpenTelemetryObserver()                    # one for all queues of a process
>>> queue = ApiQueue("10/s", name="crm", observers=[metrics])

They go wherever the process's SDK sends them. Counters and gauges are read from `queue.stats` when
the SDK collects; for each slot, two histograms are recorded. A call that has waited adds an event
`aioapiqueue.wait` to the span that is current where its slot ends.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.metrics import Observation, get_meter

from aioapiqueue import __version__
from aioapiqueue.integrations._metrics import (
    BOUNDARIES,
    METRICS,
    SLOT_DURATION,
    TIME_IN_QUEUE,
    LaneNames,
    Metric,
    Watched,
    forget_some,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from aioapiqueue import ApiQueue, Event
    from aioapiqueue._events import Outcome
    from aioapiqueue.integrations._metrics import Reading

__all__ = ["OpenTelemetryObserver"]

_PREFIX = "aioapiqueue"


class OpenTelemetryObserver:
    """Has the figures of all queues that it observes collected.

    Pass it to any number of queues; those of one name are added up. A queue that nobody uses any
    more is forgotten. Attributes are `aioapiqueue.queue` and, where a metric has them,
    `aioapiqueue.lane` (only names in `lanes=` and `set_rate`, so that there are few), `.result`,
    `.unit` and `.outcome`.

    Args:
        meter_provider: default: the global one.
        spans: whether a call that waited adds an event to the current span; default True.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, *, spans: bool = True) -> None:
        self._watched = Watched()
        self._spans = spans
        self._readings: Sequence[tuple[str, Reading]] = ()
        self._served = set(METRICS)
        """Those that `_readings` were asked for."""
        meter = get_meter(_PREFIX, __version__, meter_provider)
        create = {
            "counter": meter.create_observable_counter,
            "updown": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for metric in METRICS:
            if metric.kind != "histogram":
                callbacks = [partial(self._observe, metric)]
                create[metric.kind](
                    f"{_PREFIX}.{metric.name}", callbacks, metric.unit, metric.description
                )
        self.time_in_queue, self.duration = (
            meter.create_histogram(
                f"{_PREFIX}.{metric.name}",
                metric.unit,
                metric.description,
                explicit_bucket_boundaries_advisory=BOUNDARIES,
            )
            for metric in (TIME_IN_QUEUE, SLOT_DURATION)
        )

    def for_queue(self, queue: ApiQueue) -> _Recorder:
        """Return the observer of one queue."""
        self._watched.add(queue)
        return _Recorder(self, queue, spans=self._spans)

    def _observe(self, wanted: Metric, _options: CallbackOptions) -> Iterable[Observation]:
        # The SDK asks for one metric after the other: all are read at once, for each round.
        if wanted in self._served:
            self._readings = list(self._watched.read())
            self._served.clear()
        self._served.add(wanted)
        for name, (metric, value, attributes) in self._readings:
            if metric is wanted:
                yield Observation(value, _attributes(name, metric, attributes))


def _attributes(queue: str, metric: Metric, values: tuple[str, ...]) -> dict[str, str]:
    named = {"queue": queue} | dict(zip(metric.attributes, values, strict=True))
    return {f"{_PREFIX}.{name}": value for name, value in named.items() if value}


class _Recorder:
    """Records the calls of one queue.

    Args:
        exporter: whose.
        queue: which.
        spans: whether waits are events of spans.
    """

    event_kinds = ("limits_changed",)

    def __init__(self, exporter: OpenTelemetryObserver, queue: ApiQueue, *, spans: bool) -> None:
        self._record_wait = exporter.time_in_queue.record
        self._record_end = exporter.duration.record
        self._spans = spans
        self._queue = queue.name or ""
        self._lanes = LaneNames(queue)
        self._waits: dict[tuple[Hashable, ...], Mapping[str, str]] = {}
        self._ends: dict[tuple[Hashable, ...], dict[str, Mapping[str, str]]] = {}

    def on_event(self, _event: Event, /) -> None:
        """Find lanes again: there may be others."""
        self._waits.clear()
        self._ends.clear()

    def on_start(self, keys: tuple[Hashable, ...], waited: float, /) -> None:
        """Record how long a call waited."""
        attributes = self._waits.get(keys)
        if attributes is None:
            forget_some(self._waits)
            values = (self._lanes.find(keys),)
            attributes = self._waits[keys] = _attributes(self._queue, TIME_IN_QUEUE, values)
        self._record_wait(waited, attributes)

    def on_end(
        self, keys: tuple[Hashable, ...], waited: float, duration: float, outcome: Outcome, /
    ) -> None:
        """Record how long its body ran; here the caller's span is the current one."""
        try:
            attributes = self._ends[keys][outcome]
        except KeyError:
            attributes = self._find_end(keys, outcome)
        self._record_end(duration, attributes)
        if waited and self._spans:
            span = trace.get_current_span()
            if span.is_recording():
                wait: dict[str, str | float] = {f"{_PREFIX}.time_in_queue": waited}
                wait |= self._waits.get(keys, {})
                at = time.time_ns() - int(duration * 1e9)
                span.add_event(f"{_PREFIX}.wait", wait, at)

    def _find_end(self, keys: tuple[Hashable, ...], outcome: str) -> Mapping[str, str]:
        forget_some(self._ends)
        values = self._lanes.find(keys), outcome
        attributes = _attributes(self._queue, SLOT_DURATION, values)
        self._ends.setdefault(keys, {})[outcome] = attributes
        return attributes
