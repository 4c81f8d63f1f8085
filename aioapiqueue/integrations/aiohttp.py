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
        ClientHandlerType,
        ClientRequest,
        ClientResponse,
        http,
    )
except ImportError as error:
    raise ImportError(
        'pacing aiohttp sessions needs aiohttp 3.12 or later: pip install "aioapiqueue[aiohttp]"',
        name=error.name,
    ) from error

from aioapiqueue.integrations._http import HttpPacer, release_soon

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import Slot

__all__ = ["RateLimitedMiddleware"]


class RateLimitedMiddleware(HttpPacer):
    """A client middleware that gives each request a slot, and the queue what the server answers.

    The slot is held until the response gives back its connection: once its body has arrived, or
    when the response is released or closed. So use `async with`: a response with a body under way
    that is forgotten is kept alive by aiohttp itself, and keeps its slot until its body has
    arrived, its connection breaks or its session is closed. A web socket holds it until it is
    closed.

    `HttpPacer`, its base class, describes the arguments, push-back, errors and cancellation.
    """

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send one request, in its turn."""
        response, slot = await self._send(
            request, handler, head=_status_and_headers, is_malformed=_is_of_parser
        )
        connection = response.connection
        if connection is None:  # all of the response is here
            slot.release()
        else:
            loop = asyncio.get_running_loop()
            connection.add_callback(partial(_end, ref(response), slot, loop))
        return response


def _status_and_headers(response: ClientResponse) -> tuple[int, Iterable[tuple[str, str]]]:
    return response.status, response.headers.items()


def _is_of_parser(error: BaseException) -> bool:
    """Return whether aiohttp could not read a response's head.

    Other errors of this class are of a proxy that refuses, or of somebody's `raise_for_status`:
    those answers were read.
    """
    return isinstance(error.__cause__, http.HttpProcessingError)


def _end(response: ref[ClientResponse], slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
    """Release the slot of a response that gives back its connection."""
    given_back = response()
    if given_back is not None and given_back.closed:
        slot.release()
    else:  # the garbage collector calls
        release_soon(slot, loop)
