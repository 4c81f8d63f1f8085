"""What the hub sees of a run, as its report has it: by queues, lanes and buckets."""

from __future__ import annotations

import pytest

from aioapiqueue import Event, Rate
from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import OTHERS, CallStats, Ended, Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import Kind, ProcessLoad

ACCOUNT = "111122223333"


class Run:
    """A run of which nothing is real but its limits and its counts."""

    def __init__(self, text="", options=()):
        base = Registry.parse(text, source="limits.toml", check=False)
        self.queues = QueueRecords(paced=True)
        observers = [self.queues]
        registry = Registry.from_options(options, base=base, check=False, observers=observers)
        self.registry = registry
        self.calls = Calls(registry, self.queues, Watcher())
        self.queues.recording.begin(now=1000.0, began=0.0)

    def call(self, service, operation, at=0.0, outcome=Ended.ANSWERED, **counts):
        """Make a call that takes a tenth of a second."""
        kind = Kind(service, operation, "eu-west-1", ACCOUNT)
        request = self.calls.request(ProcessLoad(), kind, counts, ahead=False)
        self.calls.joined(request, 1000.0 + at)
        self.calls.started(request, 1000.0 + at)
        self.calls.ended(request, 1000.1 + at, outcome)

    def event(self, kind, queue, key, at=0.0, **details):
        """Pass on an event of a queue."""
        service, region, account = queue.split()
        # An operation that all limits in this file apply to.
        needs = self.registry.find_call(service, "ListTables", region=region, account=account)
        observed = needs.queue
        assert observed.name == queue
        event = Event(kind, queue, key, 0, 0, 1000.0 + at, 0.0, **details)
        self.queues.for_queue(observed).on_event(event)

    def told(self):
        """What the report has, by the names of the queues."""
        found = self.queues.recording.as_json(1010.0)
        return found, {one["queue"]: one for one in found["queues"]}


def lanes_of(queue):
    """The calls and the limits of each lane."""
    return {one["lane"]: (one["calls"], one["limits"]) for one in queue["lanes"]}


BUCKETS = """
[dynamodb]
[dynamodb.buckets.control]
operations = ["ListTables", "DescribeTable"]
rate = "5/s"
"""


def test_push_back_of_a_bucket_is_not_the_queues():
    """What a bucket that operations share has left is its own; without a `*` lane, too."""
    run = Run(BUCKETS)
    run.call("dynamodb", "ListTables")
    run.call("dynamodb", "GetItem")
    name = f"dynamodb eu-west-1 {ACCOUNT}"
    run.event("backed_off", name, "bucket: control", 3.0, rate=0.7)
    run.event("held", name, "ListTables", 4.0, seconds=2.0)
    found, queues = run.told()
    queue = queues[name]
    assert queue["time_series"][0]["allowed"] == [[0, None]]
    assert lanes_of(queue)["shared control"] == (1, ["5/s"])
    assert [(one["kind"], one.get("lane")) for one in found["changes"]] == [
        ("backed_off", "shared control"),
        ("held", None),  # the operation has no limit of its own
    ]


def test_what_happens_before_the_first_call_is_kept():
    """A server that is lost from the start makes all wait, and there is no call yet."""
    run = Run(options=["ec2=10/s"])
    run.event("disconnected", f"ec2 eu-west-1 {ACCOUNT}", None)
    run.event("limits_changed", f"ec2 eu-west-1 {ACCOUNT}", None, 1.0, limits=(Rate(5, 1),))
    run.call("ec2", "DescribeSnapshots", 2.0)
    found, queues = run.told()
    assert [one["kind"] for one in found["changes"]] == ["disconnected", "limits_changed"]
    (queue,) = queues.values()
    assert queue["limits"] == ["5/s"]
    assert queue["time_series"][0]["allowed"] == [[0, 10], [1, 5]]


def test_what_is_summed_up_is_apart_by_limits():
    """Calls beyond those with counts of their own: those with limits are not shown without any."""
    run = Run()
    for paced in (True, False):
        others = CallStats(OTHERS, OTHERS, None, None, None, paced)
        run.queues.add(others)
        run.queues.recording.tally(others, "refused", 1000.0)
    _, queues = run.told()
    assert {name: one["paced"] for name, one in queues.items()} == {
        f"{OTHERS} with limits": True,
        f"{OTHERS} without a limit": False,
    }


def test_services_with_one_queue_have_each_lane_once():
    """API Gateway's two services share a queue: an operation is there under its service's name."""
    run = Run(options=["apigateway=5/s", "apigatewayv2=5/s"])
    run.call("apigatewayv2", "GetApis")
    run.call("apigateway", "GetRestApis")
    _, queues = run.told()
    for queue in queues.values():
        assert sum(one["calls"] for one in queue["lanes"] if "Get" in one["lane"]) == queue["calls"]


@pytest.mark.parametrize(
    ("outcome", "field"), [(Ended.THROTTLED, "throttled"), (Ended.FAILED, "errors")]
)
def test_outcomes(outcome, field):
    """A push-back and another error are counted apart; what was not sent is taken out."""
    run = Run(options=["ec2=10/s"])
    run.call("ec2", "DescribeSnapshots")
    run.call("ec2", "DescribeSnapshots", outcome=outcome)
    run.call("ec2", "DescribeSnapshots", outcome=Ended.NOT_SENT)
    _, queues = run.told()
    (queue,) = queues.values()
    assert (queue["calls"], queue[field], queue["used"]) == (2, 1, {"calls": 2})
    assert sum(queue[name] for name in ("throttled", "errors", "refused")) == 1
    assert lanes_of(queue) == {"DescribeSnapshots": (2, [])}
