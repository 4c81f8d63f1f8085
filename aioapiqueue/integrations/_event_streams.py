"""Streamed responses of AWS whose events are read on their way to the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue.spi import events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

__all__ = ["StreamReader", "watched"]


class StreamReader(Protocol):
    """Finds the usage of a call in the events of its stream."""

    def feed(self, event: Mapping[str, Any]) -> None:
        """Read an event."""

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage found so far, or None."""


class _WatchedStream:
    """An event stream of botocore or aiobotocore whose events are read before the caller gets them.

    Args:
        stream: the stream. All other attributes are those of the stream.
        reader: reads each event.
        found: called with the usage when the stream ends or the caller leaves it. Called again if
            the caller continues to read and the usage changes.
    """

    def __init__(
        self,
        stream: Any,  # noqa: ANN401 - of botocore
        reader: StreamReader,
        found: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._stream = stream
        self._reader = reader
        self._found = found
        self._last: Mapping[str, Any] | None = None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            for event in self._stream:
                self._look(event)
                yield event
        finally:
            self._end()

    async def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        try:
            async for event in self._stream:
                self._look(event)
                yield event
        finally:
            self._end()

    def close(self) -> None:
        """Close the stream."""
        try:
            self._stream.close()
        finally:
            self._end()

    def _look(self, event: Mapping[str, Any]) -> None:
        try:
            self._reader.feed(event)
        except Exception as error:  # noqa: BLE001 - the caller gets the event in any case
            events.report_error(f"the event {event!r:.200} could not be read", error)

    def _end(self) -> None:
        try:
            usage = self._reader.usage()
            if usage is not None and usage != self._last:
                self._last = usage
                self._found(usage)
        except Exception as error:  # noqa: BLE001 - the caller gets the stream in any case
            events.report_error(
                f"the call could not be settled to the usage in {self._stream!r:.200}", error
            )

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it has
        return getattr(self._stream, name)


def watched(
    stream: object, reader: StreamReader, found: Callable[[Mapping[str, Any]], None]
) -> object:
    """Return a stream that calls `found` with its usage when it ends or the caller leaves it.

    Args:
        stream: a stream of botocore or aiobotocore.
        reader: reads the events.
        found: receives the usage. Errors in it or in the reader go to the exception handler of the
            event loop.
    """
    return _WatchedStream(stream, reader, found)
