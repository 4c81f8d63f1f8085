"""Paces the requests of httpx's clients, and follows what the servers answer.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with httpx.AsyncClient(transport=RateLimitedTransport(queue)) as client:
            await client.get("https://api.example.com/v1/things")

A transport is the last that a request passes, so each one that is sent waits for a slot of its own:
redirects and the rounds of an authentication too. (Not the retries of `AsyncHTTPTransport(retries=
...)`: those are attempts to connect, before anything is sent.) It waits before it asks for a
connection, so that no time-out of the client runs meanwhile, not even the pool's. The pool gets
slower with each connection that it holds: for many requests to many hosts, give the queue a
`concurrency`.

Clients that block are paced by `SyncRateLimitedTransport`, in any number of threads.

For clients of httpx2 there is `aioapiqueue.integrations.httpx2`: the two libraries have classes
of their own, and neither works with those of the other.
"""

from __future__ import annotations

from typing import ClassVar

try:
    import httpx
except ImportError as error:
    raise ImportError(
        'pacing httpx clients needs httpx: pip install "aioapiqueue[httpx]". (For httpx2, import '
        "aioapiqueue.integrations.httpx2.)",
        name=error.name,
    ) from error

from aioapiqueue.integrations._httpx_async import PacedBody, PacedTransport
from aioapiqueue.integrations._httpx_sync import PacedSyncBody, PacedSyncTransport

__all__ = ["RateLimitedTransport", "SyncRateLimitedTransport"]


class _Body(PacedBody, httpx.AsyncByteStream):
    """A body that httpx accepts as a stream."""


class _SyncBody(PacedSyncBody, httpx.SyncByteStream):
    """The same, for clients that block."""


class RateLimitedTransport(
    PacedTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response],
    httpx.AsyncBaseTransport,
):
    """A transport that gives each request of an httpx client a slot of a queue.

    The slot is held until the response is closed. `PacedTransport` describes the rest,
    `HttpxPacer` and `HttpPacer` the arguments.
    """

    library: ClassVar = httpx
    transport_types: ClassVar = (httpx.AsyncBaseTransport, httpx.AsyncHTTPTransport)
    body_type: ClassVar = _Body


class SyncRateLimitedTransport(
    PacedSyncTransport[httpx.BaseTransport, httpx.Request, httpx.Response],
    httpx.BaseTransport,
):
    """The same for httpx clients that block, in any number of threads."""

    library: ClassVar = httpx
    transport_types: ClassVar = (httpx.BaseTransport, httpx.HTTPTransport)
    body_type: ClassVar = _SyncBody
