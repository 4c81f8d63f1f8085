"""Pace httpx2 clients, and follow the rate limit headers of their responses.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with httpx2.AsyncClient(transport=RateLimitedTransport(queue)) as client:
            await client.get("https://api.example.com/v1/things")

It works like `aioapiqueue.integrations.httpx`. The classes of the two libraries are not
interchangeable.
"""

from __future__ import annotations

from typing import ClassVar

from aioapiqueue.integrations._extras import needs

with needs(
    "httpx2",
    to="pacing httpx2 clients",
    extra="httpx2",
    hint=". (For httpx, import aioapiqueue.integrations.httpx.)",
):
    import httpx2

from aioapiqueue.integrations._httpx_transports import PacedSyncTransport, PacedTransport
from aioapiqueue.integrations._httpx_wire import PacedBody

__all__ = ["RateLimitedTransport", "SyncRateLimitedTransport"]


class _Body(PacedBody, httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A body that both kinds of clients accept as a stream."""


class RateLimitedTransport(
    PacedTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncBaseTransport,
):
    """A transport for `httpx2.AsyncClient` whose requests wait for their slot in a queue.

    The slot is held until the response is closed. Cancelling a request that waits uses no slot;
    cancelling one in flight releases its slot at once.

    Args:
        queue: paces the requests. Any number of clients may share a queue.
        transport: sends the requests, and is closed with this one. Default: a new
            `httpx2.AsyncHTTPTransport`.
        options: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.

    Raises:
        TypeError: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.
        ValueError: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.
        ImportError: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.
    """

    library: ClassVar = httpx2
    transport_types: ClassVar = (httpx2.AsyncBaseTransport, httpx2.AsyncHTTPTransport)
    body_type: ClassVar = _Body


class SyncRateLimitedTransport(
    PacedSyncTransport[httpx2.BaseTransport, httpx2.Request, httpx2.Response],
    httpx2.BaseTransport,
):
    """A transport for `httpx2.Client` whose requests wait for their slot, in any number of threads.

    The slot is held until the response is closed. KeyboardInterrupt during the wait uses no slot.

    Args:
        queue: paces the requests: an `ApiQueue`, or a `blocking(queue, portal=...)` if the queue
            lives on an event loop of yours.
        transport: sends the requests, and is closed with this one. Default: a new
            `httpx2.HTTPTransport`.
        options: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.

    Raises:
        TypeError: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.
        ValueError: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.
        ImportError: as for `aioapiqueue.integrations.httpx.RateLimitedTransport`.
    """

    library: ClassVar = httpx2
    transport_types: ClassVar = (httpx2.BaseTransport, httpx2.HTTPTransport)
    body_type: ClassVar = _Body
