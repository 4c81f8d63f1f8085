"""Forwards one request: identifies its call, waits for its turn, and reports the outcome.

Nothing is ever sent to an intercepted host without a turn, and each turn is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ssl
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import h11

from aioapiqueue_run.gateway.answers import refusal, throttling, unreachable
from aioapiqueue_run.gateway.calls import HttpRequest, find_call, wants_body
from aioapiqueue_run.gateway.confinement import ForbiddenError
from aioapiqueue_run.gateway.hub_client import NotPacedError
from aioapiqueue_run.gateway.hub_turns import HubTurns, StaleError
from aioapiqueue_run.gateway.link import ClientClosedError, end_to_end_headers, headers_of, join
from aioapiqueue_run.gateway.response_watch import ResponseWatch

if TYPE_CHECKING:
    from aioapiqueue.registry.spi import Origin
    from aioapiqueue_run.gateway.answers import Answer
    from aioapiqueue_run.gateway.calls import ApiCall
    from aioapiqueue_run.gateway.counts import GatewayCounts
    from aioapiqueue_run.gateway.hub_client import HubRequest, RunHubClient
    from aioapiqueue_run.gateway.link import HttpLink
    from aioapiqueue_run.gateway.scope import HostsInScope
    from aioapiqueue_run.gateway.upstream import Upstream

__all__ = ["Exchanges", "Incoming"]

_MARK = "x-aioapiqueue-asked"
"""The header that our hook in Python adds to requests that had their turn before signing."""

_WEBSOCKET = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
_NOT_HTTP = "aioapiqueue: {host} did not respond in HTTP/1.1, or its headers exceed 128 kB\n"
_CONTINUE_SECONDS = 1.0
"""Time after which a body is sent without the server's `100 Continue` (RFC 9110, 10.1.1).

