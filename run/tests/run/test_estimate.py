"""How a dry run would have gone at its limits, against the same program on real queues."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue.testing import VirtualLoop
from aioapiqueue_run.cli.run.estimate import PacedEstimate
from aioapiqueue_run.hub import CallStats, Ended, Request
from aioapiqueue_run.hub.records import Kind, ProcessLoad
from tests.helpers.work import work

CATCH_UP = 0.010


class Dry:
    """A dry run: calls that start when they like, as the hub reports them."""

    def __init__(self, registry):
        self.estimate = PacedEstimate(registry)
        self.registry = registry
        self.now = 1_000.0
        self.estimate.begin(self.now)

    def call(self, operation="DescribeSnapshots", service="ec2", region="eu-west-1", **parameters):
        """Start a call now."""
        kind = Kind(service, operation, region, None)
        call = self.registry.find_call(service, operation, region=region, parameters=parameters)
        stats = CallStats(*kind, None, paced=call is not None)
        request = Request(ProcessLoad(), kind, stats, call, paced=False, ahead=False)
        self.estimate.started(request, self.now)
        return request

    def end(self, request, *, throttled=False):
        """End it."""
        outcome = Ended.THROTTLED if throttled else Ended.ANSWERED
        self.estimate.ended(request, self.now, outcome)

    def seconds(self):
        """How long a paced run would have taken."""
        return self.estimate.seconds(self.now)


def paced(registry, calls):
    """Run calls one after the other on the registry's queues; return how long it took."""

    async def main():
        began = asyncio.get_running_loop().time()
        for gap, how in calls:
            await asyncio.sleep(gap)
            call = registry.find_call("ec2", how[0], region=how[1], parameters=how[2])
            async with call.queue.slot(keys=call.keys, cost=call.cost):
                pass
        return asyncio.get_running_loop().time() - began

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def new_registry(limits):
    """Limits as options, or a share of what AWS publishes."""
    if limits == "aws":
        return Registry.parse('preset = "aws"')
    return Registry.from_options(limits)


PLAIN = ("DescribeSnapshots", "eu-west-1", {})
LAUNCH = ("RunInstances", "eu-west-1", {"MaxCount": 5})
ABROAD = ("RunInstances", "us-east-1", {"MaxCount": 9})


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (["ec2=10/s"], [(0.02, PLAIN)] * 200),
        (["ec2=10/s"], [(0.0, PLAIN)] * 50 + [(0.3, PLAIN)] * 20 + [(0.0, PLAIN)] * 50),
        (["ec2=10/s burst 30"], [(0.0, PLAIN)] * 100),
        (["ec2=20 in any 5s"], [(0.05, PLAIN)] * 100),
        (["ec2=10/s, 30 in any 10s"], [(0.05, PLAIN)] * 100),
        (["ec2=10/s", "ec2.DescribeImages=2/s"], [
            (0.01, ("DescribeImages" if n % 4 == 0 else "DescribeTags", "eu-west-1", {}))
            for n in range(200)
        ]),
        (["ec2=5/s"], [
            (0.01, ("DescribeTags", "eu-west-1" if n % 2 else "us-east-1", {})) for n in range(100)
        ]),
        ("aws", [(0.01, PLAIN)] * 200),
        ("aws", [(0.1, LAUNCH), (0.1, ABROAD)] * 150),
        (["ec2=1000/s"], [(0.05, PLAIN)] * 50),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_estimate_is_what_a_sequence_takes(limits, calls):
    """Of calls one after the other, to within the catch-up of each queue."""
    dry = Dry(new_registry(limits))
    for gap, (operation, region, parameters) in calls:
        dry.now += gap
        dry.end(dry.call(operation, region=region, **parameters))
    took = paced(new_registry(limits), calls)
    assert dry.seconds() == pytest.approx(took, rel=0.002, abs=2 * CATCH_UP)
    unpaced = sum(gap for gap, _ in calls)
    if dry.estimate.held:
        assert took > unpaced * 1.2
    else:
        assert took == pytest.approx(unpaced, abs=2 * CATCH_UP)


