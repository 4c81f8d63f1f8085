"""Refuses calls whose `timeout` has passed, or at once if no slot can be due in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._limits.grammar import duration_text
from aioapiqueue.exceptions import SlotTimeout

if TYPE_CHECKING:
    import asyncio

    from aioapiqueue._core.limiter import Core
    from aioapiqueue._core.slot import Call

_ROUNDING = 1e-9
"""Seconds by which the end of a timeout and the instant of a slot may differ and still be equal: in
floats, three intervals of 0.1 s end after 0.3 s."""


class Timeouts(dict["Call", "asyncio.TimerHandle"]):
    """The timers of waiting calls with a `timeout`.

    Args:
        host: the queue's dispatcher.
    """

    __slots__ = ("_host",)

    def __init__(self, host: Core) -> None:
        super().__init__()
        self._host = host

    def check(self, call: Call, timeout: float) -> None:
        """Refuse a new call that is certain to wait too long.

        Raises:
            SlotTimeout: even the next slot comes too late.
        """
        host, now = self._host, call.joined_at
        due = host.limiter.estimate(call, now, alone=True)
        if now + timeout + _ROUNDING < due < math.inf:
            host.emit("timed_out", call)
            raise SlotTimeout(
                f"{host!r}: no slot within {duration_text(timeout)}; the next is due in "
                f"{duration_text(due - now)}"
            )

    def start(self, call: Call, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer of a call that begins to wait."""
        until = call.joined_at + timeout
        self[call] = loop.call_later(timeout, self._end, call, timeout, until, loop)

    def stop(self, call: Call) -> None:
        """Cancel the timer of a call that no longer waits."""
        timer = self.pop(call, None)
        if timer is not None:
            timer.cancel()

    def _end(
        self, call: Call, timeout: float, until: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        # As `check` promised, a slot that is due exactly now is in time, whichever timer runs
        # first. A slot that is due later is not, even if this timer runs late.
        limiter, now = self._host.limiter, self._host.loop.now()
        # Estimated as of `until`: once its oldest calls have left, a window no longer knows when it
        # got room.
        if limiter.estimate(call, min(now, until), alone=True) <= until + _ROUNDING:
            due = limiter.release_due(now)
            if not call.waits:
                return
            if due is not None and due <= until + _ROUNDING:
                delay = max(0.0, due - now)
                self[call] = loop.call_later(delay, self._end, call, timeout, until, loop)
                return
        error = SlotTimeout(f"{self._host!r}: no slot within {duration_text(timeout)}")
        self._host.fail(call, "timed_out", error)
