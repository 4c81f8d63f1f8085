"""Looks at the events of AWS's streamed answers as they pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue.spi import report_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

__all__ = ["StreamReader", "watched"]


class StreamReader(Protocol):
    """Finds in the events of one stream what it has used."""

    def feed(self, event: Mapping[str, Any]) -> None:
        """Look at an event."""

    def usage(self) -> Mapping[str, Any] | None:
        """Return what was found so far; None: nothing was."""


class _WatchedStream:
    """An event stream, of botocore or aiobotocore, whose events are looked at before the caller.

    Args:
        stream: the stream itself: whatever else is asked of this is asked of it.
        reader: looks at each event.
        found: called with what was found, at the end or where the caller leaves the stream; again
            if the caller goes on, and there is more.
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
        except Exception as error:  # noqa: BLE001 - what is settled costs no event
            report_error(f"the event {event!r:.200} could not be read", error)

    def _end(self) -> None:
        try:
            usage = self._reader.usage()
            if usage is not None and usage != self._last:
                self._last = usage
                self._found(usage)
        except Exception as error:  # noqa: BLE001 - what is settled costs no answer
            report_error(
                f"the call could not be settled to the usage in {self._stream!r:.200}", error
            )

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it has
        return getattr(self._stream, name)


def watched(
    stream: object, reader: StreamReader, found: Callable[[Mapping[str, Any]], None]
) -> object:
    """Return a stream that calls `found` with what it has used: at its end, or where it is left.

    Args:
        stream: of botocore or aiobotocore.
        reader: looks at the events as they pass.
        found: an error in it, or in the reader, is reported to the loop's exception handler, and
            costs no event.
    """
    return _WatchedStream(stream, reader, found)
