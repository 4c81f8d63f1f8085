"""A small HTTP server on loopback, and one way to use every client that is paced."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Self

import pytest

from tests.helpers.http_clients import (
    PATIENCE,
    AiohttpClient,
    HttpxClient,
    RequestsClient,
    SyncHttpxClient,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from ssl import SSLContext

    from tests.helpers.http_clients import Client


@dataclass(frozen=True)
class Arrival:
    """One request, as it came in."""

    at: float  # time.monotonic()
    method: str
    path: str
    host: str
    body: bytes
    connection: int  # by the order in which they were opened


class Reply(bytes):
    """What goes over the wire."""

    __slots__ = ()

    @classmethod
    def of(
        cls,
        status: int = 200,
        headers: Iterable[tuple[str, str | bytes]] = (),
        body: bytes = b"ok",
        length: int | None = None,
        *,
        chunked: bool = False,
    ) -> Self:
        """Make a reply; with a larger `length`, one whose body never comes to its end."""
        lines = [f"HTTP/1.1 {status} x".encode()]
        for name, value in headers:
            raw = value if isinstance(value, bytes) else value.encode("latin-1")
            lines.append(name.encode() + b": " + raw)
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
        return cls(b"\r\n".join(lines) + b"\r\n\r\n" + body)


HANG = None
HANG_UP = b""


class Server:
    """Answers what `answer(arrival)` returns: a `Reply`, `HANG` or `HANG_UP`."""

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self._ssl = ssl
        self.answer: Callable[[Arrival], bytes | None] = lambda _: Reply.of()
        self.port = 0
        self.connections: set[asyncio.Transport] = set()
        self.opened = 0
        self._servers: list[asyncio.Server] = []
        self._arrived = asyncio.Event()

    async def listen(self, *hosts: str) -> None:
        """Listen at these addresses, at one and the same port."""
        loop = asyncio.get_running_loop()
        for host in hosts:
            server = await loop.create_server(
                lambda: _Connection(self), host, self.port, ssl=self._ssl
            )
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def aclose(self) -> None:
        """Close every connection and stop listening."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return the address of a path."""
        return f"http://{host}:{self.port}{path}"

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have come in since the start."""
        async with asyncio.timeout(PATIENCE):
            while len(self.arrivals) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def note(self, head: bytes, body: bytes, connection: int) -> bytes | None:
        """Note a request and return its answer."""
        lines = head.decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        host = next(line[6:] for line in lines if line.lower().startswith("host: "))
        host = host.partition(":")[0]
        arrival = Arrival(time.monotonic(), method, path, host, body, connection)
        self.arrivals.append(arrival)
        self._arrived.set()
        return self.answer(arrival)


_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(transport)
        self._server.opened += 1
        self._number = self._server.opened

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            if b"transfer-encoding: chunked" in head.lower():
                if b"0\r\n\r\n" not in rest:
                    return
                length = rest.index(b"0\r\n\r\n") + 5
            if len(rest) < length:
                return
            self._received = rest[length:]
            answer = self._server.note(head, rest[:length], self._number)
            if answer == HANG_UP:
                self._transport.abort()
            elif answer is not None:
                self._transport.write(answer)


AWAITING = ("httpx", "httpx2", "aiohttp")
EVERY = (*AWAITING, "sync httpx", "sync httpx2", "requests")


def _maker(name: str) -> Callable[..., Client]:
    # Here, and not in a test: what the libraries read as they are imported, and as they make their
    # first transport, would block its loop.
    library = name.rpartition(" ")[2]
    import_module(f"aioapiqueue.integrations.{library}")
    if library.startswith("httpx"):
        import_module(library).HTTPTransport(verify=False)

    def make(queue, *, timeout=PATIENCE, **how):  # so that no test waits for ever
        how = {"read_timeout": PATIENCE, "timeout": timeout, **how}
        if name == "aiohttp":
            return AiohttpClient(queue, **how)
        if name == "requests":
            return RequestsClient(queue, **how)
        if name.startswith("sync "):
            return SyncHttpxClient(name.removeprefix("sync "), queue, **how)
        return HttpxClient(name, queue, **how)

    return make


@pytest.fixture(params=AWAITING)
def client(request) -> Callable[..., Client]:
    """Give `client(queue, read_timeout=..., **pacing)`, an async context manager."""
    return _maker(request.param)


@pytest.fixture
def httpx_client() -> Callable[..., Client]:
    """Give the one of httpx, for what does not depend on the library."""
    return _maker("httpx")


@pytest.fixture(params=EVERY)
def every_client(request) -> Callable[..., Client]:
    """Give the same, and the clients that block, which work in threads."""
    return _maker(request.param)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Serve on a free port of loopback."""
    serving = Server()
    await serving.listen("127.0.0.1")
    yield serving
    await serving.aclose()


@pytest.fixture
def reply() -> type[Reply]:
    """Give `reply.of(status, headers, body)`."""
    return Reply


@pytest.fixture
def server_class() -> type[Server]:
    """Let tests serve in ways of their own."""
    return Server
