"""What the transports for httpx and for httpx2 share: everything but the classes of one library.

The two have the same interface, in classes that have no base in common. A client of one fails on
objects of the other, and an SDK may refuse a class that has parents of both. So each library has a
module of its own, with a class that inherits from what is here and from that library alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from aioapiqueue.integrations._http import MAX_HOLD, Key, Pacing, Request, release_soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType, TracebackType

    from aioapiqueue import ApiQueue, Slot

__all__ = ["PacedBody", "PacedTransport"]

_LIBRARIES = ("httpx", "httpx2")


class _Transport(Protocol):
    async def __aenter__(self) -> Any: ...  # noqa: ANN401 - itself, of either library
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
    async def aclose(self) -> None: ...
    async def handle_async_request(self, request: Any) -> Any: ...  # noqa: ANN401 - as above


class _Response(Protocol):
    status_code: int
    is_closed: bool
    stream: Any

    @property
    def headers(self) -> Any: ...  # noqa: ANN401 - of either library


TransportT = TypeVar("TransportT", bound=_Transport)
RequestT = TypeVar("RequestT", bound=Request)
ResponseT = TypeVar("ResponseT", bound=_Response)


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
            # After an error, or a reading that has been given up, there is nothing left to read.
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


class PacedTransport(Generic[TransportT, RequestT, ResponseT]):
    """Paces the requests that pass, and follows what the servers answer.

    A subclass names its library and inherits from that library's `AsyncBaseTransport` too. What the
    arguments mean is said there, where users read it.
    """

    _library: ClassVar[ModuleType]
    _body: ClassVar[type[PacedBody]]
    """A `PacedBody` that its library takes for a stream."""

    def __init__(
        self,
        queue: ApiQueue,
        transport: TransportT | None = None,
        *,
        key: Key = "host",
        max_hold: float = MAX_HOLD,
        timeout: float | None = None,
    ) -> None:
        self._pacing = Pacing(queue, key=key, max_hold=max_hold, timeout=timeout)
        library = self._library
        if transport is not None and not isinstance(transport, library.AsyncBaseTransport):
            raise TypeError(
                f"transport takes an AsyncBaseTransport of {library.__name__}, "
                f"not a {_kind(transport)}{self._remedy(transport)}"
            )
        self._transport: _Transport = (
            library.AsyncHTTPTransport() if transport is None else transport
        )

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send one request, in its turn. Cancellation is described with the class.

        Raises:
            TypeError: the client is of the other library.
        """
        if not isinstance(request, self._library.Request):
            raise TypeError(
                f"this transport is for clients of {self._library.__name__}, "
                f"and got a {_kind(request)}{self._remedy(request)}"
            )
        slot = await self._pacing.turn(request)
        try:
            response: ResponseT = await self._transport.handle_async_request(request)
            self._pacing.heed(slot, response.status_code, response.headers.multi_items())
        except BaseException as error:
            if isinstance(error, self._library.RemoteProtocolError) and _is_of_parser(error):
                self._pacing.unreadable(slot)
            slot.release()
            raise
        if response.is_closed:  # it came with its content, and nobody will close it again
            slot.release()
        else:
            response.stream = self._body(response.stream, slot)
        return response

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

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the transport within."""
        await self._transport.aclose()


def _kind(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _is_of_parser(error: BaseException) -> bool:
    """Return whether this is about what was read, and not about a connection that has ended.

    A connection that was closed under us is the library's protocol error, too, with a text as its
    reason, or (GOAWAY of HTTP/2) an event of h2. The parser's has the parser's error.
    """
    reasons = () if error.__cause__ is None else error.__cause__.args
    return any(isinstance(reason, Exception) for reason in reasons)
