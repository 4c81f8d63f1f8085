"""What looks at the body of an answer as it passes, to find what the call has really cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._events import report_error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CarefulReader", "UsageReader"]


class UsageReader(Protocol):
    """Finds what a call has really cost, in the body of its answer as it passes."""

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes, as they came over the wire."""

    def usage(self) -> Mapping[str, Any] | None:
        """Return what was found so far; None: nothing."""


class CarefulReader:
    """A reader whose errors cost no answer: they are reported, and it sees no more.

    Args:
        reader: the one that may fail.
    """

    def __init__(self, reader: UsageReader) -> None:
        self._reader = reader
        self._failed = False

    def feed(self, chunk: bytes) -> None:
        """Show it the next bytes."""
        if self._failed:
            return
        try:
            self._reader.feed(chunk)
        except Exception as error:  # noqa: BLE001 - not ours: it costs no answer
            self._failed = True
            report_error(f"{self._reader!r} failed to read the body of an answer", error)

    def usage(self) -> Mapping[str, Any] | None:
        """Return what it has found."""
        return None if self._failed else self._reader.usage()
