"""Pace aiohttp client sessions, and follow the rate limit headers of their responses.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with aiohttp.ClientSession(middlewares=[RateLimitedMiddleware(queue)]) as session:
            async with session.get("https://api.example.com/v1/things") as response:
                await response.json()

Every request that is sent takes a slot of its own, including redirects. Put this middleware last in
the list, so that requests sent by the others (retries, authentication) are paced as well. The
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
    # Not for the annotations alone: without aiohttp, or with an older one, this has to fail here.
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

from aioapiqueue.integrations._async_steps import AsyncSteps
from aioapiqueue.integrations._exchange import Wire, run_async
from aioapiqueue.integrations._http import HttpPacer, release_soon
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
        end = partial(self.finish, slot, wire, request, response)
        connection = response.connection
        if connection is None:  # all of the response is here
            end()
        else:
            # Without the response, which would keep its connection alive.
            loop = asyncio.get_running_loop()
            settle = partial(self.finish, slot, wire, request)
            connection.add_callback(partial(_end, ref(response), settle, slot, loop))
        return response


class _AiohttpWire(AsyncSteps, Wire):
    """What can be done with requests and answers of aiohttp.

    Args:
        pacer: whose.
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
        # aiohttp cannot give back what was read of a body: only one that is known to be small.
        length = response.content_length
        if length is None or length > most_to_read(response.headers.get("Content-Encoding", "")):
            return None
        try:
            return await response.read()  # the caller's `read` returns the same
        except (ClientError, OSError):  # the caller's `read` raises the same
            return None

    async def discard(self, response: ClientResponse) -> None:
        response.release()

    def can_repeat(self, request: ClientRequest) -> bool:
        """Return whether the body is bytes: others are used up as they are sent."""
        return isinstance(request.body, bytes | payload.BytesPayload)

    def is_malformed(self, error: BaseException) -> bool:
        """Return whether aiohttp could not read a response's head.

        Other errors of this class are of a proxy that refuses, or of somebody's `raise_for_status`:
        those answers were read.
        """
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
    """End the call of a response that gives back its connection."""
    given_back = response()
    if given_back is not None and given_back.closed:
        finish(given_back)
    else:  # the garbage collector calls
        release_soon(slot, loop)
