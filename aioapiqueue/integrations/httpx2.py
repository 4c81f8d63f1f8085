"""Paces the requests of httpx2's async clients, and follows what the servers answer.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with httpx2.AsyncClient(transport=RateLimitedTransport(queue)) as client:
            await client.get("https://api.example.com/v1/things")

A transport is the last that a request passes, so each one that is sent waits for a slot of its own:
redirects and the rounds of an authentication too. (Not the retries of `AsyncHTTPTransport(retries=
...)`: those are attempts to connect, before anything is sent.) It waits before it asks for a
connection, so that no time-out of the client runs meanwhile, not even the pool's. The pool gets
slower with each connection that it holds: for many requests to many hosts, give the queue a
`concurrency`.

For clients of httpx there is `aioapiqueue.integrations.httpx`: the two libraries have classes
of their own, and neither works with those of the other.
"""

from __future__ import annotations

from typing import ClassVar

try:
    import httpx2
except ImportError as error:
    raise ImportError(
        'pacing httpx2 clients needs httpx2: pip install "aioapiqueue[httpx2]". (Clients of httpx '
        "are paced by aioapiqueue.integrations.httpx.)",
        name=error.name,
    ) from error

from aioapiqueue.integrations._httpx_common import PacedBody, PacedTransport

__all__ = ["RateLimitedTransport"]


class _Body(PacedBody, httpx2.AsyncByteStream):
    """A body that httpx2 takes for a stream."""


class RateLimitedTransport(
    PacedTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncBaseTransport,
):
    """A transport that gives each request a slot of a queue, and the queue what the answer says.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of its
    block. A response that nobody closes gives its slot back when it is garbage collected.

    Push-back (429; 529, by which Anthropic's API says that it is overloaded; 503 or 403 with
    `Retry-After`; 403 with nothing remaining) goes to `Slot.throttled`; where a response says that
    nothing remains until some time, the queue holds until then (`ApiQueue.hold`); what is malformed
    is counted (`stats.odd`). All of them are of the request's key: a queue that has no lane for it
    holds as a whole, so give it `lanes={"*": ()}` if it serves several hosts.

    Args:
        queue: paces the requests. One queue may pace any number of clients.
        transport: of httpx2, sends them, and is closed with this one; default:
            `AsyncHTTPTransport()`. A client that is given a transport uses none of its own
            `verify`, `cert`, `http2`, `limits` and `proxy`: give them to this one.
        key: the lane that a request is of: by `"host"` (default; without the port), by `"route"`
            (`"GET api.example.com/v1/things"`: without the query; of paths with ids in them, each
            is another), or by a function of the `Request` that returns something hashable.
        max_hold: the longest hold that is obeyed, in seconds; default 3600. Longer ones are cut to
            it, and counted as odd.
        timeout: seconds that a request may wait for its slot; default: any time.

    Raises:
        TypeError: a queue that is none; a coroutine function as `key`; a transport that is not an
            `AsyncBaseTransport` of httpx2. In a client of httpx, each request raises it.
        ValueError: an unknown word as `key`; a negative or infinite time.

    What the queue raises (`SlotTimeout`, `QueueFull`, `QueueClosed`) reaches the caller as it is. A
    request that is cancelled while it waits uses no slot; one that is cancelled in flight, or that
    fails, gives its slot back at once.
    """

    _library: ClassVar = httpx2
    _body: ClassVar = _Body
