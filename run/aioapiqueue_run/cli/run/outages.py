"""Reports when what enforces the limits of a run is lost, and when it is back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aioapiqueue_run.cli.console import MAX_LISTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import Event

__all__ = ["Outages"]


class Outages:
    """Observes all queues of a run; reports each outage once for all of them, and counts it.

    Args:
        lost: returns the message about a loss, which the queue of that name noticed.
        back: the message when it is back.
    """

    def __init__(self, lost: Callable[[str | None], str], back: str) -> None:
        self._lost, self._back = lost, back
        self.times = 0
        self._seconds = 0.0
        self._since: float | None = None
        self.say: Callable[[str], None]
        """Writes a message; set before the first call."""

    @property
    def now(self) -> bool:
        """Whether it is lost now."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """The time of all outages until now."""
        return self._seconds + (0 if self._since is None else time.monotonic() - self._since)

    def on_event(self, event: Event, /) -> None:
        """Report a loss or a return."""
        if event.kind == "disconnected" and self._since is None:
            self._since = time.monotonic()
            self.times += 1
            text = self._lost(event.queue)
        elif event.kind == "reconnected" and self._since is not None:
            lasted = time.monotonic() - self._since
            self._seconds += lasted
            self._since = None
            text = f"{self._back}, after {lasted:.1f} s"
        else:
            return
        if self.times <= MAX_LISTED:
            self.say(text)
