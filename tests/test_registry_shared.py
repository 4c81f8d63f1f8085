"""Registries whose queues have quotas that they share with other processes and hosts."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.registry import Registry, forget_idle
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
    """Service, Region and account as far as the scope has them, and bucket: as on every host."""
    path = tmp_path / "limits.toml"
    path.write_text(TEXT)
    names = []
    registry = make(path, names.append)
    assert names == []
    for _ in range(2):
        for operation in ("CreateSnapshot", "DescribeSnapshots"):
            registry.turns("ec2", operation, region="eu-west-1", account="111122223333")
        registry.turns("iam", "ListUsers", region="aws-global", account="111122223333")
        assert registry.turns("s3", "ListBuckets") == ()
    assert names == [
        "ec2 eu-west-1 111122223333 snapshots",
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
@pytest.mark.skipif(os.name != "posix", reason="no server for Windows")
async def test_registries_share_their_quotas_by_name(server):
    """Two of them have one rate together in one Region; another Region has a quota of its own."""
    began = time.monotonic()
    async with server.client() as client:
        registries = [
            Registry({"ec2": "50/s"}, schedules=lambda name: SharedSchedule(client, name))
            for _ in range(2)
        ]

        async def calls(registry, region):
            queue = registry.find("ec2", region=region)
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
            assert forget_idle(registry, keep=()) == []
            await registry.aclose()
    assert seconds >= 39 / 50 - 0.01
    for name in ("ec2 eu-west-1", "ec2 us-east-1"):
        assert keys_of(server, name)
