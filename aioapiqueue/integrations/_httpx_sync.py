"""Transports for clients that block: what those of httpx and httpx2 share."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, Unpack

from aioapiqueue.integrations._blocking_steps import BlockingSteps
from aioapiqueue.integrations._exchange import run
from aioapiqueue.integrations._httpx_common import (
    Begun,
    HttpxPacer,
    HttpxWire,
    RequestT,
    ResponseT,
    TransportT,
)
from aioapiqueue.threads import Blocking, blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations._exchange import Request, Response
    from aioapiqueue.integrations._httpx_common import TransportOptions
    from aioapiqueue.integrations._usage import UsageReader
    from aioapiqueue.threads import BlockingSlot

__all__ = ["PacedSyncBody", "PacedSyncTransport"]


class PacedSyncBody:
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
        slot: BlockingSlot,
        end: Callable[[], None],
        reader: UsageReader | None,
    ) -> None:
        self._stream = stream
        self._slot = slot
        self._finish = end
        self._reader = reader
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        reader = self._reader
        try:
            for chunk in self._stream:
                if reader is not None:
                    reader.feed(chunk)
                yield chunk
        finally:
            # After an error, or if the reader has given up, there is nothing left to read.
            self._end()

    def close(self) -> None:
        """Close the body; interrupted or not, its call ends."""
        try:
            self._stream.close()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._finish()

    def __del__(self) -> None:
        if not self._ended:
            self._slot.release()  # posts to the loop's thread, and waits for nothing


class _Wire(BlockingSteps, HttpxWire):
    pacer: PacedSyncTransport[Any, Any, Any]

    def __init__(self, pacer: PacedSyncTransport[Any, Any, Any]) -> None:
        HttpxWire.__init__(self, pacer)
        BlockingSteps.__init__(self, pacer, pacer.blocking)

    def send(self, request: Request) -> Response:
        return self.pacer.transport_for(request).handle_request(request)

    def read_body(self, response: Response) -> bytes | None:
        stream = response.stream
        rest = iter(stream)
        begun = Begun(stream, rest)
        try:
            for chunk in rest:
                if begun.add(chunk):
                    response.stream = begun
                    return None
        except Exception as error:  # noqa: BLE001 - the caller's, after what came before it
            begun.error = error
            response.stream = begun
            return None
        stream.close()
        return self.keep(response, begun)

    def discard(self, response: Response) -> None:
        response.stream.close()


class PacedSyncTransport(HttpxPacer[TransportT], Generic[TransportT, RequestT, ResponseT]):
    """Base class of the synchronous transports of httpx and httpx2.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of the
    block. A response that is never closed releases its slot when it is garbage collected.
    `HttpPacer` describes throttling and errors. KeyboardInterrupt during the wait uses no slot.

    A subclass names its library, and inherits from its `BaseTransport`.

    Args:
        queue: paces the requests: an `ApiQueue`, or a `blocking(queue, portal=...)` if the queue
            lives on an event loop of yours.
        transport: as for `HttpxPacer`.
        options: as for `HttpxPacer`.

    Raises:
        TypeError: as for `HttpxPacer`.
        ValueError: as for `HttpxPacer`.
    """

    body_type: ClassVar[type[PacedSyncBody]]
    """A `PacedSyncBody` that its library accepts as a stream."""

    def __init__(
        self,
        queue: ApiQueue | Blocking,
        transport: TransportT | None = None,
        **options: Unpack[TransportOptions],
    ) -> None:
        through = queue if isinstance(queue, Blocking) else None
        super().__init__(queue if through is None else through.queue, transport, **options)  # type: ignore[arg-type]  # it is no Blocking
        self.blocking = blocking(self.queue) if through is None else through

    def handle_request(self, request: RequestT) -> ResponseT:
        """Send a request once its slot is granted, and return the response.

        Raises:
            TypeError: the client belongs to the other library.
            ApiQueueError: as for `HttpPacer`.
        """
        self.transport_for(request)  # refuses what is of the other library, before it waits
        wire = _Wire(self)
        response, slot = run(self.exchange(request, wire))
        reader = self.reader_for(request, *wire.head(response))

        def end() -> None:
            self.finish(slot, wire, request, response, reader)

        if response.is_closed:  # it came with its content, and nobody will close it again
            for _ in self.read_at_once(response, reader):
                pass
            end()
        else:
            response.stream = self.body_type(response.stream, slot, end, reader)
        return response  # type: ignore[no-any-return]  # it is of the library

    def handle_async_request(self, *_: object) -> NoReturn:
        """Refuse an async client.

        Raises:
            TypeError: always; the message names the class to use.
        """
        raise TypeError(
            f"this transport is for {self.library.__name__}.Client: for an AsyncClient, use "
            "RateLimitedTransport"
        )

    __aenter__ = handle_async_request

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            for transport in self.transports:
                entered.enter_context(transport)
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._entered.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """Close all inner transports, even if one of them raises."""
        with ExitStack() as closing:
            for transport in self.transports:
                closing.callback(transport.close)
