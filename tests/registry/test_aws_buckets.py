"""Every bucket of every call to AWS is kept, behind a backlog too: arrivals at an endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import botocore.session
import pytest
from botocore.config import Config

from aioapiqueue.integrations import aiobotocore as paces_coroutines
from aioapiqueue.integrations import botocore as paces_threads
from aioapiqueue.registry import Registry
from tests.helpers.aws_endpoint import Bucket, RecordingEndpoint
from tests.helpers.lazily import lazily
from tests.helpers.yardstick import delay

aiobotocore = lazily("aiobotocore.session")
aioconfig = lazily("aiobotocore.config")

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("models")]

KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x"}
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
LATE = 0.15  # seconds that a thread may need from its slot to the endpoint, on an ordinary machine

LIMITS = """
[ec2]
rate = "90/s burst 5"

[ec2.lanes]
RunInstances = "10/s burst 2"
"Describe*" = "8/s burst 4"

[ec2.buckets.unfiltered]
operations = ["DescribeSnapshots", "DescribeVolumes"]
unless = ["Filters", "MaxResults"]
each = true
rate = "3/s burst 2"

[ec2.buckets.shared]
operations = ["RunInstances", "StartInstances", "StopInstances"]
rate = "10/s burst 2"

[ec2.buckets.resources]
operations = ["RunInstances", "StartInstances"]
cost = {RunInstances = "MaxCount", StartInstances = "InstanceIds"}
rate = "18 instances/s burst 8"
"""
STARTS = ("RunInstances", "StartInstances")
BUCKETS = [
    Bucket("service", 90, 5, lambda _: 1),
    Bucket("RunInstances", 10, 2, lambda one: one.action == "RunInstances"),
    Bucket(
        "DescribeSnapshots",
        8,
        4,
        lambda one: one.action == "DescribeSnapshots" and not one.unfiltered,
    ),
    Bucket("DescribeVpcs", 8, 4, lambda one: one.action == "DescribeVpcs"),
    Bucket(
        "snapshots unfiltered",
        3,
        2,
        lambda one: one.action == "DescribeSnapshots" and one.unfiltered,
    ),
    Bucket(
        "volumes unfiltered", 3, 2, lambda one: one.action == "DescribeVolumes" and one.unfiltered
    ),
    Bucket("shared", 10, 2, lambda one: one.action in {*STARTS, "StopInstances"}),
    Bucket("resources", 18, 8, lambda one: one.instances if one.action in STARTS else 0),
]
BACKLOG = [("create_tags", {"Resources": ["i-1"], "Tags": [{"Key": "a", "Value": "b"}]})] * 45
RUN = ("run_instances", {"ImageId": "ami-1", "MinCount": 5, "MaxCount": 5})
OTHERS = [
    *[RUN] * 4,  # first, so that nothing but their instances holds them back
    *[("start_instances", {"InstanceIds": ["i-1", "i-2"]})] * 2,
    *[("stop_instances", {"InstanceIds": ["i-1"]})] * 5,
    *[
        ("describe_snapshots", {}),
        ("describe_snapshots", {"MaxResults": 5}),
        ("describe_snapshots", {"MaxResults": 6}),
        ("describe_volumes", {}),
        ("describe_vpcs", {}),
        ("describe_vpcs", {"MaxResults": 5}),
    ]
    * 4,
]
CALLS = BACKLOG + OTHERS
SECONDS = 1.3  # what all of them need: 11 of `shared` behind 0.4 s of backlog take 0.9 s more

PROGRAM = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
import botocore.session
from botocore.config import Config
calls = json.load(open(sys.argv[1]))
config = Config(max_pool_connections=len(calls))
ec2 = botocore.session.get_session().create_client(
    "ec2", "eu-west-1", endpoint_url=os.environ["AWS"], config=config,
    aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")
with ThreadPoolExecutor(len(calls)) as pool:
    list(pool.map(lambda call: getattr(ec2, call[0])(**call[1]), calls))
"""


def through_aiobotocore(url, calls, limits, models, _):
    """Make the calls as coroutines of one loop."""

    async def main():
        config = aioconfig.AioConfig(max_pool_connections=len(calls))
        session = aiobotocore.get_session()
        session.register_component("data_loader", models)
        registry = Registry.parse(limits)
        paces_coroutines.pace_session(session, registry)
        client = session.create_client("ec2", "eu-west-1", endpoint_url=url, config=config, **KEYS)
        async with registry, client as ec2:
            await asyncio.gather(*(getattr(ec2, name)(**how) for name, how in calls))

    asyncio.run(main())


