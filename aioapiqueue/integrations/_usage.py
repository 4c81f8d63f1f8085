"""Readers of response bodies, which find the true cost of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue.spi import events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue.spi import Cost

__all__ = ["CarefulReader", "MalformedUsageError", "UsageReader"]


class MalformedUsageError(ValueError):
    """A response reports an impossible usage; the call keeps its reserved cost.

    Args:
        reason: what the response reports, and why it is impossible.
        cost: true cost by the rest of the response. Default: None, the reserved cost.
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


class CarefulReader:
    """A reader that never raises, so that the caller gets the response in any case.

    The first error of the inner reader is reported, and the reader is not used again.

    Args:
        reader: the inner reader.
    """

    def __init__(self, reader: UsageReader) -> None:
        self._reader = reader
        self._failed = False

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes."""
        if self._failed:
            return
        try:
            self._reader.feed(chunk)
        except Exception as error:  # noqa: BLE001 - a subclass's: the caller gets the response
            self._report(error)

    def steps(self, chunk: bytes) -> Iterator[None]:
        """Read the next bytes, and yield where the event loop may run other tasks.

        A reader without a method `steps` reads the chunk at once.
        """
        steps = getattr(self._reader, "steps", None)
        if steps is None:
            self.feed(chunk)
            return
        try:
            if not self._failed:
                yield from steps(chunk)
        except Exception as error:  # noqa: BLE001 - as above
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._failed = True
        events.report_error(f"{self._reader!r} failed to read the body of a response", error)

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage found so far, or None.

        Raises:
            MalformedUsageError: as raised by the reader.
        """
        return None if self._failed else self._reader.usage()
