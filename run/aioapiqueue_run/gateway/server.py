"""Accepts connections of the run's programs, and serves each in a task of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import re
import resource
import ssl
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import h11
from anyio.streams.tls import TLSStream

from aioapiqueue.registry.spi import Origin
from aioapiqueue_run.gateway.client_hello import read_hello
from aioapiqueue_run.gateway.confinement import ForbiddenError
from aioapiqueue_run.gateway.exchange import Incoming
from aioapiqueue_run.gateway.link import ClientClosedError, HttpLink, headers_of, join, replayed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import ByteStream, SocketListener

    from aioapiqueue_run.gateway.authority import Authority
    from aioapiqueue_run.gateway.counts import GatewayCounts
    from aioapiqueue_run.gateway.exchange import Exchanges
    from aioapiqueue_run.gateway.scope import HostsInScope
    from aioapiqueue_run.gateway.upstream import Upstream

__all__ = ["Server"]

_HANDSHAKE_SECONDS = 30.0
_PASSWORD_SECONDS = 30.0
"""Time in which a connection has to send the password."""
_UNAUTHENTICATED = (64, 2048)
"""Bounds of the number of connections that have not sent the password: a quarter of all files.

The other files are for the programs: a call needs a connection here, and one to its server. With at
most 512, a client that started 1,000 requests at once lost 203 of them, hence the large bound."""
_SILENT_SECONDS = 1.0
"""Least age at which a silent one of them is closed: a program may open hundreds before it sends
anything."""
_HALF_SECONDS = 0.25
"""The same for one that has sent something: the rest follows at once."""
_CROWDED_SECONDS = 0.02
_NO_FILES_SECONDS = 0.1
_CLEAN_SECONDS = 5.0
_CONNECTION_ENDS = (
    *(ClientClosedError, OSError, anyio.BrokenResourceError, anyio.EndOfStream),
    h11.ProtocolError,
)
"""Errors which mean that one side has hung up, or does not speak HTTP."""
_HANDSHAKE = 22
"""The first byte of TLS."""
_HTTP_PORT = 80
_TLS_PORT = 443
_TLS_PORTS = frozenset({_TLS_PORT, 8443})


class Server:
    """An HTTP proxy for the programs of a run.

    Requests to intercepted hosts are paced. Connections to all others are forwarded unchanged.

    Args:
        authority: issues certificates of intercepted hosts.
        exchanges: forwards requests.
        upstream: connects to servers.
        counts: the counts that the run reports at its end.
        scope: the hosts that are intercepted.
        token: the password of the run's programs.
    """

    def __init__(
        self,
        authority: Authority,
        exchanges: Exchanges,
        upstream: Upstream,
        counts: GatewayCounts,
        scope: HostsInScope,
        *,
        token: str,
    ) -> None:
        self._authority = authority
        self._exchanges = exchanges
        self._upstream = upstream
        self._counts = counts
        self._scope = scope
        # Loopback is open to every user of this host: the password keeps them from sending requests
        # at the cost of this run's limits, and from reaching hosts through it.
        self._user = b"Basic " + base64.b64encode(f"run:{token}".encode())
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fewest, most = _UNAUTHENTICATED
        self._most_unauthenticated = min(max(files // 4, fewest), most)
        self._unauthenticated: dict[anyio.CancelScope, tuple[float, HttpLink]] = {}
        """Connections that have not sent the password, with their start, the oldest first."""

    async def proxy(self, listener: SocketListener) -> None:
        """Serve programs that use the proxy. Cancelling this closes all connections."""
        await self._serve(listener, self._requests, self._bound_unauthenticated)

    async def transparent(self, listener: SocketListener, port: int) -> None:
        """Serve an isolated program: its connections to any host, at one port.

        Cancelling this closes all connections.
        """
        await self._serve(listener, partial(self._isolated, port))

    async def clean_up(self) -> None:
        """Close idle connections to servers, until this is cancelled."""
        while True:
            await asyncio.sleep(_CLEAN_SECONDS)
            await self._upstream.close_old()

    async def _serve(
        self,
        listener: SocketListener,
        handle: Callable[[ByteStream], Awaitable[None]],
        before_next: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        async with listener, anyio.create_task_group() as group:
            while True:
                try:
                    stream = await listener.accept()
                except OSError:
                    # No file is left. New connections wait in the backlog until another one ends.
                    # An immediate `accept` would fail again, and keep the loop busy.
                    await asyncio.sleep(_NO_FILES_SECONDS)
                    continue
                group.start_soon(self._connection, stream, handle)
                if before_next is not None:
                    await before_next()

    async def _connection(
        self, stream: ByteStream, handle: Callable[[ByteStream], Awaitable[None]]
    ) -> None:
        """Serve one connection. Its errors do not affect the others."""
        try:
            await handle(stream)
        except _CONNECTION_ENDS:
            pass  # the client sees that its connection ends
        except Exception:  # noqa: BLE001 - a bug of ours must not end the other connections
            # To the log, whose last line the run shows at its end. Headers and bodies must not be
            # logged, and a traceback contains no values of variables.
            traceback.print_exc()
        finally:
            await anyio.aclose_forcefully(stream)

    async def _isolated(self, port: int, stream: ByteStream) -> None:
        with anyio.fail_after(_HANDSHAKE_SECONDS):
            first, name = await read_hello(stream)
        whole = replayed(stream, first)
        if first[0] != _HANDSHAKE:
            await self._isolated_plain(whole, port)
        elif name is not None:
            await self._isolated_tls(whole, Origin(name, port, tls=True))
        # Without a name, the server is unknown: the connection is closed, and nothing is forwarded.

    async def _isolated_tls(self, whole: ByteStream, origin: Origin) -> None:
        self._counts.connections += 1
        if self._scope.has_tunnel(origin):
            await self._intercept(whole, origin)
            return
        # If that fails, there is no answer: the client expects TLS from the server itself.
        async with self._passed_by(origin) as theirs:
            await join(whole, theirs)

    async def _isolated_plain(self, stream: ByteStream, port: int) -> None:
        link = HttpLink(stream)
        while (head := await _next(link)) is not None:
            self._counts.connections += 1
            host = headers_of(head).get("host", "")
            origin = _origin_of(host, port)
            if head.target.lower().startswith(b"http"):  # a full URL, which names the host itself
                await self._plain_request(link, head)
            elif origin is None:
                await link.answer(400, b"aioapiqueue: the request has no valid Host header\n")
                return
            else:
                await self._forward(Incoming(link, head, origin._replace(tls=False)))
            if not link.next_cycle():
                return

    async def _requests(self, stream: ByteStream) -> None:
        """Serve requests to hosts without TLS, until one opens a tunnel."""
        link = HttpLink(stream)
        head = await self._first(link)
        while head is not None:
            self._counts.connections += 1
            if head.method == b"CONNECT":
                await self._connect(link, head.target.decode("ascii"))
                return
            await self._plain_request(link, head)
            if not link.next_cycle():
                return
            # Each request needs the password, not only the first of a connection. There is no time
            # limit any more: a program may keep a connection idle.
            head = await self._authorized(link)

    async def _first(self, link: HttpLink) -> h11.Request | None:
        """Wait for the first request with the password; None if it does not come in time."""
        head = None
        with anyio.move_on_after(_PASSWORD_SECONDS) as scope:
            self._unauthenticated[scope] = time.monotonic(), link
            try:
                head = await self._authorized(link)
            finally:
                self._unauthenticated.pop(scope, None)
        return head

    async def _bound_unauthenticated(self) -> None:
        """Close the oldest connections without the password, if there are too many.

        Any user of this host can connect, but must not use up the files of the run's programs. New
        connections of the programs have not sent the password yet, either: so a new one is never
        closed, and further ones wait in the backlog until one is old enough.
        """
        await asyncio.sleep(0)  # the newest connection is listed once its task has begun
        while len(self._unauthenticated) > self._most_unauthenticated:
            if not self._close_oldest():
                await asyncio.sleep(_CROWDED_SECONDS)

    def _close_oldest(self) -> bool:
        """Close the oldest connection whose time is over; return whether there was one."""
        now = time.monotonic()
        for scope, (since, link) in self._unauthenticated.items():
            if now - since >= (_HALF_SECONDS if link.has_received else _SILENT_SECONDS):
                # Removed here, because its task may run later than the next look at the number.
                del self._unauthenticated[scope]
                scope.cancel()  # has no effect if its request has just come
                return True
        return False

    async def _authorized(self, link: HttpLink) -> h11.Request | None:
        """Wait for a request with the password, and refuse others; None if the client hangs up."""
        while (head := await _next(link)) is not None:
            given = headers_of(head).get("proxy-authorization", "").encode("latin-1")
            # In constant time: with `==`, the time of each refusal would reveal a prefix.
            if hmac.compare_digest(given, self._user):
                return head
            why = b"aioapiqueue: this proxy needs the password of its run (see HTTPS_PROXY)\n"
            await link.answer(407, why, [("Proxy-Authenticate", 'Basic realm="aioapiqueue"')])
            if not link.next_cycle():  # some clients try without the password first, so go on
                return None
        return None

    async def _connect(self, link: HttpLink, target: str) -> None:
        origin = _origin_of(target)
        if origin is None:
            await link.answer(400, b"aioapiqueue: CONNECT needs a host and a port\n")
            return
        origin = self._scope.as_limited(origin)
        if self._scope.has_tunnel(origin):
            await self._intercept(await link.tunnel(), origin)
            return
        try:
            async with self._passed_by(origin) as theirs:
                await join(await link.tunnel(), theirs)
        except ForbiddenError as error:
            await link.answer(403, f"aioapiqueue: not sent: {error}\n".encode())
        except OSError as error:
            why = f"{origin.host} cannot be reached: {error.strerror or error}"
            await link.answer(502, f"aioapiqueue: {why}\n".encode())

    @contextlib.asynccontextmanager
    async def _passed_by(self, origin: Origin) -> AsyncIterator[ByteStream]:
        """Connect to a server that is not intercepted.

        Raises:
            ForbiddenError: the isolated program may not reach the server.
            OSError: the server cannot be reached.
        """
        try:
            theirs = await self._upstream.tunnel(origin)
        except ForbiddenError:
            self._counts.forbidden.count(origin.netloc)
            raise
        self._counts.passed_by.count(origin.host)
        try:
            yield theirs
        finally:
            await anyio.aclose_forcefully(theirs)

    async def _intercept(self, stream: ByteStream, origin: Origin) -> None:
        """Serve the requests to an intercepted host."""
        if origin.tls:
            # The certificate is for the host that the client has asked for, and every request on
            # this connection goes to it and counts for its limits, whatever `Host` header it has.
            context = self._authority.context_for(origin.host)
            try:
                with anyio.fail_after(_HANDSHAKE_SECONDS):
                    stream = await TLSStream.wrap(
                        stream, server_side=True, ssl_context=context, standard_compatible=False
                    )
            except ssl.SSLError:  # the program rejects our certificate
                self._counts.untrusted.count(origin.host)
                raise
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                self._counts.silent.count(origin.host)
                raise
        link = HttpLink(stream)
        head = await self._first_intercepted(link, origin)
        while head is not None:
            await self._exchanges.paced(Incoming(link, head, origin))
            head = await _next(link) if link.next_cycle() else None

    async def _first_intercepted(self, link: HttpLink, origin: Origin) -> h11.Request | None:
        """Return the first request of a connection. A connection that ends without any is counted.

        If this is cancelled at the end of the run, nothing is counted: the program did not hang up.
        """
        try:
            head = await _next(link)
        except ClientClosedError:
            head = None
        if link.has_received:
            self._counts.asked.count(origin.host)
        elif origin.tls:
            # GnuTLS and Java check the certificate after the handshake, and then hang up. So this
            # may be distrust, or a connection that was opened ahead and not needed.
            self._counts.silent.count(origin.host)
        return head

    async def _plain_request(self, link: HttpLink, head: h11.Request) -> None:
        """Serve a request whose target is a full URL, as clients send it for hosts without TLS."""
        try:
            url = urlsplit(head.target.decode("ascii"))
        except ValueError:
            url = urlsplit("")
        tls = url.scheme == "https"  # axios before 2026 does this instead of opening a tunnel
        netloc = url.netloc.rpartition("@")[2]
        origin = _origin_of(netloc, _TLS_PORT if tls else _HTTP_PORT)
        if url.scheme not in {"http", "https"} or origin is None:
            await link.answer(400, b"aioapiqueue: this is a proxy: send a full http:// URL\n")
            return
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        # The host of the URL counts, whatever the Host header says (RFC 9112, 3.2.2). A server with
        # two names would otherwise take the request for the name that has a limit, and we for the
        # one that has none.
        given = head.headers.raw_items()
        headers = [(b"Host", netloc.encode()), *(one for one in given if one[0].lower() != b"host")]
        inner = h11.Request(method=head.method, target=target, headers=headers)
        await self._forward(Incoming(link, inner, origin._replace(tls=tls)))

    async def _forward(self, incoming: Incoming) -> None:
        if self._scope.has(incoming.origin):
            await self._exchanges.paced(incoming)
        else:
            await self._exchanges.unpaced(incoming)


async def _next(link: HttpLink) -> h11.Request | None:
    """Return the next request; None if there is none. Invalid ones are refused."""
    try:
        head = await link.request()
    except h11.RemoteProtocolError as error:
        await link.answer(
            error.error_status_hint, b"aioapiqueue: this is not an HTTP/1.1 request\n"
        )
        return None
    if head is not None and {"transfer-encoding", "content-length"} <= headers_of(head).keys():
        # We would use one of them, and the server perhaps the other: its body could then contain a
        # further request that is never paced (request smuggling, RFC 9112, 6.3).
        why = b"aioapiqueue: the request has both Content-Length and Transfer-Encoding\n"
        await link.answer(400, why, [("Connection", "close")])
        return None
    return head


def _origin_of(target: str, usual_port: int | None = None) -> Origin | None:
    """Return the origin that `host:443` or `[::1]:443` names; None if it is invalid.

    Args:
        target: the host and port.
        usual_port: the port if the target has none. Default: it must have one.
    """
    if usual_port is not None and not re.search(r":\d+$", target):
        target = f"{target}:{usual_port}"
    host, _, port = target.rpartition(":")
    if ":" in host and not host.startswith("["):
        return None
    # "API.GitHub.com." names the same host, and must not get past its limit.
    host = host.strip("[]").rstrip(".").lower()
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        return None
    return Origin(host, int(port), int(port) in _TLS_PORTS)
