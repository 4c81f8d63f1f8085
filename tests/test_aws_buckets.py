"""Every bucket of every call to AWS is kept, behind a backlog too: arrivals at an endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config

from aioapiqueue.integrations import aiobotocore as paces_coroutines
from aioapiqueue.integrations import botocore as paces_threads
from aioapiqueue.registry import Registry
from tests.helpers.aws_endpoint import Bucket, RecordingEndpoint
from tests.helpers.yardstick import slowness

pytestmark = pytest.mark.real

KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x"}
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
LATE = 0.15  # seconds that a thread may need from its slot to the endpoint, on an ordinary machine

LIMITS = """
[ec2]
rate = "30/s burst 5"

[ec2.lanes]
RunInstances = "5/s burst 2"
"Describe*" = "8/s burst 4"

[ec2.buckets.unfiltered]
operations = ["DescribeSnapshots", "DescribeVolumes"]
unless = ["Filters", "MaxResults"]
each = true
rate = "2/s burst 2"

[ec2.buckets.shared]
operations = ["RunInstances", "StartInstances", "StopInstances"]
rate = "4/s burst 2"

[ec2.buckets.resources]
operations = ["RunInstances", "StartInstances"]
cost = {RunInstances = "MaxCount", StartInstances = "InstanceIds"}
rate = "10 instances/s burst 8"
"""
STARTS = ("RunInstances", "StartInstances")
BUCKETS = [
    Bucket("service", 30, 5, lambda _: 1),
    Bucket("RunInstances", 5, 2, lambda one: one.action == "RunInstances"),
    Bucket(
        "DescribeSnapshots",
        8,
        4,
        lambda one: one.action == "DescribeSnapshots" and not one.unfiltered,
    ),
    Bucket("DescribeVpcs", 8, 4, lambda one: one.action == "DescribeVpcs"),
    Bucket(
        "snapshots unfiltered",
        2,
        2,
        lambda one: one.action == "DescribeSnapshots" and one.unfiltered,
    ),
    Bucket(
        "volumes unfiltered", 2, 2, lambda one: one.action == "DescribeVolumes" and one.unfiltered
    ),
    Bucket("shared", 4, 2, lambda one: one.action in {*STARTS, "StopInstances"}),
    Bucket("resources", 10, 8, lambda one: one.instances if one.action in STARTS else 0),
]
BACKLOG = [("create_tags", {"Resources": ["i-1"], "Tags": [{"Key": "a", "Value": "b"}]})] * 60
RUN = ("run_instances", {"ImageId": "ami-1", "MinCount": 5, "MaxCount": 5})
OTHERS = [
    RUN,
    ("start_instances", {"InstanceIds": ["i-1", "i-2", "i-3"]}),
    ("stop_instances", {"InstanceIds": ["i-1"]}),
    ("describe_snapshots", {}),
    ("describe_snapshots", {"MaxResults": 5}),
    ("describe_snapshots", {"MaxResults": 6}),
    ("describe_volumes", {}),
    ("describe_vpcs", {}),
    ("describe_vpcs", {"MaxResults": 5}),
] * 4
CALLS = BACKLOG + OTHERS
SECONDS = 5.0  # what all of them need: 12 of `shared` behind 2 s of backlog take 2.5 s more

PROGRAM = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config
calls = json.load(open(sys.argv[1]))
config = Config(max_pool_connections=len(calls))
ec2 = boto3.client("ec2", "eu-west-1", endpoint_url=os.environ["AWS"], config=config,
                   aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")
with ThreadPoolExecutor(len(calls)) as pool:
    list(pool.map(lambda call: getattr(ec2, call[0])(**call[1]), calls))
"""


def through_aiobotocore(url, calls, limits, _):
    """Make the calls as coroutines of one loop."""

    async def main():
        config = AioConfig(max_pool_connections=len(calls))
        session = get_session()
        registry = Registry.parse(limits)
        paces_coroutines.pace_session(session, registry)
        client = session.create_client("ec2", "eu-west-1", endpoint_url=url, config=config, **KEYS)
        async with registry, client as ec2:
            await asyncio.gather(*(getattr(ec2, name)(**how) for name, how in calls))

    asyncio.run(main())


