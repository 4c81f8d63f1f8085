"""Usage of a server's window by other clients, and how much of the rest to reserve for them.

A window comes back at once, and what remains when it ends is lost, so the queue should use all of
it. But if it took what remains at once, it would leave nothing to other clients, which use their
share bit by bit. What they need until the end follows from what they have used so far, and
decreases from one response to the next: in the end everything is used, and the server throttles
hardly anybody.

The figures below are from simulations of 500 calls beside a client that uses a share of each
window.
"""

from __future__ import annotations

import math

_TIMES = 3.0
"""Multiple of the estimated need of other clients that is reserved for them. The estimate is
uncertain: refunds of our own cancelled calls are unknown and hide part of their usage, and windows
differ. A reserve that is too large costs little, because what they do not need is used when the
window is about to end. Beside a client that uses a third, in steps of a sixtieth at random times,
the server throttled 1 of 125 of its calls with 3, and 1 of 7 with 2."""
_AHEAD = 0.03
"""Part of a period whose usage stays reserved until the end, because their usage comes in steps."""
_EVENLY = 0.1
"""Part of a window by which the reserve may exceed even usage until the end, so that a burst of
other clients does not stop the queue for the rest of a window. Beside a client that uses 0.8, the
server throttled 1 of 175 of its calls with 0.1, and 1 of 1,300 with 0.15, where a seventh less was
used."""
_KEPT = 0.5
"""Weight of earlier windows when the next one begins."""


class ExternalUsage:
    """Usage by other clients of a quota that comes back at its reset.

    Args:
        began: start of the current window.
    """

    __slots__ = ("at", "seconds", "used")

    def __init__(self, began: float) -> None:
        self.used = 0.0
        """Amount that they have used, as far as it is known and still counts."""
        self.seconds = 0.0
        """Seconds in which they used it."""
        self.at = began
        """Instant of the last response, or of the start of the window."""

    def see(self, used: float, now: float) -> None:
        """Note the usage that a response shows.

        Args:
            used: amount since the last response; negative if the earlier estimate was too high.
            now: the present instant.
        """
        self.used = max(0.0, self.used + used)
        self.seconds += max(0.0, now - self.at)
        self.at = now

    def renew(self, began: float) -> None:
        """Begin a window that started at an instant."""
        self.used *= _KEPT
        self.seconds = (self.seconds + max(0.0, began - self.at)) * _KEPT
        self.at = began

    def reserved_until(self, spare: float, *, until: float, limit: float, period: float) -> float:
        """Return until when an amount stays reserved if no response arrives; inf: until the end.

        Args:
            spare: amount that would remain of the quota.
            until: end of the window.
            limit: size of the quota.
            period: seconds of a window.
        """
        if self.used <= 0:
            return self.at
        if spare <= 0:
            return math.inf
        # Suppose that no response arrives for `t` seconds after `at`. The longer no usage is seen,
        # the lower their estimated pace: `pace = used / (seconds + t)`. By then they have used
        # `pace * t`, unseen; from then on they need `_TIMES * pace * (until - at - t)`. Solve for
        # the `t` at which the sum of both is `spare`.
        left = _TIMES * (until - self.at) + _AHEAD * period
        missing = self.used * left - spare * self.seconds
        at = self.at + missing / (spare + (_TIMES - 1) * self.used)
        return min(at, until + (_EVENLY - spare / limit) * period)
