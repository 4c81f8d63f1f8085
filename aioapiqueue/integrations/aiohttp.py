"""Pace aiohttp client sessions, and follow the rate limit headers of their responses.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with aiohttp.ClientSession(middlewares=[RateLimitedMiddleware(queue)]) as session:
            async with session.get("https://api.example.com/v1/things") as response:
                await response.json()

Every request that is sent takes a slot of its own, including redirects. Put this middleware last in
the list, so that requests sent by other middlewares (retries, authentication) are also paced. The
`middlewares=` of a single request replace those of the session. With `concurrency=1`, aiohttp's
`DigestAuthMiddleware` can block itself: it does not release a 401 response, and if the body of that
response is large, it holds the only slot until the request times out.

A request waits for its slot before it asks for a connection. The timeouts `connect`, `sock_connect`
and `sock_read` start after the wait, but `ClientTimeout.total` (5 minutes by default) includes it.
For long queues, set `ClientTimeout(total=None, sock_connect=..., sock_read=...)`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from aioapiqueue.integrations._extras import needs

with needs("aiohttp 3.12 or later", to="pacing aiohttp sessions", extra="aiohttp"):
    # Some names are used in annotations only. Imported here, they make an old aiohttp fail with the
    # message above.
    from aiohttp import (
        ClientConnectorError,
        ClientError,
        ClientHandlerType,
        ClientHttpProxyError,
        ClientRequest,
        ClientResponse,
        ConnectionTimeoutError,
        InvalidURL,
        http,
        payload,
    )

from aioapiqueue.integrations._exchange import Wire, run_async
from aioapiqueue.integrations._http import AsyncSteps, HttpPacer, release_soon
from aioapiqueue.integrations._refusal_body import most_to_read

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import Slot
    from aioapiqueue.integrations._exchange import Headers

__all__ = ["RateLimitedMiddleware"]


class RateLimitedMiddleware(HttpPacer):
    """A middleware for `aiohttp.ClientSession` whose requests wait for their slot in a queue.

    The slot is held until the body has arrived, or the response is released or closed. Use `async
    with`: an unread response keeps its slot until it is read, closed or garbage collected, even
    after its connection or session is closed. A web socket keeps its slot until it is closed.

    Cancelling a request that waits uses no slot; cancelling one in flight releases its slot at
    once. The arguments and errors are those of `HttpPacer`. The body of a throttled response is
    read in advance if its declared length is small. Use `read`, `text` or `json` of such a
    response, not its `content` stream.

    Example:
        aiohttp.ClientSession(middlewares=[RateLimitedMiddleware(ApiQueue("10/s"), resend=3)])
    """

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send a request once its slot is granted, and return the response.

        Raises:
            ApiQueueError: as for `HttpPacer`.
        """
        wire = _AiohttpWire(self, handler)
        response: ClientResponse
        response, slot = await run_async(self.exchange(request, wire))
        # Nothing is awaited from here on, so a cancellation cannot lose the slot.
        end = partial(self.finish, slot, wire, request, response)
        connection = response.connection
        if connection is None:  # the whole response has arrived
            end()
        else:
            # A weak reference: the callback must not keep the response and its connection alive.
            loop = asyncio.get_running_loop()
            settle = partial(self.finish, slot, wire, request)
            connection.add_callback(partial(_end, ref(response), settle, slot, loop))
        return response


class _AiohttpWire(AsyncSteps, Wire):
    """The steps of aiohttp.

    Args:
        pacer: the middleware.
        handler: sends a request.
    """

    def __init__(self, pacer: HttpPacer, handler: ClientHandlerType) -> None:
        super().__init__(pacer)
        self._handler = handler

    async def send(self, request: ClientRequest) -> ClientResponse:
        return await self._handler(request)

    def head(self, response: ClientResponse) -> tuple[int, Headers]:
        return response.status, response.headers.items()

    async def read_body(self, response: ClientResponse) -> bytes | None:
        # aiohttp cannot return a body that was read in part, so only a small one is read.
        length = response.content_length
        if length is None or length > most_to_read(response.headers.get("Content-Encoding", "")):
            return None
        try:
            return await response.read()  # the caller's `read` returns the same object
        except (ClientError, OSError):  # the caller's `read` raises the same error
            return None

    async def discard(self, response: ClientResponse) -> None:
        response.release()

    def can_repeat(self, request: ClientRequest) -> bool:
        """Return whether the body is bytes. Any other body can be sent only once."""
        return isinstance(request.body, bytes | payload.BytesPayload)

    def is_malformed(self, error: BaseException) -> bool:
        """Return whether aiohttp could not parse the headers of a response."""
        # Judged by the cause: a proxy that refuses and `raise_for_status` raise the same class of
        # error after responses that have been parsed.
        return isinstance(error.__cause__, http.HttpProcessingError)

    def was_sent(self, error: BaseException) -> bool:
        """Return whether there was a connection."""
        not_connected = ClientConnectorError | ClientHttpProxyError | ConnectionTimeoutError
        return not isinstance(error, not_connected | InvalidURL)


def _end(
    response: ref[ClientResponse],
    finish: Callable[[ClientResponse], None],
    slot: Slot,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """End the call of a response that has returned its connection."""
    returned = response()
    if returned is not None and returned.closed:
        finish(returned)
    else:  # called by the garbage collector
        release_soon(slot, loop)
