"""What AWS publishes, kept by `aioapiqueue run`: buckets that parameters choose, and shares."""

from __future__ import annotations

import functools
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from anyio.from_thread import start_blocking_portal
from botocore.config import Config

from aioapiqueue import Rate
from aioapiqueue_run.demo.account import MockAccount
from aioapiqueue_run.demo.gate import ThrottlingServer
from aioapiqueue_run.demo.scan import ScanPlan
from tests.helpers.waiting import wait_until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]

CATCH_UP = 0.010  # seconds, a queue's default
SCANNER = "AKIAIOSFODNN7EXAMPLE"

# Small ones, so that a test need not wait for a hundred calls.
QUOTAS = """
[ec2]
preset = "aws"
share = "100%"
[ec2.quotas]
DescribeSnapshots = "1/min burst 6"
"DescribeSnapshots unfiltered" = "10/s burst 3"
RunInstances = "100/s burst 100"
"RunInstances resources" = "20/s burst 5"
"""


def test_filtered_and_unfiltered_calls_differ(run, aws, python, tmp_path, stalls):
    """6 unfiltered calls wait for their own small bucket; 6 filtered ones then start at once."""
    limits = tmp_path / "limits.toml"
    limits.write_text(QUOTAS)
    program = run.script("""
        ec2 = client()
        def timed(**parameters):
            began = time.monotonic()
            for _ in range(6):
                ec2.describe_snapshots(**parameters)
            return time.monotonic() - began
        import json
        print(json.dumps([timed(OwnerIds=["self"]), timed(MaxResults=5)]))
    """)
    ended = run.here("--limits", limits, "--", python, program)
    assert ended.code == 0, ended.err
    unfiltered, filtered = json.loads(ended.out)
    assert len(aws.arrivals) == 12
    # 3 after the first 3, at 10/s; with the other bucket: at once.
    assert 0.25 <= unfiltered < 10 + stalls.seconds
    assert filtered < 10 + stalls.seconds  # with the unfiltered calls in this bucket, 6 minutes


def test_five_instances_cost_five_tokens(run, aws, python, tmp_path, stalls):
    """RunInstances(MaxCount=5) uses up 5 tokens of 20/s: the next waits, though it is one call."""
    limits = tmp_path / "limits.toml"
    limits.write_text(QUOTAS)
    program = run.script("""
        ec2 = client()
        begin()
        for _ in range(3):
            ec2.run_instances(ImageId="ami-1", MinCount=5, MaxCount=5)
        for _ in range(3):
            ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1)
    """)
    ended = run.here("--limits", limits, "--", python, program)
    assert ended.code == 0, ended.err
    # All 5 that may be used at once, then each token a twentieth of a second after the one before.
    for used, (at, _) in zip([5, 10, 15, 16, 17, 18], aws.arrivals, strict=True):
        assert (used - 5) / 20 - CATCH_UP <= at - run.begun
    assert aws.arrivals[-1][0] - run.begun < 10 + stalls.seconds


def test_aiobotocore_tells_parameters_too(run, aws, python, tmp_path, stalls):
    """Coroutines' calls fall into the bucket of their parameters as threads' do."""
    limits = tmp_path / "limits.toml"
    limits.write_text(QUOTAS)
    program = run.script("""
        import asyncio
        from aiobotocore.session import get_session

        async def main():
            keys = dict(aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")
            async with get_session().create_client(
                "ec2", endpoint_url=os.environ["AWS"], region_name="eu-west-1", **keys
            ) as ec2:
                began = time.monotonic()
                await asyncio.gather(*(ec2.describe_snapshots() for _ in range(6)))
                print(time.monotonic() - began)
                await asyncio.gather(*(ec2.describe_snapshots(MaxResults=5) for _ in range(6)))
        asyncio.run(main())
    """)
    ended = run.here("--limits", limits, "--", python, program)
    assert ended.code == 0, ended.err
    assert len(aws.arrivals) == 12
    assert 0.25 <= float(ended.out) < 10 + stalls.seconds


