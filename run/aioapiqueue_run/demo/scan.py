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

from aioapiqueue.integrations.aiobotocore import paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from rich.progress import Progress, TaskID

    from aioapiqueue import ApiQueue, Rate

__all__ = ["PUBLIC_ONE_IN", "WORKERS", "ScanFigures", "ScanPlan", "Strategy", "snapshot_id"]

REGION = "us-east-1"
PUBLIC_ONE_IN = 10
"""Every tenth snapshot of the account is public."""
WORKERS = 20
"""Number of concurrent EC2 calls in each scan, four times that of calls to S3 and IAM."""
_SERVICES = ("ec2", "s3", "iam")
_ATTEMPTS = 3
_ATTRIBUTE = "describe_snapshot_attribute"
_PERMISSION = "createVolumePermission"
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


@dataclasses.dataclass(frozen=True)
class ScanPlan:
    """The account to scan, and how to scan it.

    Attributes:
        snapshots: number of EBS snapshots in the account.
        rate: the pace of the blanket scan and the paced scan.
    """

    snapshots: int
    rate: Rate

    @property
    def public(self) -> int:
        """Number of snapshots that all accounts may read."""
        return -(-self.snapshots // PUBLIC_ONE_IN)

    @property
    def buckets(self) -> int:
        """Number of S3 buckets, and of IAM users: with them, one call in four is to EC2."""
        return -(-self.snapshots // 4)

    @property
    def calls(self) -> int:
        """Number of calls of one scan without retries; `snapshots` + 1 of them are to EC2."""
        # And one for each of the three lists.
        return self.snapshots + self.buckets * len(_S3_CALLS + _IAM_CALLS) + 3


def snapshot_id(number: int) -> str:
    """Return the id of a snapshot of the account."""
    return f"snap-{number:017x}"


def new_client(url: str, service: str, key: str, *, connections: int = 1, attempts: int = 1) -> Any:  # noqa: ANN401 - clients have no types
    """Return an aiobotocore client, to be opened with `async with`.

    Args:
        url: the URL of the server.
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
    """The result of a scan.

    Attributes:
        seconds: time from its start to its end.
        ec2_seconds: time from its start to the response to its last EC2 call.
        calls: number of HTTP requests, including retries.
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
        name: its name in tables; also the name of its account at the gate.
        queues: the queue of each paced service, by the service's name.
        plan: the plan of the scan.
        bars: shows its progress.

    Attributes:
        figures: its result so far.
    """

    def __init__(
        self, name: str, queues: Mapping[str, ApiQueue], plan: ScanPlan, bars: Progress
    ) -> None:
        self.name = name
        self.scanner_key = f"AKIA{name.upper():0<12}SCAN"
        self.bystander_key = f"AKIA{name.upper():0<12}BYST"
        self.figures = ScanFigures()
        self._queues = queues
        self._plan = plan
        self._bars = bars
        self._bar: TaskID = bars.add_task(f"{name:8}", start=False, total=plan.calls, errors=0)

    async def run(self, url: str) -> None:
        """Scan once. Meanwhile, a bystander keeps reading a snapshot."""
        figures = self.figures
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._client(url, it)) for it in _SERVICES]
            other = await stack.enter_async_context(new_client(url, "ec2", self.bystander_key))
            async with standing_by(other, snapshot_id(0)) as bystander:
                self._bars.start_task(self._bar)
                began = time.monotonic()
                await self._scan(*clients, began=began)
                figures.seconds = time.monotonic() - began
                self._bars.stop_task(self._bar)
        figures.bystander_calls = bystander.calls
        figures.bystander_failures = bystander.failures

    def _client(self, url: str, service: str) -> Any:  # noqa: ANN401 - as above
        client = new_client(url, service, self.scanner_key, connections=WORKERS, attempts=_ATTEMPTS)
        return paced(client, self._queues[service]) if service in self._queues else client

    async def _scan(self, ec2: Any, s3: Any, iam: Any, *, began: float) -> None:  # noqa: ANN401 - as above
        snapshots, buckets, users = await asyncio.gather(
            ec2.describe_snapshots(OwnerIds=["self"], MaxResults=1000),
            s3.list_buckets(),
            iam.list_users(),
        )
        self._bars.advance(self._bar, 3)
        looks = (
            (ec2, _ATTRIBUTE, {"SnapshotId": one["SnapshotId"], "Attribute": _PERMISSION})
            for one in snapshots["Snapshots"]
        )
        of_buckets = itertools.product(buckets["Buckets"], _S3_CALLS)
        of_users = itertools.product(users["Users"], _IAM_CALLS)
        others = itertools.chain(
            ((s3, operation, {"Bucket": one["Name"]}) for one, operation in of_buckets),
            ((iam, operation, {"UserName": one["UserName"]}) for one, operation in of_users),
        )
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(looks, began))
                # A quarter as many: one event loop serves all calls, so these slow down EC2's.
                if number % 4 == 0:
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
            self._bars.update(self._bar, advance=1, errors=figures.errors)
            if operation == _ATTRIBUTE:
                figures.ec2_seconds = time.monotonic() - began
                if answer is None:
                    figures.lost += 1
                elif {"Group": "all"} in answer["CreateVolumePermissions"]:
                    figures.public_found += 1
