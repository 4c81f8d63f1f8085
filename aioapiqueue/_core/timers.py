"""The timers of waiting calls: for the instant at which one is due, and for the `timeout` of each.

The ticker is a task that exists only while calls wait, and sleeps until the next one is due. It has
the limiter release all due calls (`Limiter.release_due`). The limiter returns when to look again,
and the ticker sets one timer for that. Every change of which call is next, or when, wakes it.

Both the task and its timer call `release_due`. The task looks when it begins or is woken, usually
finds that no call is due yet, and sets the timer. The timer's callback, `Ticker._on_time`, is what
grants most calls. It tells the limiter for when it was planned, so that calls under a fast rate
start in groups (`next_look`). The task does not: what wakes it, such as an urgent call or the end
of a pause, must take effect when it is due.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import get_running_loop
from contextvars import Context
from typing import TYPE_CHECKING

from aioapiqueue._limits.algorithms import QUANTUM
from aioapiqueue._limits.grammar import duration_text
from aioapiqueue.exceptions import SlotTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue._core.seam import Core
    from aioapiqueue._core.slot import Call

_LONGEST_TIMER = 86_400.0
"""Seconds after which the ticker looks again at the latest, even if a call is due in years."""
_RESTART = 0.001
"""Seconds after which a cancelled ticker is replaced. If its loop ends, and cancels every task, the
loop is closed by then."""
_ROUNDING = 1e-9
"""Seconds by which the end of a timeout and the instant of a slot may differ and still be equal: in
floats, three intervals of 0.1 s end after 0.3 s."""


class Ticker:
    """Releases due calls, as long as any call waits.

    Args:
        host: the queue's dispatcher.
    """

    __slots__ = ("_alarm", "_exact_until", "_host", "_planned", "_timer", "task")

    def __init__(self, host: Core) -> None:
        self._host = host
        self.forget_loop()

    def forget_loop(self) -> None:
        """Forget the task and the timer: their loop is closed, or another process's."""
        self.task: asyncio.Task[None] | None = None
        """None: no call waits, or the task is about to be replaced."""
        self._alarm: asyncio.Future[None] | None = None
        """The Future that the task awaits, and that `wake` resolves."""
        self._timer: asyncio.Handle | None = None
        """Calls `_on_time`, or `_restart` while there is no task."""
        self._planned = -math.inf
        """The instant for which the timer was set."""
        self._exact_until = -math.inf
        """The instant until which no call waits for a group."""

    def start(self) -> None:
        """Start the task, because a call waits on the running loop."""
        if self._timer is not None:  # the one that would restart a cancelled task
            self._drop_timer()
        loop = self._host.loop.current
        assert loop is not None  # noqa: S101 - a call waits on it
        # An empty context: the task belongs to no caller, and must not keep the variables of the
        # caller alive that happens to wait first.
        task = loop.create_task(self._tick(), name="aioapiqueue ticker", context=Context())
        # Under asyncio.eager_task_factory, the first look has run by now, and may have released
        # all calls. A task that is done would never be replaced.
        if not task.done():  # pragma: no branch - eager only from Python 3.12 on
            self.task = task
            task.add_done_callback(self._ended_early, context=Context())

    def wake(self) -> None:
        """Look again: which call is next, or when, may have changed."""
        alarm = self._alarm
        if alarm is not None and not alarm.done() and not alarm.get_loop().is_closed():
            alarm.set_result(None)

    def be_exact(self, until: float) -> None:
        """Release each call when it is due, and not in a group, until this instant."""
        if until > self._exact_until:
            now, was_exact_until = self._host.loop.now(), self._exact_until
            self._exact_until = until
            if was_exact_until <= now and self._planned < now + QUANTUM:
                self.wake()  # it may sleep until the next group

    def stop(self) -> None:
        """End, because no call waits, and none will."""
        if self.task is None:
            self._drop_timer()
        self.wake()

    async def ended(self) -> None:
        """Wait until the task has ended, which it does one step after the last call has left."""
        if self.task is not None:
            await asyncio.wait([self.task])

    def abandon(self) -> asyncio.Task[None] | None:
        """Return the task, whose loop is another process's; the caller keeps it alive."""
        task = self.task
        if task is not None:
            # In the child, the task never ends, which asyncio would log as an error when the child
            # exits. There is no public way to prevent that.
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        return task

    def _ended_early(self, task: asyncio.Task[None]) -> None:
        """Replace a task that was cancelled before its first step, so that no `finally` ran."""
        if self.task is task:
            self.task = None
            if self._host.waiters.live:
                self._timer = task.get_loop().call_later(_RESTART, self._restart)

    def _restart(self) -> None:
        if self.task is None and self._host.waiters.live:
            self.start()

    async def _tick(self) -> None:
        """Release each call when it is due; end when no call waits."""
        loop, host, waiters = get_running_loop(), self._host, self._host.waiters
        try:
            while True:
                # Made before the look, so that a change during the look is not missed.
                alarm = self._alarm = loop.create_future()
                wake = host.limiter.release_due(host.loop.now())
                if wake is None:
                    break
                if alarm.done():  # awaiting it would return at once, and never let others run
                    await asyncio.sleep(0)
                    continue
                self._set_timer(wake, loop)
                await alarm
                self._drop_timer()
        finally:
            # If the loop was closed with this task pending, the garbage collector ends the task
            # later, when all attributes may be those of another loop. (It does so by an exception,
            # which coverage does not see as a branch.)
            if waiters is host.waiters:  # pragma: no branch - as above
                self._drop_timer()
                self._alarm = None
                self.task = None
                # Some code has cancelled every task. If that is the end of the loop, the waiting
                # calls are cancelled too, and the timer dies with the loop, silently; if not, the
                # timer starts a new task.
                if next(iter(waiters), None) is not None and not loop.is_closed():
                    self._timer = loop.call_later(_RESTART, self._restart)

    def _set_timer(self, wake: float, loop: asyncio.AbstractEventLoop) -> None:
        bound = self._host.loop
        self._planned = wake
        if wake == math.inf:
            self._timer = None
        elif wake <= bound.now():  # the step has used up its budget
            self._timer = loop.call_soon(self._on_time, loop)
        elif not bound.is_real:
            self._timer = loop.call_at(wake, self._on_time, loop)
        else:
            # The timers of real loops count milliseconds, and uvloop's are early by up to one.
            # Rounding up avoids spinning until the instant comes.
            delay = max(1, math.ceil(min(_LONGEST_TIMER, wake - bound.now()) * 1000))
            self._timer = loop.call_later(delay / 1000, self._on_time, loop)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look in the timer's callback: waking the task first would cost a pass of the loop."""
        host = self._host
        now = host.loop.now()
        planned = -math.inf if now < self._exact_until else self._planned
        try:
            wake = host.limiter.release_due(now, planned=planned)
        except BaseException:  # Ctrl-C: if the loop runs again, the task looks again
            self._timer = None
            self.wake()
            raise
        if wake is None:
            self._timer = None
            self.wake()
        else:
            self._set_timer(wake, loop)


class Timeouts(dict["Call", "asyncio.TimerHandle"]):
    """The timers of waiting calls with a `timeout`.

    They refuse a call when its `timeout` has passed, or at once if no slot can be due in time.

    Args:
        host: the queue's dispatcher.
        be_exact: has the ticker release calls when they are due, until an instant. A call whose
            timeout is about to end cannot wait for a group.
    """

    __slots__ = ("_be_exact", "_host")

    def __init__(self, host: Core, be_exact: Callable[[float], None]) -> None:
        super().__init__()
        self._host = host
        self._be_exact = be_exact

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
        delay = max(0.0, timeout - QUANTUM)
        self[call] = loop.call_later(delay, self._near_end, call, timeout, until, loop)

    def stop(self, call: Call) -> None:
        """Cancel the timer of a call that no longer waits."""
        timer = self.pop(call, None)
        if timer is not None:
            timer.cancel()

    def _near_end(
        self, call: Call, timeout: float, until: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        left = until - self._host.loop.now()
        if left <= 0:  # the loop was late; what is due by now must not start before this is decided
            self._end(call, timeout, until, loop)
            return
        self._be_exact(until)
        self[call] = loop.call_later(left, self._end, call, timeout, until, loop)

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
