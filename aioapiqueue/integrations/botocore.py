"""Pace boto3 and botocore clients: each HTTP attempt waits for a slot, in its own thread.

Requests that do not go through a client's methods are not paced. These are the requests of the AWS
CLI (which has its own botocore), requests for credentials from instance metadata, and S3 transfers
made by the AWS Common Runtime (`awscrt`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aioapiqueue.integrations._extras import needs

with needs("botocore", to="pacing boto3", extra="boto"):
    from botocore.client import BaseClient  # type: ignore[import-untyped]  # ships no types

from aioapiqueue import ApiQueue
from aioapiqueue.integrations._aws import AWS_MAX_HOLD
from aioapiqueue.integrations._botocore_common import Pacer, pace_clients
from aioapiqueue.registry import Registry
from aioapiqueue.spi import made_by, watch_turns
from aioapiqueue.threads import Blocking, blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping

    from aioapiqueue.integrations._botocore_common import AnySession, CallProfile, ClientCall
    from aioapiqueue.registry import PacedCall
    from aioapiqueue.threads import BlockingSlot

__all__ = ["pace_session", "paced"]

_ClientT = TypeVar("_ClientT")


class _BlockingPacer(Pacer):
    library = "botocore"
    client_class = BaseClient
    sources = (ApiQueue, Registry, Blocking)

    def drive(self, coroutine: Coroutine[Any, Any, object]) -> object:
        # It blocks where others wait, so that its first step is its last.
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError("a synchronous client waited for an event loop")

    async def take(self, needs: PacedCall, call: ClientCall, priority: float) -> None:
        own = _blocking(needs.queue)
        watch_turns(own.queue)
        slot = made_by("client", own.slot, keys=needs.keys, cost=needs.cost, priority=priority)
        slot.join()
        call.joined()
        # First, as an exception that is raised in here, such as KeyboardInterrupt, ends the call,
        # and the call ends its slot.
        call.slot = slot
        try:
            slot.__enter__()
        except BaseException:
            call.slot = None  # which has left by itself
            raise

    def apply(self, slot: BlockingSlot, change: Callable[[Any], None]) -> None:
        slot.apply(change)

    def count_malformed(self, queue: ApiQueue | Blocking, key: Hashable) -> None:
        _blocking(queue).malformed(key=key)


def _blocking(queue: ApiQueue | Blocking) -> Blocking:
    return queue if isinstance(queue, Blocking) else blocking(queue)


@contextmanager
def paced(
    client: _ClientT,
    queue: ApiQueue | Blocking | Registry,
    *,
    max_hold: float = AWS_MAX_HOLD,
    profile: CallProfile | None = None,
) -> Iterator[_ClientT]:
    """Pace a boto3 or botocore client in a `with` block, which yields the client itself.

    Each HTTP attempt, retries and pages included, waits for a slot before it is signed and holds
    the slot until the response arrives (for a streamed response, until its headers arrive). The key
    of the slot is the name of the operation, such as `"DescribeSnapshots"`. Presigning uses no
    slot.

    If AWS throttles an attempt, the queue waits as long as the response asks (`Slot.throttled`).
    Exceeded quotas of resources, such as "too many roles", are not throttling.

    Args:
        client: a boto3 or botocore client, or the `meta.client` of a resource. Blocks with the same
            queue may be nested.
        queue: paces the client; it may pace any number of clients, in any number of threads. A
            `Registry` finds the queue for the service, Region and account of each attempt, and
            applies the limits of its operation and parameters. If coroutines use the queue as well,
            pass `blocking(queue, portal=...)`.
        max_hold: the longest time in seconds that a response may hold the queue. Default: 300. A
            longer hold is shortened, and counted in `stats.malformed`. So is a hold that is not a
            number.
        profile: the keys and costs of calls to one service, such as `llm.bedrock`. Default: each
            attempt costs one call.

    Raises:
        RuntimeError: another queue already paces this client or its session.
        TypeError: `client` is not a boto3 or botocore client.
        ValueError: `max_hold` is negative, infinite or NaN, or a limit of the queue counts
            something other than calls.

    Errors of the queue (`QueueClosed`, `QueueFull`) are raised by the client's method. A call that
    is interrupted (KeyboardInterrupt) while it waits uses no slot; a call interrupted in flight
    releases its slot at once.

    For example::

        with paced(boto3.client("ec2"), ApiQueue("100ms")) as ec2:
            ec2.describe_snapshots(OwnerIds=["self"])
    """
    leave = _BlockingPacer.pace(client, queue, max_hold, profile)
    try:
        yield client
    finally:
        leave()


def pace_session(
    session: AnySession,
    queues: ApiQueue | Blocking | Registry | Mapping[str, ApiQueue | Blocking | Registry],
    *,
    max_hold: float = AWS_MAX_HOLD,
    profile: CallProfile | None = None,
) -> None:
    """Pace every client that a session creates from now on, in any Region.

    That includes resources, paginators, waiters and S3 transfers, which use clients. For clients
    that already exist, use `paced`. Call this again to pace more services.

    Args:
        session: a boto3 or botocore session. (`boto3.client` uses `boto3.DEFAULT_SESSION`, which
            `boto3.setup_default_session()` creates.)
        queues: a `Registry`, which finds the queue of every call; one queue for all services; or
            a queue for each service, by its name in `create_client`: `{"ec2": queue}`. Services
            that are not named are not paced.
        max_hold: as in `paced`.
        profile: as in `paced`.

    Raises:
        ValueError: a name is not a service of this session, `max_hold` is invalid, or a limit of
            a queue counts something other than calls.
        RuntimeError: another queue already paces a service of this session.
        TypeError: `session` is not a boto3 or botocore session, or `queues` contains something
            other than queues and registries.

    Interruption works as in `paced`.

    For example::

        session = boto3.Session()
        pace_session(session, {"ec2": ApiQueue("10/s"), "autoscaling": ApiQueue("5/s")})
        session.client("ec2").describe_snapshots(OwnerIds=["self"])
    """
    pace_clients(_BlockingPacer, session, queues, max_hold, profile)
