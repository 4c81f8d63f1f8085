"""Paces the requests of httpx's and httpx2's async clients, and heeds what the servers answer.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with httpx.AsyncClient(transport=RateLimitedTransport(queue)) as client:
            await client.get("https://api.example.com/v1/things")

A transport is the last that a request passes, so each one that is sent waits for a slot of its own:
redirects and the rounds of an authentication too. (Not the retries of `AsyncHTTPTransport(retries=
...)`: those are attempts to connect, before anything is sent.) It waits before it asks for a
connection, so that no time-out of the client runs meanwhile, not even the pool's. The pool gets
slower with each connection that it holds: for many requests to many hosts, give the queue a
`concurrency`.

httpx2 has the same transport interface, in classes of its own that have no base in common with
httpx's. So the two classes here are of both, where both are installed: the transport of one library
in, the same behaviour out. By default the transport within is that of httpx, where there is one;
for a client of httpx2 beside an installed httpx, pass `httpx2.AsyncHTTPTransport()`.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from aioapiqueue.integrations._http import MAX_HOLD, Key, Pacing, release_soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from httpx import (
        AsyncBaseTransport,
        AsyncByteStream,
        AsyncHTTPTransport,
        RemoteProtocolError,
        Request,
        Response,
    )

    from aioapiqueue import ApiQueue, Slot
else:
    _libraries = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name)]
    if not _libraries:
        raise ImportError(
            'pacing httpx clients needs httpx: pip install "aioapiqueue[httpx]"', name="httpx"
        )
    RemoteProtocolError = tuple(library.RemoteProtocolError for library in _libraries)
    AsyncHTTPTransport = _libraries[0].AsyncHTTPTransport
    _transports = dict.fromkeys(library.AsyncBaseTransport for library in _libraries)
    _streams = dict.fromkeys(library.AsyncByteStream for library in _libraries)

    class AsyncBaseTransport(*_transports):
        """The base of every library's transports."""

    class AsyncByteStream(*_streams):
        """The base of every library's streams."""


__all__ = ["RateLimitedTransport"]


class RateLimitedTransport(AsyncBaseTransport):
    """A transport that gives each request a slot of a queue, and the queue what the answer says.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of its
    block. A response that nobody closes gives its slot back when it is garbage collected.

    Push-back (429; 503 or 403 with `Retry-After`; 403 with nothing remaining) goes to
    `Slot.throttled`; where a response says that nothing remains until some time, the queue holds
    until then (`ApiQueue.hold`); what makes no sense is counted (`stats.odd`). All of them are of
    the request's key: a queue that has no lane for it holds as a whole, so give it
    `lanes={"*": ()}` if it serves several hosts.

    Args:
        queue: paces the requests. One queue may pace any number of clients.
        transport: sends them, and is closed with this one; default: `AsyncHTTPTransport()`. A
            client that is given a transport heeds none of its own `verify`, `cert`, `http2`,
            `limits` and `proxy`: give them to this one.
        key: the lane that a request is of: by `"host"` (default; without the port), by `"route"`
            (`"GET api.example.com/v1/things"`: without the query; of paths with ids in them, each
            is another), or by a function of the `Request` that returns something hashable.
        max_hold: the longest hold that is obeyed, in seconds; default 3600. Longer ones are cut to
            it, and counted as odd.
        timeout: seconds that a request may wait for its slot; default: any time.

    Raises:
        TypeError: a queue that is none; a coroutine function as `key`.
        ValueError: an unknown word as `key`; a negative or infinite time.

    What the queue raises (`SlotTimeout`, `QueueFull`, `QueueClosed`) reaches the caller as it is. A
    request that is cancelled while it waits uses no slot; one that is cancelled in flight, or that
    fails, gives its slot back at once.
    """

    def __init__(
        self,
        queue: ApiQueue,
        transport: AsyncBaseTransport | None = None,
        *,
        key: Key = "host",
        max_hold: float = MAX_HOLD,
        timeout: float | None = None,
    ) -> None:
        self._pacing = Pacing(queue, key=key, max_hold=max_hold, timeout=timeout)
        self._transport = AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: Request) -> Response:
        """Send one request, in its turn. Cancellation is described with the class."""
        slot = await self._pacing.turn(request)
        try:
            response = await self._transport.handle_async_request(request)
            self._pacing.heed(slot, response.status_code, response.headers.multi_items())
        except BaseException as error:
            if isinstance(error, RemoteProtocolError) and _is_of_parser(error):
                self._pacing.unreadable(slot)
            slot.release()
            raise
        if response.is_closed:  # it came with its content, and nobody will close it again
            slot.release()
        else:
            response.stream = _Stream(response.stream, slot)  # type: ignore[arg-type]  # async
        return response

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the transport within."""
        await self._transport.aclose()


class _Stream(AsyncByteStream):
    """A response's body, at whose end the slot is released, whichever way it ends."""

    def __init__(self, stream: AsyncByteStream, slot: Slot) -> None:
        self._stream = stream
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        finally:
            # After an error, or a reading that has been given up, there is nothing left to read.
            self._end()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._slot.release()

    def __del__(self) -> None:
        if not self._ended:
            release_soon(self._slot, self._loop)


def _is_of_parser(error: BaseException) -> bool:
    """Return whether this is about what was read, and not about a connection that has ended.

    A connection that was closed under us is the library's protocol error, too, with a text as its
    reason, or (GOAWAY of HTTP/2) an event of h2. The parser's has the parser's error.
    """
    reasons = () if error.__cause__ is None else error.__cause__.args
    return any(isinstance(reason, Exception) for reason in reasons)
