"""What the transports for httpx and for httpx2 share: everything but the classes of one library.

The two have the same interface, in classes without a common base. A client of one fails on objects
of the other, and an SDK may refuse a class that inherits from both. So each library has a module of
its own, with a class that inherits from this one and from that library alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from aioapiqueue.integrations._http import MAX_HOLD, HttpPacer, Key, release_soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import ModuleType

    from aioapiqueue import ApiQueue, Slot

__all__ = ["PacedBody", "PacedTransport"]

_LIBRARIES = ("httpx", "httpx2")


TransportT = TypeVar("TransportT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class PacedBody:
    """A response's body, at whose end the slot is released, whichever way it ends.

    Args:
        stream: the body itself.
        slot: that of its request.
    """

    def __init__(self, stream: Any, slot: Slot) -> None:  # noqa: ANN401 - of either library
        self._stream = stream
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        finally:
            # After an error, or if the reader has given up, there is nothing left to read.
            self._end()

    async def aclose(self) -> None:
        """Close the body; cancelled or not, its slot is released."""
        try:
            await self._stream.aclose()
        finally:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._slot.release()

    def __del__(self) -> None:
        if not self._ended:
            release_soon(self._slot, self._loop)


class PacedTransport(HttpPacer, Generic[TransportT, RequestT, ResponseT]):
    """Gives each request that passes a slot, and the queue what the server answers.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of its
    block. A response that nobody closes gives its slot back when it is garbage collected.
    `HttpPacer`, the base class, describes push-back, errors and cancellation.

    A subclass names its library and inherits from that library's `AsyncBaseTransport` too.
    """

    _library: ClassVar[ModuleType]
    _body: ClassVar[type[PacedBody]]
    """A `PacedBody` that its library accepts as a stream."""

    def __init__(
        self,
        queue: ApiQueue,
        transport: TransportT | None = None,
        *,
        key: Key = "host",
        max_hold: float = MAX_HOLD,
        timeout: float | None = None,
    ) -> None:
        """Check the arguments: those of `HttpPacer`, which describes them, and one more.

        Args:
            queue: see `HttpPacer`.
            transport: of the library, sends the requests, and is closed with this one; default:
                `AsyncHTTPTransport()`. A client that is given a transport uses none of its own
                `verify`, `cert`, `http2`, `limits` and `proxy`: give them to this one.
            key: see `HttpPacer`.
            max_hold: see `HttpPacer`.
            timeout: see `HttpPacer`.

        Raises:
            TypeError: `transport` is not an `AsyncBaseTransport` of the library. (In a client of
                the other one, each request raises it.)
        """
        super().__init__(queue, key=key, max_hold=max_hold, timeout=timeout)
        library = self._library
        if transport is not None and not isinstance(transport, library.AsyncBaseTransport):
            raise TypeError(
                f"transport takes an AsyncBaseTransport of {library.__name__}, "
                f"not a {_kind(transport)}{self._remedy(transport)}"
            )
        self._transport: Any = library.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send one request, in its turn.

        Raises:
            TypeError: the client is of the other library.
        """
        if not isinstance(request, self._library.Request):
            raise TypeError(
                f"this transport is for clients of {self._library.__name__}, "
                f"and got a {_kind(request)}{self._remedy(request)}"
            )
        response, slot = await self._send(
            request,
            self._transport.handle_async_request,
            head=_status_and_headers,
            is_malformed=self._is_of_parser,
        )
        if response.is_closed:  # it came with its content, and nobody will close it again
            slot.release()
        else:
            response.stream = self._body(response.stream, slot)
        return response  # type: ignore[no-any-return]  # it is of the library

    def _is_of_parser(self, error: BaseException) -> bool:
        """Return whether the library could not read a response's head.

        A connection that the server has closed is a protocol error of the library, too. Its cause
        has a text for a reason, or (GOAWAY of HTTP/2) an event of h2; here, it has an exception.
        """
        reasons = () if error.__cause__ is None else error.__cause__.args
        return isinstance(error, self._library.RemoteProtocolError) and any(
            isinstance(reason, Exception) for reason in reasons
        )

    def _remedy(self, other: object) -> str:
        """Return what to import for `other`, where it is of the other library."""
        packages = {cls.__module__.partition(".")[0] for cls in type(other).__mro__}
        return "".join(
            f": for {name}, import RateLimitedTransport from aioapiqueue.integrations.{name}"
            for name in _LIBRARIES
            if name in packages and name != self._library.__name__
        )

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)

    async def aclose(self) -> None:
        """Close the transport within."""
        await self._transport.aclose()


def _kind(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _status_and_headers(response: Any) -> tuple[int, Iterable[tuple[str, str]]]:  # noqa: ANN401 - of either library
    return response.status_code, response.headers.multi_items()
