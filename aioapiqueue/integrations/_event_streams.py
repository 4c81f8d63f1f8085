"""Looks at the events of AWS's streamed answers as they pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue._events import report_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

__all__ = ["watched"]


class _Watched:
    """An event stream, of botocore or aiobotocore, whose events are looked at before the reader.

    Args:
        stream: the stream itself: whatever else is asked of this is asked of it.
        look: called with each event.
    """

    def __init__(self, stream: Any, look: Callable[[Mapping[str, Any]], None]) -> None:  # noqa: ANN401 - of botocore
        self._stream = stream
        self._look = look

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for event in self._stream:
            self._look(event)
            yield event

    async def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        async for event in self._stream:
            self._look(event)
            yield event

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it has
        return getattr(self._stream, name)


def watched(
    stream: object,
    usage_in: Callable[[Mapping[str, Any]], Mapping[str, Any] | None],
    found: Callable[[Mapping[str, Any]], None],
) -> object:
    """Return a stream that calls `found` with what an event says was used, as it passes.

    Args:
        stream: of botocore or aiobotocore.
        usage_in: returns what an event says.
        found: an error in it is reported to the loop's exception handler, and costs no event.
    """

    def look(event: Mapping[str, Any]) -> None:
        try:
            usage = usage_in(event)
            if usage is not None:
                found(usage)
        except Exception as error:  # noqa: BLE001 - what is settled costs no event
            report_error(f"{event!r:.200} could not be settled", error)

    return _Watched(stream, look)
