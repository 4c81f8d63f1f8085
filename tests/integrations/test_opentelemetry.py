"""Metrics and span events for OpenTelemetry: in memory, and by OTLP to a receiver on loopback."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.opentelemetry import OpenTelemetryObserver
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.lazily import lazily
from tests.helpers.metered_run import play

BOUNDARIES = introspect.metric_boundaries()
METRICS = introspect.metrics()

otlp = lazily("opentelemetry.exporter.otlp.proto.http.metric_exporter")
messages = lazily("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
sdk = lazily("opentelemetry.sdk.metrics")
export = lazily("opentelemetry.sdk.metrics.export")
trace = lazily("opentelemetry.sdk.trace")
spans_of = lazily("opentelemetry.sdk.trace.export")
in_memory_spans = lazily("opentelemetry.sdk.trace.export.in_memory_span_exporter")


def new_queue(metrics):
    """A queue with all that can happen to a call."""
    return ApiQueue(
        "20/s burst 5",
        "2000 tokens/s burst 100",
        name="crm",
        lanes={"search": "8/s", "tenant:*": "9/s"},
        concurrency=6,
        maxsize=9,
        observers=[metrics],
    )


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Import the SDK before the first test."""
    assert otlp.OTLPMetricExporter
    assert in_memory_spans.InMemorySpanExporter


class Points:
    """What was collected: the points of each metric, with short names of attributes."""

    def __init__(self, points):
        self.points = points

    def sum(self, name, field="value", **attributes):
        """Return the sum over the points that have these attributes."""
        wanted = {f"aioapiqueue.{key}": value for key, value in attributes.items()}
        found = [
            getattr(point, field)
            for point, own in self.points[f"aioapiqueue.{name}"]
            if wanted.items() <= own.items()
        ]
        assert found, f"no {name} with {attributes}"
        return sum(found)


def in_memory(reader):
    """Collect from the SDK's own reader."""
    data = reader.get_metrics_data()
    return Points(
        {
            metric.name: [(point, dict(point.attributes)) for point in metric.data.data_points]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    )


def check(found, seen):
    """Compare sums with what the callers have seen."""
    for result, number in seen.results.items():
        assert found.sum("slots", queue="crm", result=result) == number
    assert min(seen.results.values()) > 1
    assert found.sum("throttled") == seen.throttled
    assert found.sum("cost", unit="tokens") == seen.tokens
    assert found.sum("queued") == found.sum("active") == 0
    assert found.sum("limit.remaining", unit="permits") == 6
    lanes = [found.sum("lane.slots", lane=lane, result="released")
             for lane in ("search", "tenant:*")]  # fmt: skip
    assert 0 < sum(lanes) < seen.results["released"]


def test_collected_sums_are_right():
    """By the SDK's in-memory reader, of a run with cancellations and throttles."""
    reader = export.InMemoryMetricReader()
    metrics = OpenTelemetryObserver(sdk.MeterProvider(metric_readers=[reader]))
    queue, seen = play(lambda: new_queue(metrics))
    found = in_memory(reader)
    check(found, seen)
    for outcome, number in seen.ends.items():
        assert found.sum("slot.duration", "count", queue="crm", outcome=outcome) == number
    assert found.sum("slot.duration", "sum") == pytest.approx(sum(seen.durations))
    assert found.sum("time_in_queue", "count") == len(seen.waits)
    assert found.sum("time_in_queue", "sum") == pytest.approx(sum(seen.waits), rel=0.01)
    for name in ("slot.duration", "time_in_queue"):
        for point, _ in found.points[f"aioapiqueue.{name}"]:
            assert tuple(point.explicit_bounds) == BOUNDARIES
    # Collected again, figures are those of then.
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_one(queue))
    assert in_memory(reader).sum("slots", result="released") == seen.results["released"] + 1


async def _one(queue):
    async with queue.slot(cost={"tokens": 1}):
        pass


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        """Take one export."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.exports.append(messages.ExportMetricsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture
def receiver():
    """Receive OTLP over HTTP on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        server.exports = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Otlp:
    """A point as OTLP has it."""

    def __init__(self, point):
        self.value = point.as_double or point.as_int if hasattr(point, "as_int") else None
        self.count = getattr(point, "count", None)
        self.sum = getattr(point, "sum", None)


