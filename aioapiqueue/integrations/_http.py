"""What HTTP clients' integrations share: a request's key, its turn, and what its answer asks."""

from __future__ import annotations

import time
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from aioapiqueue._rate import LONGEST, positive
from aioapiqueue.integrations._headers import read_advice

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Iterable

    from aioapiqueue import ApiQueue, Slot

__all__ = ["MAX_HOLD", "Key", "Pacing", "Request", "release_soon"]

MAX_HOLD = 3600.0

Key: TypeAlias = "Literal['host', 'route'] | Callable[[Any], Hashable]"


class _Url(Protocol):
    @property
    def host(self) -> str | None: ...
    @property
    def path(self) -> str: ...


class Request(Protocol):
    """What the requests of all these clients have in common."""

    @property
    def method(self) -> str: ...
    @property
    def url(self) -> Any: ...  # noqa: ANN401 - a _Url, but mypy takes none of theirs for one


def _host(request: Request) -> str:
    url: _Url = request.url
    return url.host or ""


def _route(request: Request) -> str:
    return f"{request.method} {_host(request)}{request.url.path}"


class Pacing:
    """A queue, and how the requests of one client use it.

    Args:
        queue: paces the requests.
        key: of a request: its `"host"`, its `"route"`, or what a function makes of it.
        max_hold: the longest hold that is obeyed, in seconds.
        timeout: seconds that a request waits for its slot, at most; None: any time.

    Raises:
        TypeError: a queue that is none; a coroutine function as `key`.
        ValueError: an unknown word as `key`; a negative or infinite time.
    """

    def __init__(
        self, queue: ApiQueue, *, key: Key, max_hold: float, timeout: float | None
    ) -> None:
        if not hasattr(queue, "enqueue"):
            raise TypeError(f"requests can be paced by an ApiQueue, not by {queue!r}")
        if not callable(key) and key not in ("host", "route"):
            raise ValueError(f'key is "host", "route" or a function of the request, not {key!r}')
        if iscoroutinefunction(key):  # each request would be of a lane of its own: its coroutine
            raise TypeError(f"key takes a plain function of the request, not a coroutine: {key!r}")
        positive(max_hold, of="max_hold", least=0, most=LONGEST)
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
        self._queue = queue
        self._key = key if callable(key) else {"host": _host, "route": _route}[key]
        self._max_hold = max_hold
        self._timeout = timeout

    def turn(self, request: Request) -> asyncio.Future[Slot]:
        """Join the queue. Cancelled, the future leaves it, or hands on the slot it has just got."""
        return self._queue.enqueue(key=self._key(request), timeout=self._timeout)

    def heed(self, slot: Slot, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Tell the queue what a response asks for."""
        advice = read_advice(status, headers, now=time.time(), max_hold=self._max_hold)
        if advice.odd:
            self._queue.odd(key=slot.key)
        if advice.throttled:
            slot.throttled(advice.hold)
        elif advice.hold:
            self._queue.hold(advice.hold, key=slot.key)

    def unreadable(self, slot: Slot) -> None:
        """Tell the queue of a response that the client could make nothing of."""
        self._queue.odd(key=slot.key)


def release_soon(slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
    """Release a slot from wherever the garbage collector may run.

    That may be another thread, or the middle of what the queue is doing.
    """
    with suppress(RuntimeError):  # the loop is closed: the queue forgets its callers on a new one
        loop.call_soon_threadsafe(slot.release)
