"""How long a program would have taken if its calls had not waited: an estimate from below.

While no call is there, time passes as it does. While some are there, of which some wait, the work
under way would go on as fast, and all of the work would be under way at once: of `present` calls,
`running` are served now, so that as much as is done in a second would have been done in
`running / present` of it. Of a program that makes one call after another, that leaves out exactly
its waits; of one with twenty threads that share a slow limit, most of its time.

What the other side would have done to so many calls at once is not in it.
"""

from __future__ import annotations

__all__ = ["UnpacedTime"]


class UnpacedTime:
    """Adds up the time that a program would have taken without any wait.

    >>> time = UnpacedTime(now=0.0)
    >>> time.joined(0.0)                # it waits for two seconds, and runs for one
    >>> time.started(2.0)
    >>> time.ended(3.0)
    >>> time.seconds(10.0)              # and seven seconds without any call
    8.0

    Args:
        now: when the program begins; each instant is in seconds, and none is before the last one.
    """

    __slots__ = ("_last", "_present", "_running", "_seconds")

    def __init__(self, *, now: float) -> None:
        self._last = now
        self._seconds = 0.0
        self._present = self._running = 0

    def joined(self, now: float) -> None:
        """Note that a call is there, and waits."""
        self._go_on(now)
        self._present += 1

    def left(self, now: float) -> None:
        """Note that a call which waits is there no more."""
        self._go_on(now)
        self._present -= 1

    def started(self, now: float) -> None:
        """Note that a call which waits runs now."""
        self._go_on(now)
        self._running += 1

    def ended(self, now: float) -> None:
        """Note that a call which runs has ended."""
        self._go_on(now)
        self._present -= 1
        self._running -= 1

    def seconds(self, now: float) -> float:
        """Return the seconds that it would have taken until now."""
        self._go_on(now)
        return self._seconds

    def _go_on(self, now: float) -> None:
        elapsed = max(0.0, now - self._last)
        share = self._running / self._present if self._present else 1.0
        self._seconds += elapsed * share
        self._last = max(now, self._last)
