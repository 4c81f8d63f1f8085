"""Paces the requests of botocore's and boto3's clients, one slot for each HTTP attempt.

They block, and may be used by any number of threads: each request waits in its own thread. Not
paced are what does not go through a client's methods: the AWS CLI (it has a botocore of its own),
credentials from instance metadata, and S3 transfers by the AWS Common Runtime (`awscrt`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

try:
    from botocore.client import BaseClient  # type: ignore[import-untyped]  # ships no types
except ImportError as error:
    raise ImportError(
        'pacing boto3 needs botocore: pip install "aioapiqueue[boto]"', name=error.name
    ) from error

from aioapiqueue._double_turns import made_by
from aioapiqueue._queue import ApiQueue, watch_turns
from aioapiqueue.integrations._aws import MAX_HOLD
from aioapiqueue.integrations._botocore_common import Pacer, pace_clients
from aioapiqueue.registry import Registry
from aioapiqueue.threads import Blocking, blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping

    from aioapiqueue.integrations._botocore_common import AnySession, Call, CallProfile
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
        raise RuntimeError("a client that blocks has waited for an event loop")

    async def take(self, needs: PacedCall, call: Call, priority: float) -> None:
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
    max_hold: float = MAX_HOLD,
    profile: CallProfile | None = None,
) -> Iterator[_ClientT]:
    """Pace every HTTP attempt of one client, which `with` yields as it is.

    Each attempt waits for a slot of its own, with the operation's name (`"DescribeSnapshots"`) as
    its key, and holds it until the response is there (of one that is streamed: its head).
    Presigning uses no slot.

    An attempt that AWS throttles pushes the queue back (`Slot.throttled`), for as long as the
    answer asks for, if it does. Quotas of resources, such as "too many roles", are no push-back.

    Args:
        client: of boto3 or botocore; of a resource, its `meta.client`. It is no longer paced after
            the block. Several blocks with the same queue pace it once, until the last of them ends.
        queue: paces the client. One queue may pace any number of clients, in any number of threads.
            With a `Registry`, each attempt goes to the queue that is for its service, Region and
            account, and comes under all limits of its operation and parameters at once; or to
            none. Of a queue that coroutines use too: `blocking(queue, portal=...)`.
        max_hold: seconds that an answer may hold the queue, 300 by default. A longer hold is cut
            to it, and counted as malformed (`stats.malformed`), as is one that is not a number.
        profile: what is known of calls to one service: their keys, and what they cost beyond a
            call (`llm.bedrock`). Default: each is one call, with its operation as the key.

    Raises:
        RuntimeError: another queue paces this client already, or its session.
        TypeError: not a client of boto3 or botocore, such as one of aiobotocore.
        ValueError: `max_hold` is negative, infinite or NaN; or a limit of the queue counts
            something else than calls.

    What the queue raises (`QueueClosed`, `QueueFull`) reaches the caller of the client's method.
    A call that is interrupted (KeyboardInterrupt) while it waits uses no slot; one that is
    interrupted in flight gives its slot back at once.

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
    max_hold: float = MAX_HOLD,
    profile: CallProfile | None = None,
) -> None:
    """Pace every client that a session makes from now on, in whichever region.

    So are its resources, paginators, waiters and S3 transfers, as all of them use clients. Clients
    that exist already are left alone: see `paced`. Calling it again adds services.

    Args:
        session: of boto3 or botocore. (The one behind `boto3.client` is `boto3.DEFAULT_SESSION`,
            once `boto3.setup_default_session()` has made it.)
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
            session of boto3 or botocore.

    Interruption is as for `paced`.

    For example::

        session = boto3.Session()
        pace_session(session, {"ec2": ApiQueue("10/s"), "autoscaling": ApiQueue("5/s")})
        session.client("ec2").describe_snapshots(OwnerIds=["self"])
    """
    pace_clients(_BlockingPacer, session, queues, max_hold, profile)
