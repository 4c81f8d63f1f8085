"""Prometheus metrics of queues. Install the extra `prometheus`.

>>> from aioapiqueue.integrations.prometheus import PrometheusObserver
>>> metrics = PrometheusObserver()      # one for all queues of a process
>>> queue = ApiQueue("10/s", name="crm", observers=[metrics])

A scrape reads `queue.stats` in the exporter's thread, so counters and gauges add no cost to a slot.
Each slot updates two histograms, which the observer implements itself because the histograms of
`prometheus_client` take a lock.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from aioapiqueue.integrations._extras import needs

with needs("prometheus-client", to="PrometheusObserver", extra="prometheus"):
    from prometheus_client import REGISTRY
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import Collector

from aioapiqueue.integrations._metrics import (
    BOUNDARIES,
    METRICS,
    Metric,
    SlotRecorder,
    WatchedQueues,
    as_text,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

    from aioapiqueue import ApiQueue
    from aioapiqueue.spi import events

__all__ = ["PrometheusObserver"]


class _Bins:
    """The number of values in each bucket of a histogram, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        # One more, for values above all boundaries.
        self.counts = [0] * (len(BOUNDARIES) + 1)
        self.sum = 0.0


class PrometheusObserver(Collector):
    """Export the metrics of queues to Prometheus.

    Pass one observer to any number of queues. The counts of queues with the same name are added up,
    and they remain after a queue is deleted, so use few distinct names. Labels are `queue` and, for
    some metrics, `lane` (a name in `lanes=` or `set_rate`), `result`, `unit` and `outcome`.

    Args:
        registry: the registry to join; default: `prometheus_client.REGISTRY`. With None, the
            observer joins no registry.

    Raises:
        ValueError: the registry already has a `PrometheusObserver`.
    """

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._watched = WatchedQueues()
        self._bins: dict[tuple[Metric, str, tuple[str, ...]], _Bins] = {}
        """Bins by metric, queue's name, and the values of the metric's attributes."""
        if registry is not None:
            try:
                registry.register(self)
            except ValueError:
                raise ValueError(
                    "this registry already has a PrometheusObserver: use that one for all queues, "
                    "or pass registry=CollectorRegistry()"
                ) from None

    def for_queue(self, queue: ApiQueue) -> _BinRecorder:
        """Return the observer of one queue."""
        self._watched.add(queue)
        name = as_text(queue.name)
        return _BinRecorder(queue, lambda metric, values: self.bins(metric, name, values))

    def bins(self, metric: Metric, queue: str, attributes: tuple[str, ...]) -> _Bins:
        """Return the bins of a histogram for these values of its attributes."""
        return self._bins.setdefault((metric, queue, attributes), _Bins())

    def describe(self) -> Iterator[Family]:
        """Yield the metrics without values, so that registering reads nothing."""
        for metric in METRICS:
            yield _family(metric)

    def collect(self) -> Iterator[Family]:
        """Yield the metrics with their current values."""
        families = {metric: _family(metric) for metric in METRICS}
        for metric, readings in self._watched.read().items():
            for name, (_, value, attributes) in readings:
                families[metric].add_metric([name, *attributes], value)  # type: ignore[attr-defined]  # of all kinds
        for (metric, name, attributes), bins in list(self._bins.items()):  # calls may add bins
            counts, seconds = list(bins.counts), bins.sum  # together: other threads make calls
            total, buckets = 0, []
            for boundary, count in zip((*BOUNDARIES, float("inf")), counts, strict=True):
                total += count
                buckets.append(("+Inf" if boundary == float("inf") else f"{boundary}", total))
            families[metric].add_metric([name, *attributes], buckets, seconds)  # type: ignore[attr-defined]  # as above
        yield from families.values()


def _family(metric: Metric) -> Family:
    name = f"aioapiqueue_{metric.name.replace('.', '_')}"
    labels = ["queue", *metric.attributes]
    if metric.kind == "histogram":
        # By the conventions of Prometheus, the name contains the unit.
        return HistogramMetricFamily(f"{name}_seconds", metric.description, labels=labels)
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.description, labels=labels)
    # A sum that may fall is a gauge, too: Prometheus has no other kind for it.
    return GaugeMetricFamily(name, metric.description, labels=labels)


class _BinRecorder(SlotRecorder[_Bins]):
    """Counts the calls of one queue."""

    def record_start(self, keys: tuple[Hashable, ...], waited: float, /) -> None:
        """Count how long a call waited."""
        lane = self.lane_of(keys)
        try:
            bins = self.waits[lane]
        except KeyError:
            bins = self.add_wait(lane)
        if waited:
            bins.counts[bisect_left(BOUNDARIES, waited)] += 1
            bins.sum += waited
        else:
            # Most calls do not wait, and the first bucket is theirs.
            bins.counts[0] += 1

    def record_end(
        self,
        keys: tuple[Hashable, ...],
        _waited: float,
        duration: float,
        outcome: events.Outcome,
        /,
    ) -> None:
        """Count how long the body of a call ran."""
        lane = self.lane_of(keys)
        try:
            bins = self.ends[outcome][lane]
        except KeyError:
            bins = self.add_end(lane, outcome)
        bins.counts[bisect_left(BOUNDARIES, duration)] += 1
        bins.sum += duration
