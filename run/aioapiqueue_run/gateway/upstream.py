"""Connections to servers, which are kept for the next request: `Upstream`.

A request takes a connection when its turn has come. A waiting request needs none, so that 1,000 of
them take some 110 MB in all.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import anyio
import h11
from anyio.streams.tls import TLSStream

from aioapiqueue_run.gateway.aws_hosts import is_intercepted
from aioapiqueue_run.gateway.link import HttpLink

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    from anyio.abc import ByteStream

    from aioapiqueue.registry.spi import Origin
    from aioapiqueue_run.gateway.confinement import Confinement
    from aioapiqueue_run.gateway.link import RawHeaders
    from aioapiqueue_run.gateway.upstream_proxies import UpstreamProxies, UpstreamProxy

__all__ = ["Dial", "Upstream", "connect_tcp"]

Dial: TypeAlias = "Callable[[str, int], Awaitable[ByteStream]]"

_HTTP_PORT, _TLS_PORT = 80, 443
_CONNECT_SECONDS = 20.0
"""Shorter than any client waits for a response."""
_IDLE_SECONDS = 15.0
"""AWS closes connections that have been idle for at least 20 seconds, depending on the service."""
_IDLE_SECONDS_OF_OTHERS = 1.5
"""The same for other servers: Gunicorn closes idle connections after 2 seconds, Node.js after 5. A
request that is sent at that very moment is lost, so it is better to connect again."""
_MOST_IDLE = 64
"""Most idle connections that are kept to one server."""


async def connect_tcp(host: str, port: int) -> ByteStream:
    """Connect to a server, at the address that answers first.

    Raises:
        OSError: no address answers.
    """
    return await anyio.connect_tcp(host, port)


class _Idle(NamedTuple):
    """An idle connection.

    Attributes:
        link: the connection.
        since: when it was last used, as `time.monotonic()`.
    """

    link: HttpLink
    since: float

    def is_old(self, origin: Origin) -> bool:
        """Return whether its server may close it."""
        limit = _IDLE_SECONDS if is_intercepted(origin.host) else _IDLE_SECONDS_OF_OTHERS
        return time.monotonic() - self.since >= limit


class Upstream:
    """Makes and keeps connections.

    Args:
        context: verifies the certificates of servers.
        proxies: the proxies that the user has configured.
        dial: connects to a host and port.
        confinement: the servers that an isolated program may reach. Default: any server.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        proxies: UpstreamProxies,
        *,
        dial: Dial = connect_tcp,
        confinement: Confinement | None = None,
    ) -> None:
        self._context = context
        self._proxies = proxies
        self._dial = dial
        self._confinement = confinement
        self._idle: defaultdict[Origin, deque[_Idle]] = defaultdict(deque)

    async def take_idle(self, origin: Origin) -> HttpLink | None:
        """Return an idle connection to a server; None if there is none."""
        kept = self._idle[origin]
        while kept:
            one = kept.pop()  # the last one used, so that the others are closed once idle
            # The age alone would not do: the server may have closed it, and a request that is lost
            # on it cannot be repeated, as it may have been carried out.
            if not one.is_old(origin) and one.link.is_open():
                return one.link
            await one.link.aclose()
        return None

    async def dial(self, origin: Origin) -> HttpLink:
        """Return a new connection to a server.

        Raises:
            OSError: it cannot be reached, or its certificate cannot be verified.
        """
        with _in_time(origin.host):
            if origin.tls:
                stream = await self._secured(await self.tunnel(origin), origin.host)
            else:
                stream = await self._to(origin, self._proxies.of(origin, tunnel=False))
        return HttpLink(stream, client=True)

    async def give_back(self, origin: Origin, link: HttpLink, *, whole: bool) -> None:
        """Keep a connection for the next request, if it can have one; close it otherwise.

        Args:
            origin: the server.
            link: the connection.
            whole: whether its last response has been read to the end.
        """
        kept = self._idle[origin]
        if whole and len(kept) < _MOST_IDLE and link.next_cycle():
            kept.append(_Idle(link, time.monotonic()))
        else:
            await link.aclose()

    async def close_old(self) -> None:
        """Close connections that have been idle for too long."""
        for origin, kept in list(self._idle.items()):
            for one in [one for one in kept if one.is_old(origin)]:
                kept.remove(one)
                await one.link.aclose()
            if not kept:
                del self._idle[origin]

    async def aclose(self) -> None:
        """Close all idle connections."""
        for kept in self._idle.values():
            while kept:
                await kept.popleft().link.aclose()

    def addressed(
        self, origin: Origin, method: bytes, target: bytes, headers: RawHeaders
    ) -> h11.Request:
        """Return a request in the form that the server, or the proxy before it, expects.

        A proxy for a host without TLS needs the full URL, and its own password.
        """
        usual = _TLS_PORT if origin.tls else _HTTP_PORT
        netloc = origin.netloc.removesuffix(f":{usual}").encode()
        # HTTP/1.0 needs no Host header, but the gateway sends HTTP/1.1.
        if not any(name.lower() == b"host" for name, _ in headers):
            headers = [(b"Host", netloc), *headers]
        proxy = None if origin.tls else self._proxies.of(origin, tunnel=False)
        if proxy is not None:
            target = b"http://" + netloc + target
            headers = [*headers, *proxy.headers]
        return h11.Request(method=method, target=target, headers=headers)

    async def tunnel(self, origin: Origin) -> ByteStream:
        """Return a connection to a host, for any protocol.

        Raises:
            ForbiddenError: the isolated program may not reach the host.
            OSError: the host cannot be reached.
        """
        with _in_time(origin.host):
            proxy = self._proxies.of(origin, tunnel=True)
            stream = await self._to(origin, proxy)
            if proxy is None:
                return stream
            try:
                return await _tunnel(stream, proxy, origin)
            except BaseException:  # cancelled, too
                await anyio.aclose_forcefully(stream)
                raise

    async def _to(self, origin: Origin, proxy: UpstreamProxy | None) -> ByteStream:
        """Connect to a server, or to its proxy."""
        if proxy is None:
            if self._confinement is not None:
                return await self._confinement.connect(origin, self._dial)
            return await self._dial(origin.host, origin.port)
        if self._confinement is not None:
            await self._confinement.check(origin)
        # Not confined: the user has chosen the proxy, which may be on this host.
        stream = await self._dial(proxy.host, proxy.port)
        return await self._secured(stream, proxy.host) if proxy.tls else stream

    async def _secured(self, stream: ByteStream, host: str) -> ByteStream:
        """Start TLS, and verify the certificate for a host."""
        try:
            return await TLSStream.wrap(
                stream, hostname=host, ssl_context=self._context, standard_compatible=False
            )
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise ConnectionResetError(f"{host} closed the connection") from None
        except BaseException:  # cancelled, too; `wrap` has closed it in some cases only
            await anyio.aclose_forcefully(stream)
            raise