def through_boto3(url, calls, limits, _):
    """Make the calls in a thread each."""
    registry = Registry.parse(limits)
    config = Config(max_pool_connections=len(calls))
    ec2 = boto3.client("ec2", "eu-west-1", endpoint_url=url, config=config, **KEYS)
    with paces_threads.paced(ec2, registry), ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(getattr(ec2, name), **how) for name, how in calls]:
            future.result(PATIENCE)


def through_run(url, calls, limits, folder):
    """Make the calls in a program that knows nothing of us."""
    for name, text in (("l.toml", limits), ("calls.json", json.dumps(calls)), ("p.py", PROGRAM)):
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "aioapiqueue", "run", "--limits", "l.toml", "--json", "r.json"]
    ended = subprocess.run(
        [*command, "--", sys.executable, "p.py", "calls.json"],
        cwd=folder,
        env=os.environ | {"AWS": url, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(autouse=True)
def _no_machine_configuration(monkeypatch):
    """Keep the AWS settings of the user who runs the tests out of them."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize("make_calls", [through_aiobotocore, through_boto3, through_run])
def test_every_bucket_is_kept(make_calls, tmp_path, stalls):
    """Behind 60 calls of the same service, no bucket lets more through than promise 1 allows.

    Taken one after the other, the buckets would let calls through while these wait for the service;
    of `shared`, 2 and 4 a second, 10 then left within a second.
    """
    with RecordingEndpoint() as endpoint:
        began = time.monotonic()
        make_calls(endpoint.url, CALLS, LIMITS, tmp_path)
        seconds = time.monotonic() - began
    assert len(endpoint.arrivals) == len(CALLS)
    for bucket in BUCKETS:
        bucket.assert_kept(endpoint.arrivals, late=LATE * slowness() + stalls.seconds, least=4)
    assert seconds < 2 * SECONDS + 5 + stalls.seconds  # and the start of a program


@pytest.mark.parametrize("make_calls", [through_aiobotocore, through_boto3, through_run])
def test_launches_keep_their_resource_tokens(make_calls, tmp_path, stalls):
    """RunInstances(MinCount=5, MaxCount=5) behind a backlog: 8 at once, 10 a second, of each 5."""
    with RecordingEndpoint() as endpoint:
        make_calls(endpoint.url, BACKLOG + [RUN] * 8, LIMITS, tmp_path)
    launches = [one for one in endpoint.arrivals if one.action == "RunInstances"]
    assert len(launches) == 8
    for bucket in BUCKETS:
        if bucket.name in {"service", "RunInstances", "shared", "resources"}:
            bucket.assert_kept(endpoint.arrivals, late=LATE * slowness() + stalls.seconds, least=8)
    # 40 instances, 8 of them at once.
    assert max(launches).at - min(launches).at >= (40 - 8) / 10 - LATE * slowness() - stalls.seconds


@pytest.mark.parametrize("share", ["50%"])
def test_published_buckets_are_kept(share, tmp_path, stalls):
    """The same of half of what AWS publishes: unfiltered reads, launches and their instances."""
    calls = (
        [("describe_volumes", {})] * 30 + [RUN] * 4 + [("describe_volumes", {"MaxResults": 5})] * 55
    )
    with RecordingEndpoint() as endpoint:
        through_aiobotocore(
            endpoint.url, calls, f'[ec2]\npreset = "aws"\nshare = "{share}"', tmp_path
        )
    for bucket in (
        Bucket("unfiltered", 5, 25, lambda one: one.action == "DescribeVolumes" and one.unfiltered),
        Bucket(
            "non-mutating",
            10,
            50,
            lambda one: one.action == "DescribeVolumes" and not one.unfiltered,
        ),
        Bucket("RunInstances", 1, 2.5, lambda one: one.action == "RunInstances"),
        Bucket("resources", 1, 500, lambda one: one.instances * (one.action == "RunInstances")),
    ):
        bucket.assert_kept(endpoint.arrivals, late=LATE * slowness() + stalls.seconds, least=4)
