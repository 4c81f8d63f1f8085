"""Paces the requests of httpx2's clients, and follows what the servers answer.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with httpx2.AsyncClient(transport=RateLimitedTransport(queue)) as client:
            await client.get("https://api.example.com/v1/things")

It works as `aioapiqueue.integrations.httpx` describes it. The two libraries have classes of their
own, and neither works with those of the other.
"""

from __future__ import annotations

from typing import ClassVar

try:
    import httpx2
except ImportError as error:
    raise ImportError(
        'pacing httpx2 clients needs httpx2: pip install "aioapiqueue[httpx2]". (For httpx, import '
        "aioapiqueue.integrations.httpx.)",
        name=error.name,
    ) from error

from aioapiqueue.integrations._httpx_async import PacedBody, PacedTransport
from aioapiqueue.integrations._httpx_sync import PacedSyncBody, PacedSyncTransport

__all__ = ["RateLimitedTransport", "SyncRateLimitedTransport"]


class _Body(PacedBody, httpx2.AsyncByteStream):
    """A body that httpx2 accepts as a stream."""


class _SyncBody(PacedSyncBody, httpx2.SyncByteStream):
    """The same, for clients that block."""


class RateLimitedTransport(
    PacedTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncBaseTransport,
):
    """A transport that gives each request of an httpx2 client a slot of a queue.

    The slot is held until the response is closed. `PacedTransport` describes the rest,
    `HttpxPacer` and `HttpPacer` the arguments.
    """

    library: ClassVar = httpx2
    transport_types: ClassVar = (httpx2.AsyncBaseTransport, httpx2.AsyncHTTPTransport)
    body_type: ClassVar = _Body


class SyncRateLimitedTransport(
    PacedSyncTransport[httpx2.BaseTransport, httpx2.Request, httpx2.Response],
    httpx2.BaseTransport,
):
    """The same for httpx2 clients that block, in any number of threads."""

    library: ClassVar = httpx2
    transport_types: ClassVar = (httpx2.BaseTransport, httpx2.HTTPTransport)
    body_type: ClassVar = _SyncBody
