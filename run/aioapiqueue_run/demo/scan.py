"""The scan that the demonstration runs in three ways, each with a bystander in its account."""

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
from aioapiqueue.integrations.aiobotocore import paced
from aioapiqueue_run.demo.gate import EC2_READS
from aioapiqueue_run.demo.moto_server import REGION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from aioapiqueue_run.demo.recording import Scans

__all__ = ["ScanFigures", "ScanPlan", "Strategy", "strategies", "warm_up"]

_ATTEMPTS = 3
_ATTRIBUTE = "describe_snapshot_attribute"
_PERMISSION = "createVolumePermission"
_PAGES = {"PageSize": 1000}
# Seconds. One event loop runs three scans and the proxy, so each is often some 10 ms late. With the
# default `catch_up` of 10 ms, a scan would lose 3 to 5 % of its time (measured). A quarter of a
# second makes up for it with a few calls at once, and EC2 allows a burst of 100.
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
# One session for all clients: it caches the services' models, which take 0.1 s each to load.
_SESSION = AioSession()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanPlan:
    """The account to scan, and how to scan it.

    Attributes:
        snapshots: number of EBS snapshots in the account.
        public: number of them that all accounts may read.
        rate: the pace of the blanket scan and the paced scan.
        workers: number of concurrent EC2 calls in each scan.
        scale: the account's limits as a share of EC2's. All values except `workers` are reduced by
            this factor.
    """

    snapshots: int
    public: int
    rate: Rate
    workers: int
    scale: float

    @property
    def buckets(self) -> int:
        """Number of S3 buckets in the account: with them, one call in four is to EC2."""
        return -(-self.snapshots // 4)

    @property
    def users(self) -> int:
        """Number of IAM users in the account."""
        return self.buckets

    @property
    def calls(self) -> int:
        """Number of calls of one scan without retries; `snapshots` + 1 of them are to EC2."""
        others = self.buckets * len(_S3_CALLS) + self.users * len(_IAM_CALLS)
        return self.snapshots + others + 3  # and one for each of the three lists

    @property
    def ec2_limit(self) -> Rate:
        """The account's limit for each action that reads."""
        calls, burst = EC2_READS.calls * self.scale, EC2_READS.burst * self.scale
        return Rate(calls, EC2_READS.per, burst=burst)

    @property
    def often(self) -> float:
        """Calls a second of a bystander. Together with a scan at 16/s, EC2's refill covers them."""
        return min(1.0, 4 * self.scale)


def new_client(url: str, service: str, key: str, *, connections: int = 1, attempts: int = 1) -> Any:  # noqa: ANN401 - clients have no types
    """Return an aiobotocore client, to be opened with `async with`.

    Args:
        url: the URL of the proxy, or of the server behind it.
        service: the service's name, such as `ec2`.
        key: the access key.
        connections: largest number of concurrent calls.
        attempts: number of attempts for each call, in botocore's retry mode `standard`.
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
    """Call each service once, because the first call of each loads code, here and in the server."""
    key = "AKIAWARMUP0000000000"
    async with new_client(url, "ec2", key) as ec2:
        await ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute=_PERMISSION)
    async with new_client(url, "s3", key) as s3:
        await s3.list_buckets()
    async with new_client(url, "iam", key) as iam:
        await iam.list_users(MaxItems=1)


@dataclasses.dataclass
class Bystander:
    """Another caller in the account: the number of its calls, and of those that failed."""

    calls: int = 0
    failures: int = 0


@contextlib.asynccontextmanager
async def standing_by(client: Any, snapshot: str, *, often: float = 1) -> AsyncIterator[Bystander]:  # noqa: ANN401 - as above
    """Make calls while the block runs. A call that is in flight at its end is not counted.

    Args:
        client: a client of EC2 without retries.
        snapshot: the snapshot that the calls describe.
        often: calls a second.
    """
    counts = Bystander()

    async def call() -> None:
        began = time.monotonic()
        while True:
            # At fixed instants: a slow call does not delay those after the next one.
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
    """The result of a scan so far.

    Attributes:
        seconds: time from its start to its end; 0 while it runs.
        ec2_seconds: time from its start to the response to its latest EC2 call.
        calls: number of HTTP requests, including retries, that the proxy counted; 0 until the end.
        ec2_calls: number of those to EC2.
        throttled: number of those to EC2 that got `RequestLimitExceeded`.
        errors: number of calls that failed after all their attempts.
        lost: number of snapshots that were not read because of such errors.
        public_found: number of public snapshots found.
        bystander_calls: number of calls of the bystander in the same account, without retries.
        bystander_failures: number of those that failed.
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
        name: its name in tables; also the name of its account at the proxy.
        queues: the queue of each paced service, by the service's name.

    Attributes:
        done: number of calls that have ended, successful or not.
        figures: its result so far.
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
        """Make the clients, which `stack` closes. This takes time, so call it before the scan."""
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
        """Scan once. Meanwhile, a bystander keeps reading `snapshot`."""
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
            # Half as many for the other services: one mock serves all calls, so these would slow
            # down EC2's calls, which they do not at AWS.
            for _ in range(-(-plan.workers // 2)):
                group.create_task(self._work(others, began))

    async def _work(self, calls: Iterator[tuple[Any, str, dict[str, str]]], began: float) -> None:
        figures = self.figures
        # All workers share the iterator, so each call is made once.
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
    """Return the three strategies: unpaced, blanket and paced.

    Args:
        rate: the rate of the queues.
        scans: records the calls of the queues.
    """

    def queue(name: str, of_scan: str) -> ApiQueue:
        observers = [scans.observer_for(of_scan)]
        return ApiQueue(rate, name=name, catch_up=_CATCH_UP, observers=observers)

    everything = queue("every call", "blanket")
    return (
        Strategy("unpaced", {}),
        # One delay for all calls, as people without a rate limiter use it.
        Strategy("blanket", dict.fromkeys(("ec2", "s3", "iam"), everything)),
        Strategy("paced", {"ec2": queue("ec2", "paced")}),
    )
