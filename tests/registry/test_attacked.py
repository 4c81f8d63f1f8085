"""Limits of AWS services at their edges: costs, units, names, services that share a queue."""

from __future__ import annotations

import asyncio
import re

import pytest

from aioapiqueue import ApiQueue, LimitsError, Rate
from aioapiqueue.registry import Bucket, Registry, ServiceLimits
from aioapiqueue.testing import VirtualLoop
from aioapiqueue.threads import blocking
from tests.helpers.instants import now

RUN = """
[ec2.buckets."{name}"]
operations = ["RunInstances"]
cost = {{RunInstances = "MaxCount"}}
rate = "{rate}"
"""


def in_virtual_time(coroutine):
    """Run a coroutine; no second of it takes any time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


async def send(registry, count=1, *, service="ec2", operation="RunInstances", **parameters):
    """Make calls one after the other; return the seconds that they took."""
    start = now()
    for _ in range(count):
        call = registry.find_call(service, operation, parameters=parameters)
        async with call.queue.slot(keys=call.keys, cost=call.cost):
            pass
    return now() - start


# No call raises an error: what is wrong is said as the limits are read.


@pytest.mark.parametrize(
    "text",
    [
        RUN.format(name="x", rate="unlimited"),
        RUN.format(name="x", rate="5 at once"),
        'preset = "aws"\n[ec2.quotas]\n"RunInstances resources" = "unlimited"',
        'preset = "aws"\n[ec2.quotas]\n"RunInstances resources" = "5 at once"',
    ],
)
def test_cost_that_no_limit_counts(text):
    """A bucket with a cost whose limits count nothing lets calls through."""
    assert in_virtual_time(send(Registry.parse(text), MaxCount=5)) == 0


def test_quota_of_two_units():
    """It is refused with its place, like a bucket of two units."""
    text = 'preset = "aws"\n[ec2.quotas]\n"RunInstances resources" = ["4 instances/s", "2 x/s"]'
    with pytest.raises(LimitsError, match=r"line 3: ec2\.quotas\..*instances and x"):
        Registry.parse(text)


LIMITS = """
[ec2.buckets.b]
operations = ["RunInstances"]
rate = "1/s"
cost = {RunInstances = 2}
"""
TWO = Registry.parse(LIMITS).services["ec2"].buckets["b"].cost


@pytest.mark.parametrize(
    ("bucket", "problem"),
    [
        (Bucket(("RunInstances",), (Rate(1, unit="a"), Rate(1, unit="b"))), "a and b"),
        (Bucket(("RunInstances",), (Rate(1, unit="a"),), per_operation=True), "counts calls"),
        (Bucket(("Run*",), (Rate(1),), per_operation=True),
         "with each = true, write full names, not 'Run*'"),
        (Bucket(("RunInstances",), (Rate(1),), per_operation=True,
                cost=TWO),
         "a bucket with each = true cannot have a cost"),
    ],
)  # fmt: skip
def test_bucket_in_code_is_checked(bucket, problem):
    """What a file refuses is refused in code too."""
    with pytest.raises(LimitsError, match=rf"buckets\.b\b.*{re.escape(problem)}"):
        ServiceLimits(buckets={"b": bucket})


@pytest.mark.parametrize(
    ("limit", "seconds"), [("10 in any 1h", 3600), ("10 in each hour", 3600), ("10/h", 11 * 360)]
)
def test_cost_above_a_window(limit, seconds):
    """It takes all of a window; of a rate, it takes its time."""
    text = f'preset = "aws"\n[ec2.quotas]\n"RunInstances resources" = "{limit}"'
    took = in_virtual_time(send(Registry.parse(text), 2, MaxCount=6))  # windows: of 5
    assert took == pytest.approx(seconds, rel=0.01)


def test_parameter_of_any_size():
    """Numbers of parameters end at 2**53, costs at 1e15."""
    call = Registry.parse('preset = "aws"').find_call(
        "ec2", "RunInstances", parameters={"MaxCount": 2**53}
    )
    call.queue.slot(keys=call.keys, cost=call.cost)
    assert call.cost == {"instances": 1e15}


def test_long_bucket_names():
    """Units that are told apart by a number are no longer than a unit may be."""
    names = ("1" + "a" * 59, "1" + "A" * 59)
    text = "".join(RUN.format(name=name, rate="1/s burst 9") for name in names)
    assert in_virtual_time(send(Registry.parse(text), MaxCount=5)) == 0


# What calls are counted as.


def test_bucket_called_calls():
    """Its unit is not that of calls."""
    registry = Registry.parse(RUN.format(name="calls", rate="1/s burst 500"))
    assert in_virtual_time(send(registry, 2, MaxCount=400)) == pytest.approx(300)


def test_cost_of_a_pattern():
    """A cost may be of all operations that begin alike; the longest that fits holds."""
    text = """