def through_botocore(url, calls, limits, models, _):
    """Make the calls in a thread each."""
    registry = Registry.parse(limits)
    config = Config(max_pool_connections=len(calls))
    session = botocore.session.get_session()
    session.register_component("data_loader", models)
    ec2 = session.create_client("ec2", "eu-west-1", endpoint_url=url, config=config, **KEYS)
    with paces_threads.paced(ec2, registry), ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(getattr(ec2, name), **how) for name, how in calls]:
            future.result(PATIENCE)


def through_run(url, calls, limits, _, folder):
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


@pytest.fixture(scope="module", autouse=True)
def _no_machine_configuration():
    """Keep the AWS settings of the user who runs the tests out of them."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_CONFIG_FILE", os.devnull)
        environment.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def models():
    """Read botocore's model of EC2 once, for both libraries, which have made a first call."""
    assert aioconfig.AioConfig
    loader = aiobotocore.get_session().get_component("data_loader")
    with RecordingEndpoint() as endpoint:
        for make_calls in (through_aiobotocore, through_botocore):
            make_calls(endpoint.url, [("describe_vpcs", {})], LIMITS, loader, None)
    return loader


def assert_kept(buckets, arrivals, stalls, *, least):
    """Check every bucket, and return by how many seconds an arrival may have been late.

    On a slow or busy machine, that is more in proportion.
    """
    late = LATE + stalls.seconds
    try:
        for bucket in buckets:
            bucket.assert_kept(arrivals, late=late, least=least)
    except AssertionError:
        late = LATE * delay() + stalls.seconds
        for bucket in buckets:
            bucket.assert_kept(arrivals, late=late, least=least)
    return late


@pytest.mark.parametrize(
    "make_calls",
    [
        through_aiobotocore,
        through_botocore,
        # Two programs start; tests of `run` have its buckets one by one.
        pytest.param(through_run, marks=pytest.mark.slow),
    ],
)
def test_every_bucket_is_kept(make_calls, models, tmp_path, stalls):
    """Behind 45 calls of the same service, no bucket lets more through than promise 1 allows.

    Taken one after the other, the buckets would let calls through while these wait for the service;
    of `shared`, 2 and 10 a second, 6 then left at once. Launches of 5 instances each use 5 tokens
    of `resources`: 8 at once, 18 a second.
    """
    with RecordingEndpoint() as endpoint:
        began = time.monotonic()
        make_calls(endpoint.url, CALLS, LIMITS, models, tmp_path)
        seconds = time.monotonic() - began
    assert len(endpoint.arrivals) == len(CALLS)
    late = assert_kept(BUCKETS, endpoint.arrivals, stalls, least=4)
    launches = [one for one in endpoint.arrivals if one.action == "RunInstances"]
    assert len(launches) == 4
    assert max(launches).at - min(launches).at >= (20 - 8) / 18 - late
    start = 5 if make_calls is through_run else 1  # of a program, or of threads
    most = 2 * SECONDS + start + stalls.seconds
    assert seconds < most or seconds < most * delay()


def test_published_buckets_are_kept(models, tmp_path, stalls):
    """The same of half of what AWS publishes: unfiltered reads, launches and their instances."""
    calls = (
        [("describe_volumes", {})] * 28 + [RUN] * 3 + [("describe_volumes", {"MaxResults": 5})] * 54
    )
    with RecordingEndpoint() as endpoint:
        through_aiobotocore(
            endpoint.url, calls, '[ec2]\npreset = "aws"\nshare = "50%"', models, tmp_path
        )
    buckets = (
        Bucket("unfiltered", 5, 25, lambda one: one.action == "DescribeVolumes" and one.unfiltered),
        Bucket(
            "non-mutating",
            10,
            50,
            lambda one: one.action == "DescribeVolumes" and not one.unfiltered,
        ),
        Bucket("RunInstances", 1, 2.5, lambda one: one.action == "RunInstances"),
        Bucket("resources", 1, 500, lambda one: one.instances * (one.action == "RunInstances")),
    )
    assert_kept(buckets, endpoint.arrivals, stalls, least=3)