def test_limits_that_hold_are_named():
    """The one with the latest instant is what a call waits for: of a lane, or of the service."""
    dry = Dry(Registry.from_options(["ec2=10/s", "ec2.DescribeImages=2/s"]))
    for _ in range(10):
        dry.end(dry.call("DescribeImages"))
    for _ in range(20):
        dry.end(dry.call("DescribeTags"))
    held = {" ".join(one): count for one, count in dry.estimate.held.items()}
    assert held == {"ec2.DescribeImages 2/s": 9, "ec2 10/s": 20}
    assert dry.seconds() == pytest.approx(9 * 0.5 + 20 * 0.1, abs=0.01)
    assert dry.estimate.strictest("ec2", "DescribeImages") == 2
    assert dry.estimate.strictest("ec2", "DescribeTags") == 10
    assert dry.estimate.strictest("iam", "ListUsers") == float("inf")


def test_buckets_are_named_as_limits_are():
    """A bucket that operations share, whose calls cost instances."""
    dry = Dry(Registry.parse('preset = "aws"'))
    for _ in range(300):
        dry.end(dry.call("RunInstances", MaxCount=5))
    (most, _), *_ = dry.estimate.held.most_common()
    assert most[0] == "ec2 (RunInstances resources)"


def test_retries_of_throttled_calls_are_free():
    """A call that was throttled comes again; paced, it would have come once, and not paused."""
    dry = Dry(Registry.from_options(["ec2=10/s"]))
    for _ in range(50):
        request = dry.call()
        dry.now += 0.02
        dry.end(request, throttled=True)
        dry.now += 3.0  # the SDK's pause, with nothing under way
        request = dry.call()
        dry.now += 0.02
        dry.end(request)
    # 50 calls, each with an answer and a refusal before it.
    assert dry.seconds() == pytest.approx(50 * 0.1, rel=0.05)
    assert dry.seconds() < 6


def test_pauses_of_the_program_count():
    """What the program does itself takes as long as it did."""
    dry = Dry(Registry.from_options(["ec2=10/s"]))
    dry.end(dry.call())
    dry.now += 60.0
    dry.end(dry.call())
    dry.now += 30.0
    assert dry.seconds() == pytest.approx(90.0)


def test_calls_at_once_are_left_out():
    """How long calls would take at another pace is not known: a limit of them holds nobody."""
    dry = Dry(Registry.from_options(["ec2=2 at once"]))
    for _ in range(10):
        dry.call()
    assert dry.seconds() == 0
    assert not dry.estimate.held


def test_unpaced_calls_only_take_time():
    """Of a service without a limit, nothing is reckoned."""
    dry = Dry(Registry.from_options(["ec2=1/s"]))
    for _ in range(100):
        dry.now += 0.1
        dry.end(dry.call("ListUsers", "iam"))
    assert dry.seconds() == pytest.approx(10.0)


def test_call_that_never_comes_again():
    """Half a minute after the last push-back it is not awaited any more, and all time counts."""
    dry = Dry(Registry.from_options(["ec2=10/s"]))
    for _ in range(10):
        dry.end(dry.call())
        dry.now += 1.0
    dry.end(dry.call("DescribeImages"), throttled=True)
    dry.now += 600.0  # the program goes on by itself
    for _ in range(11):
        dry.end(dry.call("DescribeImages"))
    assert dry.seconds() == pytest.approx(10 + 600 + 1.0)


def test_call_comes_again_before_the_end():
    """A pause that is not over when the program ends counts in full."""
    dry = Dry(Registry.from_options(["ec2=10/s"]))
    dry.end(dry.call(), throttled=True)
    dry.now += 12.0
    dry.end(dry.call())
    assert dry.seconds() == pytest.approx(0)
    dry.now += 5.0
    dry.end(dry.call(), throttled=True)
    dry.now += 20.0
    assert dry.seconds() == pytest.approx(5.0)


