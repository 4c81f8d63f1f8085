"""The steps of requests through httpx and httpx2, and the response bodies that end a call.

Each body class serves both async and synchronous clients.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._compression import decoded
from aioapiqueue.integrations._exchange import Wire, run, run_async
from aioapiqueue.integrations._http import PATIENCE, AsyncSteps, BlockingSteps, release_soon
from aioapiqueue.integrations._refusal_body import MAX_BODY
from aioapiqueue.integrations._usage import WatchedStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import ModuleType

    from aioapiqueue import Slot
    from aioapiqueue.integrations._exchange import Flow, Headers, Request, Response
    from aioapiqueue.integrations._http import HttpPacer
    from aioapiqueue.integrations._usage import CarefulReader
    from aioapiqueue.threads import Blocking, BlockingSlot


class PacedBody(WatchedStream):
    """The stream of a response: the call ends when the stream is read to its end, or closed.

    Args:
        stream: the stream of the library.
        finish: ends the call; called once.
        abandon: releases the slot; called instead of `finish` if the stream is garbage collected.
        reader: as for `WatchedStream`.
    """

    def __init__(
        self,
        stream: Any,  # noqa: ANN401 - of either library
        finish: Callable[[], None],
        abandon: Callable[[], None],
        reader: CarefulReader | None,
    ) -> None:
        super().__init__(stream, reader)
        self._finish = finish
        self._abandon = abandon
        self._ended = False

    async def aclose(self) -> None:
        """Close the stream. The call ends even if closing is cancelled."""
        try:
            await self._stream.aclose()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            # First: `_finish` runs a function of the user, which may close the response again.
            self._ended = True
            self._finish()

    def __del__(self) -> None:
        # The garbage collector may run in any thread, so no function of the user is called here.
        if not self._ended:
            self._abandon()


class _PartlyReadBody:
    """The stream of a response whose first chunks have been read; the caller still gets them all.

    Args:
        stream: the stream of the library.
        rest: the iterator that has returned the first chunks.
    """

    def __init__(self, stream: Any, rest: Any) -> None:  # noqa: ANN401 - of either library
        self.chunks: list[bytes] = []
        self.error: Exception | None = None
        """The error that ended the stream. None: the rest can be read."""
        self._stream = stream
        self._rest = rest
        self._size = 0
        # A body that arrives slowly would keep the caller waiting for its response.
        self._until = time.monotonic() + PATIENCE

    def add(self, chunk: bytes) -> bool:
        """Add a chunk, and return whether the body is too large or too slow to read on."""
        self.chunks.append(chunk)
        self._size += len(chunk)
        return self._size > MAX_BODY or time.monotonic() > self._until

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.error is not None:
            raise self.error
        yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk
        if self.error is not None:
            raise self.error
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


class HttpxWire(Wire):
    """The steps that are the same for async and synchronous clients.

    Args:
        library: httpx or httpx2.
        inner: the transport that sends the request.
    """

    def __init__(self, library: ModuleType, inner: Any) -> None:  # noqa: ANN401 - of either library
        self.library = library
        self.inner = inner

    def head(self, response: Response) -> tuple[int, Headers]:
        """Return the status and headers of a response."""
        return response.status_code, response.headers.multi_items()

    def can_repeat(self, request: Request) -> bool:
        """Return whether the body is bytes. Any other body can be sent only once."""
        return isinstance(request.stream, self.library.ByteStream)

    def is_malformed(self, error: BaseException) -> bool:
        """Return whether the library could not parse the headers of a response."""
        # If the server closes a connection, the library raises the same class of error. Its cause
        # then has a text, or an event of h2 (GOAWAY), instead of the exception of the parser.
        reasons = () if error.__cause__ is None else error.__cause__.args
        return isinstance(error, self.library.RemoteProtocolError) and any(
            isinstance(reason, Exception) for reason in reasons
        )

    def was_sent(self, error: BaseException) -> bool:
        """Return whether there was a connection."""
        # After any other error, such as a timeout, the server may have counted the request.
        errors = self.library
        return not isinstance(
            error,
            errors.ConnectError
            | errors.ConnectTimeout
            | errors.PoolTimeout
            | errors.ProxyError
            | errors.UnsupportedProtocol,
        )

    def reading(
        self,
        response: Response,
        chunks: Any,  # noqa: ANN401 - an iterator, of either kind
        following: Callable[[Any, None], Any],
        close: Callable[[], Any],
    ) -> Flow[bytes | None]:
        """Yield the steps of `read_body`.

        Args:
            response: whose body is read.
            chunks: the iterator of the body.
            following: `next`, or `anext`.
            close: closes the body.
        """
        body = _PartlyReadBody(response.stream, chunks)
        try:
            # `following` returns its default, None, at the end of the body.
            while (chunk := (yield partial(following, chunks, None))) is not None:
                if body.add(chunk):
                    response.stream = body
                    return None
        # `Exception`, so not a cancellation: after that, the flow discards the response.
        except Exception as error:  # noqa: BLE001 - raised when the caller has read the chunks
            body.error = error
            response.stream = body
            return None
        # This frees the connection, which a retry needs.
        yield close
        # Still encoded: the client decodes it for the caller.
        content = b"".join(body.chunks)
        response.stream = self.library.ByteStream(content)
        return decoded(content, response.headers.get("content-encoding", ""), MAX_BODY)

    @abstractmethod
    def yield_to_loop(self) -> Any:  # noqa: ANN401 - None, or its awaitable
        """Let other tasks of the event loop run, if the client has one."""

    @abstractmethod
    def abandon(self, slot: Any) -> Callable[[], None]:  # noqa: ANN401 - a slot
        """Return the function with which a finalizer releases a slot, in any thread."""


class AsyncHttpxWire(AsyncSteps, HttpxWire):
    """The steps of async clients.

    Args:
        pacer: the paced transport.
        library: as for `HttpxWire`.
        inner: as for `HttpxWire`.
    """

    def __init__(self, pacer: HttpPacer, library: ModuleType, inner: Any) -> None:  # noqa: ANN401 - as above
        AsyncSteps.__init__(self, pacer)
        HttpxWire.__init__(self, library, inner)

    async def send(self, request: Request) -> Response:
        return await self.inner.handle_async_request(request)

    async def read_body(self, response: Response) -> bytes | None:
        stream = response.stream
        return await run_async(self.reading(response, aiter(stream), anext, stream.aclose))

    async def discard(self, response: Response) -> None:
        await response.stream.aclose()

    def yield_to_loop(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def abandon(self, slot: Slot) -> Callable[[], None]:
        return partial(release_soon, slot, asyncio.get_running_loop())


class BlockingHttpxWire(BlockingSteps, HttpxWire):
    """The steps of synchronous clients.

    Args:
        pacer: the paced transport.
        through: as for `BlockingSteps`.
        library: as for `HttpxWire`.
        inner: as for `HttpxWire`.
    """

    def __init__(
        self,
        pacer: HttpPacer,
        through: Blocking,
        library: ModuleType,
        inner: Any,  # noqa: ANN401 - as above
    ) -> None:
        BlockingSteps.__init__(self, pacer, through)
        HttpxWire.__init__(self, library, inner)

    def send(self, request: Request) -> Response:
        return self.inner.handle_request(request)

    def read_body(self, response: Response) -> bytes | None:
        stream = response.stream
        return run(self.reading(response, iter(stream), next, stream.close))

    def discard(self, response: Response) -> None:
        response.stream.close()

    def yield_to_loop(self) -> None:
        return None

    def abandon(self, slot: BlockingSlot) -> Callable[[], None]:
        return slot.release  # posts to the thread of the loop, and waits for nothing
