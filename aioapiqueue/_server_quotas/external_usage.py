"""What others use of a window of the server's, and how much of the rest is left to them.

A window comes back at once, and what is left in it when it ends is lost. So all of it is to be
used; but one who takes what remains as soon as he sees it leaves nothing to others, who use theirs
bit by bit. What they need until it ends follows from what they have used so far, and becomes less
from one answer to the next: so in the end all is used, and hardly anybody is refused.

The figures below are from simulations of 500 calls beside one who uses a share of each window.
"""

from __future__ import annotations

import math

__all__ = ["Others"]

_TIMES = 3.0
"""So many times what they seem to use is left to them. What comes back of our own calls that were
cancelled is not known, and hides theirs in part; and one window is not like another. It costs
little, as what they do not need is used when the window is about to end. Beside one who uses a
third, in steps of a sixtieth at random times, 1 of 125 of theirs was refused with 3, and 1 of 7
with 2."""
_AHEAD = 0.03
"""Of a period: what they use in so long is left up to the end, as what is theirs comes in steps."""
_EVENLY = 0.1
"""Of a window: at most so much more is left to them than if all of it were used evenly until the
end. So a burst of theirs does not stop us for the rest of a window. Beside one who uses 0.8, 1 of
175 of theirs was refused with 0.1, and 1 of 1,300 with 0.15, where a seventh less was used."""
_KEPT = 0.5
"""So much of what was seen in earlier windows still counts when the next one begins."""


class Others:
    """What others use of a quota that comes back at its reset.

    Args:
        began: when the window began that runs.
    """

    __slots__ = ("at", "seconds", "used")

    def __init__(self, began: float) -> None:
        self.used = 0.0
        """By them, as far as it was seen, and still counts."""
        self.seconds = 0.0
        """In which they used it."""
        self.at = began
        """When the last answer came, or the window began."""

    def see(self, used: float, now: float) -> None:
        """Note what an answer shows.

        Args:
            used: by them since the last one; negative: less than it seemed.
            now: the present instant.
        """
        self.used = max(0.0, self.used + used)
        self.seconds += max(0.0, now - self.at)
        self.at = now

    def renew(self, began: float) -> None:
        """Note that a window has begun, and when."""
        self.used *= _KEPT
        self.seconds = (self.seconds + max(0.0, began - self.at)) * _KEPT
        self.at = began

    def leave_room_at(self, spare: float, *, until: float, limit: float, period: float) -> float:
        """Return when so much is more than they need, if no answer comes before; inf: never.

        Args:
            spare: what would be left of the quota.
            until: when all of it is back.
            limit: all of it.
            period: seconds of a window.
        """
        if self.used <= 0:
            return self.at
        if spare <= 0:
            return math.inf
        # In `t` seconds from `at`, without an answer: the longer nothing was seen of them, the less
        # they seem to use, a second: `pace = used / (seconds + t)`. Until then they have used
        # `pace * t`, unseen, and from then on they need `_TIMES * pace * (until - at - t)`. The sum
        # of both is to be at most `spare`.
        left = _TIMES * (until - self.at) + _AHEAD * period
        missing = self.used * left - spare * self.seconds
        at = self.at + missing / (spare + (_TIMES - 1) * self.used)
        return min(at, until + (_EVENLY - spare / limit) * period)
