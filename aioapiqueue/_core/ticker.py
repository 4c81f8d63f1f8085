"""The ticker: a task that exists only while calls wait, and sleeps until the next one is due.

The ticker has the limiter release all due calls. The limiter returns when to look again, and the
ticker sets one timer for that. Every change of who is next, or when, wakes it to look again.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import get_running_loop
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aioapiqueue._core.limiter import Limiter
    from aioapiqueue._core.loop import BoundLoop
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.wait_queue import WaitQueue

__all__ = ["Ticker"]

_LONGEST_TIMER = 86_400.0
"""Seconds after which the ticker looks again at the latest, whatever is due in many years."""
_RESTART = 0.001
"""Seconds after which a ticker is replaced that somebody has cancelled: the end of a loop, which
cancels every task, is over by then."""


class TickerHost(Protocol):
    """What a ticker asks of the dispatcher."""

    limiter: Limiter
    loop: BoundLoop
    waiters: WaitQueue[Call]


class Ticker:
    """Has those released who are due, while somebody waits.

    Args:
        host: the queue's dispatcher.
    """

    __slots__ = ("_alarm", "_host", "_timer", "task")

    def __init__(self, host: TickerHost) -> None:
        self._host = host
        self.forget_loop()

    def forget_loop(self) -> None:
        """Forget what runs: it is on a loop that is gone."""
        self.task: asyncio.Task[None] | None = None
        """None: nobody waits, or it is about to be replaced."""
        self._alarm: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin, as somebody waits."""
        self._drop_timer()  # that of a restart
        self.task = self._host.loop.spawn(
            self._tick, name="aioapiqueue ticker", on_end=self._ended_early
        )

    def wake(self) -> None:
        """Look again: who is next, or when, may have changed."""
        alarm = self._alarm
        if alarm is not None and not alarm.done() and not alarm.get_loop().is_closed():
            alarm.set_result(None)

    def stop(self) -> None:
        """End, as nobody waits any more and nobody will."""
        if self.task is None:
            self._drop_timer()
        self.wake()

    async def ended(self) -> None:
        """Wait until the task has ended, which is one more step once nobody waits."""
        if self.task is not None:
            await asyncio.wait([self.task])

    def abandon(self) -> asyncio.Task[None] | None:
        """Return the task, which is to end without a word: its loop is another process's."""
        task = self.task
        if task is not None:
            # asyncio has no public way to say so.
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        return task

    def _ended_early(self, task: asyncio.Task[None]) -> None:
        """Replace a task that was cancelled before its first step: its `finally` never ran."""
        if self.task is task:
            self.task = None
            if self._host.waiters.live:
                self._timer = task.get_loop().call_later(_RESTART, self._restart)

    def _restart(self) -> None:
        if self.task is None and self._host.waiters.live:
            self.start()

    async def _tick(self) -> None:
        """Release each waiter when it is due; end when nobody waits."""
        loop, host, waiters = get_running_loop(), self._host, self._host.waiters
        try:
            while True:
                # First, so that whatever an observer changes meanwhile wakes it.
                alarm = self._alarm = loop.create_future()
                wake = host.limiter.release_due(host.loop.now())
                if wake is None:
                    break
                if alarm.done():  # to await it would not let anybody else run
                    await asyncio.sleep(0)
                    continue
                self._set_timer(wake, loop)
                await alarm
                self._drop_timer()
        finally:
            # If the loop was closed with this task in it, the garbage collector ends it some time,
            # when all here may be of another loop: by an exception, so that no branch is seen.
            if waiters is host.waiters:  # pragma: no branch - as said
                self._drop_timer()
                self._alarm = None
                self.task = None
                # Cancelled by somebody who cancels every task. If that is the end of the loop,
                # those who wait are cancelled too, and a timer dies with the loop, silently; if
                # not, the timer starts a new task.
                if next(iter(waiters), None) is not None and not loop.is_closed():
                    self._timer = loop.call_later(_RESTART, self._restart)

    def _set_timer(self, wake: float, loop: asyncio.AbstractEventLoop) -> None:
        bound = self._host.loop
        if wake == math.inf:
            self._timer = None
        elif wake <= bound.now():  # there is more to do than one step has time for
            self._timer = loop.call_soon(self._on_time, loop)
        elif not bound.is_real:
            self._timer = loop.call_at(wake, self._on_time, loop)
        else:
            # The timers of real loops count milliseconds, uvloop's are early by up to one:
            # rounding up spares it a spin until the instant comes.
            delay = max(1, math.ceil(min(_LONGEST_TIMER, wake - bound.now()) * 1000))
            self._timer = loop.call_later(delay / 1000, self._on_time, loop)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick on the task's behalf: to wake it first would cost every tick a loop pass."""
        host = self._host
        wake = host.limiter.release_due(host.loop.now())
        if wake is None:
            self._timer = None
            self.wake()
        else:
            self._set_timer(wake, loop)
