"""On which loop: `ApiQueue`, its ticker and its slots. The only core file that touches a loop.

The way of one call: `slot()` makes a `Slot`; entering it asks `_admit`, which charges the schedule
at once where nobody waits and a slot is due. Otherwise a Future joins the waiters, and the ticker
(a task that exists only while somebody waits) sleeps until the next slot is due, and only then
picks the waiter that gets it. Whatever changes who is next or when nudges the ticker, which looks
at everything anew.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import get_running_loop
from contextvars import Context
from functools import partial
from threading import get_ident
from types import FunctionType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import anyio

from aioapiqueue._events import Event, EventKind, Stats
from aioapiqueue._map import paced_map
from aioapiqueue._rate import Limit, as_limit, as_limits, positive
from aioapiqueue._schedule import Lanes, Schedule, schedule_for
from aioapiqueue._slot import GRANTED, HELD, OVER, WAITING, Reservation, Slot, TimedSlot
from aioapiqueue._waiters import Waiters
from aioapiqueue.exceptions import QueueClosed, QueueFull, SlotTimeout, WouldWait

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Hashable,
        Iterable,
        Mapping,
        Sequence,
    )

    from aioapiqueue._events import Observer
    from aioapiqueue.adaptive import Adaptive

__all__ = ["ApiQueue"]

T = TypeVar("T")
R = TypeVar("R")
Limits = str | Limit | tuple[str | Limit, ...] | list[str | Limit]


class ApiQueue:
    """A queue that releases its callers one at a time, at the rate that the other side can bear.

    >>> import asyncio
    >>> async def main():
    ...     loop = asyncio.get_running_loop()
    ...     async with ApiQueue("100ms") as queue:
    ...         for _ in range(3):
    ...             async with queue.slot():
    ...                 print(f"{loop.time():.1f}")
    >>> asyncio.run(main())
    0.0
    0.1
    0.2

    It needs no start, and may be made at import time: it binds to the loop that first uses it.

    A slow lane holds up nobody else, keys take turns, and two bodies run at most:

    >>> async def main():
    ...     loop = asyncio.get_running_loop()
    ...     queue = ApiQueue("10/s", lanes={"slow": "2/s"}, order="fair", concurrency=2)
    ...     async def call(key):
    ...         async with queue.slot(key=key):
    ...             print(f"{loop.time():.1f} s: {key}")
    ...     await asyncio.gather(*map(call, ["slow", "slow", "a", "a", "b"]))
    >>> asyncio.run(main())
    0.0 s: slow
    0.1 s: a
    0.2 s: b
    0.3 s: a
    0.5 s: slow

    Of a queue that is full, the least urgent are turned away first, if it is told so:

    >>> async def main():
    ...     queue = ApiQueue("10/s", Window(50, 60), maxsize=1, overflow="drop_oldest")
    ...     first, second, urgent = [queue.enqueue(priority=p) for p in (0, 0, -1)]
    ...     return await asyncio.gather(first, second, urgent, return_exceptions=True)
    >>> [type(result).__name__ for result in asyncio.run(main())]
    ['Slot', 'QueueFull', 'Slot']

    Args:
        limits: none (ordered and counted only), or any of: a string (`"10/s"`, `"100ms"`), a
            `Rate`, a `Window`. All of them hold at once.
        name: for `repr`, events and errors.
        lanes: limits of single keys, under the queue's: `{"ListKeys": "5/s", "*": "20/s"}`, each
            a limit or a tuple of limits. `"*"` gives every other key a lane of its own.
        order: `"fifo"`, by arrival, or `"fair"`, in turns by key. In either, a lower `priority`
            goes first.
        concurrency: how many bodies may run at once; default: any number.
        maxsize: how many may wait; default 0: any number.
        overflow: who gets `QueueFull` when too many wait: the newcomer (`"raise"`), or the oldest
            of the least urgent (`"drop_oldest"`).
        catch_up: seconds by which late calls may be made up for, 0.010 by default: after a longer
            stall, missed ticks are dropped. With 0, no gap is ever shorter than the interval.
        adaptive: how to slow down when the other side pushes back (`Adaptive`); default: not at
            all, but for holds.
        observers: who hears of every event.

    Raises:
        TypeError: a bare number as a limit; the message shows its readings.
        ValueError: a limit, size or word that makes no sense; the message quotes it.
    """

    def __init__(
        self,
        *limits: str | Limit,
        name: str | None = None,
        lanes: Mapping[Hashable, Limits] | None = None,
        order: Literal["fifo", "fair"] = "fifo",
        concurrency: int | None = None,
        maxsize: int = 0,
        overflow: Literal["raise", "drop_oldest"] = "raise",
        catch_up: float = 0.010,
        adaptive: Adaptive | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if order not in ("fifo", "fair"):
            raise ValueError(f'order is "fifo" or "fair", not {order!r}')
        if overflow not in ("raise", "drop_oldest"):
            raise ValueError(f'overflow is "raise" or "drop_oldest", not {overflow!r}')
        if concurrency is not None:
            positive(concurrency, of="concurrency")
        positive(maxsize, of="maxsize", least=0)
        positive(catch_up, of="catch_up", least=0)
        if adaptive is not None and not hasattr(adaptive, "govern"):
            raise TypeError(f"adaptive takes an Adaptive(...), not {adaptive!r}")
        self.name = name
        self._limits = tuple(as_limit(limit) for limit in limits)
        self._concurrency = math.inf if concurrency is None else concurrency
        self._maxsize = maxsize
        self._new_waiters = partial(
            Waiters,
            self._nudge,
            fair=order == "fair",
            ranked=overflow == "drop_oldest" and maxsize > 0,
        )
        new_schedule = partial(
            schedule_for, catch_up=catch_up, adaptive=adaptive, report=self._report
        )
        self._new_schedule = partial(new_schedule, concurrency=self._concurrency)
        self._observers = tuple(observers)
        self._heeds_arrivals = concurrency is not None or bool(lanes)
        self._heeds_ends = concurrency is not None or bool(self._observers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_runs: Callable[[], bool] = bool
        self._thread = 0
        self._clock: Callable[[], float] = time.monotonic
        self._ticker: asyncio.Task[None] | None = None
        self._alarm: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._counts: dict[EventKind, int] = dict.fromkeys(
            ("cancelled", "timed_out", "refused", "throttled", "slowed", "odd"), 0
        )
        self._started = 0
        self._ended = 0
        self._waited = 0.0
        self._longest_wait = 0.0
        self._timers: dict[Slot, asyncio.TimerHandle] = {}
        self._paused = self._pushed_back = -math.inf
        self._round = -1
        self._schedule = self._new_schedule(self._limits)
        own_limits = {key: as_limits(own) for key, own in (lanes or {}).items()}
        for limits_of_lane in own_limits.values():
            new_schedule(limits_of_lane)  # refuses now what it would refuse at the first call
        self._lanes = Lanes(own_limits, new_schedule)
        self._waiters = self._new_waiters()
        self._forget_callers()

    # What users call.

    def slot(
        self,
        *,
        key: Hashable = None,
        priority: float = 0,
        cost: float = 1,
        timeout: float | None = None,
    ) -> Slot:
        """Wait for a turn, run the body of `async with`, end the call.

        A caller who is cancelled while it waits uses no slot; one cancelled after its slot was
        released, but before it resumed, hands the slot on. Slots are released in order; bodies
        released in one pass of the loop start as it resumes their tasks.

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     async def call(name, **how):
        ...         async with queue.slot(**how) as slot:
        ...             print(f"{name} after {slot.waited:.1f} s")
        ...     await asyncio.gather(
        ...         call("first"), call("second"), call("dear", cost=3), call("urgent", priority=-1)
        ...     )
        ...     try:
        ...         await asyncio.gather(*(call(n, timeout=0.15) for n in ("next", "late")))
        ...     except SlotTimeout:
        ...         print("the other not within 0.15 s")
        >>> asyncio.run(main())
        first after 0.0 s
        urgent after 0.1 s
        second after 0.2 s
        dear after 0.5 s
        next after 0.1 s
        the other not within 0.15 s

        Args:
            key: what kind of call this is: chooses its lane, and its place with `order="fair"`.
            priority: lower goes first; default 0.
            cost: units of the limits that it uses; default 1. A cost above a rate's burst waits
                for as long as that many calls take.
            timeout: seconds to wait at most; default: any time.

        Raises:
            SlotTimeout: no slot within `timeout`; at once where even the next one is later.
            QueueFull: too many wait.
            QueueClosed: the queue is closed, or closed while this waited.
            ValueError: a cost, priority or timeout that makes no sense.
            RuntimeError: the queue is in use on another loop that is still alive.
        """
        if cost != 1 or priority != 0 or timeout is not None:
            self._check(priority, cost, timeout)
        if timeout is not None:
            return TimedSlot(self, key, priority, cost, timeout)
        return Slot(self, key, priority, cost)

    def enqueue(
        self,
        *,
        key: Hashable = None,
        priority: float = 0,
        cost: float = 1,
        timeout: float | None = None,
    ) -> asyncio.Future[Slot]:
        """Join the queue now; return a Future of the `Slot`. Cancel it to leave.

        The slot is the caller's to end:

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     one, other, third = [queue.enqueue() for _ in range(3)]
        ...     other.cancel()                               # leaves; the third moves up
        ...     with await one, await third as slot:
        ...         return slot.waited
        >>> asyncio.run(main())
        0.1

        Arguments and errors are
        those of `slot`, but for `SlotTimeout` and `QueueClosed` of one who waits: the Future has
        those.
        """
        slot = self.slot(key=key, priority=priority, cost=cost, timeout=timeout)
        future = Reservation(slot, loop=get_running_loop())
        if self._arrive(slot):
            slot._state = GRANTED
            future.set_result(slot)
        else:
            self._join(slot, future)
        return future

    def try_slot(self, *, key: Hashable = None, priority: float = 0, cost: float = 1) -> Slot:
        """Return a slot if one is free now, without waiting.

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     with queue.try_slot():
        ...         pass                                     # the call
        ...     try:
        ...         queue.try_slot()
        ...     except WouldWait as error:
        ...         return error.retry_in
        >>> asyncio.run(main())
        0.1

        Args:
            key: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.

        Raises:
            WouldWait: `slot` would wait; `retry_in` has the seconds, as things stand.
            QueueClosed: the queue is closed.
            ValueError: a cost or priority that makes no sense.
        """
        self._check(priority, cost, None)
        slot = Slot(self, key, priority, cost)
        if self._arrive(slot):
            return slot
        retry_in = self.estimate(key=key, priority=priority, cost=cost)
        raise WouldWait(f"{self!r}: the next slot is due in {retry_in:.3g} s", retry_in=retry_in)

    def estimate(self, *, key: Hashable = None, priority: float = 0, cost: float = 1) -> float:
        """Return the seconds that a newcomer would wait, as things stand.

        Exact for a FIFO queue with one limit; otherwise an estimate: it knows nothing of when
        bodies will end, and counts all who wait as being ahead. Infinite while paused without
        end.

        Args:
            key: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.
        """
        self._check(priority, cost, None)
        now = self._now()
        when = self._schedule.ahead(now, self._waiters.cost + cost)
        lane = self._lanes.find(key, now)
        if lane is not None:
            own = sum(waiter.cost for waiter in self._waiters if waiter.key == key)
            when = max(when, lane.ahead(now, own + cost))
        return when - now

    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        return_exceptions: bool = False,
    ) -> AsyncIterator[R]:
        """Call `fn` on every item, paced; yield the results as they come.

        Items are taken one by one as slots come, so that they may be without end.

        >>> import asyncio
        >>> async def double(number):
        ...     return 2 * number
        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     return [result async for result in queue.map(double, range(5), ordered=True)]
        >>> asyncio.run(main())
        [0, 2, 4, 6, 8]

        Args:
            fn: a coroutine function of one item. One that is `@rate_limited` by this queue is
                not paced twice.
            items: an iterable or an async iterable.
            concurrency: how many calls may run, or have results not yet fetched, at once;
                default 100.
            ordered: yield in the order of `items`; default: as completed.
            return_exceptions: yield an exception as a result; default: raise the first one,
                after the calls still running have been cancelled.

        Raises:
            TypeError: `fn` is not a coroutine function.
            ValueError: `concurrency` is below 1.
        """
        return paced_map(
            self,
            fn,
            items,
            concurrency=concurrency,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )

    def set_rate(self, *limits: str | Limit, key: Hashable = None) -> None:
        """Set the limits anew, now: who waits already is timed by the new ones.

        What has been let through still counts: of half an old interval still to wait, half a
        new one is left.

        >>> import asyncio
        >>> async def main():
        ...     loop = asyncio.get_running_loop()
        ...     queue = ApiQueue("2/s")
        ...     calls = [queue.enqueue() for _ in range(50)]
        ...     queue.set_rate("50/s")
        ...     await asyncio.gather(*calls)
        ...     print(f"{loop.time():.2f}")
        >>> asyncio.run(main())
        0.98

        Args:
            limits: as for `ApiQueue`; all of the old ones are replaced.
            key: whose lane, or `"*"`; default: the queue's own limits.

        Raises:
            TypeError: a limit that is none.
            ValueError: a limit that is none, or one too small for the cost of one who waits.
        """
        new = tuple(as_limit(limit) for limit in limits)
        schedule = self._new_schedule(new)
        for waiter in self._waiters:
            if key in (None, "*", waiter.key):
                schedule.check(waiter.cost)
        now = self._now()
        if key is None:
            schedule.succeed(self._schedule, now)
            self._limits, self._schedule = new, schedule
            self._waiters.wake_all()
        else:
            self._heeds_arrivals = True
            self._lanes.set_limits(key, new, now)
            for waiter in self._waiters:
                self._lanes.find(waiter.key, now)
            self._waiters.regroup()
        self._nudge()

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Say that the other side pushed back: slow down, and start nothing for `retry_after`.

        With `adaptive`, the rate falls once for each round of calls. `Slot.throttled` knows which
        round its call is of; this takes it for one that ran at the last slow-down until as many
        calls as ran then have ended.

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     queue.throttled(retry_after=5)
        ...     queue.throttled(retry_after=2)                  # shortens nothing
        ...     return queue.estimate()
        >>> asyncio.run(main())
        5.0

        Args:
            retry_after: seconds from now; a hold in force is only ever extended.
            key: whose lane, if it has limits of its own; default: the whole queue.

        Raises:
            ValueError: `retry_after` is negative, infinite or NaN.
        """
        self._throttled(retry_after, Slot(self, key, 0, 0))

    def hold(self, seconds: float, *, key: Hashable = None) -> None:
        """Start nothing for so long: the other side has nothing left to give until then.

        As `throttled`, but it is no push-back: it is not counted, and slows nothing down.

        >>> async def main():
        ...     queue = ApiQueue(lanes={"*": ()})               # no limits, but lanes
        ...     queue.hold(30, key="busy.example")
        ...     return [queue.estimate(key=host) for host in ("busy.example", "idle.example")]
        >>> asyncio.run(main())
        [30.0, 0.0]

        Args:
            seconds: from now; a hold in force is only ever extended.
            key: whose lane, if it has one of its own; default: the whole queue.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
        """
        positive(seconds, of="seconds", least=0)
        now = self._now()
        lane = self._lanes.find(key, now)
        if lane is not None:
            lane.hold(max(lane.held, now + seconds))
        else:
            self._pushed_back = max(self._pushed_back, now + seconds)
            self._hold()
        self._waiters.wake_all()
        self._nudge()

    def odd(self, *, key: Hashable = None) -> None:
        """Count that the other side said something that makes no sense, such as "retry after -1".

        Args:
            key: on a call of which key.
        """
        self._now()
        self._count("odd", Slot(self, key, 0, 0))

    def pause(self, seconds: float | None = None) -> None:
        """Hold everybody; bodies that run go on.

        >>> import asyncio
        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     queue.pause(60)
        ...     return queue.estimate()
        >>> asyncio.run(main())
        60.0

        Args:
            seconds: for how long; default: until `resume`. A pause in force is only extended.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
        """
        if seconds is not None:
            positive(seconds, of="seconds", least=0)
        now = self._now()
        self._paused = max(self._paused, math.inf if seconds is None else now + seconds)
        self._hold()
        self._nudge()

    def resume(self) -> None:
        """End a `pause`. What the other side asked for (`throttled`) stays in force."""
        now = self._now()
        self._paused = min(self._paused, now)  # what a pause has missed is not made up for
        self._hold()
        self._nudge()

    async def aclose(
        self,
        *,
        drain: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends draining, not the call
    ) -> None:
        """Close: nobody else may join, and nobody waits when this returns.

        Bodies that run are their callers' and go on. Cancelled, it refuses at once whoever still
        waits.

        Args:
            drain: let those who wait have their turn first; default True. (A queue that is
                paused drains when it is resumed.)
            timeout: seconds for draining, at most; default: any time. Whoever still waits then
                gets `QueueClosed`.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
        """
        if timeout is not None:
            positive(timeout, of="timeout", least=0)
        self._now()
        self._closed = self._heeds_arrivals = True
        try:
            with anyio.move_on_after(timeout):
                while drain and next(iter(self._waiters), None) is not None:
                    if self._ticker is None:  # somebody who cancels every task has just done so
                        self._start_ticker(get_running_loop())
                    if self._ticker is not None:
                        await asyncio.wait([self._ticker])  # it ends when nobody waits
        finally:
            # Cancelled while draining or not: whoever is left is refused without another await.
            for slot in list(self._waiters):
                self._fail(slot, "refused", QueueClosed(f"{self!r}: closed while a call waited"))
            self._nudge()
        if self._ticker is not None:
            await asyncio.wait([self._ticker])  # nobody is left: one more step

    async def __aenter__(self) -> Self:
        self._now()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose(drain=kind is None)

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._waiters.live

    @property
    def running(self) -> int:
        """How many bodies run."""
        return self._started - self._ended

    @property
    def closed(self) -> bool:
        """Whether the queue takes no more callers."""
        return self._closed

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits in force, but for those of lanes."""
        return self._limits

    @property
    def stats(self) -> Stats:
        """The queue's figures, as things stand."""
        return Stats(
            waiting=self.waiting,
            running=self.running,
            lanes=len(self._lanes.schedules),
            released=self._started,
            rate=self._schedule.allowed(),
            waited=self._waited,
            longest_wait=self._longest_wait,
            **self._counts,
        )

    def __repr__(self) -> str:
        limits = ", ".join(str(limit) for limit in self._limits) or "unlimited"
        name = f" {self.name!r}" if self.name is not None else ""
        state = "closed" if self._closed else "paused" if self._paused == math.inf else "open"
        return f"<ApiQueue{name} {limits}: {state}, {self.waiting} waiting, {self.running} running>"

    # From arrival to release.

    def _check(self, priority: float, cost: float, timeout: float | None) -> None:
        positive(cost, of="cost", least=0)
        self._schedule.check(cost)
        if priority != priority:  # noqa: PLR0124 - only NaN differs from itself
            raise ValueError("priority must be a number that can be put in order, not NaN")
        if timeout is not None:
            positive(timeout, of="timeout", least=0)

    def _arrive(self, slot: Slot) -> bool:
        """Give a newcomer its turn if it need not wait for anybody or anything."""
        # The loop that runs in this thread is the one it was; get_running_loop costs a system call.
        if get_ident() != self._thread or not self._loop_runs():
            self._bind(get_running_loop())
        slot._since = now = self._clock()
        schedule: Schedule | None = self._schedule
        if self._heeds_arrivals:
            schedule = self._schedule_of(slot, now)
        if self._waiters.live or schedule is None or schedule.arrive(now, slot.cost) > now:
            return False
        slot._state = HELD
        self._started += 1
        if self._observers:
            self._tell("released", slot)
        return True

    def _join(self, slot: Slot, future: asyncio.Future[Slot]) -> None:
        """Let a newcomer, just arrived, wait for its turn, the result of `future`."""
        loop = future.get_loop()
        if slot._timeout is not None:
            now = slot._since
            due = self._schedule.due(now, slot.cost)
            if now + slot._timeout < due < math.inf:
                self._count("timed_out", slot)
                raise SlotTimeout(
                    f"{self!r}: no slot within {slot._timeout:g} s, the next is due in "
                    f"{due - now:.3g} s"
                )
            self._timers[slot] = loop.call_later(slot._timeout, self._time_out, slot)
        if 0 < self._maxsize <= self._waiters.live:
            self._overflow(slot)
        slot._future = future
        slot._state = WAITING
        self._waiters.put_nowait(slot)
        if self._ticker is None:
            self._start_ticker(loop)

    def _schedule_of(self, slot: Slot, now: float) -> Schedule | None:
        """Return all limits that a newcomer is under; None if every place is taken."""
        if self._closed:
            self._count("refused", slot)
            raise QueueClosed(f"{self!r} takes no more calls: make a new queue")
        schedule = self._schedule
        lane = self._lanes.find(slot.key, now)
        if lane is not None:
            lane.check(slot.cost)
            if slot.key not in self._waiters.lines:
                lane.touch(now)
            schedule = Schedule((lane, schedule))
        if self.running < self._concurrency:
            return schedule
        if not self._waiters.live:
            schedule.touch(now)
        return None

    def _overflow(self, newcomer: Slot) -> None:
        error = QueueFull(f"{self!r}: {self._maxsize} calls wait already (maxsize)")
        oldest = self._waiters.oldest_of_least_urgent()
        if oldest is None or oldest.priority < newcomer.priority:
            self._count("refused", newcomer)
            self._stop_timer(newcomer)
            raise error
        self._fail(oldest, "refused", error)

    def _start_ticker(self, loop: asyncio.AbstractEventLoop) -> None:
        # An empty context: the ticker is nobody's, and keeps nobody's variables alive.
        ticker = loop.create_task(self._tick(), name="aioapiqueue ticker", context=Context())
        if not ticker.done():  # an eager one may be
            self._ticker = ticker

    async def _tick(self) -> None:
        """Release each waiter when it is due; end when nobody waits."""
        loop = get_running_loop()
        try:
            while (wake := self._release_due(self._clock())) is not None:
                self._alarm = loop.create_future()
                self._set_timer(wake, loop)
                await self._alarm
                self._drop_timer()
        finally:
            self._drop_timer()
            self._alarm = None
            self._ticker = None
            # Cancelled by somebody who cancels every task. If that is the end of the loop, those
            # who wait are cancelled too, and a timer dies with the loop, silently; if not, the
            # timer starts a new ticker.
            if next(iter(self._waiters), None) is not None:
                loop.call_later(0.001, self._restart_ticker, loop)

    def _restart_ticker(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ticker is None and self._waiters.live:
            self._start_ticker(loop)

    def _set_timer(self, wake: float, loop: asyncio.AbstractEventLoop) -> None:
        if wake == math.inf:
            self._timer = None
        elif self._clock is not time.monotonic:
            self._timer = loop.call_at(wake, self._on_time, loop)
        else:
            # The timers of real loops count milliseconds, uvloop's are early by up to one:
            # rounding up spares it a spin until the instant comes.
            delay = max(1, math.ceil((wake - self._clock()) * 1000))
            self._timer = loop.call_later(delay / 1000, self._on_time, loop)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick on the ticker's behalf: to wake it first would cost every tick a loop pass."""
        wake = self._release_due(self._clock())
        if wake is None:
            self._timer = None
            self._nudge()
        else:
            self._set_timer(wake, loop)

    def _nudge(self) -> None:
        """Wake the ticker: who is next, or when, may have changed."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _release_due(self, now: float) -> float | None:
        """Release all who are due; return when to look again (None: nobody waits)."""
        waiters, schedule, lanes = self._waiters, self._schedule, self._lanes.schedules
        wake = waiters.wake(now)
        while (slot := waiters.first()) is not None:
            if self._started - self._ended >= self._concurrency:
                return math.inf
            lane = lanes.get(slot.key) if lanes else None
            if lane is not None and (due := lane.due(now, slot.cost)) > now:
                waiters.park(due)
                wake = due if wake is None or due < wake else wake
                continue
            if (due := schedule.due(now, slot.cost)) > now:
                return due if wake is None or due < wake else wake
            waiters.pop(slot)
            schedule.take(now, slot.cost)
            if lane is not None:
                lane.take(now, slot.cost)
            self._grant(slot, now)
        return wake

    def _grant(self, slot: Slot, now: float) -> None:
        slot._state = GRANTED
        slot.waited = waited = now - slot._since
        slot._since = now
        self._started += 1
        self._waited += waited
        if waited > self._longest_wait:  # noqa: PLR1730 - a call for each slot
            self._longest_wait = waited
        if self._timers:
            self._stop_timer(slot)
        future = slot._future
        del slot._future  # it is about to refer to the slot
        future.set_result(slot)
        if self._observers:
            self._tell("released", slot)

    # Ways out.

    def _finished(self, slot: Slot) -> None:
        """Heed that a body has ended."""
        if self._concurrency != math.inf:
            self._adapt_concurrency()
            self._nudge()
        if self._observers:
            self._tell("finished", slot)

    def _hand_on(self, slot: Slot) -> None:
        """Take back a turn that its caller, cancelled meanwhile, has not taken up."""
        slot._state = OVER
        self._started -= 1
        self._waited -= slot.waited
        self._adjust(slot, -slot.cost)
        self._count("cancelled", slot)

    def _leave(self, slot: Slot, kind: EventKind) -> None:
        """Let a waiter go without a turn."""
        slot._state = OVER
        slot._future.cancel()  # if it is not done: the awaiting coroutine was closed
        slot.waited = self._clock() - slot._since
        self._waiters.leave(slot)
        self._stop_timer(slot)
        self._nudge()
        self._count(kind, slot)

    def _fail(self, slot: Slot, kind: EventKind, error: Exception) -> None:
        """Let a waiter go with an error."""
        if slot.waits:
            slot._future.set_exception(error)
            self._leave(slot, kind)

    def _time_out(self, slot: Slot) -> None:
        error = SlotTimeout(f"{self!r}: no slot within {slot._timeout:g} s")
        self._fail(slot, "timed_out", error)

    def _adjust(self, slot: Slot, cost: float) -> None:
        """Charge `cost` more for a call that has started; give back if negative."""
        self._schedule.adjust(slot._since, cost)
        lane = self._lanes.schedules.get(slot.key)
        if lane is not None:
            lane.adjust(slot._since, cost)
            self._waiters.wake_all()
        self._nudge()

    def _stop_timer(self, slot: Slot) -> None:
        timer = self._timers.pop(slot, None)
        if timer is not None:
            timer.cancel()

    def _hold(self) -> None:
        """Hold the schedule until both pause and push-back have passed."""
        self._schedule.hold(max(self._paused, self._pushed_back))
        self._nudge()

    def _throttled(self, retry_after: float | None, slot: Slot) -> None:
        """Heed that the other side refused a call: that of `slot`, or (one made up) any."""
        if retry_after is not None:
            self.hold(retry_after, key=slot.key)
        now = self._now()
        self._count("throttled", slot)
        if slot._state in (HELD, OVER):
            since = slot._since
        else:
            since = now if self._ended > self._round else -math.inf
        lane = self._lanes.find(slot.key, now)
        schedule = self._schedule if lane is None else lane
        if schedule.push_back(now, since, self.running):
            self._round = self._started
            self._adapt_concurrency()
            self._waiters.wake_all()
            self._nudge()
            self._count("slowed", slot)

    def _adapt_concurrency(self) -> None:
        places = self._schedule.places()
        if places < math.inf:
            self._concurrency = places

    def _count(self, kind: EventKind, slot: Slot) -> None:
        self._counts[kind] += 1
        if self._observers:
            self._tell(kind, slot)

    def _tell(self, kind: EventKind, slot: Slot) -> None:
        event = Event(
            kind, self.name, slot.key, slot.priority, slot.cost, self._clock(), slot.waited
        )
        for observer in self._observers:
            try:
                observer.on_event(event)
            except Exception as error:  # noqa: BLE001 - an observer never costs a slot
                self._report(f"{observer!r} failed on {event!r}", error)

    def _report(self, message: str, error: Exception) -> None:
        get_running_loop().call_exception_handler({"message": message, "exception": error})

    # The loop.

    def _now(self) -> float:
        """Bind to the running loop, if any; return its time."""
        loop = asyncio._get_running_loop()  # the public one raises where there is none
        if loop is not None:
            self._bind(loop)
        return self._clock()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            self._thread = get_ident()
            return
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                f"{self!r} is in use on another event loop that is still alive: make a queue for "
                "each loop, or close the other loop first"
            )
        # Whoever waited or ran on the old loop is gone with it. What was let through still
        # counts, unless time itself is another.
        self._loop = loop
        self._loop_runs = loop.is_running
        self._thread = get_ident()
        clock = _clock_of(loop)
        if clock is not self._clock:
            self._clock = clock
            self._forget_calls()
        self._forget_callers()

    def _forget_calls(self) -> None:
        self._paused = self._pushed_back = -math.inf
        self._schedule = self._new_schedule(self._limits)
        self._lanes = Lanes(self._lanes.limits, self._lanes.new_schedule)

    def _forget_callers(self) -> None:
        self._waiters = self._new_waiters()
        self._waiters.lanes = self._lanes.schedules
        self._lanes.in_use = self._waiters.lines
        self._timers = {}
        self._ticker = self._alarm = self._timer = None
        self._ended = self._started


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return `time.monotonic`, or the loop's own clock if it keeps one in Python (VirtualLoop).

    Not a real loop's `time()`: uvloop's is coarse, and stands still while callbacks run.
    """
    # Compiled loops' methods are bound like those in Python, so look at what is bound.
    function = getattr(loop.time, "__func__", None)
    virtual = isinstance(function, FunctionType) and function is not asyncio.BaseEventLoop.time
    return loop.time if virtual else time.monotonic
