"""Who is informed of attempts as they go on, beside what the hub counts of them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from aioapiqueue.spi import events

if TYPE_CHECKING:
    from aioapiqueue.hub._records import CallStats
    from aioapiqueue.hub._request import Request

__all__ = ["Ended", "Guarded", "Watcher"]


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


class Guarded(Watcher):
    """Informs another watcher, and reports what that raises.

    Args:
        watcher: which.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def joined(self, now: float) -> None:
        """Inform it of an attempt that is there."""
        try:
            self._watcher.joined(now)
        except Exception as error:  # noqa: BLE001 - the watcher's: it costs no call
            events.report_error(f"{self._watcher!r} raised an error in joined()", error)

    def left(self, now: float) -> None:
        """Inform it of an attempt that waits no more."""
        try:
            self._watcher.left(now)
        except Exception as error:  # noqa: BLE001 - as above
            events.report_error(f"{self._watcher!r} raised an error in left()", error)

    def started(self, request: Request, now: float) -> None:
        """Inform it of an attempt that is let go."""
        try:
            self._watcher.started(request, now)
        except Exception as error:  # noqa: BLE001 - as above
            events.report_error(f"{self._watcher!r} raised an error in started()", error)

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """Inform it of an attempt that has ended."""
        try:
            self._watcher.ended(request, now, outcome)
        except Exception as error:  # noqa: BLE001 - as above
            events.report_error(f"{self._watcher!r} raised an error in ended()", error)

    def refused(self, stats: CallStats, now: float) -> None:
        """Inform it of an attempt that is refused."""
        try:
            self._watcher.refused(stats, now)
        except Exception as error:  # noqa: BLE001 - as above
            events.report_error(f"{self._watcher!r} raised an error in refused()", error)