def test_services_that_share_a_queue_have_names():
    """Limits are named as `--limit` takes them, also where two services have one queue."""
    text = """preset = "aws"
[apigateway]
rate = "1/s"
"""
    dry = Dry(Registry.parse(text))
    for _ in range(30):
        dry.end(dry.call("GetRestApis", "apigateway"))
    names = {name for name, _ in dry.estimate.held}
    assert names == {"apigateway"}
    dry = Dry(Registry.parse('preset = "aws"'))
    for _ in range(900):
        dry.end(dry.call("GetRestApis", "apigateway"))
        dry.end(dry.call("GetApis", "apigatewayv2"))
    (name,) = {name for name, _ in dry.estimate.held}
    assert name.startswith("apigateway (")


def test_many_queues_take_bounded_memory():
    """Those that were not used for longest are forgotten, as the hub gives them up."""
    dry = Dry(Registry.from_options(["ec2=1/h"]))
    for number in range(2_001):
        dry.end(dry.call(region=f"r{number}"))
    assert dry.seconds() == 0
    dry.end(dry.call(region="r0"))  # nothing is known of its first call
    assert dry.seconds() == 0
    dry.end(dry.call(region="r2000"))
    assert dry.seconds() == 3600


@pytest.mark.parametrize("methods", [("GET", "POST"), ("POST", "GET")])
def test_strictest_of_a_lane_does_not_depend_on_which_came_first(methods):
    """Requests of a path may have a limit of their method, too."""
    options = ["https://api.test/s/*=100/s", "POST https://api.test=1/s"]
    dry = Dry(Registry.from_options(options))
    for method in methods:
        dry.end(dry.call(f"{method} /s/*", service="https://api.test"))
    assert dry.estimate.strictest("https://api.test", "/s/*") == 1
    held = [" ".join(one) for one in dry.estimate.held]
    assert held in ([], ["https://api.test/s/* 100/s"])


def test_expected_retries_cost_no_time():
    """Half of the kinds that the hub keeps are throttled: each retry takes as long as one alone."""
    alone, dry = Dry(Registry({"ec2": "unlimited"})), Dry(Registry({"ec2": "unlimited"}))
    for number in range(10_000):
        dry.end(dry.call(f"Describe{number}"), throttled=True)
    alone.end(alone.call("Describe0"), throttled=True)
    assert work(lambda: dry.call("Describe0")) < 2 * work(lambda: alone.call("Describe0"))


@pytest.mark.parametrize(
    ("limit", "refused"),
    [
        ("3 in all", 7),
        ("3 in each day or raise", 7),
        ("2 in any 1s or raise", 4),  # a call each quarter of a second
        ("100 in all", 0),
    ],
)
def test_calls_that_would_be_refused(limit, refused):
    """They are counted as a queue refuses them, are charged to no limit, and delay no call."""
    dry = Dry(new_registry([f"ec2={limit}", "ec2.DescribeSnapshots=100/s"]))
    for _ in range(10):
        dry.end(dry.call())
        dry.now += 0.25
    assert dry.estimate.refused == ({("ec2", limit): refused} if refused else {})
    assert not dry.estimate.held
    assert dry.seconds() == pytest.approx(2.5)


def test_launches_that_would_be_refused():
    """A budget of another unit than calls, of which nothing comes back."""
    dry = Dry(
        Registry.parse(
            '[ec2.buckets.launches]\noperations = ["RunInstances"]\n'
            'cost = {RunInstances = "MaxCount"}\nrate = "12 instances in all"\n'
        )
    )
    for count in (5, 9, 5, 5, 2):
        dry.end(dry.call("RunInstances", MaxCount=count))
    assert dry.estimate.refused == {("ec2 (launches)", "12 instances in all"): 2}
