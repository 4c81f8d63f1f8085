"""HTTP/1.1 over a byte stream, for either side of a connection: h11, with I/O."""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import h11
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from anyio.abc import ByteStream

__all__ = [
    "ClientClosedError",
    "HttpLink",
    "RawHeaders",
    "end_to_end_headers",
    "headers_of",
    "join",
    "replayed",
]

T = TypeVar("T")
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

_MAX_HEAD = 1 << 17
"""Most bytes of headers. AWS accepts 8 to 64 kB, depending on the service."""
_AHEAD = 1 << 18
"""Most bytes that are read from a client while its request waits, so that it can go on sending."""
_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux only; elsewhere, an end shows as POLLIN
_DRAIN_SECONDS = 2.0
_LINGER_SECONDS = 5.0
_AT_ONCE_SECONDS = 0.05
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"upgrade"}
)


_NEEDED = frozenset({b"host", b"content-length", b"transfer-encoding"})
"""Headers that are forwarded even if `Connection` names them. Without its length or encoding, a
body would be read as a further request."""


class ClientClosedError(Exception):
    """Raised if the client of a connection has hung up.

    Not an `OSError`, which means that the server cannot be reached.
    """


def end_to_end_headers(
    message: h11.Request | h11.Response | h11.InformationalResponse, without: Iterable[bytes] = ()
) -> RawHeaders:
    """Return headers in their order and case, without those for this hop only."""
    left_out = _HOP_BY_HOP.union(without)
    for name, value in message.headers:
        if name == b"connection":  # it names further headers for this hop (RFC 9110, 7.6.1)
            named = {one.strip().lower() for one in value.split(b",")}
            left_out = left_out.union(named - _NEEDED)
    # Raw, because order and case may matter to a server, and other values would break a signature.
    items = message.headers.raw_items()
    return [(name, value) for name, value in items if name.lower() not in left_out]


