"""Readers of response bodies and event streams, which find the true cost of a call."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue.spi import loops

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from aioapiqueue.spi import Cost


class MalformedUsageError(ValueError):
    """A response reports an impossible usage; the call keeps its reserved cost.

    Args:
        reason: what the response reports, and why it is impossible.
        cost: true cost according to the rest of the response. Default: None, the reserved cost.
    """

    def __init__(self, reason: str, cost: Cost | None = None) -> None:
        super().__init__(reason)
        self.cost = cost


class UsageReader(Protocol):
    """Finds the true cost of a call in the body of its response, without buffering it."""

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes as they arrive, still encoded."""

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage found so far, or None."""


class StreamReader(Protocol):
    """Finds the true cost of a call in the events of its stream, as botocore parses them."""

    def feed(self, event: Mapping[str, Any]) -> None:
        """Read an event."""

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage found so far, or None."""


class CarefulReader:
    """A reader that never raises, so that the caller gets the response in any case.

    The first error of the inner reader is reported, and the reader is not used again.

    Args:
        reader: the inner reader.
    """

    def __init__(self, reader: UsageReader | StreamReader) -> None:
        self._reader: Any = reader
        self._failed = False

    def feed(self, chunk: Any) -> None:  # noqa: ANN401 - bytes or an event, depending on the reader
        """Read the next chunk."""
        for _ in self.steps(chunk):
            pass

    def steps(self, chunk: Any) -> Iterator[None]:  # noqa: ANN401 - as above
        """Read the next chunk, and yield where the event loop may run other tasks.

        A reader without a method `steps` reads the chunk at once.
        """
        if self._failed:
            return
        steps = getattr(self._reader, "steps", None)
        try:
            if steps is None:
                self._reader.feed(chunk)
            else:
                yield from steps(chunk)
        except Exception as error:  # noqa: BLE001 - a subclass's: the caller gets the response
            # What was found so far may be half of the usage.
            self._failed = True
            loops.report_error(f"{self._reader!r} failed to read the body of a response", error)

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage found so far, or None.

        Raises:
            MalformedUsageError: as raised by the reader.
        """
        return None if self._failed else self._reader.usage()


class WatchedStream(ABC):
    """Base class of a stream whose chunks are read before the caller gets them.

    Args:
        stream: the stream, async or not.
        reader: reads each chunk. None: there is no reader.
    """

    def __init__(self, stream: Any, reader: CarefulReader | None) -> None:  # noqa: ANN401 - of any library
        self._stream = stream
        self._reader = reader

    def __iter__(self) -> Iterator[Any]:
        reader = self._reader
        try:
            for chunk in self._stream:
                if reader is not None:
                    reader.feed(chunk)
                yield chunk
        finally:  # also after an error, or if the caller stops reading
            self._end()

    async def __aiter__(self) -> AsyncIterator[Any]:
        reader = self._reader
        try:
            async for chunk in self._stream:
                if reader is not None:
                    # If cancelled here, the call is settled to what was read, as if the caller had
                    # left the stream early. The caller does not get this chunk.
                    for _ in reader.steps(chunk):
                        await asyncio.sleep(0)
                yield chunk
        finally:
            self._end()

    def close(self) -> None:
        """Close the stream. The call ends even if closing is interrupted."""
        try:
            self._stream.close()
        finally:
            self._end()

    @abstractmethod
    def _end(self) -> None:
        """Settle the call. This may be called more than once."""


class UsageStream(WatchedStream):
    """An event stream of botocore or aiobotocore that reports its usage.

    Args:
        stream: the stream. All other attributes are those of the stream.
        reader: finds the usage in the events.
        found: called with the usage when the stream ends or the caller leaves it, and again if the
            caller continues to read and the usage changes. Its errors go to the exception handler
            of the event loop.
    """

    def __init__(
        self,
        stream: Any,  # noqa: ANN401 - of botocore
        reader: StreamReader,
        found: Callable[[Mapping[str, Any]], None],
    ) -> None:
        careful = CarefulReader(reader)
        super().__init__(stream, careful)
        self._usage = careful.usage
        self._found = found
        self._last: Mapping[str, Any] | None = None

    def _end(self) -> None:
        try:
            usage = self._usage()
            # The caller may leave the stream and resume it later: it then ends twice.
            if usage is not None and usage != self._last:
                self._last = usage
                self._found(usage)
        except Exception as error:  # noqa: BLE001 - the caller gets the stream in any case
            loops.report_error(
                f"the call could not be settled to the usage in {self._stream!r:.200}", error
            )

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it has
        return getattr(self._stream, name)
