"""Transports for clients that await: what those of httpx and httpx2 share."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self

from aioapiqueue.integrations._async_steps import AsyncSteps
from aioapiqueue.integrations._exchange import run_async
from aioapiqueue.integrations._http import release_soon
from aioapiqueue.integrations._httpx_common import (
    Begun,
    HttpxPacer,
    HttpxWire,
    RequestT,
    ResponseT,
    TransportT,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from aioapiqueue import Slot
    from aioapiqueue.integrations._exchange import Request, Response
    from aioapiqueue.integrations._usage import CarefulReader

__all__ = ["PacedBody", "PacedTransport"]


class PacedBody:
    """A response's body, at whose end the call ends, whichever way it does.

    Args:
        stream: the body itself.
        slot: that of its request.
        end: called once at the end.
        reader: looks at each chunk before it is passed on.
    """

    def __init__(
        self,
        stream: Any,  # noqa: ANN401 - of either library
        slot: Slot,
        end: Callable[[], None],
        reader: CarefulReader | None,
    ) -> None:
        self._stream = stream
        self._slot = slot
        self._finish = end
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        reader = self._reader
        try:
            async for chunk in self._stream:
                if reader is not None:
                    # Cancelled here, the call is settled to what was read, as it is where the
                    # caller leaves the body early: the chunk is lost to both.
                    for _ in reader.steps(chunk):
                        await asyncio.sleep(0)
                yield chunk
        finally:
            # After an error, or if the reader has given up, there is nothing left to read.
            self._end()

    async def aclose(self) -> None:
        """Close the body; cancelled or not, its call ends."""
        try:
            await self._stream.aclose()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._finish()

    def __del__(self) -> None:
        if not self._ended:
            release_soon(self._slot, self._loop)


class _Wire(AsyncSteps, HttpxWire):
    pacer: PacedTransport[Any, Any, Any]

    def __init__(self, pacer: PacedTransport[Any, Any, Any]) -> None:
        HttpxWire.__init__(self, pacer)
        AsyncSteps.__init__(self, pacer)

    async def send(self, request: Request) -> Response:
        return await self.pacer.transport_for(request).handle_async_request(request)

    async def read_body(self, response: Response) -> bytes | None:
        stream = response.stream
        rest = aiter(stream)
        begun = Begun(stream, rest)
        try:
            async for chunk in rest:
                if begun.add(chunk):
                    response.stream = begun
                    return None
        except Exception as error:  # noqa: BLE001 - the caller's, after what came before it
            begun.error = error
            response.stream = begun
            return None
        await stream.aclose()
        return self.keep(response, begun)

    async def discard(self, response: Response) -> None:
        await response.stream.aclose()


class PacedTransport(HttpxPacer[TransportT], Generic[TransportT, RequestT, ResponseT]):
    """Base class of the async transports of httpx and httpx2.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of the
    block. A response that is never closed releases its slot when it is garbage collected.
    `HttpPacer` describes throttling, errors and cancellation.

    A subclass names its library, and inherits from its `AsyncBaseTransport`.
    """

    body_type: ClassVar[type[PacedBody]]
    """A `PacedBody` that its library accepts as a stream."""

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send a request once its slot is granted, and return the response.

        Cancellation during the wait uses no slot; cancellation in flight releases it.

        Raises:
            TypeError: the client belongs to the other library.
            ApiQueueError: as for `HttpPacer`.
        """
        self.transport_for(request)  # refuses what is of the other library, before it waits
        wire = _Wire(self)
        response, slot = await run_async(self.exchange(request, wire))
        reader = self.reader_for(request, *wire.head(response))

        def end() -> None:
            self.finish(slot, wire, request, response, reader)

        if response.is_closed:  # it came with its content, and nobody will close it again
            try:
                for _ in self.read_at_once(response, reader):
                    await asyncio.sleep(0)
            finally:  # cancelled there or not
                end()
        else:
            response.stream = self.body_type(response.stream, slot, end, reader)
        return response  # type: ignore[no-any-return]  # it is of the library

    def handle_request(self, *_: object) -> NoReturn:
        """Refuse a synchronous client.

        Raises:
            TypeError: always; the message names the class to use.
        """
        raise TypeError(
            f"this transport is for {self.library.__name__}.AsyncClient: for a Client, use "
            "SyncRateLimitedTransport"
        )

    __enter__ = handle_request

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entered:
            for transport in self.transports:
                await entered.enter_async_context(transport)
            self._entered = entered.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._entered.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Close all inner transports, even if one of them raises."""
        async with AsyncExitStack() as closing:
            for transport in self.transports:
                closing.push_async_callback(transport.aclose)
