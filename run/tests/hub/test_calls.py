"""What the run hub counts of calls, without a connection."""

from __future__ import annotations

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.records import Kind, ProcessLoad


@pytest.fixture
def registry():
    """Read the limits before the event loop runs, as `run` does: the preset is in files."""
    text = 'preset = "aws"\n' + "".join(
        f'[{service}.buckets.mine]\noperations = ["{operation}"]\nrate = "3/s"\n'
        for service, operation in (("apigateway", "GetRestApis"), ("apigatewayv2", "GetApis"))
    )
    return Registry.parse(text)


async def test_hub_figures_of_two_services(registry):
    """Two services of one queue, each with a bucket of the same name: two figures."""
    calls = Calls(registry, count_only=False)
    for service, operation in (("apigateway", "GetRestApis"), ("apigatewayv2", "GetApis")):
        kind = Kind(service, operation, "eu-west-1", "111122223333")
        request = calls.request(ProcessLoad(), kind, {}, ahead=False)
        waits_for = request.join()
        if waits_for is not None:
            await waits_for
            request.take_slot()
        request.count_waiting()
        request.count_start(0.0)
    mine = [(one.service, one.calls) for one in calls.buckets if one.operation == "mine"]
    assert mine == [("apigateway", 1), ("apigatewayv2", 1)]
