"""What the demonstration runs: one scan in three ways, and a bystander in each account."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # ships no types
from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # as above
from botocore.exceptions import (  # type: ignore[import-untyped]  # as above
    BotoCoreError,
    ClientError,
)

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.demo.gate import EC2_READS
from aioapiqueue.demo.moto_server import REGION
from aioapiqueue.integrations.aiobotocore import paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from aioapiqueue.demo.recording import Scans

__all__ = [
    "Bystander",
    "ScanFigures",
    "ScanPlan",
    "Strategy",
    "new_client",
    "standing_by",
    "strategies",
    "warm_up",
]

_ATTEMPTS = 3
_ATTRIBUTE = "describe_snapshot_attribute"
_PERMISSION = "createVolumePermission"
_PAGES = {"PageSize": 1000}
# Seconds. One event loop carries three scans and the gate, so that each is often some 10 ms late:
# at the default of as much, every excess would be lost, 3 to 5 % of a scan's time (measured).
# Made up for, it is at most a quarter of a second's calls in excess, and EC2 allows a burst of 100.
_CATCH_UP = 0.25
_S3_CALLS = (
    "get_bucket_acl",
    "get_bucket_location",
    "get_bucket_logging",
    "get_bucket_notification_configuration",
    "get_bucket_request_payment",
    "get_bucket_versioning",
)
_IAM_CALLS = (
    "list_access_keys",
    "list_attached_user_policies",
    "list_groups_for_user",
    "list_signing_certificates",
    "list_ssh_public_keys",
    "list_user_policies",
)
# One for all clients: it keeps the services' models, each of which takes a tenth of a second.
_SESSION = AioSession()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanPlan:
    """What is scanned, and how.

    Attributes:
        snapshots: how many EBS snapshots the account holds.
        public: how many of them every account may read.
        rate: the pace of the blanket and of the paced scan.
        workers: how many of a scan's EC2 calls run at once.
        scale: the account's share of EC2's limits; all but `workers` is reduced by it.
    """

    snapshots: int
    public: int
    rate: Rate
    workers: int
    scale: float

    @property
    def buckets(self) -> int:
        """How many S3 buckets the account holds: as many as make one call in four EC2's."""
        return -(-self.snapshots // 4)

    @property
    def users(self) -> int:
        """How many IAM users the account holds."""
        return self.buckets

    @property
    def calls(self) -> int:
        """How many calls one scan makes if none is retried; `snapshots` + 1 of them are EC2's."""
        others = self.buckets * len(_S3_CALLS) + self.users * len(_IAM_CALLS)
        return self.snapshots + others + 3  # and the three lists

    @property
    def ec2_limit(self) -> Rate:
        """What the account allows for each action that reads."""
        calls, burst = EC2_READS.calls * self.scale, EC2_READS.burst * self.scale
        return Rate(calls, EC2_READS.per, burst=burst)

    @property
    def often(self) -> float:
        """How many calls a bystander makes per second: with 16/s, no more than EC2 refills."""
        return min(1.0, 4 * self.scale)


def new_client(url: str, service: str, key: str, *, connections: int = 1, attempts: int = 1) -> Any:  # noqa: ANN401 - clients have no types
    """Return what `async with` makes an aiobotocore client of.

    Args:
        url: of the gate, or of the server behind it.
        service: the service's name, such as `ec2`.
        key: the access key.
        connections: how many calls may be under way at once.
        attempts: how often a call is tried in all, in botocore's mode `standard`.
    """
    return _SESSION.create_client(
        service,
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key="demo",  # noqa: S106 - it is not checked
        config=AioConfig(
            max_pool_connections=connections,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path"},
        ),
    )


async def warm_up(url: str, snapshot: str) -> None:
    """Call each service once: the first call of each loads code, here and behind the URL."""
    key = "AKIAWARMUP0000000000"
    async with new_client(url, "ec2", key) as ec2:
        await ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute=_PERMISSION)
    async with new_client(url, "s3", key) as s3:
        await s3.list_buckets()
    async with new_client(url, "iam", key) as iam:
        await iam.list_users(MaxItems=1)


@dataclasses.dataclass
class Bystander:
    """Another caller in the account: how many calls it made, and how many of them failed."""

    calls: int = 0
    failures: int = 0


@contextlib.asynccontextmanager
async def standing_by(client: Any, snapshot: str, *, often: float = 1) -> AsyncIterator[Bystander]:  # noqa: ANN401 - as above
    """Call while the block runs; a call that is then under way counts for nothing.

    Args:
        client: of EC2, without retries.
        snapshot: what the calls ask for.
        often: how many calls a second.
    """
    counts = Bystander()

    async def call() -> None:
        began = time.monotonic()
        while True:
            now = time.monotonic()
            due = int((now - began) * often) + 1
            await asyncio.sleep(began + due / often - now)
            try:
                await client.describe_snapshot_attribute(SnapshotId=snapshot, Attribute=_PERMISSION)
            except (ClientError, BotoCoreError):
                counts.failures += 1
            counts.calls += 1

    calling = asyncio.create_task(call())
    try:
        yield counts
    finally:
        calling.cancel()
        await asyncio.wait([calling])


