"""What made queues faster or slower, and when: the first of it and the last, in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from aioapiqueue import Limit
    from aioapiqueue.spi import events

__all__ = ["CHANGE_KINDS", "ChangeHistory", "QueueChange"]

CHANGE_KINDS: tuple[events.EventKind, ...] = (
    *("throttled", "backed_off", "limits_changed", "held", "paused", "resumed"),
    *("refused_by_server", "disconnected", "reconnected"),
)
"""The kinds of events that make a queue faster or slower, or say why it is."""
_MOST = 500
"""That are kept from the beginning, and as many from the end."""


class QueueChange(NamedTuple):
    """Something that made a queue faster or slower.

    Attributes:
        at: seconds from the beginning.
        queue: whose.
        lane: of it; None: all of it.
        kind: as of an `Event`.
        limits: the new ones.
        origin: who changed them.
        rate: calls a second that are left.
        seconds: how long nothing starts.
    """

    at: float
    queue: str
    lane: str | None
    kind: str
    limits: tuple[Limit, ...] = ()
    origin: str | None = None
    rate: float | None = None
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it, without what it does not have."""
        found = self._asdict() | {"limits": [str(one) for one in self.limits]}
        return {name: value for name, value in found.items() if value not in (None, [])}


class ChangeHistory:
    """Keeps the first changes and the last, and the last limits that were learnt of each lane."""

    def __init__(self) -> None:
        self._first: list[QueueChange] = []
        self._last: deque[QueueChange] = deque(maxlen=_MOST)
        self._number = 0
        self._learnt: dict[tuple[str, str | None], QueueChange] = {}

    def note(self, change: QueueChange) -> None:
        """Keep a change, if it is one of the first or of the last."""
        self._number += 1
        if len(self._first) < _MOST:
            self._first.append(change)
        else:
            self._last.append(change)
        lane = change.queue, change.lane
        if change.origin == "learnt" and (len(self._learnt) < _MOST or lane in self._learnt):
            self._learnt[lane] = change

    def as_json(self) -> dict[str, Any]:
        """Return those that were kept, how many were not, and what was learnt."""
        kept = [*self._first, *self._last]
        return {
            "changes": [one.as_json() for one in kept],
            "changes_left_out": self._number - len(kept),
            "learnt": [
                {"queue": one.queue, "lane": one.lane, "limits": [str(it) for it in one.limits]}
                for one in self._learnt.values()
            ],
        }
