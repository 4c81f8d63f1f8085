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
from aioapiqueue.integrations._exchange import as_blocking
from aioapiqueue.registry import Registry
from aioapiqueue.spi import Reporter
from aioapiqueue.threads import Blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from aioapiqueue.integrations._botocore_common import AnySession, AwsClientCall
    from aioapiqueue.integrations.llm._bedrock import BedrockProfile
    from aioapiqueue.registry import PacedCall
    from aioapiqueue.threads import BlockingSlot

__all__ = ["pace_session", "paced"]

_ClientT = TypeVar("_ClientT")


class _BlockingPacer(Pacer):
    library = "botocore"
    client_class = BaseClient
    sources = (ApiQueue, Registry, Blocking)

    def drive(self, coroutine: Coroutine[Any, Any, object]) -> object:
        # `take` blocks instead of awaiting, so the first step of the coroutine is its last.
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError("a synchronous client waited for an event loop")

    async def take(self, needs: PacedCall, call: AwsClientCall, priority: float) -> None:
        take = as_blocking(needs.queue).slot
        slot = Reporter.request(take, keys=needs.keys, cost=needs.cost, priority=priority)
        slot.join()
        call.joined()
        # Before the wait: if an exception such as KeyboardInterrupt ends the call, the call
        # releases this slot.
        call.slot = slot
        try:
            slot.__enter__()
        except BaseException:
            call.slot = None  # `__enter__` has taken the slot out of the queue
            raise

    def apply(self, slot: BlockingSlot, change: Callable[[Any], None]) -> None:
        slot.apply(change)


@contextmanager
def paced(
    client: _ClientT,
    queue: ApiQueue | Blocking | Registry,
    *,
    max_hold: float = AWS_MAX_HOLD,
    profile: BedrockProfile | None = None,
) -> Iterator[_ClientT]:
    """Pace a boto3 or botocore client in a `with` block, which yields the client itself.

    Attempts wait for slots and are throttled as in `aioapiqueue.integrations.aiobotocore.paced`. A
    call that is interrupted (KeyboardInterrupt) while it waits uses no slot; a call interrupted in
    flight releases its slot at once.

    Args:
        client: a boto3 or botocore client, or the `meta.client` of a resource. Blocks with the same
            queue may be nested.
        queue: paces the client; it may pace any number of clients, in any number of threads. If
            coroutines use the queue as well, pass `blocking(queue, portal=...)`. For a `Registry`,
            see `aioapiqueue.integrations.aiobotocore.paced`.
        max_hold: longest hold in seconds. Longer holds are cut, and counted as malformed. Default:
            300.
        profile: keys and costs of calls to one service, such as `llm.bedrock`. Default: each
            attempt costs one call.

    Raises:
        RuntimeError: another queue already paces this client or its session.
        TypeError: `client` is not a boto3 or botocore client.
        ValueError: `max_hold` is negative, infinite or NaN, or a limit of the queue counts
            something other than calls.

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
    profile: BedrockProfile | None = None,
) -> None:
    """Pace every client that a session creates from now on, in any Region, as `paced` does.

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

    For example::

        session = boto3.Session()
        pace_session(session, {"ec2": ApiQueue("10/s"), "autoscaling": ApiQueue("5/s")})
        session.client("ec2").describe_snapshots(OwnerIds=["self"])
    """
    pace_clients(_BlockingPacer, session, queues, max_hold, profile)
