"""Connections to the servers, kept for the next request: a waiting one needs none yet."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

import anyio
import h11
from anyio.streams.tls import TLSStream

from aioapiqueue.gateway._aws_hosts import is_intercepted
from aioapiqueue.gateway._link import HttpLink

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    from anyio.abc import ByteStream

    from aioapiqueue.gateway._confinement import Confinement
    from aioapiqueue.gateway._link import Headers
    from aioapiqueue.gateway._upstream_proxies import UpstreamProxies, UpstreamProxy
    from aioapiqueue.registry.spi import Origin

__all__ = ["Dial", "Upstream", "connect_tcp"]

Dial: TypeAlias = "Callable[[str, int], Awaitable[ByteStream]]"

_HTTP_PORT, _TLS_PORT = 80, 443
_CONNECT_SECONDS = 20.0
"""Less than what any client waits for an answer."""
_IDLE_SECONDS = 15.0
"""AWS closes connections that have been idle for 20 seconds or more, depending on the service."""
_IDLE_SECONDS_OF_OTHERS = 1.5
"""Gunicorn closes them after 2 seconds, Node.js after 5. A request that comes at the very moment is
lost, so that it is better to connect again."""
_REACHED_SECONDS = 60.0
_MOST_IDLE = 64
"""Connections to one server that are kept."""


async def connect_tcp(host: str, port: int) -> ByteStream:
    """Connect to a server, whichever of its addresses answers first.

    Raises:
        OSError: none does.
    """
    return await anyio.connect_tcp(host, port)


class Upstream:
    """Makes and keeps connections.

    Args:
        context: verifies servers.
        parents: which proxy there is on the way to them.
        dial: makes a connection.
        confinement: of the program, if it is isolated; default: it may reach any server.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        parents: UpstreamProxies,
        *,
        dial: Dial = connect_tcp,
        confinement: Confinement | None = None,
    ) -> None:
        self._context = context
        self._parents = parents
        self._dial = dial
        self._confinement = confinement
        self._idle: defaultdict[Origin, deque[tuple[float, HttpLink]]] = defaultdict(deque)
        self._unused: WeakSet[HttpLink] = WeakSet()
        self._in_use: Counter[Origin] = Counter()
        self._first: dict[Origin, asyncio.Task[None]] = {}
        """What makes the first connection to a server."""
        self._reached: dict[Origin, float] = {}
        """When a connection to each server was made last, or given back."""

    def is_reached(self, origin: Origin) -> bool:
        """Return whether a server was reached of late."""
        reached = self._reached.get(origin, -math.inf)
        return bool(self._in_use[origin]) or time.monotonic() - reached < _REACHED_SECONDS

    async def reach(self, origin: Origin) -> None:
        """Wait until a server is reached, so that a turn is not lost on the way.

        All who wait for the first one wait for the same; cancelled, one leaves it to the others.

        Raises:
            OSError: it cannot be reached, or its certificate cannot be verified.
        """
        if self.is_reached(origin):
            return
        first = self._first.get(origin)
        if first is None:
            first = self._first[origin] = asyncio.create_task(self._make_first(origin))
            first.add_done_callback(lambda _: self._first.pop(origin))
        await asyncio.shield(first)

    async def _make_first(self, origin: Origin) -> None:
        link = HttpLink(await self._connect(origin), client=True)
        self._unused.add(link)
        self._reached[origin] = now = time.monotonic()
        self._idle[origin].append((now, link))

    async def take_idle(self, origin: Origin) -> HttpLink | None:
        """Return a connection to a server that was kept; None if there is none."""
        kept = self._idle[origin]
        while kept:
            since, link = kept.pop()  # the last one used: the others may grow old
            fresh = link in self._unused
            self._unused.discard(link)
            limit = _idle_seconds(origin, fresh=fresh)
            if time.monotonic() - since < limit and link.is_quiet(fresh=fresh):
                self._in_use[origin] += 1
                return link
            await link.aclose()
        return None

    async def dial(self, origin: Origin) -> HttpLink:
        """Return a new connection to a server.

        Raises:
            OSError: it cannot be reached, or its certificate cannot be verified.
        """
        link = HttpLink(await self._connect(origin), client=True)
        self._in_use[origin] += 1
        return link

    async def give_back(self, origin: Origin, link: HttpLink, *, whole: bool) -> None:
        """Keep a connection for the next request, if it can have one; close it otherwise.

        Args:
            origin: where it leads.
            link: which.
            whole: whether its last answer has been read to the end.
        """
        self._reached[origin] = time.monotonic()
        self._in_use[origin] -= 1
        if not self._in_use[origin]:
            del self._in_use[origin]
        kept = self._idle[origin]
        if whole and len(kept) < _MOST_IDLE and link.next_cycle():
            kept.append((time.monotonic(), link))
        else:
            await link.aclose()

    async def close_old(self) -> None:
        """Close connections that nobody has used for a while."""
        now = time.monotonic()
        for origin, kept in list(self._idle.items()):
            for since, link in list(kept):
                if now - since >= _idle_seconds(origin, fresh=link in self._unused):
                    kept.remove((since, link))
                    await link.aclose()
            if not kept:
                del self._idle[origin]
        for origin, at in list(self._reached.items()):
            if now - at >= _REACHED_SECONDS:
                del self._reached[origin]

    async def aclose(self) -> None:
        """Close all connections that nobody uses."""
        for first in self._first.values():
            first.cancel()
        for kept in self._idle.values():
            while kept:
                await kept.popleft()[1].aclose()

    def addressed(
        self, origin: Origin, method: bytes, target: bytes, headers: Headers
    ) -> h11.Request:
        """Return a request as the one at the other end of a connection wants it.

        A proxy that is asked for a host without TLS wants a whole URL, and its own password.
        """
        if not any(name.lower() == b"host" for name, _ in headers):  # HTTP/1.0 may have none
            headers = [(b"Host", _authority(origin)), *headers]
        parent = None if origin.tls else self._parents.of(origin, tunnel=False)
        if parent is not None:
            target = b"http://" + _authority(origin) + target
            headers = [*headers, *parent.headers]
        return h11.Request(method=method, target=target, headers=headers)

    async def tunnel(self, origin: Origin) -> ByteStream:
        """Return a connection to a host, whatever is to go over it.

        Raises:
            ForbiddenError: the program may not reach it.
            OSError: it cannot be reached.
        """
        with _at_most(_CONNECT_SECONDS, origin.host):
            parent = self._parents.of(origin, tunnel=True)
            stream = await self._to(origin, parent)
            if parent is None:
                return stream
            try:
                return await _tunnel(stream, parent, origin)
            except BaseException:  # cancelled, too
                await anyio.aclose_forcefully(stream)
                raise

    async def _connect(self, origin: Origin) -> ByteStream:
        with _at_most(_CONNECT_SECONDS, origin.host):
            if origin.tls:
                return await self._secured(await self.tunnel(origin), origin.host)
        with _at_most(_CONNECT_SECONDS, origin.host):
            return await self._to(origin, self._parents.of(origin, tunnel=False))

    async def _to(self, origin: Origin, parent: UpstreamProxy | None) -> ByteStream:
        """Connect to a server, or to the proxy on the way there, which may be on this host."""
        if parent is None:
            if self._confinement is not None:
                return await self._confinement.connect(origin, self._dial)
            return await self._dial(origin.host, origin.port)
        if self._confinement is not None:
            await self._confinement.check(origin)
        stream = await self._dial(parent.host, parent.port)
        return await self._secured(stream, parent.host) if parent.tls else stream

    async def _secured(self, stream: ByteStream, host: str) -> ByteStream:
        try:
            return await TLSStream.wrap(
                stream, hostname=host, ssl_context=self._context, standard_compatible=False
            )
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise ConnectionResetError(f"{host} closed the connection") from None
        except BaseException:  # cancelled, too; `wrap` has closed it in some cases only
            await anyio.aclose_forcefully(stream)
            raise


