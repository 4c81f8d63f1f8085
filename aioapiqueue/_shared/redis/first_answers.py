"""Lanes that wait for their first answer: until then, they have one call in flight at a time.

The authority keeps that for all processes, by the number that each reports to have in flight
(`messages.LaneReport.first`). This module knows which calls of this process have been answered, and
how many calls of a lane without an answer are in flight.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue._shared.redis.messages import FirstEnded

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue.spi import Call

_MANY = 10_000
"""Answered lanes that are remembered. An older one begins with one call in flight again."""


class FirstAnswers:
    """The lanes (None: the queue) that have no answer yet, and their calls.

    Args:
        limits: of the queue and its lanes.
    """

    def __init__(self, limits: LimitTable) -> None:
        self.awaited = False
        """Whether lanes wait for their first answer at all."""
        self._limits = limits
        self._answered: dict[Hashable, None] = {}
        """Lanes with an answer, the latest last; None: the queue."""
        self._out: dict[Call, Sequence[Hashable]] = {}
        """Calls in flight, and which of their lanes had no answer when they started."""
        self._updates: dict[Hashable, None] = {}
        """Lanes whose first answer is still to be reported."""

    def forget_callers(self) -> None:
        """Forget the calls in flight: they were on a loop that is gone."""
        self._out = {}

    def is_awaited(self, lane: Hashable) -> bool:
        """Return whether a lane may have only one call in flight.

        That is false if its limits are known, or for the whole of a queue with lanes.
        """
        if not self.awaited or lane in self._answered:
            return False
        if lane is None and self._limits.lanes.limits:
            return False
        return not self._limits.has_learnt(lane)

    def started(self, call: Call) -> None:
        """Note that a call has started."""
        if self.awaited:
            lanes = [lane for lane in (None, *call.limits.lanes) if self.is_awaited(lane)]
            if lanes:
                self._out[call] = lanes

    def ended(self, call: Call) -> FirstEnded | None:
        """Note that a call has ended; return the message to send, if any."""
        lanes = self._out.pop(call, ())
        if not any(map(self.is_awaited, lanes)):
            return None
        return FirstEnded([lane for lane in lanes if lane is not None])

    def number_out(self, lane: Hashable) -> int:
        """Return the number of a lane's calls in flight."""
        return sum(lane in lanes for lanes in self._out.values())

    def answered(self, lanes: Iterable[Hashable]) -> bool:
        """Note that these lanes have an answer; return whether a message has to be sent."""
        fresh = [lane for lane in (None, *lanes) if lane not in self._answered]
        self._answered.update(dict.fromkeys(fresh))
        if len(self._answered) > _MANY:
            for lane in list(islice(self._answered, len(self._answered) - _MANY)):
                del self._answered[lane]
        if not self.awaited or not fresh:
            return False
        self._updates.update(dict.fromkeys(fresh))
        return True

    def drain_updates(self) -> FirstEnded:
        """Return the message about lanes that had their first answer, and forget them."""
        lanes, self._updates = [lane for lane in self._updates if lane is not None], {}
        return FirstEnded(lanes, answered=True)