def test_share_leaves_room_for_others(run, python, stalls):
    """At 80% of EC2's buckets, beside another user, neither is throttled.

    That one makes 18 calls once most of ours have come, for which our 20% have to be left, and then
    two a second. The gate keeps the published buckets; the calls come as fast as these 80% allow.
    """
    program = run.script("""
        from concurrent.futures import ThreadPoolExecutor
        ec2 = client()
        def ask(number):
            ec2.describe_snapshot_attribute(SnapshotId=f"snap-{number}", Attribute="productCodes")
        begin()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(90)))
    """)
    other = "AKIABYSTANDER0000001"
    account = MockAccount(ScanPlan(snapshots=90, rate=Rate(16)))
    gate = ThrottlingServer(account.answer, dict.fromkeys((SCANNER, other), "111122223333"))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(gate.serve()) as url:
        ec2 = boto3.client(
            "ec2",
            "eu-west-1",
            endpoint_url=url,
            aws_access_key_id=other,
            aws_secret_access_key="x",  # noqa: S106 - of nobody
            config=Config(retries={"total_max_attempts": 1}),
        )
        over = threading.Event()
        with ThreadPoolExecutor() as pool:
            bystander = pool.submit(calls_beside, ec2, gate, over)
            try:
                ended = run.here("--share", "80%", "--", python, program, env={"AWS": url})
            finally:
                over.set()
    assert ended.code == 0, ended.err
    assert len(gate.of_key(other)) == 18 + bystander.result()
    assert len(gate.of_key(SCANNER)) == 90
    assert not any(one.is_throttled for one in gate.requests)
    # 80 at once, 16 a second after that, beside others who call; with a fixed 100 ms, 8.9 s.
    arrivals = sorted(one.arrived for one in gate.requests)
    assert arrivals[-1] - run.begun >= 10 / 16 - CATCH_UP
    assert arrivals[-1] - arrivals[0] < 8 + stalls.seconds


def calls_beside(ec2, gate, over):
    """Call the same action without retries; return how often it did after the first 18 calls."""
    ask = functools.partial(
        ec2.describe_snapshot_attribute, SnapshotId="snap-1", Attribute="productCodes"
    )
    wait_until(lambda: over.is_set() or len(gate.of_key(SCANNER)) >= 80)
    for _ in range(18):
        ask()
    count = 0
    while not over.wait(0.5):
        ask()
        count += 1
    return count


def test_default_is_half_of_the_published(run, aws, python, tmp_path):
    """No option at all keeps half of the presets, and says so; services without one go free."""
    figures = tmp_path / "figures.json"
    program = run.script("""
        calls(3)
        client("sts").get_caller_identity()
        client("iam").list_users()
    """)
    ended = run.here("--json", figures, "--", python, program)
    assert ended.code == 0, ended.err
    assert "no limit is set: using 50% of each limit that AWS publishes" in ended.words
    assert "34 services under" in ended.words
    said = json.loads(figures.read_text())
    assert said["limits"]["ec2.Describe*"] == "10/s burst 50"
    assert said["limits"]["sts (requests)"] == "300/s"
    found = {one["lane"]: (one["queue"], one["calls"]) for one in said["figures"]}
    assert found == {
        "DescribeSnapshots unfiltered": (f"ec2 eu-west-1 {SCANNER}", 3),
        "GetCallerIdentity": (f"sts eu-west-1 {SCANNER}", 1),
        "ListUsers": (None, 1),
    }
    assert [one["paced"] for one in said["figures"]] == [True, True, False]
    (bucket,) = said["buckets"]
    assert (bucket["bucket"], bucket["region"], bucket["calls"]) == ("requests", "eu-west-1", 1)
    assert len(aws.arrivals) == 5


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (["--share", "80%", "--limit", "ec2.Describe*=3/s"], "3/s"),
        (["--limits", "limits.toml"], "6/s burst 30"),
        (["--limits", "limits.toml", "--preset", "aws"], "6/s burst 30"),
        (["--limits", "limits.toml", "--share", "10%"], "2/s burst 10"),
    ],
)
def test_shares_come_from_options_and_files(quiet_run, python, tmp_path, options, limit):
    """--share and --preset are what a file would say of them; a --limit goes on top."""
    (tmp_path / "limits.toml").write_text('preset = "aws"\nshare = "30%"\n')
    options = [tmp_path / one if one == "limits.toml" else one for one in options]
    figures = tmp_path / "figures.json"
    ended = quiet_run.here(*options, "--json", figures, "--", python, "-c", "print('ran')")
    assert (ended.code, ended.out) == (0, b"ran\n"), ended.err
    assert json.loads(figures.read_text())["limits"]["ec2.Describe*"] == limit
    assert "no limit is set" not in ended.words


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--preset", "awz", "--share", "0%"],
            ["--preset: 'awz' is not a preset: write", "--share: '0%' is not a share: write"],
        ),
        (
            ["--limits", "limits.toml", "--preset", "awz", "--share", "0%"],
            ["--preset: 'awz' is not a preset: write", "--share: '0%' is not a share: write"],
        ),
        (["--preset", "none"], ["--preset none contains no limits"]),
        (["--preset", "none", "--share", "50%"], ["--share cannot be combined with --preset none"]),
        (["--share", "150%"], ["--share: '150%' is more than AWS publishes"]),
    ],
)
def test_invalid_shares_are_refused(quiet_run, python, tmp_path, options, says):
    """A wrong preset or share is a message and exit code 2, and nothing is started."""
    (tmp_path / "limits.toml").write_text('ec2 = "1/s"\n')
    options = [tmp_path / one if one == "limits.toml" else one for one in options]
    ended = quiet_run.here(*options, "--", python, "-c", "print('started')")
    assert (ended.code, ended.out) == (2, b"")
    assert all(one in ended.words for one in says)
    assert "limits.toml" not in ended.words
