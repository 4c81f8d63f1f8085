"""What the demonstration runs: one scan in three ways, and a bystander in each account."""

from __future__ import annotations

import asyncio
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

from aioapiqueue import ApiQueue
from aioapiqueue.demo.moto_server import REGION
from aioapiqueue.integrations.aiobotocore import paced

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable, Mapping

    from aioapiqueue import Rate

__all__ = ["ATTEMPTS", "Endpoint", "Plan", "Strategy", "strategies"]

ATTEMPTS = 3
_PERMISSION = "createVolumePermission"
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is scanned, and how.

    Attributes:
        snapshots: how many EBS snapshots the account holds.
        public: how many of them everybody may read.
        rate: the pace of the blanket and of the paced scan.
        workers: how many of a scan's EC2 calls run at once.
    """

    snapshots: int
    public: int
    rate: Rate
    workers: int

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


class Endpoint:
    """Where the calls go: makes aiobotocore clients for one URL.

    Args:
        url: of the gate, or of the server behind it.
    """

    # One for all: it keeps the services' models, whose loading takes a tenth of a second each.
    _session = AioSession()

    def __init__(self, url: str) -> None:
        self._url = url

    def client(self, service: str, key: str, *, connections: int = 1, attempts: int = 1) -> Any:  # noqa: ANN401 - clients have no types
        """Returns what `async with` makes a client of.

        Args:
            service: the service's name, such as `ec2`.
            key: the access key.
            connections: how many calls may be under way at once.
            attempts: how often a call is tried in all, in botocore's mode `standard`.
        """
        return self._session.create_client(
            service,
            region_name=REGION,
            endpoint_url=self._url,
            aws_access_key_id=key,
            aws_secret_access_key="demo",  # noqa: S106 - nobody checks it
            config=AioConfig(
                max_pool_connections=connections,
                retries={"mode": "standard", "total_max_attempts": attempts},
                s3={"addressing_style": "path"},
            ),
        )

    async def warm_up(self, snapshot: str) -> None:
        """Calls each service once: the first call of each loads code, here and behind the URL."""
        key = "AKIAWARMUP0000000000"
        async with self.client("ec2", key) as ec2:
            await ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute=_PERMISSION)
        async with self.client("s3", key) as s3:
            await s3.list_buckets()
        async with self.client("iam", key) as iam:
            await iam.list_users(MaxItems=1)


class Strategy:
    """One way to scan, in an account of its own, and what has come of it so far.

    Args:
        name: what the tables call it; also the account's name at the gate.
        queues: the queue of each service that is paced, by the service's name.

    Attributes:
        done: calls that have ended, either way.
        errors: calls that failed after all their attempts: what they were to tell is lost.
        lost: those among them that were to tell whether a snapshot is public.
        found: public snapshots found.
        bystander_calls: answered calls of the bystander.
        bystander_failures: those among them that failed.
        seconds: from the start of the scan to its end; None until then.
        ec2_seconds: from the start of the scan to the answer to its last EC2 call.
    """

    def __init__(self, name: str, queues: Mapping[str, ApiQueue]) -> None:
        self.name = name
        self.queues = queues
        self.scanner_key = f"AKIA{name.upper():0<12}SCAN"
        self.bystander_key = f"AKIA{name.upper():0<12}BYST"
        self.done = self.errors = self.lost = self.found = 0
        self.bystander_calls = self.bystander_failures = 0
        self.seconds: float | None = None
        self.ec2_seconds: float | None = None
        self._clients: dict[str, Any] = {}
        self._bystander: Any = None

    async def open(
        self, stack: contextlib.AsyncExitStack, endpoint: Endpoint, workers: int
    ) -> None:
        """Makes the clients, which takes time, before the clock starts; `stack` closes them."""
        for service in ("ec2", "s3", "iam"):
            client = endpoint.client(
                service, self.scanner_key, connections=workers, attempts=ATTEMPTS
            )
            if service in self.queues:
                client = paced(client, self.queues[service])
            self._clients[service] = await stack.enter_async_context(client)
        self._bystander = await stack.enter_async_context(
            endpoint.client("ec2", self.bystander_key)
        )

    async def run(self, plan: Plan, snapshot: str) -> None:
        """Scans once, with a bystander beside it that asks for `snapshot` for as long."""
        bystander = asyncio.create_task(self._stand_by(snapshot))
        try:
            began = time.monotonic()
            await self._scan(plan.workers, began)
            self.seconds = time.monotonic() - began
        finally:
            bystander.cancel()
            await asyncio.wait([bystander])

    async def _scan(self, workers: int, began: float) -> None:
        pages = (
            self._clients["ec2"]
            .get_paginator("describe_snapshots")
            .paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 1000})
        )
        snapshots = [one["SnapshotId"] async for page in pages for one in page["Snapshots"]]
        self.done += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scan_snapshots(snapshots, workers, began))
            # Fewer, for the mock's sake: they would take from EC2's calls the time of one mock
            # that serves them all, where AWS has servers enough.
            group.create_task(self._scan_the_rest(-(-workers // 2)))

    async def _scan_snapshots(self, ids: Iterable[str], workers: int, began: float) -> None:
        ec2 = self._clients["ec2"]
        snapshots = iter(ids)

        async def work() -> None:
            for snapshot in snapshots:
                answer = await self._call(
                    ec2,
                    "describe_snapshot_attribute",
                    SnapshotId=snapshot,
                    Attribute=_PERMISSION,
                )
                if answer is None:
                    self.lost += 1
                elif {"Group": "all"} in answer["CreateVolumePermissions"]:
                    self.found += 1
                self.ec2_seconds = time.monotonic() - began

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())

    async def _scan_the_rest(self, workers: int) -> None:
        s3, iam = self._clients["s3"], self._clients["iam"]
        buckets = [one["Name"] for one in (await s3.list_buckets())["Buckets"]]
        pages = iam.get_paginator("list_users").paginate(PaginationConfig={"PageSize": 1000})
        users = [one["UserName"] async for page in pages for one in page["Users"]]
        self.done += 2
        calls = itertools.chain(
            itertools.product([s3], ["Bucket"], buckets, _S3_CALLS),
            itertools.product([iam], ["UserName"], users, _IAM_CALLS),
        )

        async def work() -> None:
            for client, parameter, name, operation in calls:
                await self._call(client, operation, **{parameter: name})

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())

    async def _call(self, client: Any, operation: str, **parameters: str) -> Any:  # noqa: ANN401 - botocore's answers have no types
        """Returns the answer, or None for a call that failed after its attempts."""
        try:
            return await getattr(client, operation)(**parameters)
        except (ClientError, BotoCoreError):
            self.errors += 1
            return None
        finally:
            self.done += 1

    async def _stand_by(self, snapshot: str) -> None:
        began = time.monotonic()
        for number in itertools.count(1):
            await asyncio.sleep(began + number - time.monotonic())
            failed = 0
            try:
                await self._bystander.describe_snapshot_attribute(
                    SnapshotId=snapshot, Attribute=_PERMISSION
                )
            except (ClientError, BotoCoreError):
                failed = 1
            self.bystander_calls += 1
            self.bystander_failures += failed


def strategies(rate: Rate) -> tuple[Strategy, Strategy, Strategy]:
    """Returns the three ways: unpaced, blanket, paced."""
    everything = ApiQueue(rate, name="every call", catch_up=_CATCH_UP)
    return (
        Strategy("unpaced", {}),
        # The origin's network conditioner: one delay, whatever the service.
        Strategy("blanket", {"ec2": everything, "s3": everything, "iam": everything}),
        Strategy("paced", {"ec2": ApiQueue(rate, name="ec2", catch_up=_CATCH_UP)}),
    )