@pytest.mark.real
def test_otlp_receiver_gets_the_same(receiver):
    """Over the wire: names, units, attributes and sums."""
    exporter = otlp.OTLPMetricExporter(f"http://127.0.0.1:{receiver.server_address[1]}/v1/metrics")
    reader = export.PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = sdk.MeterProvider(metric_readers=[reader])
    metrics = OpenTelemetryObserver(provider)
    queue, seen = play(lambda: new_queue(metrics))
    assert provider.force_flush()
    request = receiver.exports[0]
    provider.shutdown()
    received = [
        metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    points, units = {}, {}
    for metric in received:
        data = getattr(metric, metric.WhichOneof("data"))
        units[metric.name] = metric.unit
        points[metric.name] = [
            (_Otlp(point), {one.key: one.value.string_value for one in point.attributes})
            for point in data.data_points
        ]
    found = Points(points)
    check(found, seen)
    assert found.sum("slot.duration", "count") == sum(seen.ends.values())
    assert found.sum("time_in_queue", "sum") == pytest.approx(sum(seen.waits), rel=0.01)
    expected = {f"aioapiqueue.{metric.name}": metric.unit for metric in METRICS}
    assert units.items() <= expected.items()
    assert len(units) >= 15
    assert queue.running == 0


async def test_wait_is_an_event_of_the_callers_span():
    """How long, in which queue and lane, at the instant at which it ended."""
    exporter = in_memory_spans.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(spans_of.SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    metrics = OpenTelemetryObserver(sdk.MeterProvider())
    quiet = OpenTelemetryObserver(sdk.MeterProvider(), spans=False)
    queue = ApiQueue(name="crm", lanes={"search": "10/s"}, observers=[metrics])
    other = ApiQueue("10/s", name="quiet", observers=[quiet])

    async def call(name, queue):
        with tracer.start_as_current_span(name):
            async with queue.slot(key="search"):
                await asyncio.sleep(0.01)

    await asyncio.gather(call("a", queue), call("b", queue), call("c", other), call("d", other))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert not spans["a"].events  # it did not wait
    assert not spans["d"].events
    (event,) = spans["b"].events
    assert event.name == "aioapiqueue.wait"
    span = spans["b"]
    assert 0 <= span.end_time - event.timestamp <= 1e9  # its body ran for 10 ms after that
    assert dict(event.attributes) == {
        "aioapiqueue.queue": "crm",
        "aioapiqueue.lane": "search",
        "aioapiqueue.time_in_queue": pytest.approx(0.1),
    }


def test_second_observer_is_the_same():
    """The SDK has each metric once: what a second one observes is in it all the same."""
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider(metric_readers=[reader])
    queues = [
        ApiQueue(name=name, observers=[OpenTelemetryObserver(provider)]) for name in ("a", "b")
    ]

    async def use():
        for queue in queues:
            async with queue.slot():
                pass

    asyncio.run(use())
    found = in_memory(reader)
    for name in "ab":
        assert found.sum("slots", queue=name, result="released") == 1
        assert found.sum("slot.duration", "count", queue=name) == 1


@pytest.mark.usefixtures("young_garbage")
def test_deltas_are_never_negative():
    """Of several queues of one name, of which one is collected, and comes again."""
    delta = {sdk.ObservableCounter: export.AggregationTemporality.DELTA}
    reader = export.InMemoryMetricReader(preferred_temporality=delta)
    metrics = OpenTelemetryObserver(sdk.MeterProvider(metric_readers=[reader]))

    async def use(queue, calls):
        for _ in range(calls):
            async with queue.slot():
                pass

    deltas, queues = [], []
    for calls in (100, 40, 0, 7):
        if calls:
            queues.append(ApiQueue(name="crm", observers=[metrics]))
            asyncio.run(use(queues[-1], calls))
        else:
            queues.clear()
            gc.collect()
        deltas.append(in_memory(reader).sum("slots", result="released"))
    assert deltas == [100, 40, 0, 7]


async def test_no_span_no_event():
    """Without a current span, or an SDK, nothing is added anywhere, and nothing fails."""
    queue = ApiQueue("10/s", observers=[OpenTelemetryObserver()])
    for _ in range(2):
        async with queue.slot():
            pass
    assert queue.stats.released == 2
