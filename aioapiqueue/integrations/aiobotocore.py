"""Pace aiobotocore and aioboto3 clients: each HTTP attempt waits for a slot."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aioapiqueue.integrations._extras import needs

with needs("aiobotocore", to="pacing AWS clients", extra="aws"):
    from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]  # ships no types

from aioapiqueue import ApiQueue
from aioapiqueue.integrations._aws import AWS_MAX_HOLD
from aioapiqueue.integrations._botocore_common import Pacer, pace_clients
from aioapiqueue.registry import Registry
from aioapiqueue.spi import Reporter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from aioapiqueue import Slot
    from aioapiqueue.integrations._botocore_common import AnySession, AwsClientCall
    from aioapiqueue.integrations.llm._bedrock import BedrockProfile
    from aioapiqueue.registry import PacedCall

__all__ = ["pace_session", "paced"]

_ClientT = TypeVar("_ClientT")


class _AioPacer(Pacer):
    library = "aiobotocore"
    client_class = AioBaseClient
    sources = (ApiQueue, Registry)

    async def take(self, needs: PacedCall, call: AwsClientCall, priority: float) -> None:
        future = Reporter.request(
            needs.queue.enqueue,
            keys=needs.keys,
            cost=needs.cost,
            priority=priority,
        )
        call.joined()
        # If cancelled here, the future leaves the queue, or releases the slot just granted.
        call.slot = await future

    def apply(self, slot: Slot, change: Callable[[Any], None]) -> None:
        change(slot)


@asynccontextmanager
async def paced(
    client: AbstractAsyncContextManager[_ClientT],
    queue: ApiQueue | Registry,
    *,
    max_hold: float = AWS_MAX_HOLD,
    profile: BedrockProfile | None = None,
) -> AsyncIterator[_ClientT]:
    """Pace an aiobotocore client in an `async with` block, which yields the client itself.

    Each HTTP attempt, retries and pages included, waits for a slot before it is signed and holds
    the slot until the response arrives (for a streamed response, until its headers arrive). The key
    of the slot is the name of the operation, such as `"DescribeSnapshots"`. Presigning uses no
    slot.

    If AWS throttles an attempt, the queue waits as long as the response asks (`Slot.throttled`).
    Exceeded quotas of resources, such as "too many roles", are not throttling.

    Errors of the queue (`QueueClosed`, `QueueFull`) are raised by the client's method. A call that
    is cancelled while it waits uses no slot; a call cancelled in flight releases its slot at once.

    Args:
        client: the result of `session.create_client(...)`, which the block opens and closes, or an
            open client, which the block only paces. Blocks with the same queue may be nested.
        queue: paces the client; it may pace any number of clients. A `Registry` finds the queue for
            the service, Region and account of each attempt, and applies the limits of its operation
            and parameters.
        max_hold: longest hold in seconds. Longer holds are cut, and counted in `stats.malformed`,
            as are holds that are not a number. Default: 300.
        profile: keys and costs of calls to one service, such as `llm.bedrock`. Default: each
            attempt costs one call.

    Raises:
        RuntimeError: another queue already paces this client or its session.
        TypeError: `client` is not an aiobotocore client.
        ValueError: `max_hold` is negative, infinite or NaN, or a limit of the queue counts
            something other than calls.

    For example::

        async with (
            ApiQueue("100ms") as queue,
            paced(get_session().create_client("ec2"), queue) as ec2,
        ):
            await ec2.describe_snapshots(OwnerIds=["self"])
    """
    async with AsyncExitStack() as stack:
        opened: Any = client
        # `create_client` returns a context manager, which has no `meta`.
        if not hasattr(client, "meta"):
            opened = await stack.enter_async_context(client)
        # After the client, so that the pacing ends before the client is closed.
        stack.callback(_AioPacer.pace(opened, queue, max_hold, profile))
        yield opened


def pace_session(
    session: AnySession,
    queues: ApiQueue | Registry | Mapping[str, ApiQueue | Registry],
    *,
    max_hold: float = AWS_MAX_HOLD,
    profile: BedrockProfile | None = None,
) -> None:
    """Pace every client that a session creates from now on, in any Region, as `paced` does.

    For clients that already exist, use `paced`. Call this again to pace more services.

    Args:
        session: an aiobotocore or aioboto3 session.
        queues: a `Registry`, which finds the queue of every call; one queue for all services; or
            a queue for each service, by its name in `create_client`: `{"ec2": queue}`. Services
            that are not named are not paced.
        max_hold: as in `paced`.
        profile: as in `paced`.

    Raises:
        ValueError: a name is not a service of this session, `max_hold` is invalid, or a limit of
            a queue counts something other than calls.
        RuntimeError: another queue already paces a service of this session.
        TypeError: `session` is not an aiobotocore or aioboto3 session, or `queues` contains
            something other than queues and registries.

    For example::

        session = get_session()
        pace_session(session, {"ec2": ApiQueue("10/s"), "autoscaling": ApiQueue("5/s")})
        async with session.create_client("ec2") as ec2:
            await ec2.describe_snapshots(OwnerIds=["self"])
    """
    pace_clients(_AioPacer, session, queues, max_hold, profile)
