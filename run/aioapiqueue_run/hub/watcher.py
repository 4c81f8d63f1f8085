"""The outcome of an attempt, and an observer of attempts: `Watcher`."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ParamSpec

from aioapiqueue.spi import loops

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue_run.hub.request import Request

__all__ = ["Ended", "Watcher", "notify"]

P = ParamSpec("P")


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

    def started(self, request: Request, now: float) -> None:
        """An attempt has started."""

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """A started attempt has ended."""


def notify(method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a method of a watcher, and report the error that it raises."""
    try:
        method(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the watcher's error must not fail the call
        loops.report_error(f"a watcher of the hub raised an error in {method!r}", error)
