"""A small HTTP endpoint on loopback that notes when each request arrives, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Arrival:
    """One request, complete with its body."""

    at: float  # time.monotonic()
    action: str
    service: str
    region: str
    signature_age: float  # seconds, from X-Amz-Date, which counts whole ones
    parameters: dict[str, list[str]]


class Endpoint:
    """Answers what `answer(arrival)` returns: a status and a body, or `HANG`."""

    HANG = None
    THROTTLED = (
        503,
        (
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Slow down</Message>"
            "</Error></Errors><RequestID>r</RequestID></Response>"
        ),
    )

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.answer: Callable[[Arrival], tuple[int, str] | None] = _empty
        self._connections: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def gaps(self) -> list[float]:
        """Seconds between one arrival and the next."""
        return [later.at - earlier.at for earlier, later in pairwise(self.arrivals)]

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have arrived since the start."""
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.arrivals) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            # A cancelled client, or the end of the test, ends a connection wherever it is.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        arrival = _arrival(head, body.decode())
        async with self._arrived:
            self.arrivals.append(arrival)
            self._arrived.notify_all()
        answer = self.answer(arrival)
        if answer is None:
            await reader.read()  # until the other side hangs up
            raise ConnectionResetError
        status, text = answer
        content = text.encode()
        writer.write(
            f"HTTP/1.1 {status} x\r\nContent-Type: text/xml\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await writer.drain()


def _empty(arrival: Arrival) -> tuple[int, str]:
    return 200, f"<Response><{arrival.action}Result/></Response>"


def _arrival(head: str, body: str) -> Arrival:
    at, now = time.monotonic(), datetime.now(UTC)
    parameters = parse_qs(body)
    signed = re.search(r"(?im)^x-amz-date: *(\w+)", head)
    date = datetime.strptime(signed[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if signed else now
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", head)
    return Arrival(
        at=at,
        action=parameters.get("Action", [head.split(maxsplit=1)[0]])[0],
        service=scope[2] if scope else "",
        region=scope[1] if scope else "",
        signature_age=(now - date).total_seconds(),
        parameters=parameters,
    )


@pytest.fixture
async def endpoint():
    """Serve on a free port of loopback."""
    async with Endpoint() as serving:
        yield serving
