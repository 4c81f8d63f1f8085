"""When, if somebody else says when: slots with their instants on another clock, and that clock."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["NO_KEY", "Clock", "KeyGrants", "Lease"]

NO_KEY = object()
"""The lane of the key None, where that has limits of its own: as a lane, None is none."""
_MEMORY = 30.0
"""Seconds; the quickest answer of the last one or two of these counts."""
_FADES = 0.9
_TICK = 1e-6  # instants are whole microseconds
_SLEW = 0.01
_FIRST = 1  # answers: what they say is believed at once


class Lease(NamedTuple):
    """A slot of some cost: from when until when it may be used.

    `at` and `until` are on the queue's clock, `instant` is the former on the authority's.
    """

    at: float
    until: float
    cost: float
    instant: int


@dataclass(eq=False, slots=True)
class KeyGrants:
    """What is leased for the callers of one lane, or for all who have none."""

    leases: deque[Lease] = field(default_factory=deque)
    ask_at: float = -math.inf
    """No slot of this lane is due before; on the queue's clock."""
    turn: int = 0
    """Its turn: the instant of the first slot that it may have; 0: none was named."""
    held: float = -math.inf
    """Until when the other side has asked for a hold."""
    ready: float = -math.inf
    """When its limits have the next slot, by the last answer."""
    rate: float = math.inf
    """Calls per second that push-back has left."""
    since: float = math.inf
    """Since when somebody has been waiting, be it not the same one."""


class Clock:
    """Reads the authority's instants on the queue's clock: never too early, if a little late.

    An answer that the authority gave at some instant was asked for before and arrived after it.
    The quickest of the last minute is the closest to the truth, and on its safe side; where the
    clocks go at different paces meanwhile, within a request's way to the authority of it.
    """

    def __init__(self) -> None:
        self.lead = 0.0
        """How much later than the quickest an answer may arrive, in seconds."""
        self.trip = 0.0
        """How long a round trip may take."""
        self.doubt = 0.0
        """By how much `here` may be late, in seconds."""
        self._offset = 0.0
        self._heard, self._heard_at = 0, 0.0
        self._zero: int | None = None
        self._least = (math.inf, math.inf)
        self._most = (-math.inf, -math.inf)
        self._since = -math.inf

    def heard(self, sent: float, received: float, instant: int) -> None:
        """Learn from an answer that was given at `instant`, between those two."""
        if self._zero is None:
            self._zero = instant
        theirs = (instant - self._zero) / 1e6
        if received - self._since > _MEMORY:
            self._least, self._most = (self._least[1], math.inf), (self._most[1], -math.inf)
            self._since = received
        self._least = (self._least[0], min(self._least[1], received - theirs))
        self._most = (self._most[0], max(self._most[1], sent - theirs))
        if min(self._least) < sent - theirs - _TICK or max(self._most) > received - theirs + _TICK:
            # It contradicts those before: their clock was set, or goes at another pace.
            self._least, self._most = (math.inf, received - theirs), (-math.inf, sent - theirs)
            self._heard = 0
        # A better answer is heeded by degrees: at once, calls would follow too close upon others.
        slowest = self._offset - _SLEW * (received - self._heard_at)
        self._offset = max(min(self._least), slowest if self._heard > _FIRST else -math.inf)
        self._heard, self._heard_at = self._heard + 1, received
        self.doubt = max(0.0, self._offset - max(self._most) - _TICK)
        self.lead = max(0.0, received - theirs - self._offset - _TICK, _FADES * self.lead)
        self.trip = max(received - sent, _FADES * self.trip)

    def here(self, instant: int) -> float:
        """Return the authority's instant on the queue's clock."""
        return self._offset + (instant - (self._zero or 0)) / 1e6
