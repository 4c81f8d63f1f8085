"""Paces the requests of httpx2's async clients, and follows what the servers answer.

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
        'pacing httpx2 clients needs httpx2: pip install "aioapiqueue[httpx2]". (Clients of httpx '
        "are paced by aioapiqueue.integrations.httpx.)",
        name=error.name,
    ) from error

from aioapiqueue.integrations._httpx_common import PacedBody, PacedTransport

__all__ = ["RateLimitedTransport"]


class _Body(PacedBody, httpx2.AsyncByteStream):
    """A body that httpx2 accepts as a stream."""


class RateLimitedTransport(
    PacedTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncBaseTransport,
):
    """A transport that gives each request of an httpx2 client a slot of a queue.

    The slot is held until the response is closed. `PacedTransport` describes the rest, and its
    `__init__` the arguments.
    """

    _library: ClassVar = httpx2
    _body: ClassVar = _Body
