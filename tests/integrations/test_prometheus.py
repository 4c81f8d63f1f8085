"""Metrics for Prometheus: scraped over HTTP, and what they cost and keep."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import tracemalloc
import urllib.request
import weakref

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from aioapiqueue import Adaptive, ApiQueue
from aioapiqueue.integrations.prometheus import PrometheusObserver
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.metered_run import play
from tests.helpers.virtual_hub import VirtualHub

METRICS = introspect.metrics()


class Scraped:
    """The figures of one scrape."""

    def __init__(self, text):
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name, **labels):
        """Return the sum of all samples of a name that have these labels."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)


@pytest.fixture
def registry():
    """Have a registry of its own for each test."""
    return CollectorRegistry()


@pytest.fixture
def scrape(registry):
    """Serve the metrics as users do, and read them."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)

    def read():
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(address, timeout=20) as response:
            return Scraped(response.read().decode())

    yield read
    stops = threading.Thread(target=server.shutdown)
    stops.start()
    while stops.is_alive():  # it looks twice a second, or as something arrives
        socket.create_connection(server.server_address).close()
        stops.join(0.02)
    server.server_close()
    thread.join()


def new_queue(metrics, name="crm", **options):
    """A queue with all that can happen to a call."""
    return ApiQueue(
        "20/s burst 5",
        "2000 tokens/s burst 100",
        name=name,
        lanes={"search": "8/s", "tenant:*": "9/s"},
        concurrency=6,
        maxsize=9,
        observers=[metrics],
        **options,
    )


@pytest.mark.real
def test_scraped_sums_are_right(registry, scrape):
    """Of a run with cancellations, refunds, time-outs, refusals, throttles and errors."""
    metrics = PrometheusObserver(registry)
    queue, seen = play(lambda: new_queue(metrics))
    found = scrape()
    assert {result: found.value("aioapiqueue_slots_total", queue="crm", result=result)
            for result in seen.results} == seen.results  # fmt: skip
    assert min(seen.results.values()) > 1
    for outcome, number in seen.ends.items():
        name = "aioapiqueue_slot_duration_seconds_count"
        assert found.value(name, queue="crm", outcome=outcome) == number
    assert set(seen.ends) == {"ok", "error", "cancelled"}
    assert found.value("aioapiqueue_slot_duration_seconds_sum") == pytest.approx(
        sum(seen.durations)
    )
    assert found.value("aioapiqueue_time_in_queue_seconds_count") == len(seen.waits)
    assert found.value("aioapiqueue_time_in_queue_seconds_sum") == pytest.approx(
        sum(seen.waits), rel=0.01
    )
    for boundary in ("0.0", "0.1", "1.0", "+Inf"):
        name = "aioapiqueue_slot_duration_seconds_bucket"
        within = sum(duration <= float(boundary) for duration in seen.durations)
        assert found.value(name, le=boundary) == within
    assert found.value("aioapiqueue_throttled_total") == seen.throttled
    assert found.value("aioapiqueue_cost", unit="tokens") == seen.tokens
    assert found.value("aioapiqueue_queued") == found.value("aioapiqueue_active") == 0
    assert found.value("aioapiqueue_limit_remaining", unit="permits") == 6
    assert found.value("aioapiqueue_limit_remaining", unit="tokens") <= 100
    lanes = [found.value("aioapiqueue_lane_slots_total", lane=lane, result="released")
             for lane in ("search", "tenant:*")]  # fmt: skip
    assert 0 < sum(lanes) < seen.results["released"]
    in_lanes = [found.value("aioapiqueue_time_in_queue_seconds_count", lane=lane)
                for lane in ("search", "tenant:*", "")]  # fmt: skip
    assert in_lanes[:2] == lanes
    assert sum(in_lanes) == len(seen.waits)
    assert queue.stats.waiting == 0


def test_budgets_are_exported(registry):
    """What is spent, reserved and left, of queues and lanes, and how many calls overdrew."""
    limits = ["5 usd in all", "3 in each day"]
    queue = ApiQueue(*limits, name="llm", lanes={"a": "2 usd in all"}, observers=[
        PrometheusObserver(registry)
    ])  # fmt: skip

    async def use():
        async with queue.slot(key="a", cost={"usd": 1}) as slot, queue.slot(cost={"usd": 0.5}):
            slot.settle({"usd": 1.5})
            return Scraped(generate_latest(registry).decode())

    found = asyncio.run(use())
    for lane, limit, uses in (
        (None, "5 usd in all", {"spent": 1.5, "reserved": 0.5, "left": 3}),
        (None, "3 in each day", {"spent": 2, "reserved": 0, "left": 1}),
        ("a", "2 usd in all", {"spent": 1.5, "reserved": 0, "left": 0.5}),
    ):
        name = "aioapiqueue_budget" if lane is None else "aioapiqueue_lane_budget"
        where = {"limit": limit} if lane is None else {"limit": limit, "lane": lane}
        assert {state: found.value(name, state=state, **where) for state in uses} == uses
    assert found.value("aioapiqueue_overdrawn_total") == 1


async def test_shared_budget_is_exported_once(registry):
    """Two queues of one name that share it do not make it twice as large."""
    hub, metrics, queues = VirtualHub(), PrometheusObserver(registry), []
    for _ in range(2):
        schedule = hub.schedule("llm")
        queue = ApiQueue("5 usd in all", name="llm", schedule=schedule, observers=[metrics])
        (await queue.enqueue(cost={"usd": 1})).release()
        queues.append(queue)
    await asyncio.sleep(1)
    found = Scraped(generate_latest(registry).decode())
    for state, amount in {"spent": 2, "reserved": 0, "left": 3}.items():
        assert found.value("aioapiqueue_budget", state=state) == amount
    for queue in queues:
        await queue.aclose()


def test_units_and_kinds_are_as_prometheus_wants(registry):
    """Seconds, totals, help texts: as `promtool check metrics` would have them."""
    metrics = PrometheusObserver(registry)
    _queue = new_queue(metrics)
    for family in metrics.collect():
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.name.startswith("aioapiqueue_")
        assert not family.name.endswith("_total")
        assert (family.type == "histogram") == family.name.endswith("_seconds")


def test_second_observer_is_refused(registry):
    """One observes all queues: a second in one registry would count everything twice."""
    PrometheusObserver(registry)
    with pytest.raises(
        ValueError, match="already has a PrometheusObserver: use that one for all queues"
    ):
        PrometheusObserver(registry)
    PrometheusObserver(None)


def test_queues_of_one_name_are_added_up(registry):
    """Such as those of several loops; of others, each has its own figures."""
    metrics = PrometheusObserver(registry)
    queues = [ApiQueue(name=name, observers=[metrics]) for name in ("a", "a", "b", None)]

    async def use():
        for queue in queues:
            async with queue.slot():
                pass

    asyncio.run(use())
    name = "aioapiqueue_slots_total"
    released = {queue: registry.get_sample_value(name, {"queue": queue, "result": "released"})
                for queue in ("a", "b", "")}  # fmt: skip
    assert released == {"a": 2, "b": 1, "": 1}


@pytest.mark.usefixtures("young_garbage")
def test_counters_outlive_their_queues(registry):
    """An exporter keeps no queue alive; what it has counted stays, so that no counter falls."""
    metrics = PrometheusObserver(registry)
    queues = [ApiQueue(name="crm", lanes={"a": "9/s burst 9"}, observers=[metrics]) for _ in "ab"]

    async def use():
        for queue in queues:
            for _ in range(3):
                async with queue.slot(key="a", cost=2):
                    pass

    asyncio.run(use())
    labels = {"queue": "crm", "result": "released"}
    assert registry.get_sample_value("aioapiqueue_slots_total", labels) == 6
    gone = weakref.ref(queues.pop())
    gc.collect()
    assert gone() is None
    assert registry.get_sample_value("aioapiqueue_slots_total", labels) == 6
    queues.clear()
    gc.collect()
    assert registry.get_sample_value("aioapiqueue_slots_total", labels) == 6
    name, lane = "aioapiqueue_lane_slots_total", {"lane": "a"}
    assert registry.get_sample_value(name, {**labels, **lane}) == 6
    assert registry.get_sample_value("aioapiqueue_cost", {"queue": "crm", "unit": "calls"}) == 12
    assert registry.get_sample_value("aioapiqueue_queued", {"queue": "crm"}) is None


def test_names_of_any_kind_are_exported(registry):
    """Of queues and lanes that are no text, or none that can be encoded."""
    metrics = PrometheusObserver(registry)
    queue = ApiQueue(name="\ud800", lanes={7: "1/s", "\udfff": "1/s"}, observers=[metrics])
    text = generate_latest(registry).decode()
    assert 'aioapiqueue_lane_queued{lane="7",queue="?"} 0.0' in text
    assert 'aioapiqueue_lane_queued{lane="?",queue="?"} 0.0' in text
    assert queue.waiting == 0


def test_strict_parser_takes_all_of_it(registry):
    """What OpenMetrics demands of names, units, types and the order of buckets."""
    play(lambda: new_queue(PrometheusObserver(registry)), calls=60)
    families = list(openmetrics_families(openmetrics_text(registry).decode()))
    assert len(families) == len(METRICS)


def test_lowered_rate_is_a_gauge(registry):
    """Only while adaptive has lowered it."""
    metrics = PrometheusObserver(registry)
    queue = ApiQueue("10/s", name="q", adaptive=Adaptive("1/s"), observers=[metrics])
    assert registry.get_sample_value("aioapiqueue_rate", {"queue": "q"}) is None

    async def use():
        for _ in range(3):
            async with queue.slot() as slot:
                slot.throttled()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(use())
    assert registry.get_sample_value("aioapiqueue_rate", {"queue": "q"}) == queue.stats.rate < 10
    assert registry.get_sample_value("aioapiqueue_backed_off_total", {"queue": "q"}) >= 1


def test_lane_that_is_named_later(registry):
    """Calls after `set_rate` are in its histogram, those before it are not."""
    metrics = PrometheusObserver(registry)
    queue = ApiQueue(name="q", observers=[metrics])

    async def use():
        for _ in range(2):
            async with queue.slot(key="late"):
                pass
        queue.set_rate("1000/s", key="late")
        for _ in range(3):
            async with queue.slot(keys=("other", "late")):
                pass

    asyncio.run(use())
    name = "aioapiqueue_slot_duration_seconds_count"
    counts = [registry.get_sample_value(name, {"queue": "q", "lane": lane, "outcome": "ok"})
              for lane in ("", "late")]  # fmt: skip
    assert counts == [2, 3]


@pytest.mark.real
def test_scraped_while_calls_run(registry, scrape):
    """In another thread, with lanes that come and go: no scrape fails, and no counter falls."""
    metrics, stop, seen, errors = PrometheusObserver(registry), threading.Event(), [], []
    queue = ApiQueue(
        "100000/s burst 1000",
        "50000 in any 1s",
        name="q",
        lanes={"t*": "1000/s"},
        observers=[metrics],
    )

    def read():
        try:
            while not stop.is_set():
                seen.append(scrape().value("aioapiqueue_slots_total", result="released"))
        except BaseException as error:  # noqa: BLE001 - the test's
            errors.append(error)

    async def use():
        for number in range(5_000):
            with queue.try_slot(key=f"t{number}"):
                pass
            if number % 10 == 0:
                queue.set_rate("10/s", key=f"named{number}")
            if number % 200 == 0:
                queue.enqueue(key="x").cancel()
                await asyncio.sleep(0.01)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        asyncio.run(use())
    finally:
        stop.set()
        reader.join()
    assert not errors
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert scrape().value("aioapiqueue_slots_total", result="released") == 5_025


@pytest.mark.usefixtures("young_garbage")
def test_memory_is_bounded_by_names(registry):
    """24,000 tenants under one pattern are one lane here, and forgotten by 10,000."""
    metrics = PrometheusObserver(registry)
    queue = ApiQueue(name="q", lanes={"t:*": "unlimited"}, observers=[metrics])

    async def use(tenants):
        for number in tenants:
            with queue.try_slot(key=f"t:{number}"):
                pass

    asyncio.run(use(range(12_000)))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        asyncio.run(use(range(12_000, 24_000)))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1_200_000  # kept, 12,000 keys are over 2 MB
    name = "aioapiqueue_slot_duration_seconds_count"
    labels = {"queue": "q", "lane": "t:*", "outcome": "ok"}
    assert registry.get_sample_value(name, labels) == 24_000
    assert sum(len(family.samples) for family in metrics.collect()) < 100
