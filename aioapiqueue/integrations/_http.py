"""What the integrations of HTTP clients share: keys, slots, and what an answer asks for."""

from __future__ import annotations

import time
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from aioapiqueue._rate import LONGEST, positive
from aioapiqueue.integrations._headers import read_advice

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Hashable, Iterable

    from aioapiqueue import ApiQueue, Slot

__all__ = ["MAX_HOLD", "HttpPacer", "Key", "Request", "release_soon"]

MAX_HOLD = 3600.0

Key: TypeAlias = "Literal['host', 'route'] | Callable[[Any], Hashable]"
Request: TypeAlias = Any
"""Of any library. All have a `method`, and a `url` with `host` and `path`."""
ResponseT = TypeVar("ResponseT")


def _host(request: Request) -> str:
    return request.url.host or ""


def _route(request: Request) -> str:
    return f"{request.method} {_host(request)}{request.url.path}"


class HttpPacer:
    """Gives each request of a client a slot of a queue, and the queue what the server answers.

    Push-back (429; 529, which means that Anthropic's API is overloaded; 503 or 403 with
    `Retry-After`; 403 with nothing remaining) goes to `Slot.throttled`. Where nothing remains until
    some time, the queue holds until then (`ApiQueue.hold`). What is malformed is counted
    (`stats.malformed`). All of this applies to the lane of the request's key. A queue without a
    lane for it holds as a whole: give it `lanes={"*": ()}` if it serves several hosts.

    Args:
        queue: paces the requests. One queue may pace any number of clients.
        key: names the lane of a request: `"host"` (default; without the port), `"route"` (such as
            `"GET api.example.com/v1/things"`: without the query; paths that differ by an id are
            different routes), or a function that makes something hashable of the library's request.
        max_hold: the longest hold that is obeyed, in seconds; default 3600. Longer ones are cut to
            it, and counted as malformed.
        timeout: seconds that a request may wait for its slot; default: no limit.

    Raises:
        TypeError: `queue` is not an `ApiQueue`, or `key` is a coroutine function.
        ValueError: `key` is an unknown word, or a time is negative or infinite.

    What the queue raises (`SlotTimeout`, `QueueFull`, `QueueClosed`) reaches the caller as it is. A
    request that is cancelled while it waits uses no slot; one that is cancelled in flight, or that
    fails, gives its slot back at once.
    """

    def __init__(
        self,
        queue: ApiQueue,
        *,
        key: Key = "host",
        max_hold: float = MAX_HOLD,
        timeout: float | None = None,
    ) -> None:
        if not hasattr(queue, "enqueue"):
            raise TypeError(f"requests can be paced by an ApiQueue, not by {queue!r}")
        if not callable(key) and key not in ("host", "route"):
            raise ValueError(f'key is "host", "route" or a function of the request, not {key!r}')
        if iscoroutinefunction(key):  # each coroutine would be the key of a lane of its own
            raise TypeError(f"key takes a plain function of the request, not a coroutine: {key!r}")
        positive(max_hold, of="max_hold", least=0, most=LONGEST)
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
        self._queue = queue
        self._key = key if callable(key) else {"host": _host, "route": _route}[key]
        self._max_hold = max_hold
        self._timeout = timeout

    async def _send(
        self,
        request: Request,
        send: Callable[[Any], Awaitable[ResponseT]],
        *,
        head: Callable[[ResponseT], tuple[int, Iterable[tuple[str, str]]]],
        is_malformed: Callable[[BaseException], bool],
    ) -> tuple[ResponseT, Slot]:
        """Send a request in its turn, and apply what the response asks for.

        Args:
            request: of the client's library.
            send: sends it, and returns when the response's head has arrived.
            head: returns a response's status and headers.
            is_malformed: whether an error means that the client could not read the response.

        Returns:
            The response, and its slot, which the caller releases at the end of the body.
        """
        slot = await self._queue.enqueue(key=self._key(request), timeout=self._timeout)
        try:
            response = await send(request)
            status, headers = head(response)
            advice = read_advice(status, headers, now=time.time(), max_hold=self._max_hold)
            if advice.malformed:
                self._queue.malformed(key=slot.key)
            if advice.throttled:
                slot.throttled(advice.hold)
            elif advice.hold:
                self._queue.hold(advice.hold, key=slot.key)
        except BaseException as error:
            if is_malformed(error):
                self._queue.malformed(key=slot.key)
            slot.release()
            raise
        return response, slot


def release_soon(slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
    """Release a slot from a finalizer, on the loop that it belongs to.

    The garbage collector may run in another thread, or in the middle of what the queue is doing.
    """
    with suppress(RuntimeError):  # the loop is closed: on a new one, the queue starts without slots
        loop.call_soon_threadsafe(slot.release)
