"""Ten million calls of 100,000 tenants: what an exporter keeps does not grow with them."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.opentelemetry import OpenTelemetryObserver
from aioapiqueue.integrations.prometheus import PrometheusObserver
from tests.helpers.lazily import lazily

sdk = lazily("opentelemetry.sdk.metrics")
export = lazily("opentelemetry.sdk.metrics.export")

pytestmark = pytest.mark.slow

CALLS = 10_000_000
TENANTS = 100_000


def resident():
    """Return the bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def use(queue, calls):
    """Make so many calls, of all tenants in turn."""
    for number in range(calls):
        with queue.try_slot(key=f"tenant:{number % TENANTS}"):
            pass


@pytest.mark.parametrize("kind", ["prometheus", "opentelemetry"])
def test_ten_million_calls_take_no_memory(kind, record_property):
    """From the first million to the tenth: at most 10 MB, and every call is counted."""
    registry, reader = CollectorRegistry(), export.InMemoryMetricReader()
    metrics = (
        PrometheusObserver(registry)
        if kind == "prometheus"
        else OpenTelemetryObserver(sdk.MeterProvider(metric_readers=[reader]))
    )
    queue = ApiQueue(name="q", lanes={"tenant:*": "unlimited"}, observers=[metrics])
    asyncio.run(use(queue, CALLS // 10))
    gc.collect()
    before = resident()
    asyncio.run(use(queue, CALLS - CALLS // 10))
    gc.collect()
    grown = resident() - before
    record_property("megabytes", grown / 1e6)
    assert grown < 10_000_000
    if kind == "prometheus":
        text = generate_latest(registry).decode()
        assert 'aioapiqueue_slots_total{queue="q",result="released"} 1e+07' in text
        assert len(text) < 20_000
    else:
        points = [
            point
            for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
            if metric.name == "aioapiqueue.slot.duration"
            for point in metric.data.data_points
        ]
        assert [point.count for point in points] == [CALLS]
