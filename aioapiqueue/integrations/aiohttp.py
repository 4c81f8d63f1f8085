"""Paces the requests of aiohttp's client sessions, and follows what the servers answer.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with aiohttp.ClientSession(middlewares=[RateLimitedMiddleware(queue)]) as session:
            async with session.get("https://api.example.com/v1/things") as response:
                await response.json()

A session runs its middlewares within its own handling of redirects and of connections that turn out
to be dead, so each request that is sent waits for a slot of its own. The first middleware of a list
is the outermost: put this one last, so that what others send again (retries, authentication) is
paced too. The `middlewares=` of a single request replaces the session's. (aiohttp's
`DigestAuthMiddleware` does not release the body of the 401 that it answers: with `concurrency=1`, a
large one holds its place until it times out.)

A request waits before it asks for a connection: the time-outs `connect`, `sock_connect` and
`sock_read` do not run meanwhile. `ClientTimeout.total` does, 5 minutes by default: where a queue
may be longer, set `ClientTimeout(total=None, sock_connect=..., sock_read=...)`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

try:
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
except ImportError as error:
    raise ImportError(
        'pacing aiohttp sessions needs aiohttp 3.12 or later: pip install "aioapiqueue[aiohttp]"',
        name=error.name,
    ) from error

from aioapiqueue.integrations._async_wire import AsyncSteps
from aioapiqueue.integrations._bodies import most_to_read
from aioapiqueue.integrations._exchange import Wire, run_async
from aioapiqueue.integrations._http import HttpPacer, release_soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import Slot
    from aioapiqueue.integrations._exchange import Headers

__all__ = ["RateLimitedMiddleware"]


class RateLimitedMiddleware(HttpPacer):
    """A client middleware that gives each request a slot, and the queue what the server answers.

    The slot is held until the response gives back its connection: once its body has arrived, or
    when the response is released or closed. So use `async with`: a response that is kept with its
    body under way keeps its slot until it is read, closed or dropped, even if its connection breaks
    or its session is closed meanwhile. A web socket holds it until it is closed.

    `HttpPacer`, its base class, describes the arguments, push-back, errors and cancellation. The
    body of a refused answer is read where its length is declared and small. Then `read`, `text` and
    `json` of the response have it, and its stream (`content`) has not.
    """

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send one request, in its turn."""
        wire = _Wire(self, handler)
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


class _Wire(AsyncSteps, Wire):
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
