"""Observers of attempts: `Watcher`, and a guard that keeps its errors from the calls."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from aioapiqueue.spi import events

if TYPE_CHECKING:
    from aioapiqueue.hub.records import CallStats
    from aioapiqueue.hub.request import Request

__all__ = ["Ended", "GuardedWatcher", "Watcher"]


class Ended(enum.Enum):
    """Outcome of an attempt."""

    ANSWERED = "answered"
    THROTTLED = "throttled"
    FAILED = "failed"
    """Another error, or no response."""
    UNKNOWN = "unknown"
    """The call was cancelled, or its process ended."""
    NOT_SENT = "not sent"
    """The caller returned the slot unused; the attempt is not counted."""


class Watcher:
    """Base class of observers of attempts; its methods do nothing.

    The hub calls them on its event loop, so they must be quick. Exceptions are reported and affect
    no call. `now` is a time of `time.monotonic()`.
    """

    def joined(self, now: float) -> None:
        """An attempt has joined its queue."""

    def left(self, now: float) -> None:
        """A waiting attempt will not start: its caller left, or it was refused."""

    def started(self, request: Request, now: float) -> None:
        """An attempt has started."""

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """A started attempt has ended."""

    def refused(self, stats: CallStats, now: float) -> None:
        """An attempt of this kind was refused, and nothing was sent."""


class GuardedWatcher(Watcher):
    """Passes each call on to another watcher, and reports the errors that it raises.

    Args:
        watcher: the other watcher.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def joined(self, now: float) -> None:
        """Pass it on; see `Watcher.joined`."""
        self._pass_on("joined", now)

    def left(self, now: float) -> None:
        """Pass it on; see `Watcher.left`."""
        self._pass_on("left", now)

    def started(self, request: Request, now: float) -> None:
        """Pass it on; see `Watcher.started`."""
        self._pass_on("started", request, now)

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """Pass it on; see `Watcher.ended`."""
        self._pass_on("ended", request, now, outcome)

    def refused(self, stats: CallStats, now: float) -> None:
        """Pass it on; see `Watcher.refused`."""
        self._pass_on("refused", stats, now)

    def _pass_on(self, method: str, *arguments: object) -> None:
        try:
            getattr(self._watcher, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - the watcher's error must not fail the call
            events.report_error(f"{self._watcher!r} raised an error in {method}()", error)
