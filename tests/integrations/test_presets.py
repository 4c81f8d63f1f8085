from __future__ import annotations

import asyncio
import functools

import boto3
import pytest
from aiobotocore.session import get_session

from aioapiqueue.integrations import aiobotocore as paces_coroutines
from aioapiqueue.integrations import botocore as paces_threads
from aioapiqueue.registry import Registry
from aioapiqueue.threads import blocking
from tests.helpers import introspect

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_machine_configuration")]

KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x"}
LIMITS = """
[ec2]
preset = "aws"
share = "100%"
[ec2.quotas]
DescribeSnapshots = "1/min burst 6"
"DescribeSnapshots unfiltered" = "20/s burst 3"
"""


@pytest.fixture(autouse=True)
def _botocore_reads_files(blockbuster):
    """Let botocore read its service models from disk while it makes a client."""
    blockbuster.deactivate()


@functools.cache
def models():
    """Read botocore's service models once, not in every test."""
    return get_session().get_component("data_loader")


def new_client(url):
    """Make a client for coroutines."""
    session = get_session()
    session.register_component("data_loader", models())
    return session.create_client("ec2", "eu-west-1", endpoint_url=url, **KEYS)


async def test_coroutines_use_buckets_by_parameters(endpoint):
    """Unfiltered calls wait in their small bucket, filtered ones do not; pages count as such."""
    registry = Registry.parse(LIMITS)
    client = new_client(endpoint.url)
    async with registry, paces_coroutines.paced(client, registry) as ec2:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(ec2.describe_snapshots() for _ in range(6)))
        assert loop.time() - began >= 3 / 20 - 0.02
        async with asyncio.timeout(30):  # were they in one bucket, it would take a minute for each
            await asyncio.gather(*(ec2.describe_snapshots(MaxResults=5) for _ in range(6)))
    assert len(endpoint.arrivals) == 12


async def test_coroutines_instances_cost_resource_tokens(endpoint):
    """A launch of 5 instances takes 5 of its resource tokens, with one slot."""
    heard = []
    registry = Registry.parse('[ec2]\npreset = "aws"', observers=[Heard(heard)])
    client = new_client(endpoint.url)
    async with registry, paces_coroutines.paced(client, registry) as ec2:
        await ec2.run_instances(ImageId="ami-1", MinCount=5, MaxCount=5)
        await ec2.terminate_instances(InstanceIds=["i-1", "i-2"])
        (queue,) = registry.queues.values()
        assert queue.name == f"ec2 eu-west-1 {KEYS['aws_access_key_id']}"
        assert left(queue, "RunInstances") == pytest.approx(5 / 1, abs=1)
        assert left(queue, "TerminateInstances") == pytest.approx(2 / 10, abs=0.2)
    assert heard == ["RunInstances", "TerminateInstances"]


async def test_cancelled_launch_uses_no_resource_tokens(endpoint):
    """Cancelled while it waits for its request token, it was never sent: others have its nine."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\nshare = "100%"\n[ec2.quotas]\nRunInstances = "1/min burst 1"\n'
        '"RunInstances resources" = "1/min burst 10"'
    )
    client = new_client(endpoint.url)
    async with paces_coroutines.paced(client, registry) as ec2:
        await ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1)
        (queue,) = registry.queues.values()
        launch = asyncio.create_task(ec2.run_instances(ImageId="ami-1", MinCount=9, MaxCount=9))
        async with asyncio.timeout(30):
            while not queue.waiting:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        launch.cancel()
        await asyncio.wait([launch])
        assert left(queue, "RunInstances", of=9) == 0
        assert queue.running == queue.waiting == 0
    await registry.aclose(drain=False)
    assert len(endpoint.arrivals) == 1


async def test_interrupted_thread_uses_no_resource_tokens(endpoint, monkeypatch):
    """The same of boto3, whose thread is interrupted while it waits."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\nquotas = {"RunInstances resources" = "1/min"}'
    )

    def launch():
        ec2 = boto3.client("ec2", "eu-west-1", endpoint_url=endpoint.url, **KEYS)
        with paces_threads.paced(ec2, registry), pytest.raises(KeyboardInterrupt):
            ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1)
        (queue,) = registry.queues.values()
        assert blocking(queue).call(left, queue, "RunInstances", of=1) == 0
        assert queue.running == 0

    introspect.interrupt_waits(monkeypatch)
    await asyncio.to_thread(launch)
    assert not endpoint.arrivals


async def test_threads_instances_cost_resource_tokens(endpoint):
    """The same of boto3, whose client waits in its thread."""
    heard = []
    registry = Registry.parse('[ec2]\npreset = "aws"', observers=[Heard(heard)])

    def launch():
        ec2 = boto3.client("ec2", "eu-west-1", endpoint_url=endpoint.url, **KEYS)
        with paces_threads.paced(ec2, registry):
            ec2.run_instances(ImageId="ami-1", MinCount=5, MaxCount=5)
            ec2.describe_snapshots(MaxResults=5)
            ec2.describe_snapshots()
        (queue,) = registry.queues.values()
        assert blocking(queue).call(left, queue, "RunInstances") == pytest.approx(5, abs=2)

    await asyncio.to_thread(launch)
    assert heard == ["RunInstances", "DescribeSnapshots", "DescribeSnapshots unfiltered"]


def left(queue, operation, *, of=500):
    """Return how long the resource tokens of an operation take to be so many."""
    return queue.estimate(keys=[f"bucket: {operation} resources"], cost={"instances": of})


class Heard:
    """An observer that notes the slots that are let go."""

    def __init__(self, heard):
        self.heard = heard

    def on_event(self, event, /):
        """Note one."""
        if event.kind == "released":
            self.heard.append(event.key)
