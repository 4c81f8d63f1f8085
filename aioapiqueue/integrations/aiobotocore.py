"""Paces the requests of aiobotocore clients, one slot for each HTTP attempt."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

try:
    from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]  # ships no types
except ImportError as error:
    raise ImportError(
        'pacing AWS clients needs aiobotocore: pip install "aioapiqueue[aws]"', name=error.name
    ) from error

from aioapiqueue._double_turns import made_by
from aioapiqueue._queue import ApiQueue, watch_turns
from aioapiqueue.integrations._aws import MAX_HOLD
from aioapiqueue.integrations._botocore_common import Pacer, pace_clients
from aioapiqueue.registry import Registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager

    from aioapiqueue import Slot
    from aioapiqueue.integrations._botocore_common import AnySession, Call, CallProfile
    from aioapiqueue.registry import PacedCall

__all__ = ["pace_session", "paced"]

_ClientT = TypeVar("_ClientT")


class _AioPacer(Pacer):
    library = "aiobotocore"
    client_class = AioBaseClient
    sources = (ApiQueue, Registry)

    async def take(self, needs: PacedCall, call: Call, priority: float) -> None:
        watch_turns(needs.queue)
        future = made_by(
            "client",
            needs.queue.enqueue,
            keys=needs.keys,
            cost=needs.cost,
            priority=priority,
        )
        call.joined()
        # Cancelled here, it leaves the queue, or passes on the slot that it has just got.
        call.slot = await future

    def apply(self, slot: Slot, change: Callable[[Any], None]) -> None:
        change(slot)

    def count_malformed(self, queue: ApiQueue, key: Hashable) -> None:
        queue.malformed(key=key)


@asynccontextmanager
async def paced(
    client: AbstractAsyncContextManager[_ClientT],
    queue: ApiQueue | Registry,
    *,
    max_hold: float = MAX_HOLD,
    profile: CallProfile | None = None,
) -> AsyncIterator[_ClientT]:
    """Pace every HTTP attempt of one aiobotocore client, which `async with` yields as it is.

    Each attempt waits for a slot of its own, with the operation's name (`"DescribeSnapshots"`) as
    its key, and holds it until the response is there (of one that is streamed: its head).
    Presigning uses no slot.

    An attempt that AWS throttles pushes the queue back (`Slot.throttled`), for as long as the
    answer asks for, if it does. Quotas of resources, such as "too many roles", are no push-back.

    Args:
        client: what `session.create_client(...)` returned, which is opened here and closed at the
            end of the block; or a client that is open already, which stays open and is no longer
            paced after the block. Several blocks with the same queue pace it once, until the last
            of them ends.
        queue: paces the client. One queue may pace any number of clients. With a `Registry`, each
            attempt goes to the queue that is for its service, Region and account, and comes under
            all limits of its operation and parameters at once; or to none.
        max_hold: seconds that an answer may hold the queue, 300 by default. A longer hold is cut
            to it, and counted as malformed (`stats.malformed`), as is one that is not a number.
        profile: what is known of calls to one service: their keys, and what they cost beyond a
            call (`llm.bedrock`). Default: each is one call, with its operation as the key.

    Raises:
        RuntimeError: another queue paces this client already, or its session.
        TypeError: not a client of aiobotocore.
        ValueError: `max_hold` is negative, infinite or NaN; or a limit of the queue counts
            something else than calls.

    What the queue raises (`QueueClosed`, `QueueFull`) reaches the caller of the client's method.
    A call that is cancelled while it waits uses no slot; one that is cancelled in flight gives
    its slot back at once.

    For example::

        async with (
            ApiQueue("100ms") as queue,
            paced(get_session().create_client("ec2"), queue) as ec2,
        ):
            await ec2.describe_snapshots(OwnerIds=["self"])
    """
    async with AsyncExitStack() as stack:
        opened: Any = client
        if not hasattr(client, "meta"):
            opened = await stack.enter_async_context(client)
        stack.callback(_AioPacer.pace(opened, queue, max_hold, profile))
        yield opened


def pace_session(
    session: AnySession,
    queues: ApiQueue | Registry | Mapping[str, ApiQueue | Registry],
    *,
    max_hold: float = MAX_HOLD,
    profile: CallProfile | None = None,
) -> None:
    """Pace every client that a session makes from now on, in whichever region.

    Clients that exist already are left alone: see `paced`. Calling it again adds services.

    Args:
        session: an aiobotocore session, or one of aioboto3.
        queues: one queue for all services; or which queue paces which service, by the names that
            `create_client` takes: `{"ec2": queue}`. Services that are not named are not paced.
            Or a `Registry`, which knows the queue of every call.
        max_hold: as for `paced`.
        profile: as for `paced`.

    Raises:
        ValueError: a name is not a service of this session, `max_hold` is invalid, or a limit of
            a queue counts something else than calls.
        RuntimeError: another queue paces a service of this session already.
        TypeError: something else than a queue or a registry is to pace a service; or this is no
            session of aiobotocore or aioboto3.

    Cancellation is as for `paced`.

    For example::

        session = get_session()
        pace_session(session, {"ec2": ApiQueue("10/s"), "autoscaling": ApiQueue("5/s")})
        async with session.create_client("ec2") as ec2:
            await ec2.describe_snapshots(OwnerIds=["self"])
    """
    pace_clients(_AioPacer, session, queues, max_hold, profile)
