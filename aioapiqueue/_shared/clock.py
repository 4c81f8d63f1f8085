"""The authority's clock, read from here."""

from __future__ import annotations

import math

TICK = 1e-6
"""Seconds: an authority counts whole microseconds."""
ROUNDING = 1e-9
"""Seconds by which sums of floats may be off."""
_NANOSECONDS = 0.001
"""Microseconds by which sums of floats may be off."""
_MEMORY = 30.0
"""Seconds after which a reply begins to be forgotten. Over twice as long, two hosts' clocks drift
apart by 3 ms (50 ppm, a usual quartz); much less would rarely contain a quick reply."""
_DECAY = 0.9
"""By what factor a maximum falls with each reply: half of it is gone after seven."""
_SLEW = 0.01
"""Seconds for each second: as fast as a better reading of the clock is adopted. 1 % more calls than
the rate for a while is less than `catch_up` allows."""
_FIRST = 1
"""Replies whose reading is adopted at once: no slot has been timed by an earlier one yet."""


class Clock:
    """Reads the authority's timestamps on the queue's clock: never too early, if a little late.

    A reply that the authority gave at some timestamp was asked for before and arrived after it.
    The quickest reply of the last minute is the closest to the truth, and on its safe side. Where
    the clocks drift apart meanwhile, the error is at most a request's way to the authority.
    """

    def __init__(self) -> None:
        self.jitter = 0.0
        """Seconds by which a reply may arrive later than the quickest one."""
        self.rtt = 0.0
        """Seconds that a round trip may take."""
        self.uncertainty = 0.0
        """Seconds by which `to_local` may be late."""
        self._offset = 0.0
        self._replies, self._last_reply_at = 0, 0.0
        self._zero: float | None = None
        self._least = (math.inf, math.inf)
        self._most = (-math.inf, -math.inf)
        self._since = -math.inf

    def update(self, sent: float, received: float, timestamp: float) -> None:
        """Learn from a reply that was given at `timestamp`, between those two local instants."""
        if self._zero is None:
            self._zero = timestamp
        theirs = (timestamp - self._zero) / 1e6
        if received - self._since > _MEMORY:
            self._least, self._most = (self._least[1], math.inf), (self._most[1], -math.inf)
            self._since = received
        self._least = (self._least[0], min(self._least[1], received - theirs))
        self._most = (self._most[0], max(self._most[1], sent - theirs))
        if min(self._least) < sent - theirs - TICK or max(self._most) > received - theirs + TICK:
            # It contradicts earlier ones: the authority's clock was set, or drifts.
            self._least, self._most = (math.inf, received - theirs), (-math.inf, sent - theirs)
            self._replies = 0
        # By degrees: if it were adopted at once, calls would follow each other too closely.
        slowest = self._offset - _SLEW * (received - self._last_reply_at)
        self._offset = max(min(self._least), slowest if self._replies > _FIRST else -math.inf)
        self._replies, self._last_reply_at = self._replies + 1, received
        self.uncertainty = max(0.0, self._offset - max(self._most) - TICK)
        self.jitter = max(0.0, received - theirs - self._offset - TICK, _DECAY * self.jitter)
        self.rtt = max(received - sent, _DECAY * self.rtt)

    def to_timestamp(self, at: float) -> float | None:
        """Return an instant of the queue's clock as a timestamp: never too late, if a little early.

        None where there was no reply yet.
        """
        if self._zero is None:
            return None
        return self._zero + math.floor((at - self._offset) * 1e6 + _NANOSECONDS)

    def to_local(self, timestamp: float) -> float:
        """Return the authority's timestamp, which may be infinite, on the queue's clock."""
        return self._offset + (timestamp - (self._zero or 0)) / 1e6