SDKs do the same.
"""


class Incoming(NamedTuple):
    """A request of a client.

    Attributes:
        link: the connection to the client.
        head: the request line and headers.
        origin: the server that the request is for.
    """

    link: HttpLink
    head: h11.Request
    origin: Origin


class Exchanges:
    """Forwards requests.

    Args:
        hub: the connection to the hub, which paces requests to intercepted hosts.
        upstream: connects to servers.
        counts: the counts that the run reports at its end.
        scope: the hosts that are intercepted.
        mark: the secret value of the header that our hook in Python adds.
    """

    def __init__(
        self,
        hub: RunHubClient,
        upstream: Upstream,
        counts: GatewayCounts,
        scope: HostsInScope,
        *,
        mark: str,
    ) -> None:
        self._turns = HubTurns(hub)
        self._upstream = upstream
        self._counts = counts
        self._scope = scope
        self._mark = mark.encode()
        self._open = 0
        self._answered = asyncio.Event()
        """Set whenever no request waits or is in flight any more."""

    async def all_answered(self) -> None:
        """Wait until no request waits or is in flight."""
        while self._open:
            self._answered.clear()
            await self._answered.wait()

    async def paced(self, incoming: Incoming) -> None:
        """Forward a request to an intercepted host when its turn has come.

        Raises:
            ClientClosedError: the client has hung up.
            ConnectionError: the server has hung up before the end of its response. The caller must
                close the connection to the client, which has got a part of it.
            h11.ProtocolError: one of them does not speak HTTP.
        """
        self._open += 1
        try:
            await self._paced(incoming)
        finally:  # also if cancelled: `all_answered` waits for 0
            self._open -= 1
            if not self._open:
                self._answered.set()

    async def _paced(self, incoming: Incoming) -> None:
        link, head, origin = incoming
        headers = headers_of(head)
        target = head.target.decode("ascii")
        about_all = target == "*" and head.method == b"OPTIONS" and self._scope.is_limited(origin)
        if head.method == b"CONNECT" or not (target.startswith("/") or about_all):
            # A full URL within a tunnel, or a second CONNECT, names a host itself. The server might
            # use that one, whose limits we would not apply.
            text = b"aioapiqueue: a request to this host must have a path, such as GET /search\n"
            await link.answer(400, text, [("Connection", "close")])
            return
        request = HttpRequest(head.method.decode("ascii"), origin.host, target, headers)
        # The mark is another secret in each run: no program skips its turn by a fixed header.
        asked = hmac.compare_digest(headers.get(_MARK, "").encode("latin-1"), self._mark)
        # The hook asks for the limits of AWS services, not for those of hosts.
        if asked and not self._scope.is_limited(origin):
            self._counts.asked_before += 1
            await self.unpaced(incoming, request)
            return
        call = self._scope.find_limited(origin, request) or await self._aws_call(link, request)
        if call is None:
            # Refused rather than sent unpaced: a list of known hosts and calls is never complete.
            self._counts.unknown_hosts.count(origin.host)
            why = f"cannot determine which AWS service a request to {origin.host} is for"
            if "upgrade" in headers:
                why = f"an upgrade to {headers['upgrade'][:40]} cannot be paced"
            await self._refuse(link, None, why)
        else:
            await self._send_paced(incoming, call, request)

    async def _aws_call(self, link: HttpLink, request: HttpRequest) -> ApiCall | None:
        """Return the call to AWS that a request makes; None if it is unknown."""
        if wanted := wants_body(request):
            request.body = await link.read_body(wanted)
        # After an upgrade, further calls would be on a connection that we cannot read.
        return None if "upgrade" in request.headers else find_call(request)

    async def _send_paced(self, incoming: Incoming, call: ApiCall, request: HttpRequest) -> None:
        """Send a request when its turn has come. If it cannot be sent, respond to it."""
        link, origin = incoming.link, incoming.origin
        try:
            turn, up = await self._started(incoming, call, request)
        except NotPacedError as error:
            await self._refuse(link, call, str(error))
        except StaleError:
            await link.answer(*throttling(call))
        except OSError as error:
            if not isinstance(error, ForbiddenError):
                self._counts.unreachable.count(origin.host if call.of_aws else call.service)
            await link.answer(*self._not_reached(origin, call, error))
        else:
            await self._use(turn, up, incoming, ResponseWatch(call, turn), request.body)

    async def _started(
        self, incoming: Incoming, call: ApiCall, request: HttpRequest
    ) -> tuple[HubRequest, HttpLink]:
        """Wait for the turn of a request, and connect to its server.

        If that fails, nothing has been sent, so the turn is given back: an unreachable server, or
        one with a wrong certificate, does not use up the limit.

        Raises:
            NotPacedError, StaleError, ClientClosedError: as `HubTurns.wait` raises them.
            OSError: the server cannot be reached.
        """
        turn = await self._turns.wait(call, request, incoming.link)
        try:
            up = await self._take(incoming)
            try:
                # A new connection may have taken up to 20 s.
                self._turns.check(turn, call, request)
            except BaseException:
                await self._upstream.give_back(incoming.origin, up, whole=False)
                raise
        except BaseException:  # cancelled, too
            turn.leave()
            raise
        return turn, up

    async def unpaced(self, incoming: Incoming, request: HttpRequest | None = None) -> None:
        """Forward a request at once.

        Args:
            incoming: the request.
            request: the same, if it is for AWS: our own errors then have the form of AWS's.

        Raises:
            ConnectionError, h11.ProtocolError: as `paced` raises them.
        """
        link, origin = incoming.link, incoming.origin
        try:
            up = await self._take(incoming)
        except OSError as error:
            if request is None and not isinstance(error, ForbiddenError):
                self._counts.passed_by.count(origin.host)
            call = None if request is None else find_call(request)
            await link.answer(*self._not_reached(origin, call, error))
            return
        if request is None:
            self._counts.passed_by.count(origin.host)
        await self._forward(incoming, up, ResponseWatch())
        await link.drain()

    async def _take(self, incoming: Incoming) -> HttpLink:
        """Return a connection to the server, unless the client hangs up first.

        Raises:
            ClientClosedError: the client has hung up.
            OSError: the server cannot be reached.
        """
        link, _, origin = incoming
        # This takes no time in which the client could hang up.
        idle = await self._upstream.take_idle(origin)
        if idle is not None:
            return idle
        dialled = asyncio.ensure_future(self._upstream.dial(origin))
        try:
            return await link.while_connected(dialled)
        except BaseException:
            # If the connection was made at this very moment, it would never be given back.
            if dialled.done() and not dialled.cancelled() and dialled.exception() is None:
                await self._upstream.give_back(origin, dialled.result(), whole=False)
            raise

    async def _use(
        self, turn: HubRequest, up: HttpLink, incoming: Incoming, watch: ResponseWatch, body: bytes
    ) -> None:
        """Send a request whose turn has come. The outcome is always reported to the hub."""
        outcome: dict[str, object] = {"failed": "ConnectionClosed"}
        self._counts.calls += 1
        try:
            await self._forward(incoming, up, watch, body)
            outcome = watch.outcome
        except (ClientClosedError, asyncio.CancelledError):
            # The server has the request, but its response is not read any further.
            outcome = watch.outcome if watch.is_known else {}
            raise
        finally:
            try:
                watch.end()
            finally:  # an error in reading the response must not keep the turn
                turn.end(outcome)
        await incoming.link.drain()

    async def _forward(
        self, incoming: Incoming, up: HttpLink, watch: ResponseWatch, body: bytes = b""
    ) -> None:
        """Forward a request, and its response. Then the connection to the server is kept or closed.

        Args:
            incoming: the request.
            up: the connection to the server.
            watch: reads the response.
            body: the part of the request's body that has been read already. Default: none.
        """
        link, head, origin = incoming
        whole = False
        try:
            # The mark is a secret between the hook and the gateway, and not for the server.
            headers = end_to_end_headers(head, {_MARK.encode()})
            # The calls in a WebSocket of AWS could not be seen.
            if _wants_websocket(head) and not (link.has_more or self._scope.is_aws(origin)):
                headers += _WEBSOCKET
            request = self._upstream.addressed(origin, head.method, head.target, headers)
            begun = [request, *([h11.Data(data=body)] if body else [])]
            if link.has_more:
                await up.send(*begun)
                continued = asyncio.Event()
                # Both at once: a server may respond before the end of a request, and then read no
                # more of it.
                answer = _forward_response(link, up, watch, continued)
                await link.while_connected(answer, partial(_send_rest, link, up, continued))
            else:
                await up.send(*begun, h11.EndOfMessage(headers=link.trailers))
                await link.while_connected(_forward_response(link, up, watch))
                if watch.has_switched:
                    # A WebSocket closes by a message of its own, so that nothing comes afterwards.
                    await join(link.detach(), up.detach(), linger=0)
                    return
            # If the server has responded before the end of the request, the rest would be read as
            # the next request.
            whole = not link.has_more
        except h11.RemoteProtocolError:
            # Raised for the server only: `_send_rest` handles the client's errors.
            await link.answer(502, _NOT_HTTP.format(host=origin.host).encode())
            raise
        finally:
            await self._upstream.give_back(origin, up, whole=whole)

    def _not_reached(self, origin: Origin, call: ApiCall | None, error: OSError) -> Answer:
        """Return the response to a request whose server could not be reached."""
        if isinstance(error, ForbiddenError):
            self._counts.forbidden.count(origin.netloc)
            return refusal(call, str(error))
        return unreachable(call, _cannot_reach(origin, error))

    async def _refuse(self, link: HttpLink, call: ApiCall | None, why: str) -> None:
        self._counts.refused += 1
        await link.answer(*refusal(call, why))


async def _send_rest(link: HttpLink, up: HttpLink, continued: asyncio.Event) -> None:
    """Forward the rest of a request while it arrives, then wait until the client hangs up.

    Args:
        link: the connection to the client.
        up: the connection to the server.
        continued: set when the server has sent `100 Continue`.

    Raises:
        ClientClosedError: the client has hung up, or does not speak HTTP.
    """
    if link.expects_continue:
        # Not every server sends `100 Continue`.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONTINUE_SECONDS):
                await continued.wait()
    # If the server accepts no more, its response says why.
    with contextlib.suppress(ConnectionError, h11.LocalProtocolError):
        try:
            async for part in link.data():
                await up.send(h11.Data(data=part))
        except h11.RemoteProtocolError:
            # The client's fault; for `_forward`, this class of error stands for the server's.
            raise ClientClosedError from None
        await up.send(h11.EndOfMessage(headers=link.trailers))
    await link.wait_closed()


async def _forward_response(
    link: HttpLink, up: HttpLink, watch: ResponseWatch, continued: asyncio.Event | None = None
) -> None:
    """Forward a response.

    Args:
        link: the connection to the client.
        up: the connection to the server.
        watch: reads the response.
        continued: set at `100 Continue`. Default: the whole request has been sent.

    Raises:
        ConnectionError: the server hangs up before the end of the response.
    """
    ended = False
    while not ended:
        given: list[h11.Event] = []
        for event in await up.events():
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the server closed the connection")
            watch.take(event)
            if not isinstance(event, h11.InformationalResponse):
                given.append(_response_event(event, last=link.has_more))
            elif watch.has_switched:
                given.append(_response_event(event, last=False))
            elif continued is not None:
                # Not forwarded: `HttpLink.data` sends our own when the body is read.
                continued.set()
            ended = watch.is_over
        if given:
            await link.send(*given)


def _wants_websocket(head: h11.Request) -> bool:
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in head.headers)


def _response_event(event: h11.Event, *, last: bool) -> h11.Event:
    """Return an event of a response in the form for the client."""
    if isinstance(event, h11.InformationalResponse):
        headers = [*end_to_end_headers(event), *_WEBSOCKET]
        return h11.InformationalResponse(
            status_code=event.status_code, reason=event.reason, headers=headers
        )
    if not isinstance(event, h11.Response):
        return event
    headers = end_to_end_headers(event)
    if last:  # the rest of the request will not be read
        headers.append((b"Connection", b"close"))
    return h11.Response(status_code=event.status_code, reason=event.reason, headers=headers)


def _cannot_reach(origin: Origin, error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {origin.host} is not trusted ({error.verify_message}), so nothing "
            "was sent. If your company issued it, set SSL_CERT_FILE to the company's CA certificate"
        )
    return f"{origin.host} cannot be reached: {error.strerror or error}"
