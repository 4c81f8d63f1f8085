"""The demonstration's gate: EC2's token buckets, exactly, and the proxy around them."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace

import aiohttp
import botocore.exceptions
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from aiohttp import web
from yarl import URL

from aioapiqueue_run.demo.gate import MockBucket, MockBuckets, ThrottlingProxy

ATTRIBUTE = "DescribeSnapshotAttribute"
ATTRIBUTES = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeSnapshotAttributeResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<requestId>r</requestId><snapshotId>snap-1</snapshotId>
<createVolumePermission><item><group>all</group></item></createVolumePermission>
</DescribeSnapshotAttributeResponse>"""


def served(buckets, action, parameters=(), *, place=("account", "region"), now=0.0):
    """How many of 200 calls at one instant the buckets serve."""
    return sum(buckets.try_consume(*place, action, parameters, now) for _ in range(200))


def test_bucket_starts_full():
    """A new bucket gives as many tokens as it holds, and then none at the same instant."""
    bucket = MockBucket(100, 20, now=7.0)
    assert [bucket.try_consume(7.0) for _ in range(101)] == [True] * 100 + [False]


def test_bucket_refills_by_elapsed_time():
    """Tokens return at the refill rate, whole ones only, and a refusal costs nothing."""
    bucket = MockBucket(4, 2, now=0.0)
    assert [bucket.try_consume(0.0) for _ in range(5)] == [True] * 4 + [False]
    assert not bucket.try_consume(0.25)
    assert bucket.try_consume(0.5)
    assert not bucket.try_consume(0.5)
    assert [bucket.try_consume(1.5) for _ in range(3)] == [True, True, False]


def test_bucket_holds_its_capacity_at_most():
    """However long no call comes, the burst that follows is the capacity."""
    bucket = MockBucket(4, 2, now=0.0)
    assert [bucket.try_consume(3600.0) for _ in range(5)] == [True] * 4 + [False]


def test_refill_rate_is_served_for_ever():
    """An empty bucket serves its refill rate, and refuses every other call at twice that rate."""
    bucket = MockBucket(8, 4, now=0.0)
    assert all(bucket.try_consume(0.0) for _ in range(8))
    assert [bucket.try_consume(n / 8) for n in range(1, 41)] == [False, True] * 20


@pytest.mark.parametrize(
    ("action", "parameters", "capacity", "refill"),
    [
        ("DescribeSnapshotAttribute", ("SnapshotId",), 100, 20),
        ("GetConsoleOutput", (), 100, 20),
        ("DescribeSnapshots", ("MaxResults", "Owner.1"), 100, 20),
        ("DescribeSnapshots", ("NextToken",), 100, 20),
        ("DescribeSnapshots", ("Filter.1.Name", "Filter.1.Value.1"), 100, 20),
        ("DescribeSnapshots", ("Owner.1",), 50, 10),
        ("DescribeInstances", (), 50, 10),
        ("CreateTags", ("ResourceId.1",), 50, 5),
    ],
)
def test_actions_have_their_published_buckets(action, parameters, capacity, refill):
    """Reads, unfiltered and unpaginated reads, and writes have EC2's published figures."""
    buckets = MockBuckets()
    assert served(buckets, action, parameters) == capacity
    assert served(buckets, action, parameters, now=2.0) == 2 * refill


def test_accounts_regions_actions_do_not_share():
    """A caller that empties one bucket takes nothing from another account, Region or action."""
    buckets = MockBuckets()
    assert served(buckets, ATTRIBUTE) == 100
    assert served(buckets, ATTRIBUTE) == 0
    assert served(buckets, ATTRIBUTE, place=("other", "region")) == 100
    assert served(buckets, ATTRIBUTE, place=("account", "other")) == 100
    assert served(buckets, "DescribeSnapshots", ("MaxResults",)) == 100
    assert served(buckets, "DescribeSnapshots") == 50


@pytest.fixture
async def upstream():
    """A server that answers EC2 with one attribute, and everybody else with what it received."""
    seen = []

    async def handle(request):
        body = await request.read()
        seen.append((request.method, request.raw_path, dict(request.headers), body))
        if b"Action=DescribeSnapshotAttribute" in body:
            return web.Response(text=ATTRIBUTES, content_type="text/xml")
        return web.Response(status=404, body=b"\x00" + body, headers={"X-Told": "yes"})

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}", seen
    await runner.cleanup()


@pytest.fixture
def still(monkeypatch):
    """Let no time pass at the gate, so that no token comes back, however slow this machine is."""
    monkeypatch.setattr("aioapiqueue_run.demo.gate.time", SimpleNamespace(monotonic=lambda: 7.0))


