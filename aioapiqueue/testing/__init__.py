"""An event loop whose clock jumps: tests an hour of pacing in milliseconds.

With plain asyncio:

    >>> import asyncio
    >>> from aioapiqueue.testing import VirtualLoop
    >>> async def an_hour_later() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    ...     runner.run(an_hour_later())
    3600.0

With pytest, add one line to `conftest.py`, and mark tests with `virtual_time`; see
`aioapiqueue.testing.pytest`:

    >>> pytest_plugins = ["aioapiqueue.testing.pytest"]
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
import sys
import time
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from contextvars import Context

__all__ = ["VirtualLoop"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# asyncio runs every timer that is due within one tick of the real clock (1 ns on Linux).
_RESOLUTION = time.get_clock_info("monotonic").resolution
# Cancelled timers stay in the heap until they come up, so a long test with timeouts would fill it.
# Pruning it whenever it has doubled costs each timer a constant time on average.
_PRUNE_ABOVE = 128


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a virtual clock, for tests.

    Args:
        grain: seconds; default 0.0. The length of each jump is rounded up to a multiple of it: with
            `grain=0.001`, timers are as late as on Linux, where epoll counts milliseconds.

    Raises:
        ValueError: `grain` is negative, infinite or NaN.

    `time()` starts at 0.0, and does not advance while callbacks run. When nothing is ready, it
    jumps exactly to the next timer: a callback scheduled with `call_at(when, ...)` sees
    `time() == when`. Timers less than a nanosecond apart run together, as on asyncio's own loops.
    (After half a year, floats are coarser, and timers may run some nanoseconds late.)

    Everything that uses the loop's time follows: `asyncio.sleep`, `timeout` and `wait_for`, and
    anyio's `sleep`, `fail_after` and `move_on_after`.

    The loop really waits, without advancing its clock,

    - while a job of `run_in_executor` or `asyncio.to_thread` is running (until its future is done,
      so not for a cancelled job). A `timeout(5)` around it never fires;
    - while no timer is scheduled, or only at infinity, until I/O or `call_soon_threadsafe` wakes
      it, as on any loop.

    Worker threads of anyio (`anyio.to_thread`), threads that you start yourself, subprocesses and
    other hosts take real time, and the clock may jump over any timeout around them. Test those on a
    real loop.

    If you use one `ApiQueue` on several virtual loops, end its calls on the loop on which they
    started, as `asyncio.run` and `asyncio.Runner` do when they cancel what is left. A call that
    ends later is mistaken for one of the new loop, because each virtual clock starts at 0.0.

    Example:
        >>> import asyncio, functools
        >>> async def half_a_millisecond() -> float:
        ...     await asyncio.sleep(0.0005)
        ...     return asyncio.get_running_loop().time()
        >>> coarse = functools.partial(VirtualLoop, grain=0.001)
        >>> with asyncio.Runner(loop_factory=coarse) as runner:
        ...     runner.run(half_a_millisecond())
        0.001
    """

    def __init__(self, *, grain: float = 0.0) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)
        try:
            self._clock.grain = _duration("grain", grain)
        except ValueError:
            self.close()  # else Python would also warn of a loop that was never closed
            raise

    def time(self) -> float:
        """Return the virtual time in seconds since the loop was created."""
        return self._clock.now

    def stall(self, seconds: float) -> None:
        """Block the loop for some virtual seconds, as a slow callback would.

        The call itself returns at once. Timers that become due meanwhile run afterwards, late and
        in order.

        Args:
            seconds: virtual seconds.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.

        Example:
            >>> async def late() -> float:
            ...     loop = asyncio.get_running_loop()
            ...     loop.call_at(1.0, loop.stall, 5.0)
            ...     await asyncio.sleep(2.0)
            ...     return loop.time()
            >>> with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            ...     runner.run(late())
            6.0
        """
        self._clock.now += _duration("seconds", seconds)

    @property
    def pending_timers(self) -> int:
        """Number of timers that are scheduled and not cancelled; 0 if a test left none behind."""
        return self._clock.count()

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Schedule a callback, as every event loop does, and remember its exact time."""
        timer = super().call_at(when, callback, *args, context=context)
        self._clock.remember(timer)
        return timer

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run a job in a thread or process; the clock does not advance until its future is done."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.jobs += 1  # only now: the call above raises if the executor is shut down
        future.add_done_callback(self._clock.job_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own signature
        """Wait for the threads of the default executor, without advancing the clock.

        Args:
            timeout: accepted as by asyncio's loops; it never expires in virtual time.
        """
        # Runner.close() allows 300 seconds, which a jump would use up before any thread has ended.
        self._clock.jobs += 1
        try:
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()
        finally:
            self._clock.jobs -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """The clock: where a real loop would wait in `select`, this one moves the time.

    It has a heap of the loop's timers, because the timeout that `select` is given is not enough:
    `now + (when - now)` may miss `when` by a rounding error, and asyncio caps it at a day.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.grain = 0.0
        self.jobs = 0
        """Number of running executor jobs, during which the clock stands still."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._prune_above = _PRUNE_ABOVE

    def remember(self, timer: asyncio.TimerHandle) -> None:
        when = timer.when()
        if math.isnan(when):  # asyncio runs it at once
            return
        if len(self._timers) >= self._prune_above:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._prune_above = max(_PRUNE_ABOVE, 2 * len(self._timers))
        heapq.heappush(self._timers, (when, next(self._order), timer))

    def count(self) -> int:
        return sum(not timer.cancelled() for _, _, timer in self._timers)

    def job_done(self, _future: asyncio.Future[_T]) -> None:
        self.jobs -= 1

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:  # no timer, or callbacks that are ready: no jump
            ready = super().select(timeout)
        elif self.jobs or (when := self._next(timeout)) == math.inf:
            ready = super().select(None)
        else:
            # I/O that has happened by now comes first: it happened before the next timer is due.
            ready = super().select(0)
            if not ready:
                self._jump(when)
        if self.now + _RESOLUTION == self.now and self._timers and self._timers[0][0] <= self.now:
            # The loop runs what is due before time() + resolution. Half a year from zero the sum is
            # lost to rounding, and a timer that is due this instant would never run.
            self.now = math.nextafter(self.now, math.inf)
        # The loop is about to run these: it compares with the same figures.
        while self._timers and self._timers[0][0] < self.now + _RESOLUTION:
            heapq.heappop(self._timers)
        return ready

    def _next(self, timeout: float) -> float:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else self.now + timeout

    def _jump(self, when: float) -> None:
        if self.grain:
            late = -(when - self.now) % self.grain
            if late < self.grain - _RESOLUTION:  # else it is on the grid, except for rounding
                when += late
        self.now = max(self.now, when)  # `stall` may have gone beyond it


def _duration(name: str, seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, not {seconds!r}")
    return float(seconds)
