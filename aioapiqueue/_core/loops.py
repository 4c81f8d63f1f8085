"""The event loop on which a queue is used: its clock, its timers and its tasks.

A queue may be used on one loop after another, but never on two at a time. Calls that waited or ran
on the earlier loop have ended with it; their charges still count, unless the clock is another one.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import get_running_loop
from asyncio.log import logger
from contextvars import Context
from threading import get_ident
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["clock_of", "report_error", "running_loop"]


class BoundLoop:
    """The loop that a queue is bound to, if any.

    Attributes:
        current: the loop; None: the queue has not been used yet.
        runs: returns whether the loop runs.
        thread: the thread in which the loop was last found running.
        now: returns the present instant, on the loop's clock.
        is_real: whether that is the machine's clock: timers may be milliseconds late.
        bound_at: instant at which the queue was bound to this loop; calls that started earlier
            belong to a closed loop. -inf for the first loop, and after a loop with another clock,
            whose instants cannot be compared.
    """

    __slots__ = ("bound_at", "current", "is_real", "now", "runs", "thread")

    def __init__(self) -> None:
        self.current: asyncio.AbstractEventLoop | None = None
        self.runs: Callable[[], bool] = bool  # which returns False: no loop runs yet
        self.thread = 0
        self.now: Callable[[], float] = time.monotonic
        self.is_real = True
        self.bound_at = -math.inf

    def to_wall(self, at: float) -> float:
        """Convert an instant to seconds since the epoch, which is the zero of virtual time."""
        # Both clocks are read each time: the machine's time of day may be set meanwhile.
        return time.time() + (at - self.now()) if self.is_real else at

    def bind(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Bind to another loop; return whether its clock is another one."""
        again, clock = self.current is not None, clock_of(loop)
        clock_changed = clock is not self.now
        self.current, self.runs, self.now = loop, loop.is_running, clock
        self.is_real = clock is time.monotonic
        self.thread = get_ident()
        # -inf: on the first loop, no call has started earlier. On another clock, earlier calls
        # cannot be recognized by their instants, and count as calls of this loop when they end.
        self.bound_at = clock() if again and not clock_changed else -math.inf
        return clock_changed

    def forget(self) -> None:
        """Unbind."""
        self.current, self.thread = None, 0

    def call_later(self, delay: float, action: Callable[[], None]) -> asyncio.TimerHandle | None:
        """Call `action` in `delay` seconds; None, and no call, if there is no loop yet."""
        return None if self.current is None else self.current.call_later(delay, action)

    def spawn(
        self,
        function: Callable[[], Coroutine[Any, Any, None]],
        *,
        name: str,
        on_end: Callable[[asyncio.Task[None]], None],
    ) -> asyncio.Task[None] | None:
        """Run a coroutine function in a task of its own.

        Args:
            function: the coroutine function.
            name: the name of the task.
            on_end: called with the task once it has ended, also if it was cancelled before its
                first step, so that no `finally` in it ran.

        Returns:
            The task; None if no loop runs, or if an eager task has ended already.
        """
        if self.current is None or not self.runs():
            return None
        # An empty context: the task belongs to no caller, and keeps no caller's variables alive.
        task = self.current.create_task(function(), name=name, context=Context())
        if task.done():  # pragma: no cover - eager only from Python 3.12 on
            return None
        task.add_done_callback(on_end, context=Context())
        return task


def loop_of_this_thread() -> asyncio.AbstractEventLoop:
    """Return the running loop.

    Raises:
        RuntimeError: no asyncio loop runs in this thread, as under trio.
    """
    loop = running_loop()
    if loop is None:
        raise RuntimeError(
            "no asyncio event loop runs in this thread (trio has its own): use the queue in an "
            'asyncio coroutine, or in threads "with blocking(queue).slot():" (aioapiqueue.threads)'
        )
    return loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running loop, if any."""
    try:
        return get_running_loop()
    except RuntimeError:
        return None


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return `time.monotonic`, or the loop's own clock if it keeps one in Python (VirtualLoop).

    A real loop's own `time()` is of no use: uvloop's is coarse, and stops while callbacks run.
    """
    # The methods of compiled loops are bound methods, too, but their functions are not Python's.
    function = getattr(loop.time, "__func__", None)
    virtual = isinstance(function, FunctionType) and function is not asyncio.BaseEventLoop.time
    return loop.time if virtual else time.monotonic


def report_error(message: str, error: BaseException) -> None:
    """Report an error that no caller can receive to the running loop's exception handler."""
    try:
        loop = get_running_loop()
    except RuntimeError:  # no loop runs: log it, as a loop's own handler does
        logger.error(message, exc_info=error)
    else:
        loop.call_exception_handler({"message": message, "exception": error})
