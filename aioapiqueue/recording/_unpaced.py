"""Estimates how long a program would have taken without waits: `UnpacedTime`.

While there is no call, time counts in full. While there are calls and some of them wait, the server
handles only `running` of the `present` calls. Without waits it would handle all of them, so the
work of a second would have taken `running / present` of a second. For a program that makes one call
after another, this leaves out exactly its waits. For twenty threads that share a slow limit, it
leaves out most of the time.

The result is a lower bound: with so many calls at once, a server may be slower, or throttle them.
"""

from __future__ import annotations


class UnpacedTime:
    """Adds up the time that a program would have taken without waits.

    >>> time = UnpacedTime(now=0.0)
    >>> time.joined(0.0)                # a call waits for two seconds, and runs for one
    >>> time.started(2.0)
    >>> time.ended(3.0)
    >>> time.seconds(10.0)              # then there is no call for seven seconds
    8.0

    Args:
        now: the instant at which the program begins. Instants are in seconds and never go back.
    """

    __slots__ = ("_last", "_present", "_running", "_seconds")

    def __init__(self, *, now: float) -> None:
        self._last = now
        self._seconds = 0.0
        self._present = self._running = 0

    def joined(self, now: float) -> None:
        """Note that a call has joined the queue."""
        self._advance(now)
        self._present += 1

    def left(self, now: float) -> None:
        """Note that a waiting call has left."""
        self._advance(now)
        self._present -= 1

    def started(self, now: float) -> None:
        """Note that a waiting call has started."""
        self._advance(now)
        self._running += 1

    def ended(self, now: float) -> None:
        """Note that a running call has ended."""
        self._advance(now)
        self._present -= 1
        self._running -= 1

    def seconds(self, now: float) -> float:
        """Return the time that the program would have taken until now."""
        self._advance(now)
        return self._seconds

    def _advance(self, now: float) -> None:
        # Callers change the counts afterwards, because the old ones apply to the time until now. An
        # event that arrives late, from another queue, does not turn the time back.
        elapsed = max(0.0, now - self._last)
        share = self._running / self._present if self._present else 1.0
        self._seconds += elapsed * share
        self._last = max(now, self._last)
