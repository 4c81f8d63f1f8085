"""A small HTTP server on loopback, and one way to use every client that is paced."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable


@dataclass(frozen=True)
class Arrival:
    """One request, as it came in."""

    at: float  # time.monotonic()
    method: str
    path: str
    host: str


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
    ) -> Self:
        """Make a reply; with a larger `length`, one whose body never comes to its end."""
        lines = [f"HTTP/1.1 {status} x".encode()]
        for name, value in headers:
            raw = value if isinstance(value, bytes) else value.encode("latin-1")
            lines.append(name.encode() + b": " + raw)
        lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
        return cls(b"\r\n".join(lines) + b"\r\n\r\n" + body)


PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
HANG = None
HANG_UP = b""


class Server:
    """Answers what `answer(arrival)` returns: a `Reply`, `HANG` or `HANG_UP`."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.answer: Callable[[Arrival], bytes | None] = lambda _: Reply.of()
        self.port = 0
        self.connections: set[asyncio.Transport] = set()
        self._servers: list[asyncio.Server] = []
        self._arrived = asyncio.Event()

    async def listen(self, *hosts: str) -> None:
        """Listen at these addresses, at one and the same port."""
        loop = asyncio.get_running_loop()
        for host in hosts:
            server = await loop.create_server(lambda: _Connection(self), host, self.port)
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

    def note(self, head: bytes) -> bytes | None:
        """Note a request and return its answer."""
        lines = head.decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        host = next(line[6:] for line in lines if line.lower().startswith("host: "))
        arrival = Arrival(time.monotonic(), method, path, host.partition(":")[0])
        self.arrivals.append(arrival)
        self._arrived.set()
        return self.answer(arrival)


_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)


class _Connection(asyncio.Protocol):
    """One connection. What a request has in its body is not looked at."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            if len(rest) < length:
                return
            self._received = rest[length:]
            answer = self._server.note(head)
            if answer == HANG_UP:
                self._transport.abort()
            elif answer is not None:
                self._transport.write(answer)


class HttpxClient:
    """Requests by httpx or httpx2."""

    def __init__(self, library: str, queue, *, read_timeout=PATIENCE, **pacing) -> None:
        integration = import_module(f"aioapiqueue.integrations.{library}")
        self.library = import_module(library)
        self.errors = (self.library.TransportError,)
        # By default it keeps 20 idle connections and opens 100, too few for 20 busy hosts; and it
        # may close an idle one, after 5 seconds, while a request is being sent on it.
        limits = self.library.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
        )
        inner = self.library.AsyncHTTPTransport(verify=False, limits=limits)
        self._client = self.library.AsyncClient(
            transport=integration.RateLimitedTransport(queue, inner, **pacing),
            timeout=self.library.Timeout(PATIENCE, read=read_timeout),
            follow_redirects=True,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

    async def get(self, url: str) -> int:
        """Return the status, once the body is there."""
        return (await self._client.get(url)).status_code

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the chunks of a body."""
        async with self._client.stream("GET", url) as response:
            yield response.aiter_raw()

    async def unread(self, url: str) -> object:
        """Return a response as soon as its head is there."""
        return await self._client.send(self._client.build_request("GET", url), stream=True)


class AiohttpClient:
    """Requests by aiohttp."""

    def __init__(self, queue, *, read_timeout=PATIENCE, **pacing) -> None:
        import aiohttp

        from aioapiqueue.integrations.aiohttp import RateLimitedMiddleware

        self.errors = (aiohttp.ClientError, TimeoutError)
        self._session = aiohttp.ClientSession(
            middlewares=[RateLimitedMiddleware(queue, **pacing)],
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(sock_read=read_timeout),
        )

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.__aexit__(*exc)

    async def get(self, url: str) -> int:
        """Return the status, once the body is there."""
        async with self._session.get(url) as response:
            await response.read()
            return response.status

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the chunks of a body."""
        async with self._session.get(url) as response:
            yield response.content.iter_any()

    async def unread(self, url: str) -> object:
        """Return a response as soon as its head is there."""
        return await self._session.get(url)


@pytest.fixture(params=["httpx", "httpx2", "aiohttp"])
def client(request) -> Callable[..., HttpxClient | AiohttpClient]:
    """Give `client(queue, read_timeout=..., **pacing)`, an async context manager."""
    # Here, and not in a test: what the libraries read as they are imported would block its loop.
    import_module(f"aioapiqueue.integrations.{request.param}")

    def make(queue, *, timeout=PATIENCE, **how):  # so that no test waits for ever
        how["timeout"] = timeout
        if request.param == "aiohttp":
            return AiohttpClient(queue, **how)
        return HttpxClient(request.param, queue, **how)

    return make


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
