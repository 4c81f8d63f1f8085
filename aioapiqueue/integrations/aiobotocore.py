"""Paces the requests of aiobotocore clients, one slot for each HTTP attempt.

A request waits in botocore's event `request-created.<service>`. That event comes once for every
attempt (first tries, retries, pages of a paginator, polls of a waiter) and before the request is
signed, so that a long wait cannot make a signature stale. Presigning does not come by there.

The slot is held until `response-received`. A cancelled call gets no further event from botocore:
events alone would leak its slot. So the client's `_make_api_call`, which every call of every kind
goes through, is wrapped in a `finally` that gives back what the call still holds, whichever way it
ends. Session-wide pacing does the same to each client as it is constructed.

Signing may need a request of its own: to refresh credentials, or for a session with an S3 directory
bucket. It is paced too, but goes ahead of all that wait, and the call that it serves gives its slot
up to it; otherwise a queue with a `concurrency` could wait for itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

try:
    from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]  # ships no types
    from botocore.utils import EVENT_ALIASES  # type: ignore[import-untyped]  # ships no types
except ImportError as error:
    raise ImportError(
        'pacing AWS clients needs aiobotocore: pip install "aioapiqueue[aws]"', name=error.name
    ) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from aioapiqueue import ApiQueue, Slot

__all__ = ["pace_session", "paced"]

# botocore makes client classes at run time, from data: there are no types to name.
_Client: TypeAlias = Any
_Session: TypeAlias = Any
_ClientT = TypeVar("_ClientT")

# The priority of a request that a call with a slot has to wait for.
_AHEAD = float("-inf")


class _Call:
    """What one API call holds (a slot, or nothing between attempts), and the call it serves."""

    def __init__(self, outer: _Call | None) -> None:
        self.outer = outer
        self.slot: Slot | None = None

    def release(self) -> None:
        if self.slot is not None:
            self.slot.release()
            self.slot = None


_call: ContextVar[_Call | None] = ContextVar("aioapiqueue_call", default=None)

# For each session, known by its event emitter: which queue paces which service.
_sessions: WeakKeyDictionary[object, dict[str, ApiQueue]] = WeakKeyDictionary()


class _Pacer:
    """What a paced client carries: its queue, and how many `paced` blocks rely on it."""

    def __init__(self, client: _Client, queue: ApiQueue) -> None:
        self.queue = queue
        self.users = 0
        self._client = client
        self._make_api_call = client._make_api_call  # noqa: SLF001 - see the module's docstring
        service = client.meta.service_model.service_id.hyphenize()
        self._handlers = {
            f"request-created.{service}": self._start,
            f"response-received.{service}": self._finish,
        }
        client._make_api_call = self._paced_api_call  # noqa: SLF001
        for event, handler in self._handlers.items():
            # First, as the client's signer is a handler of the very same event.
            client.meta.events.register_first(event, handler)

    def leave(self) -> None:
        self.users -= 1
        if self.users:
            return
        for event, handler in self._handlers.items():
            self._client.meta.events.unregister(event, handler)
        # Where somebody else has wrapped the method after us, ours stays, and does nothing.
        if self._client._make_api_call == self._paced_api_call:  # noqa: SLF001
            self._client._make_api_call = self._make_api_call  # noqa: SLF001
        del self._client._aioapiqueue  # noqa: SLF001 - ours

    async def _paced_api_call(self, operation_name: str, api_params: object) -> object:
        if not self.users:
            return await self._make_api_call(operation_name, api_params)
        call = _Call(_call.get())
        token = _call.set(call)
        try:
            return await self._make_api_call(operation_name, api_params)
        finally:
            call.release()
            _call.reset(token)

    async def _start(self, operation_name: str, **_: object) -> None:
        call = _call.get()
        if call is None:
            # Sent past `_make_api_call`: nobody would give the slot back, so it is not kept.
            async with self.queue.slot(key=operation_name):
                return
        call.release()
        priority = 0 if call.outer is None else _AHEAD
        turn = self.queue.enqueue(key=operation_name, priority=priority)
        if call.outer is not None:
            # Not before we have joined, so that it falls to us and to none of those who wait.
            call.outer.release()
        # Cancelled here, the future leaves the queue, or hands on the slot that it has just got.
        call.slot = await turn

    def _finish(self, **_: object) -> None:
        call = _call.get()
        if call is not None:
            call.release()


def _pace(client: _Client, queue: ApiQueue) -> Callable[[], None]:
    """Have `queue` pace `client`; return what undoes it."""
    if not isinstance(client, AioBaseClient):
        # Botocore's own emitter would call our coroutine functions and never await them.
        raise TypeError(f"an aiobotocore client can be paced, not {client!r}")
    pacer: _Pacer | None = vars(client).get("_aioapiqueue")
    if pacer is None:
        pacer = client._aioapiqueue = _Pacer(client, queue)  # noqa: SLF001 - ours
    elif pacer.queue is not queue:
        raise RuntimeError(
            f"this {client.meta.service_model.service_name} client is paced by another queue "
            "already; give one queue several limits or lanes instead"
        )
    pacer.users += 1
    return pacer.leave


@asynccontextmanager
async def paced(
    client: AbstractAsyncContextManager[_ClientT], queue: ApiQueue
) -> AsyncIterator[_ClientT]:
    """Pace every HTTP attempt of one aiobotocore client, which `async with` yields as it is.

    Each attempt waits for a slot of its own, with the operation's name (`"DescribeSnapshots"`) as
    its key, and holds it until the response is there (of one that is streamed: its head).
    Presigning uses no slot.

    Args:
        client: what `session.create_client(...)` returned, which is opened here and closed at the
            end of the block; or a client that is open already, which stays open and is no longer
            paced after the block. Several blocks with the same queue pace it once, until the last
            of them ends.
        queue: paces the client. One queue may pace any number of clients.

    Raises:
        RuntimeError: another queue paces this client already, or its session.
        TypeError: not a client of aiobotocore.

    What the queue raises (`QueueClosed`, `QueueFull`) reaches the caller of the client's method.
    A call that is cancelled while it waits uses no slot; one that is cancelled in flight gives
    its slot back at once.

    Example:
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
        stack.callback(_pace(opened, queue))
        yield opened


