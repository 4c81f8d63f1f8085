"""How late this loop uses the slots that it is granted.

A slot that is used too late would be too close to those after it, so it is given back and asked for
again. A loop that is busy for longer than that at each pass would never use one: after a row of
stalls, its slots may be used as late as it is. (The limits hold all the same: windows are then
counted as longer.)
"""

from __future__ import annotations

import math

from aioapiqueue._shared.clock import TICK

_MOST_STALLS = 20
"""Stalls in a row after which the loop counts as always late. A burst of work or a collection of
garbage makes a few."""
_DECAY = 0.9
"""By what factor a maximum falls with each slot that is used: half of it is gone after seven."""


class Stalls:
    """Counts the stalls in a row that made slots come too late."""

    def __init__(self) -> None:
        self._number = 0
        self._noticed_at = -math.inf

    def missed(self, at: float, now: float) -> None:
        """Note that a slot for an instant came too late."""
        # All slots that were due before the last stall was noticed came late by that one.
        if at > self._noticed_at:
            self._number += 1
            self._noticed_at = now

    def used(self) -> None:
        """Note that a slot was used in time."""
        self._number = 0

    @property
    def always(self) -> bool:
        """Whether every slot comes too late."""
        return self._number > _MOST_STALLS


class Lateness:
    """How late slots are used, and those were that came too late."""

    def __init__(self) -> None:
        self._late = self._too_late = 0.0
        self.stalls = Stalls()

    def missed(self, at: float, now: float) -> None:
        """Note that a slot for an instant came too late to be used."""
        self._too_late = max(self._too_late, now - at)
        self.stalls.missed(at, now)

    def used(self, at: float, now: float) -> None:
        """Note that a slot for an instant is used now."""
        self._late = max(now - at - TICK, _DECAY * self._late)
        self._too_late *= _DECAY
        self.stalls.used()

    def usual(self, least: float) -> float:
        """Return how late the next one is likely to be used, and a little more."""
        return max(least, 2 * self._late)

    def worst(self, least: float) -> float:
        """Return how late it may be, given those that came too late."""
        return max(self.usual(least), 2 * self._too_late)
