"""Pace httpx clients, and follow the rate limit headers of their responses.

    async with ApiQueue("10/s", lanes={"*": ()}) as queue:
        async with httpx.AsyncClient(transport=RateLimitedTransport(queue)) as client:
            await client.get("https://api.example.com/v1/things")

Every request that is sent takes a slot of its own, including redirects and each round of
authentication. (The `retries=` of `AsyncHTTPTransport` are attempts to connect, and take no slot.)
A request waits for its slot before it asks for a connection, so the client's timeouts start after
the wait. The connection pool of httpx gets slower with each open connection: for many hosts, give
the queue a `concurrency`.

`SyncRateLimitedTransport` paces synchronous clients, in any number of threads. For httpx2, import
`aioapiqueue.integrations.httpx2`: the classes of the two libraries are not interchangeable.
"""

from __future__ import annotations

from typing import ClassVar

from aioapiqueue.integrations._extras import needs

with needs(
    "httpx",
    to="pacing httpx clients",
    extra="httpx",
    hint=". (For httpx2, import aioapiqueue.integrations.httpx2.)",
):
    import httpx

from aioapiqueue.integrations._httpx_transports import PacedSyncTransport, PacedTransport
from aioapiqueue.integrations._httpx_wire import PacedBody

__all__ = ["RateLimitedTransport", "SyncRateLimitedTransport"]


class _Body(PacedBody, httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body that both kinds of clients accept as a stream."""


class RateLimitedTransport(
    PacedTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response],
    httpx.AsyncBaseTransport,
):
    """A transport for `httpx.AsyncClient` whose requests wait for their slot in a queue.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of the
    block. Cancelling a request that waits uses no slot; cancelling one in flight releases its slot
    at once. `HttpPacer` describes how responses slow the queue.

    Args:
        queue: paces the requests. Any number of clients may share a queue.
        transport: sends the requests, and is closed with this one. Default: a new
            `httpx.AsyncHTTPTransport`.
        options: pacing options: `key`, `cost`, `priority`, `settle`, `advise`, `resend`, `learn`,
            `max_hold`, `timeout`: see `HttpPacer`. Without `transport`, also the options of
            `httpx.AsyncHTTPTransport`: `verify`, `cert`, `http1`, `http2`, `limits`, `proxy`,
            `trust_env`, `uds`, `local_address`, `retries`, `socket_options`. (A client ignores its
            own `verify` and so on if it is given a transport.) The proxies in `HTTPS_PROXY` and
            `NO_PROXY` are used unless `trust_env` is False.

    Raises:
        TypeError: `transport` is not an `httpx.AsyncBaseTransport`, an option is unknown, or an
            option of the transport is given together with `transport`; or as for `HttpPacer`.
        ValueError: the address of a proxy is invalid; or as for `HttpPacer`.
        ImportError: `http2` needs `h2`, or a SOCKS proxy needs `socksio`.

    Example:
        client = httpx.AsyncClient(transport=RateLimitedTransport(ApiQueue("10/s"), resend=3))
    """

    library: ClassVar = httpx
    transport_types: ClassVar = (httpx.AsyncBaseTransport, httpx.AsyncHTTPTransport)
    body_type: ClassVar = _Body


class SyncRateLimitedTransport(
    PacedSyncTransport[httpx.BaseTransport, httpx.Request, httpx.Response],
    httpx.BaseTransport,
):
    """A transport for `httpx.Client` whose requests wait for their slot, in any number of threads.

    The slot is held until the response is closed. KeyboardInterrupt during the wait uses no slot.

    Args:
        queue: paces the requests: an `ApiQueue`, or a `blocking(queue, portal=...)` if the queue
            lives on an event loop of yours.
        transport: sends the requests, and is closed with this one. Default: a new
            `httpx.HTTPTransport`.
        options: as for `RateLimitedTransport`.

    Raises:
        TypeError: as for `RateLimitedTransport`.
        ValueError: as for `RateLimitedTransport`.
        ImportError: as for `RateLimitedTransport`.
    """

    library: ClassVar = httpx
    transport_types: ClassVar = (httpx.BaseTransport, httpx.HTTPTransport)
    body_type: ClassVar = _Body
