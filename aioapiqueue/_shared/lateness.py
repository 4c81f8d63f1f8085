"""How late this loop uses the slots that it is granted.

A slot that is used too late would be too close to the next ones, so it is returned, and another one
is requested. A loop whose every pass takes longer than that would never use a slot: after many
stalls in a row, its slots may be used as late as it runs. (The limits hold all the same: windows
are then counted as longer.)
"""

from __future__ import annotations

import math

from aioapiqueue._shared.clock import TICK

_MOST_STALLS = 20
"""Stalls in a row after which the loop counts as always late. A burst of work or a garbage
collection causes a few."""
_DECAY = 0.9
"""Factor by which a maximum falls with each used slot: it is halved after seven."""


class Stalls:
    """Counts the stalls in a row that made this loop miss slots."""

    def __init__(self) -> None:
        self._number = 0
        self._noticed_at = -math.inf

    def missed(self, at: float, now: float) -> None:
        """Note that a slot for an instant came too late."""
        # All slots that were due before the last stall was noticed were missed by that one stall.
        # Counted one by one, a single long stall would make the loop count as always late.
        if at > self._noticed_at:
            self._number += 1
            self._noticed_at = now

    def used(self) -> None:
        """Note that a slot was used in time."""
        self._number = 0

    @property
    def always(self) -> bool:
        """Whether this loop misses every slot."""
        return self._number > _MOST_STALLS


class Lateness:
    """How late slots were used, and how late the missed ones were.

    Attributes:
        missed_at: the instant at which a slot was last missed.
    """

    def __init__(self) -> None:
        self.missed_at = -math.inf
        self._late = self._too_late = 0.0
        self.stalls = Stalls()

    def missed(self, at: float, now: float) -> None:
        """Note that it was too late to use the slot of an instant."""
        self.missed_at = now
        self._too_late = max(self._too_late, now - at)
        self.stalls.missed(at, now)

    def used(self, at: float, now: float) -> None:
        """Note that the slot of an instant is used now."""
        self._late = max(now - at - TICK, _DECAY * self._late)
        self._too_late *= _DECAY
        self.stalls.used()

    def usual(self, least: float) -> float:
        """Return a bound on how late the next slot is likely to be used, in seconds."""
        return max(least, 2 * self._late)

    def worst(self, least: float) -> float:
        """Return how late it may be used, given the missed slots."""
        return max(self.usual(least), 2 * self._too_late)