async def _tunnel(stream: ByteStream, proxy: UpstreamProxy, origin: Origin) -> ByteStream:
    """Have a proxy connect to a server; return the connection to the server."""
    link = HttpLink(stream, client=True)
    netloc = origin.netloc.encode()
    headers = [(b"Host", netloc), *proxy.headers]
    await link.send(
        h11.Request(method="CONNECT", target=netloc, headers=headers), h11.EndOfMessage()
    )
    name = f"the proxy {proxy.host}:{proxy.port}"
    try:
        while isinstance(answer := await link.event(), h11.InformationalResponse):
            pass
    except h11.RemoteProtocolError:
        raise OSError(f"{name} does not respond like a proxy") from None
    if not isinstance(answer, h11.Response):
        raise OSError(f"{name} closed the connection")
    if not 200 <= answer.status_code < 300:  # noqa: PLR2004 - HTTP's
        raise OSError(f"{name} returned status {answer.status_code}")
    return link.detach()  # the server's first bytes may have arrived with the proxy's response


@contextlib.contextmanager
def _in_time(host: str) -> Iterator[None]:
    """Limit the time in which a block connects to a host."""
    try:
        with anyio.fail_after(_CONNECT_SECONDS):
            yield
    except TimeoutError:
        raise TimeoutError(f"{host} has not responded for {_CONNECT_SECONDS:g} s") from None