@pytest.fixture(scope="module")
def models():
    """Botocore's model of EC2, which is read once."""
    loader = AioSession().get_component("data_loader")
    loader.load_service_model("ec2", "service-2")
    return loader


def ec2_client(url, models, access_key="SCANNER"):
    """A real EC2 client without retries, for the gate at `url`."""
    session = AioSession()
    session.register_component("data_loader", models)
    return session.create_client(
        "ec2",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key="secret",  # noqa: S106 - the gate checks no signature
        config=AioConfig(retries={"total_max_attempts": 1}, max_pool_connections=60, proxies={}),
    )


async def attribute(client):
    """Calls once; True if served, False if EC2's throttling error came back."""
    try:
        answer = await client.describe_snapshot_attribute(
            Attribute="createVolumePermission", SnapshotId="snap-1"
        )
    except botocore.exceptions.ClientError as error:
        error_code = (
            error.response["Error"]["Code"],
            error.response["ResponseMetadata"]["HTTPStatusCode"],
        )
        if error_code != ("RequestLimitExceeded", 503) or "throttled on ec2:Desc" not in str(error):
            raise
        return False
    assert answer["CreateVolumePermissions"] == [{"Group": "all"}]
    return True


@pytest.mark.real
@pytest.mark.usefixtures("still")
async def test_botocore_is_served_until_empty(upstream, models):
    """Real clients of one account share its bucket, read the error as EC2's, and are counted.

    Served or refused, each call is listed once, with its form; other services' are not.
    """
    url, seen = upstream
    gate = ThrottlingProxy(url, {"SCANNER": "account", "BYSTANDER": "account"})
    async with (
        gate.serve() as front,
        ec2_client(front, models) as scanner,
        ec2_client(front, models, "BYSTANDER") as bystander,
        ec2_client(front, models, "STRANGER") as stranger,
    ):
        answers = await asyncio.gather(*(attribute(scanner) for _ in range(110)))
        assert sum(answers) == 100
        # Another account is not touched by it, this one's other keys are.
        assert await attribute(stranger)
        others = await asyncio.gather(*(attribute(bystander) for _ in range(5)))
        assert sum(others) == 0
        async with aiohttp.ClientSession() as session, session.get(front) as answer:
            assert answer.status == 404
    counts = gate.counts_of("SCANNER")
    assert (counts.calls, counts.ec2_calls, counts.throttled) == (110, 110, 10)
    assert gate.counts_of("BYSTANDER").throttled == 5
    assert len(seen) == 100 + 1 + 1
    calls = gate.ec2_calls
    assert Counter((call.key, call.status) for call in calls) == {
        ("SCANNER", 200): 100,
        ("SCANNER", 503): 10,
        ("STRANGER", 200): 1,
        ("BYSTANDER", 503): 5,
    }
    assert {call.action for call in calls} == {ATTRIBUTE}
    assert all(call.parameters["SnapshotId"] == ["snap-1"] for call in calls)


@pytest.mark.real
async def test_other_services_pass_through_unchanged(upstream):
    """Method, path, query, body and headers arrive as sent; status, body and headers come back."""
    url, seen = upstream
    gate = ThrottlingProxy(url, {})
    authorization = (
        "AWS4-HMAC-SHA256 Credential=KEY/20260101/us-east-1/s3/aws4_request, "
        "SignedHeaders=host, Signature=0"
    )
    async with gate.serve() as front, aiohttp.ClientSession() as session:
        for number in range(150):
            async with session.put(
                URL(f"{front}/a%20bucket/k?list-type={number}&x=a%2Fb", encoded=True),
                data=b"\xff\x00body",
                headers={"Authorization": authorization, "X-Amz-Date": "20260101T000000Z"},
            ) as answer:
                assert answer.status == 404
                assert await answer.read() == b"\x00\xff\x00body"
                assert answer.headers["X-Told"] == "yes"
    method, path, headers, body = seen[-1]
    assert (method, path) == ("PUT", "/a%20bucket/k?list-type=149&x=a%2Fb")
    assert body == b"\xff\x00body"
    assert headers["Authorization"] == authorization
    assert headers["X-Amz-Date"] == "20260101T000000Z"
    assert headers["Host"] == front.removeprefix("http://")
    counts = gate.counts_of("KEY")
    assert (counts.calls, counts.ec2_calls, counts.throttled) == (150, 0, 0)


@pytest.mark.real
async def test_dead_server_is_a_bad_gateway(upstream):
    """The gate answers 502 when no server listens behind it, rather than blaming itself."""
    gate = ThrottlingProxy("http://127.0.0.1:1", {})
    async with (
        gate.serve() as front,
        aiohttp.ClientSession() as session,
        session.get(front) as answer,
    ):
        assert answer.status == 502
