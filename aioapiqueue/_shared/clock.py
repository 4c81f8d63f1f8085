"""Reads the authority's clock by its replies."""

from __future__ import annotations

import math

TICK = 1e-6
"""Seconds: an authority counts whole microseconds."""
ROUNDING = 1e-9
"""Seconds by which sums of floats may be off."""
_NANOSECONDS = 0.001
"""The same in microseconds."""
_MEMORY = 30.0
"""Seconds after which a reply begins to be forgotten. Over twice as long, two hosts' clocks drift
apart by 3 ms (50 ppm, a usual quartz); much less would rarely contain a quick reply."""
_DECAY = 0.9
"""Factor by which a maximum falls with each reply: it is halved after seven."""
_SLEW = 0.01
"""Seconds for each second by which a better reading is adopted. Calls then start 1 % faster than
the rate for a while, which is less than `catch_up` allows."""
_FIRST = 1
"""Replies before a reading is adopted by degrees. The first one comes without slots, so no slot has
been timed yet when the second one arrives."""


class Clock:
    """Converts the authority's timestamps to the queue's clock: never too early, if a little late.

    The authority stamped each reply between the instants at which the request was sent and the
    reply received. So each reply bounds the offset between the clocks from both sides (Cristian's
    algorithm). The least upper bound of the last minute is used: it is the closest to the truth,
    and on its safe side. If the clocks drift apart meanwhile, the error is at most a request's way
    to the authority.
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
            self._zero = timestamp  # so that differences are small: floats keep their microseconds
        theirs = (timestamp - self._zero) / 1e6
        # Two periods, the former and the current one, so that no list of replies is needed.
        if received - self._since > _MEMORY:
            self._least, self._most = (self._least[1], math.inf), (self._most[1], -math.inf)
            self._since = received
        self._least = (self._least[0], min(self._least[1], received - theirs))
        self._most = (self._most[0], max(self._most[1], sent - theirs))
        if min(self._least) < sent - theirs - TICK or max(self._most) > received - theirs + TICK:
            # It contradicts earlier ones: the authority's clock was set, or drifts. Only this
            # reply counts, and its reading is adopted at once.
            self._least, self._most = (math.inf, received - theirs), (-math.inf, sent - theirs)
            self._replies = 0
        # A smaller offset makes all slots due earlier. Adopted at once, it would move calls too
        # close to those that have started by the old one. A larger offset only delays them.
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
        # Without the addition, 41.999999999 would become 41: a microsecond too early.
        return self._zero + math.floor((at - self._offset) * 1e6 + _NANOSECONDS)

    def to_local(self, timestamp: float) -> float:
        """Return the authority's timestamp, which may be infinite, on the queue's clock."""
        return self._offset + (timestamp - (self._zero or 0)) / 1e6
