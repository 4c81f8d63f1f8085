"""Paces the requests of aiohttp's client sessions, and heeds what the servers answer.

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
    # Not for the annotations alone: who has no aiohttp, or an older one, is to hear of it here.
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

from aioapiqueue.integrations._http import MAX_HOLD, Key, Pacing, release_soon

if TYPE_CHECKING:
    from aioapiqueue import ApiQueue, Slot

__all__ = ["RateLimitedMiddleware"]


class RateLimitedMiddleware:
    """A client middleware that gives each request a slot of a queue, and the queue what it hears.

    The slot is held until the response gives back its connection: once its body has arrived, or
    when the response is released or closed. So use `async with`: a response with a body under way
    that is forgotten is kept alive by aiohttp itself, and keeps its slot until its body has
    arrived, its connection breaks or its session is closed. A web socket holds it until it is
    closed.

    Push-back (429; 529, by which Anthropic's API says that it is overloaded; 503 or 403 with
    `Retry-After`; 403 with nothing remaining) goes to `Slot.throttled`; where a response says that
    nothing remains until some time, the queue holds until then (`ApiQueue.hold`); what is malformed
    is counted (`stats.odd`). All of them are of the request's key: a queue that has no lane for it
    holds as a whole, so give it `lanes={"*": ()}` if it serves several hosts.

    Args:
        queue: paces the requests. One queue may pace any number of sessions.
        key: the lane that a request is of: by `"host"` (default; without the port), by `"route"`
            (`"GET api.example.com/v1/things"`: without the query; of paths with ids in them, each
            is another), or by a function of the `ClientRequest` that returns something hashable.
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
        *,
        key: Key = "host",
        max_hold: float = MAX_HOLD,
        timeout: float | None = None,
    ) -> None:
        self._pacing = Pacing(queue, key=key, max_hold=max_hold, timeout=timeout)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send one request, in its turn. Cancellation is described with the class."""
        slot = await self._pacing.turn(request)
        try:
            response = await handler(request)
            self._pacing.heed(slot, response.status, response.headers.items())
        except BaseException as error:
            # aiohttp cannot read the response's head. (Other errors of this class are of a proxy
            # that refuses, or of somebody's `raise_for_status`: answers that make sense.)
            if isinstance(error.__cause__, http.HttpProcessingError):
                self._pacing.unreadable(slot)
            slot.release()
            raise
        connection = response.connection
        if connection is None:  # all of the response is here
            slot.release()
        else:
            loop = asyncio.get_running_loop()
            connection.add_callback(partial(_end, ref(response), slot, loop))
        return response


def _end(response: ref[ClientResponse], slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
    """Release the slot of a response that gives back its connection."""
    given_back = response()
    if given_back is not None and given_back.closed:
        slot.release()
    else:  # the garbage collector calls
        release_soon(slot, loop)
