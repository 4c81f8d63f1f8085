"""Registries whose queues have quotas that they share with other processes and hosts."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.registry import Registry
from aioapiqueue.registry.spi import forget_idle
from tests.helpers.registries import queue_of
from tests.helpers.servers import Server, keys_of

TEXT = """
[ec2]
rate = "50/s"
buckets.snapshots = {operations = ["CreateSnapshot", "CopySnapshot"], rate = "5/s"}

[iam]
rate = "5/s"
scope = ["account"]
"""


@pytest.mark.parametrize(
    "make",
    [
        lambda path, schedules: Registry.load(path, schedules=schedules),
        lambda path, schedules: Registry.parse(path.read_text(), schedules=schedules),
        lambda path, schedules: Registry.from_options(
            [], base=Registry.load(path, schedules=pytest.fail),
            schedules=schedules,
        ),
        lambda _, schedules: Registry(
            {
                "ec2": {
                    "rate": "50/s",
                    "buckets": {
                        "snapshots": {
                            "operations": ["CreateSnapshot", "CopySnapshot"], "rate": "5/s",
                        },
                    },
                },
                "iam": {"rate": "5/s", "scope": ["account"]},
            },
            schedules=schedules,
        ),
    ],
    ids=["load", "parse", "from_options", "code"],
)  # fmt: skip
def test_each_queue_gets_its_schedule_once(make, tmp_path):
    """Service, Region and account, as far as the scope has them: as on every host."""
    path = tmp_path / "limits.toml"
    path.write_text(TEXT)
    names = []
    registry = make(path, names.append)
    assert names == []
    for _ in range(2):
        for operation in ("CreateSnapshot", "DescribeSnapshots"):
            registry.find_call("ec2", operation, region="eu-west-1", account="111122223333")
        registry.find_call("iam", "ListUsers", region="aws-global", account="111122223333")
        assert registry.find_call("s3", "ListBuckets") is None
    assert names == [
        "ec2 eu-west-1 111122223333",
        "iam 111122223333",
    ]
    assert names == [queue.name for queue in registry.queues.values()]


@pytest.fixture
def server():
    """An empty server."""
    with Server() as one:
        yield one


@pytest.mark.real
@pytest.mark.posix
async def test_registries_share_their_quotas_by_name(server):
    """Two of them have one rate together in one Region; another Region has a quota of its own."""
    began = time.monotonic()
    async with server.client() as client:
        registries = [
            Registry({"ec2": "100/s"}, schedules=lambda name: SharedSchedule(client, name))
            for _ in range(2)
        ]

        async def calls(registry, region):
            queue = queue_of(registry, "ec2", region=region)
            for _ in range(20):
                async with queue.slot():
                    pass

        async with asyncio.TaskGroup() as group:
            for registry in registries:
                group.create_task(calls(registry, "eu-west-1"))
                group.create_task(calls(registry, "us-east-1"))
        seconds = time.monotonic() - began
        for registry in registries:
            # What is shared is not this host's to forget.
            assert forget_idle(registry) == []
            await registry.aclose()
    assert seconds >= 39 / 100 - 0.01
    for name in ("ec2 eu-west-1", "ec2 us-east-1"):
        assert keys_of(server, name)


@pytest.mark.real
@pytest.mark.posix
async def test_registries_share_their_buckets(server):
    """Of two hosts together, operations, shared buckets and instances keep their limits."""
    text = (
        '[ec2]\nrate = "200/s burst 50"\nlanes = {RunInstances = "40/s burst 5"}\n'
        '[ec2.buckets.some]\noperations = ["RunInstances", "StartInstances"]\n'
        'rate = "40/s burst 2"\n'
        '[ec2.buckets.instances]\noperations = ["RunInstances"]\n'
        'cost = {RunInstances = "MaxCount"}\nrate = "100 instances/s burst 10"'
    )
    started: dict[str, list[float]] = {"RunInstances": [], "StartInstances": []}
    async with server.client() as client:
        registries = [
            Registry.parse(text, check=False, schedules=lambda name: SharedSchedule(client, name))
            for _ in range(2)
        ]

        async def call(registry, operation):
            needs = registry.find_call("ec2", operation, parameters={"MaxCount": 5})
            async with needs.queue.slot(keys=needs.keys, cost=needs.cost):
                started[operation].append(time.monotonic())

        async with asyncio.TaskGroup() as group:
            for registry in registries:
                for operation in ["RunInstances"] * 8 + ["StartInstances"] * 4:
                    group.create_task(call(registry, operation))
        for registry in registries:
            await registry.aclose()
    together = sorted(itertools.chain(*started.values()))
    assert len(together) == 24
    assert together[-1] - together[0] >= (24 - 2) / 40 - 0.02
    launches = sorted(started["RunInstances"])
    assert launches[-1] - launches[0] >= (16 * 5 - 10) / 100 - 0.02