def _idle_seconds(origin: Origin, *, fresh: bool) -> float:
    """Return how long a connection is kept: others' servers close those that have been used."""
    return _IDLE_SECONDS if fresh or is_intercepted(origin.host) else _IDLE_SECONDS_OF_OTHERS


def _authority(origin: Origin) -> bytes:
    """Return host and port as a URL has them: without the port where it is the usual one."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    usual = _TLS_PORT if origin.tls else _HTTP_PORT
    return (host if origin.port == usual else f"{host}:{origin.port}").encode()


async def _tunnel(stream: ByteStream, parent: UpstreamProxy, origin: Origin) -> ByteStream:
    """Have a proxy connect to a server; return what is connected."""
    link = HttpLink(stream, client=True)
    netloc = origin.netloc.encode()
    headers = [(b"Host", netloc), *parent.headers]
    await link.send(
        h11.Request(method="CONNECT", target=netloc, headers=headers), h11.EndOfMessage()
    )
    name = f"the proxy {parent.host}:{parent.port}"
    try:
        while isinstance(answer := await link.event(), h11.InformationalResponse):
            pass
    except h11.RemoteProtocolError:
        raise OSError(f"{name} does not respond like a proxy") from None
    if not isinstance(answer, h11.Response):
        raise OSError(f"{name} closed the connection")
    if not 200 <= answer.status_code < 300:  # noqa: PLR2004 - HTTP's
        raise OSError(f"{name} returned status {answer.status_code}")
    return link.rest()  # the server may have sent something already


@contextlib.contextmanager
def _at_most(seconds: float, host: str) -> Iterator[None]:
    """Give up after some seconds, with an error that names the host."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise TimeoutError(f"{host} has not responded for {seconds:g} s") from None