def headers_of(message: h11.Request | h11.Response) -> dict[str, str]:
    """Return headers by their names in lower case; of several with one name, the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in message.headers}


class HttpLink:
    """A connection.

    Args:
        stream: the connection's bytes. This object closes it.
        client: whether this side sends requests; otherwise it answers them.
    """

    def __init__(self, stream: ByteStream, *, client: bool = False) -> None:
        self.stream = stream
        self._http = h11.Connection(
            h11.CLIENT if client else h11.SERVER, max_incomplete_event_size=_MAX_HEAD
        )
        self._is_client = client
        self._closed_error: type[Exception] = ConnectionResetError if client else ClientClosedError
        self._whole = True
        """Whether the whole request has been read."""
        self.trailers: RawHeaders = []
        """The headers after the body."""
        self.has_received = False
        """Whether any byte has been received."""
        self._is_head = False
        self.accepts_processing = False
        """Whether the client accepts `102 Processing`, of which it may get any number."""
        self._answered = self._body_refused = False
        self._poll: select.poll | None = None
        self._pending: h11.Event | None = None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends its body."""
        return self._http.they_are_waiting_for_100_continue

    @property
    def has_more(self) -> bool:
        """Whether a part of the request has not been read yet."""
        return not self._whole

    async def request(self) -> h11.Request | None:
        """Wait for a request; return None if the client hangs up instead.

        Raises:
            h11.RemoteProtocolError: the client does not send a valid request.
        """
        event = await self.event()
        if not isinstance(event, h11.Request):
            return None
        self._is_head = event.method == b"HEAD"
        # For undici (Node.js's `fetch`), a `100 Continue` that it did not ask for is an error; for
        # Python's http.client (boto3, requests), a 102 is the final response. Other clients accept
        # both. undici begins its headers with `host` in lower case, whatever its User-Agent, and
        # http.client with `Host`.
        self.accepts_processing = [name for name, _ in event.headers.raw_items()][:1] == [b"host"]
        self.trailers = []
        self._answered = self._body_refused = False
        # A request without a body ends at once.
        following = self._http.next_event()
        self._whole = isinstance(following, h11.EndOfMessage)
        if isinstance(following, h11.EndOfMessage):
            self.trailers = list(following.headers.raw_items())
        self._pending = None if self._whole or isinstance(following, type) else following
        return event

    async def event(self) -> h11.Event:
        """Wait for an event."""
        pending, self._pending = self._pending, None
        if pending is not None:
            return pending
        while isinstance(event := self._http.next_event(), type):
            if event is h11.PAUSED and self._is_client:
                # h11 would yield no further event, so that this loop would never end.
                raise h11.RemoteProtocolError("the server switched to another protocol")
            self._http.receive_data(await self._receive())
        return event

    async def events(self) -> list[h11.Event]:
        """Wait for an event; return it and all that arrived with it, up to the end of a message."""
        # Together, so that they are also sent together: one packet for a small response.
        found = [await self.event()]
        while not isinstance(found[-1], h11.EndOfMessage | h11.ConnectionClosed):
            event = self._http.next_event()
            if isinstance(event, type):
                break
            found.append(event)
        return found

    async def data(self) -> AsyncIterator[bytes]:
        """Yield the rest of the request's body as it comes.

        Raises:
            ClientClosedError: the client hangs up before the end.
        """
        while not self._whole:
            if self.expects_continue:
                await self.send_continue()
            event = await self.event()
            if isinstance(event, h11.EndOfMessage):
                self._whole = True
                self.trailers = list(event.headers.raw_items())
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                raise ClientClosedError

    async def read_body(self, most: int) -> bytes:
        """Return the beginning of the body: about `most` bytes. The rest is not read."""
        parts, size = [], 0
        async for part in self.data():
            parts.append(part)
            size += len(part)
            if size >= most:
                break
        return b"".join(parts)

    async def wait_closed(self) -> None:
        """Raise `ClientClosedError` once the client has hung up.

        Data that it sends meanwhile is kept, up to a bound. Cancelling this loses nothing.
        """
        kept = 0
        while kept < _AHEAD:
            data = await self._receive()
            # No await in between, so that cancellation cannot lose data that was received.
            self._http.receive_data(data)
            if not data:
                raise ClientClosedError
            kept += len(data)
        # Beyond the bound, its end is behind data that we do not read: wait until cancelled.
        await asyncio.get_running_loop().create_future()

    async def send_continue(self) -> None:
        """Send `100 Continue`: the client may send its body, and its time-out restarts."""
        if self._http.their_http_version == b"1.0":  # it has no interim responses
            return
        # botocore before 1.40.20 would take a line without the reason for the response.
        await self.send(h11.InformationalResponse(status_code=100, reason=b"Continue", headers=[]))

    async def send_interim(self) -> None:
        """Send an interim response that the client accepts: its time-out restarts."""
        # h11 takes the expectation for met by any interim response.
        if self.expects_continue or not self.accepts_processing:
            await self.send_continue()
        else:
            processing = h11.InformationalResponse(
                status_code=102, reason=b"Processing", headers=[]
            )
            await self.send(processing)

    async def send(self, *events: h11.Event) -> None:
        """Send events together.

        Raises:
            ClientClosedError: the client has hung up.
            ConnectionError: the server has hung up.
        """
        if any(isinstance(event, h11.Response) for event in events):
            # A client that still waits for `100 Continue` when the response comes sends no body.
            self._answered, self._body_refused = True, self.expects_continue
        data = b"".join(self._http.send(event) or b"" for event in events)
        try:
            await self.stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise self._closed_error from None

    async def answer(
        self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send a response of our own, unless another one has begun."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        rest = [*headers, ("Content-Length", str(len(body)))]
        if self.has_more:  # we do not read the rest of the request
            rest.append(("Connection", "close"))
        response = h11.Response(status_code=status, headers=rest)
        data = [] if self._is_head else [h11.Data(data=body)]
        await self.send(response, *data, h11.EndOfMessage())
        await self.drain()

    async def tunnel(self) -> ByteStream:
        """Accept a CONNECT request; return the connection for what follows."""
        await self.send(h11.Response(status_code=200, reason=b"Connection established", headers=[]))
        return self.detach()

    def detach(self) -> ByteStream:
        """Return the connection for another protocol, with the bytes that were read already."""
        return replayed(self.stream, self._http.trailing_data[0])

    async def drain(self) -> None:
        """Read and drop what a client still sends after the response, for a short time."""
        if not self.has_more or not self._answered or self._body_refused:
            return
        # To close a socket with unread data resets the connection, and the client may then lose a
        # response that it has not read yet.
        with anyio.move_on_after(_DRAIN_SECONDS), contextlib.suppress(ClientClosedError):
            while await self._receive():
                pass

    async def while_connected(
        self, work: Awaitable[T], meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        """Return the result of some work, unless the client hangs up first.

        If it does, or this is cancelled, the work is cancelled.

        Args:
            work: the work.
            meanwhile: a function that reads from the client until the work is done. Default: it
                waits until the client hangs up.

        Raises:
            ClientClosedError: the client has hung up.
            Exception: the exception of `work` or of `meanwhile`.
        """
        main = asyncio.ensure_future(work)
        tasks: set[asyncio.Future[Any]] = {main}
        try:
            if meanwhile is None:
                # Most work is done at once, and watching the client costs as much.
                await asyncio.wait(tasks, timeout=_AT_ONCE_SECONDS)
            if not main.done():
                other = asyncio.ensure_future((meanwhile or self.wait_closed)())
                tasks.add(other)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not main.done():
                    other.result()  # raises, because these functions never return
            return await main
        finally:
            for task in tasks:
                task.cancel()  # if it has just failed, asyncio does not log its error then
            # Until both have ended: two tasks must not read from the client.
            await asyncio.wait(tasks)

    def is_open(self) -> bool:
        """Return whether an idle connection is open: any data on it would announce its end."""
        if self._poll is None:
            self._raw = self.stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
            # Kept for the connection's life, since to make one for each request is measurably
            # slower. Not `select.select`, which fails for file descriptors above 1023.
            self._poll = select.poll()
            self._poll.register(self._raw.fileno(), select.POLLIN | _HANG_UP)
        if self._raw.fileno() < 0:  # it is closed, and another file may have its number
            return False
        return not self._poll.poll(0)

    def next_cycle(self) -> bool:
        """Prepare for another request; return whether there can be one."""
        if self._is_client and self._http.trailing_data != (b"", False):
            # A server that sends more than one response for a request, by fault or intent: the rest
            # would be taken for the response to the next request, perhaps of another program.
            return False
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        return True

    async def aclose(self) -> None:
        """Close the connection at once."""
        await anyio.aclose_forcefully(self.stream)

    async def _receive(self) -> bytes:
        try:
            data = await self.stream.receive()
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise self._closed_error from None
        self.has_received = True
        return data


def replayed(stream: ByteStream, first: bytes) -> ByteStream:
    """Return a stream that yields bytes which have been read already, then those of another."""
    found = BufferedByteStream(stream)
    found.feed_data(first)
    return found


async def join(one: ByteStream, other: ByteStream, *, linger: float = _LINGER_SECONDS) -> None:
    """Forward all bytes between two connections, until both have ended.

    Args:
        one: a connection.
        other: the other one.
        linger: seconds for which one side may go on after the other has ended, if its protocol
            cannot announce that end (TLS).
    """
    async with anyio.create_task_group() as group:
        group.start_soon(_pump, one, other, linger)
        group.start_soon(_pump, other, one, linger)


async def _pump(source: ByteStream, target: ByteStream, linger: float) -> None:
    """Forward bytes in one direction, and the end of the source."""
    try:
        async for data in source:
            await target.send(data)
        try:
            await target.send_eof()
        except NotImplementedError:
            # anyio cannot close one direction of TLS. To close both at once would cut off what the
            # target still sends, such as the end of a response.
            await asyncio.sleep(linger)
            await anyio.aclose_forcefully(target)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await anyio.aclose_forcefully(target)
        await anyio.aclose_forcefully(source)