def pace_session(session: _Session, queues: ApiQueue | Mapping[str, ApiQueue]) -> None:
    """Pace every client that a session makes from now on, in whichever region.

    Clients that exist already are left alone: see `paced`. Calling it again adds services.

    Args:
        session: an aiobotocore session, or one of aioboto3.
        queues: one queue for all services; or which queue paces which service, by the names that
            `create_client` takes: `{"ec2": queue}`. Services that are not named are not paced.

    Raises:
        ValueError: a name is not a service of this session.
        RuntimeError: another queue paces a service of this session already.
        TypeError: something else than a queue is to pace a service.

    Cancellation is as for `paced`.

    Example:
        session = get_session()
        pace_session(session, {"ec2": ApiQueue("10/s"), "autoscaling": ApiQueue("5/s")})
        async with session.create_client("ec2") as ec2:
            await ec2.describe_snapshots(OwnerIds=["self"])
    """
    services = session.get_available_services()
    if not isinstance(queues, Mapping):
        queues = dict.fromkeys(services, queues)
    for name, queue in queues.items():
        if name not in services:
            raise ValueError(f"unknown AWS service {name!r}{_nearest(name, services)}")
        if not hasattr(queue, "slot"):
            raise TypeError(f"{name} can be paced by an ApiQueue, not by {queue!r}")
    # aioboto3 wraps aiobotocore's session, and shows the emitter of that as `events`.
    events = getattr(session, "events", None) or session.get_component("event_emitter")
    paced_services = _sessions.setdefault(events, {})
    for name, queue in queues.items():
        if paced_services.get(name, queue) is not queue:
            raise RuntimeError(f"another queue paces {name} in this session already")
    paced_services.update(queues)

    class PacedClient:
        """The first base of the session's client classes."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            client: _Client = self
            queue = paced_services.get(client.meta.service_model.service_name)
            if queue is not None:
                _pace(client, queue)

    def add_base(base_classes: list[type], **_: object) -> None:
        base_classes.insert(0, PacedClient)

    events.register("creating-client-class", add_base, unique_id="aioapiqueue")


def _nearest(name: str, services: Collection[str]) -> str:
    """Say which service was probably meant, if any comes near."""
    wanted = name.lower().replace(" ", "-")
    # Event names carry service ids instead: "auto-scaling" where `create_client` has "autoscaling".
    by_id = [service for service in services if EVENT_ALIASES.get(service) == wanted]
    near = by_id or difflib.get_close_matches(wanted, services, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; see session.get_available_services()"
