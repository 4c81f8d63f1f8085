"""Which lanes wait for their first answer: until then, one call of them is out at a time.

The authority keeps that for all processes, by what each reports to have out of such a lane
(`messages.LaneReport.first`). Here is what this one knows: which of its calls have been answered,
and how many of a lane are out that has no answer yet.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue._shared.redis.messages import FirstEnded

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue.spi import Call

__all__ = ["FirstAnswers"]

_MANY = 10_000
"""Lanes that are remembered to have been answered: of others, one call is out at first again."""


class FirstAnswers:
    """The lanes (None: the queue) that have no answer yet, and their calls.

    Args:
        limits: of the queue and its lanes.
    """

    def __init__(self, limits: LimitTable) -> None:
        self.awaited = False
        """Whether calls wait for the first answer of their lanes at all."""
        self._limits = limits
        self._answered: dict[Hashable, None] = {}
        """Lanes with an answer, the latest last; None: the queue."""
        self._out: dict[Call, Sequence[Hashable]] = {}
        """Calls that are out, and which lanes had no answer when they started."""
        self._news: dict[Hashable, None] = {}
        """Lanes that had their first answer, of which nothing was sent yet."""

    def forget_callers(self) -> None:
        """Forget whose bodies run: they were on a loop that is gone."""
        self._out = {}

    def is_awaited(self, lane: Hashable) -> bool:
        """Return whether only one call of a lane may be out.

        Not where others have learnt its limits; and not in a queue with lanes as a whole.
        """
        if not self.awaited or lane in self._answered:
            return False
        if lane is None and self._limits.lanes.limits:
            return False
        return not self._limits.has_learnt(lane)

    def started(self, call: Call) -> None:
        """Note that a call is out."""
        if self.awaited:
            lanes = [lane for lane in (None, *call.limits.lanes) if self.is_awaited(lane)]
            if lanes:
                self._out[call] = lanes

    def ended(self, call: Call) -> FirstEnded | None:
        """Note that a call is out no more; return what is to be sent, if anything."""
        lanes = self._out.pop(call, ())
        if not any(map(self.is_awaited, lanes)):
            return None
        return FirstEnded([lane for lane in lanes if lane is not None])

    def number_out(self, lane: Hashable) -> int:
        """Return how many calls of a lane are out."""
        return sum(lane in lanes for lanes in self._out.values())

    def answered(self, lanes: Iterable[Hashable]) -> bool:
        """Note that these lanes have an answer; return whether there is something to be sent."""
        fresh = [lane for lane in (None, *lanes) if lane not in self._answered]
        self._answered.update(dict.fromkeys(fresh))
        if len(self._answered) > _MANY:
            for lane in list(islice(self._answered, len(self._answered) - _MANY)):
                del self._answered[lane]
        if not self.awaited or not fresh:
            return False
        self._news.update(dict.fromkeys(fresh))
        return True

    def take_news(self) -> FirstEnded:
        """Return what is to be sent of those that had their first answer."""
        lanes, self._news = [lane for lane in self._news if lane is not None], {}
        return FirstEnded(lanes, answered=True)
