"""The events that made queues faster or slower, or will: the first and the last of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from aioapiqueue import Limit
    from aioapiqueue.spi import events

CHANGE_KINDS: tuple[events.EventKind, ...] = (
    *("throttled", "backed_off", "limits_changed", "held", "paused", "resumed"),
    *("refused_by_server", "disconnected", "reconnected", "threshold"),
)
"""The kinds of events that make a queue faster or slower, or explain why it is or soon will be."""
_MOST = 500
"""Number of changes kept from the beginning, and of changes kept from the end."""


class QueueChange(NamedTuple):
    """Something that made a queue faster or slower, or the use of a limit that soon will.

    Attributes:
        at: seconds since the recording began.
        queue: the name of the queue.
        lane: the lane, if only one of them changed.
        kind: the kind of the `Event`.
        limits: the new limits; or the limit of which a share is used.
        origin: who changed the limits.
        rate: calls a second that `Adaptive` still allows.
        seconds: length of the hold or pause.
        share: the share of a budget, or of a limit of a calendar period, that is used.
    """

    at: float
    queue: str
    lane: str | None
    kind: str
    limits: tuple[Limit, ...] = ()
    origin: str | None = None
    rate: float | None = None
    seconds: float | None = None
    share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        found = self._asdict() | {"limits": [str(one) for one in self.limits]}
        return {name: value for name, value in found.items() if value not in (None, [])}


class ChangeHistory:
    """Keeps the first and the last changes, and the latest learnt limits of each lane."""

    def __init__(self) -> None:
        # The first changes show how a run began, the last how it ended. Others are only counted.
        self._first: list[QueueChange] = []
        self._last: deque[QueueChange] = deque(maxlen=_MOST)
        self._number = 0
        self._learnt: dict[tuple[str, str | None], QueueChange] = {}

    def note(self, change: QueueChange) -> None:
        """Add a change."""
        self._number += 1
        if len(self._first) < _MOST:
            self._first.append(change)
        else:
            self._last.append(change)  # drops its oldest if it is full
        lane = change.queue, change.lane
        # Learnt limits are shown beside the changes, which may have left them out.
        if change.origin == "learnt" and (len(self._learnt) < _MOST or lane in self._learnt):
            self._learnt[lane] = change

    def as_json(self) -> dict[str, Any]:
        """Return the changes kept, the number of those left out, and the learnt limits."""
        kept = [*self._first, *self._last]
        return {
            "changes": [one.as_json() for one in kept],
            "changes_left_out": self._number - len(kept),
            "learnt": [
                {"queue": one.queue, "lane": one.lane, "limits": [str(it) for it in one.limits]}
                for one in self._learnt.values()
            ],
        }