@dataclasses.dataclass(kw_only=True)
class ScanFigures:
    """What has come of a scan so far.

    Attributes:
        seconds: from its start to its end; 0 until then.
        ec2_seconds: from its start to the answer to its latest EC2 call.
        calls: HTTP requests, retries included, as the gate counted them; 0 until the end.
        ec2_calls: those among them to EC2.
        throttled: those among them answered with `RequestLimitExceeded`.
        errors: calls that failed after all their attempts.
        lost: snapshots that could not be looked at for it.
        public_found: public snapshots found.
        bystander_calls: calls of the bystander in the same account, each made once.
        bystander_failures: those among them that failed.
    """

    seconds: float = 0.0
    ec2_seconds: float = 0.0
    calls: int = 0
    ec2_calls: int = 0
    throttled: int = 0
    errors: int = 0
    lost: int = 0
    public_found: int = 0
    bystander_calls: int = 0
    bystander_failures: int = 0


class Strategy:
    """One way to scan, in an account of its own.

    Args:
        name: what the tables call it; also the account's name at the gate.
        queues: the queue of each service that is paced, by the service's name.

    Attributes:
        done: calls that have ended, in success or not.
        figures: what has come of it so far.
    """

    def __init__(self, name: str, queues: Mapping[str, ApiQueue]) -> None:
        self.name = name
        self.scanner_key = f"AKIA{name.upper():0<12}SCAN"
        self.bystander_key = f"AKIA{name.upper():0<12}BYST"
        self.done = 0
        self.figures = ScanFigures()
        self._queues = queues
        self._clients: dict[str, Any] = {}
        self._bystander: Any = None

    async def open(self, stack: contextlib.AsyncExitStack, url: str, workers: int) -> None:
        """Make the clients, which takes time, before the clock starts; `stack` closes them."""
        for service in ("ec2", "s3", "iam"):
            client = new_client(
                url, service, self.scanner_key, connections=workers, attempts=_ATTEMPTS
            )
            if service in self._queues:
                client = paced(client, self._queues[service])
            self._clients[service] = await stack.enter_async_context(client)
        self._bystander = await stack.enter_async_context(
            new_client(url, "ec2", self.bystander_key)
        )

    async def run(self, plan: ScanPlan, snapshot: str) -> None:
        """Scan once, with a bystander beside it that asks for `snapshot` for as long."""
        figures = self.figures
        async with standing_by(self._bystander, snapshot, often=plan.often) as bystander:
            began = time.monotonic()
            await self._scan(plan, began)
            figures.seconds = time.monotonic() - began
        figures.bystander_calls = bystander.calls
        figures.bystander_failures = bystander.failures

    async def _scan(self, plan: ScanPlan, began: float) -> None:
        ec2, s3, iam = self._clients.values()
        snapshots = ec2.get_paginator("describe_snapshots")
        users = iam.get_paginator("list_users")
        listed = await asyncio.gather(
            snapshots.paginate(OwnerIds=["self"], PaginationConfig=_PAGES).build_full_result(),
            s3.list_buckets(),
            users.paginate(PaginationConfig=_PAGES).build_full_result(),
        )
        self.done += len(listed)
        looks = (
            (ec2, _ATTRIBUTE, {"SnapshotId": one["SnapshotId"], "Attribute": _PERMISSION})
            for one in listed[0]["Snapshots"][: plan.snapshots]
        )
        others = itertools.chain(
            (
                (s3, operation, {"Bucket": bucket["Name"]})
                for bucket, operation in itertools.product(
                    listed[1]["Buckets"][: plan.buckets], _S3_CALLS
                )
            ),
            (
                (iam, operation, {"UserName": user["UserName"]})
                for user, operation in itertools.product(
                    listed[2]["Users"][: plan.users], _IAM_CALLS
                )
            ),
        )
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.workers):
                group.create_task(self._work(looks, began))
            # Fewer, for the mock's sake: they would take from EC2's calls the time of one mock
            # that serves them all, where AWS has servers enough.
            for _ in range(-(-plan.workers // 2)):
                group.create_task(self._work(others, began))

    async def _work(self, calls: Iterator[tuple[Any, str, dict[str, str]]], began: float) -> None:
        figures = self.figures
        for client, operation, parameters in calls:
            answer = None
            try:
                answer = await getattr(client, operation)(**parameters)
            except (ClientError, BotoCoreError):
                figures.errors += 1
            self.done += 1
            if operation == _ATTRIBUTE:
                figures.ec2_seconds = time.monotonic() - began
                if answer is None:
                    figures.lost += 1
                elif {"Group": "all"} in answer["CreateVolumePermissions"]:
                    figures.public_found += 1


def strategies(rate: Rate, scans: Scans) -> tuple[Strategy, Strategy, Strategy]:
    """Return the three ways: unpaced, blanket, paced.

    Args:
        rate: of the queues.
        scans: records them.
    """

    def queue(name: str, of_scan: str) -> ApiQueue:
        observers = [scans.of_queue(of_scan)]
        return ApiQueue(rate, name=name, catch_up=_CATCH_UP, observers=observers)

    everything = queue("every call", "blanket")
    return (
        Strategy("unpaced", {}),
        # The origin's network conditioner: one delay, whatever the service.
        Strategy("blanket", dict.fromkeys(("ec2", "s3", "iam"), everything)),
        Strategy("paced", {"ec2": queue("ec2", "paced")}),
    )