[ec2.buckets.x]
operations = ["Start*", "StopInstances"]
cost = {"Start*" = "InstanceIds", "StartVpc*" = 2, StopInstances = 400}
rate = "1/s burst 500"
"""
    registry = Registry.parse(text)
    for operation in ("StartInstances", "StopInstances"):
        took = in_virtual_time(send(registry, 2, operation=operation, InstanceIds=400))
        assert took == pytest.approx(300)


def test_two_variants_of_a_call():
    """A call without either parameter comes under both."""
    text = '[ec2]\nrate = "unlimited"\n' + "".join(
        f'[ec2.buckets.{name}]\noperations = ["DescribeVolumes"]\neach = true\n'
        f'unless = ["{parameter}"]\nrate = "{rate}"\n'
        for name, parameter, rate in (("dear", "Filters", "1/s"), ("cheap", "MaxResults", "9/s"))
    )
    registry = Registry.parse(text)
    keys = registry.find_call("ec2", "DescribeVolumes").keys
    assert keys == ("DescribeVolumes dear", "DescribeVolumes cheap")
    assert in_virtual_time(send(registry, 3, operation="DescribeVolumes")) == 2


# Push-back.


def test_push_back_goes_to_the_bucket():
    """Of services that share a queue, too: the bucket comes before the service."""
    registry = Registry.parse('preset = "aws"\n[apigateway]\nrate = "10/s"')

    async def main():
        # Neither has a lane of its own, so that the first of its buckets slows down.
        mine = registry.find_call("apigateway", "GetRestApis")
        theirs = registry.find_call("apigatewayv2", "GetApis")
        slot = await mine.queue.enqueue(keys=mine.keys, cost=mine.cost)
        slot.throttled(50)
        return theirs.queue.estimate(keys=theirs.keys, cost=theirs.cost)

    assert in_virtual_time(main()) == 50


def test_adaptive_floor_beside_instances():
    """A floor in calls is none of a bucket that counts something else, as EC2's preset has."""
    registry = Registry.parse('preset = "aws"\n[ec2]\nadaptive = {floor = "1/min"}')
    assert in_virtual_time(send(registry, MaxCount=5)) == 0


# Clients.


@pytest.mark.parametrize("wrap", [lambda queue: queue, blocking])
def test_client_and_queue_of_tokens(wrap):
    """A queue whose limits count tokens can pace no client of AWS: it is refused at once."""
    session = pytest.importorskip("botocore.session").Session()
    pacing = pytest.importorskip("aioapiqueue.integrations.botocore")
    session.set_credentials("A", "B")
    client = session.create_client("sts", "eu-west-1")
    queue = wrap(ApiQueue("10/s", "9 tokens/s"))
    with pytest.raises(ValueError, match="cannot pace sts"), pacing.paced(client, queue):
        pass
    with pytest.raises(ValueError, match="cannot pace sts"):
        pacing.pace_session(session, {"sts": queue})
