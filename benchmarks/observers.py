"""What it costs a slot that somebody watches: events, Prometheus, OpenTelemetry."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import _contenders as contenders
from _common import Report, interleave, main, ratios, run, spread
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.integrations.opentelemetry import OpenTelemetryObserver
from aioapiqueue.integrations.prometheus import PrometheusObserver
from aioapiqueue.integrations.report import ReportObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from _contenders import Worker

    from aioapiqueue import Event
    from aioapiqueue.spi import Observers

CALLS = 10_000
NONE = "no observer"
TWO = "two bare Histogram.record"


class Nothing:
    """An observer that gets every event, and does nothing with it."""

    def on_event(self, event: Event, /) -> None:
        """Do nothing."""


def slots(report: Report, /, *, quick: bool) -> None:
    """One caller, a slot always free: what each observer adds to it."""
    provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    record = provider.get_meter("bench").create_histogram("bare").record
    at_start = {"aioapiqueue.queue": "bench"}
    at_end = {**at_start, "aioapiqueue.outcome": "ok"}  # each attribute takes the SDK time

    async def two_records(calls: int) -> None:
        for _ in range(calls):
            record(0.1, at_start)
            record(0.2, at_end)

    prometheus = PrometheusObserver(CollectorRegistry())
    telemetry = OpenTelemetryObserver(provider)

    async def nanoseconds(worker: Worker) -> float:
        await worker(100)
        begun = time.perf_counter()
        await worker(CALLS)
        return (time.perf_counter() - begun) / CALLS * 1e9

    def queue(observers: Observers = ()) -> Callable[[], float]:
        def measure() -> float:
            made = ApiQueue(Rate(1e9), name="bench", observers=observers)
            return run(nanoseconds(contenders.ours(made)))

        return measure

    costs = interleave(
        {
            NONE: queue(),
            "every event": queue([Nothing()]),
            "Prometheus": queue([prometheus]),
            "report": queue([ReportObserver()]),
            "OpenTelemetry": queue([telemetry]),
            TWO: lambda: run(nanoseconds(two_records)),
        },
        11 if quick else 31,
    )
    added = {
        name: [mine - none for mine, none in zip(values, costs[NONE], strict=True)]
        for name, values in costs.items()
        if name not in (NONE, TWO)
    }
    rows = [
        (name, spread(values, ".0f"), spread(added[name], ".0f") if name in added else "")
        for name, values in costs.items()
    ]
    report.table("A slot, and what an observer adds", ("", "ns a slot", "added"), rows)
    microseconds = [value / 1000 for value in added["Prometheus"]]
    median = statistics.median(microseconds)
    report.target("microseconds that Prometheus adds", median, most=3, rounds=microseconds)
    shares = ratios(added["OpenTelemetry"], costs[TWO])
    share = statistics.median(shares)
    report.target(f"what OpenTelemetry adds, times {TWO}", share, most=1.3, rounds=shares)


def keys(report: Report, /, *, quick: bool) -> None:
    """Slots of 20,000 keys, in turns, under one pattern of lanes: what Prometheus adds."""
    tenants = [f"tenant:{number}" for number in range(20_000)]

    def measure(observers: Observers = ()) -> float:
        queue = ApiQueue(name="bench", lanes={"tenant:*": "unlimited"}, observers=observers)

        async def nanoseconds() -> float:
            begun = time.perf_counter()
            for tenant in tenants:
                async with queue.slot(key=tenant):
                    pass
            return (time.perf_counter() - begun) / len(tenants) * 1e9

        return run(nanoseconds())

    prometheus = PrometheusObserver(CollectorRegistry())
    costs = interleave(
        {NONE: measure, "Prometheus": lambda: measure([prometheus])}, 5 if quick else 15
    )
    added = [mine - none for mine, none in zip(costs["Prometheus"], costs[NONE], strict=True)]
    rows = [
        (name, spread(values, ".0f"), "" if name == NONE else spread(added, ".0f"))
        for name, values in costs.items()
    ]
    report.table("The same of 20,000 keys in turns", ("", "ns a slot", "added"), rows)


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], slots, keys)
