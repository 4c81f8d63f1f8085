"""OpenTelemetry metrics of queues. Install the extra `opentelemetry`.

>>> from aioapiqueue.integrations.opentelemetry import OpenTelemetryObserver
>>> metrics = OpenTelemetryObserver()   # one for all queues of a process
>>> queue = ApiQueue("10/s", name="crm", observers=[metrics])

The process's OpenTelemetry SDK exports the metrics. Counters and gauges are read from `queue.stats`
when the SDK collects them. Each slot adds a value to two histograms. A call that waited adds an
event `aioapiqueue.wait` to the span that is current when its slot ends.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aioapiqueue.integrations._extras import needs

with needs("opentelemetry-api", to="OpenTelemetryObserver", extra="opentelemetry"):
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import Observation, get_meter

from aioapiqueue import __version__
from aioapiqueue.integrations._metrics import (
    BOUNDARIES,
    METRICS,
    SLOT_DURATION,
    TIME_IN_QUEUE,
    Metric,
    SlotRecorder,
    WatchedQueues,
    as_text,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations._metrics import Reading
    from aioapiqueue.spi import events

__all__ = ["OpenTelemetryObserver"]

_PREFIX = "aioapiqueue"


class OpenTelemetryObserver:
    """Export the metrics of queues to OpenTelemetry.

    Pass one observer to any number of queues. The counts of queues with the same name are added up,
    and they remain after a queue is deleted, so use few distinct names. Attributes are
    `aioapiqueue.queue` and, for some metrics, `aioapiqueue.lane` (a name in `lanes=` or
    `set_rate`), `.result`, `.unit` and `.outcome`.

    Args:
        meter_provider: the provider; default: the global one. Observers of one provider share
            their instruments.
        spans: whether a call that waited adds an event to the current span; default True. With
            `blocking(queue)`, the span must last a few milliseconds longer than the slot.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, *, spans: bool = True) -> None:
        self._spans = spans
        # The SDK creates each instrument once, and calls only the callback that was given first.
        known = _exporters.get(meter_provider or _GLOBAL)
        if known is None:
            known = _exporters[meter_provider or _GLOBAL] = _Exporter(meter_provider)
        self._exporter = known

    def for_queue(self, queue: ApiQueue) -> _InstrumentRecorder:
        """Return the observer of one queue."""
        self._exporter.watched.add(queue)
        return _InstrumentRecorder(self._exporter, queue, spans=self._spans)


class _Exporter:
    """The instruments of one provider.

    Args:
        meter_provider: the provider; None for the global one.
    """

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        self.watched = WatchedQueues()
        self._readings: Mapping[Metric, Sequence[tuple[str, Reading]]] = {}
        self._served = set(METRICS)
        """Metrics that the SDK has already collected from the present `_readings`."""
        meter = get_meter(_PREFIX, __version__, meter_provider)
        create = {
            "counter": meter.create_observable_counter,
            "updown": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for metric in METRICS:
            # The SDK reads these when it collects; each call records the two histograms itself.
            if metric.kind != "histogram":
                name, callbacks = f"{_PREFIX}.{metric.name}", [partial(self._observe, metric)]
                create[metric.kind](name, callbacks, metric.unit, metric.description)
        self.time_in_queue, self.duration = (
            meter.create_histogram(
                f"{_PREFIX}.{metric.name}",
                metric.unit,
                metric.description,
                explicit_bucket_boundaries_advisory=BOUNDARIES,
            )
            for metric in (TIME_IN_QUEUE, SLOT_DURATION)
        )

    def _observe(self, wanted: Metric, _options: CallbackOptions) -> Iterable[Observation]:
        # The SDK collects one metric after the other. All are read once for each round.
        if wanted in self._served:
            self._readings = self.watched.read()
            self._served.clear()
        self._served.add(wanted)
        for name, (metric, value, attributes) in self._readings[wanted]:
            yield Observation(value, _attributes(name, metric, attributes))


class _Global:
    """A stand-in for the global provider, which may be set later."""


_GLOBAL = _Global()
_exporters: WeakKeyDictionary[MeterProvider | _Global, _Exporter] = WeakKeyDictionary()


def _attributes(queue: str, metric: Metric, values: tuple[str, ...]) -> dict[str, str]:
    named = {"queue": queue} | dict(zip(metric.attributes, values, strict=True))
    return {f"{_PREFIX}.{name}": value for name, value in named.items() if value}


_NO_TRACE = Context()
"""The context of a recorded wait. The queue releases a waiter in the context of another caller,
whose trace must not be linked to the wait."""


class _InstrumentRecorder(SlotRecorder[dict[str, str]]):
    """Records the calls of one queue.

    Args:
        exporter: has the instruments.
        queue: the queue.
        spans: whether a wait adds an event to the current span.
    """

    def __init__(self, exporter: _Exporter, queue: ApiQueue, *, spans: bool) -> None:
        super().__init__(queue, partial(_attributes, as_text(queue.name)))
        self._record_wait = exporter.time_in_queue.record
        self._record_end = exporter.duration.record
        self._spans = spans

    def record_start(self, keys: tuple[Hashable, ...], waited: float, /) -> None:
        """Record how long a call waited."""
        lane = self.lane_of(keys)
        try:
            attributes = self.waits[lane]
        except KeyError:
            attributes = self.add_wait(lane)
        if waited:
            self._record_wait(waited, attributes, _NO_TRACE)
        else:
            # Started by its own caller, so the current context is the right one.
            self._record_wait(0.0, attributes)

    def record_end(
        self, keys: tuple[Hashable, ...], waited: float, duration: float, outcome: events.Outcome, /
    ) -> None:
        """Record how long the body of a call ran."""
        lane = self.lane_of(keys)
        try:
            attributes = self.ends[outcome][lane]
        except KeyError:
            attributes = self.add_end(lane, outcome)
        self._record_end(duration, attributes)
        if waited and self._spans:
            # The body ends in the task of its caller, so this is the span of the caller.
            span = trace.get_current_span()
            if span.is_recording():
                # The lane may be new here: `set_rate` may have added it since the start.
                lanes = self.waits.get(lane) or self.add_wait(lane)
                # The wait ended when the body began, `duration` ago.
                wait: dict[str, str | float] = {f"{_PREFIX}.time_in_queue": waited, **lanes}
                span.add_event(f"{_PREFIX}.wait", wait, time.time_ns() - int(duration * 1e9))
