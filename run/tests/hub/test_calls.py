"""What the run hub counts of calls, without a connection."""

from __future__ import annotations

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import Ended, Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import Kind, ProcessLoad


@pytest.fixture
def registry():
    """Give two services of one queue, each with a bucket of the same name."""
    text = 'preset = "aws"\n' + "".join(
        f'[{service}.buckets.mine]\noperations = ["{operation}"]\nrate = "3/s"\n'
        for service, operation in (("apigateway", "GetRestApis"), ("apigatewayv2", "GetApis"))
    )
    return Registry.parse(text)


async def test_hub_figures_of_two_services(registry):
    """Two services of one queue, each with a bucket of the same name: two figures."""
    calls = Calls(registry, QueueRecords(paced=True), Watcher())
    for service, operation in (("apigateway", "GetRestApis"), ("apigatewayv2", "GetApis")):
        kind = Kind(service, operation, "eu-west-1", "111122223333")
        request = calls.request(ProcessLoad(), kind, {}, ahead=False)
        waits_for = request.join()
        if waits_for is not None:
            await waits_for
            request.take_slot()
        calls.joined(request, 0.0)
        calls.started(request, 0.0)
    mine = [(one.service, one.calls) for one in calls.buckets if one.operation == "mine"]
    assert mine == [("apigateway", 1), ("apigatewayv2", 1)]


@pytest.fixture
def exempting():
    """Give a bucket that two operations share, which calls with a filter do not use."""
    bucket = {"operations": ["DescribeTags", "DescribeHosts"], "unless": ["Filters"]}
    return Registry({"ec2": {"rate": "1000/s", "buckets": {"some": bucket | {"rate": "500/s"}}}})


def test_calls_of_an_operation_are_one_figure(exempting):
    """Whether they use a bucket or not: in the figure all of them, in the bucket those that do."""
    calls = Calls(exempting, QueueRecords(paced=False), Watcher())
    calls.recording.begin(now=0.0, began=0.0)
    kind = Kind("ec2", "DescribeTags", "eu-west-1", None)
    for number in range(32):
        filters = {"Filters": 1} if number % 3 else {}
        request = calls.request(ProcessLoad(), kind, filters, ahead=False)
        calls.joined(request, number / 8)
        calls.started(request, number / 8)
        outcome = Ended.THROTTLED if number % 2 else Ended.ANSWERED
        calls.ended(request, number / 8, outcome)
    (figure,) = calls.figures
    (bucket,) = calls.buckets
    assert (figure.calls, figure.answers, figure.throttled) == (32, 32, 16)
    assert figure.used == {"calls": 32}
    assert (bucket.operation, bucket.calls, bucket.throttled) == ("some", 11, 5)
    assert (figure.peak, bucket.peak) == (8, 3)
    assert (figure.service_peak, figure.place_peak, figure.lane_peak) == (8, 8, 8)
    started = {step: point[1] for step, point in figure.over_time["calls"].items()}
    assert started == {0: 8, 1: 8, 2: 8, 3: 8}
    (queue,) = calls.recording.as_json(4.0)["queues"]
    assert (queue["calls"], queue["throttled"]) == (32, 16)
    assert {one["lane"]: one["calls"] for one in queue["lanes"]} == {
        "DescribeTags": 32,
        "shared some": 11,
    }
