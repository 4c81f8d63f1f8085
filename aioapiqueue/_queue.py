"""What users call: `ApiQueue`. How it works underneath is in `_dispatcher`."""

from __future__ import annotations

import asyncio
import math
from asyncio import get_running_loop
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    Self,
    SupportsIndex,
    TypeVar,
    overload,
)

import anyio

from aioapiqueue._dispatcher import Authority, Dispatcher
from aioapiqueue._events import Stats
from aioapiqueue._lanes import fits
from aioapiqueue._map import paced_map
from aioapiqueue._rate import LONGEST, Limit, Rate, Window, as_limit, as_limits, positive, whole
from aioapiqueue._slot import GRANTED, Reservation, Slot, TimedSlot
from aioapiqueue.exceptions import QueueClosed, WouldWait

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
Limits = (
    str
    | Limit
    | tuple[str | Limit, ...]
    | list[str]
    | list[Rate]
    | list[Window]
    | list[Limit]
    | list[str | Limit]  # a list of one kind is no list of either, to a type checker
)


class ApiQueue(Dispatcher):
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
            a limit or a tuple of limits. `"*"` gives every other key a lane of its own,
            `"List*"` every other one that begins so.
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
        schedule: a `SharedSchedule` (of `aioapiqueue.integrations.redis`), by which many queues
            keep these limits together; default: this queue keeps them for itself.
        observers: who hears of every event.

    Raises:
        TypeError: a bare number as a limit; the message shows its readings.
        ValueError: a limit, size or word that makes no sense; the message quotes it.
    """

    def __init__(
        self,
        *limits: str | Limit,
        name: str | None = None,
        lanes: Mapping[Any, Limits] | None = None,  # Any: dict[str, ...] is no Mapping[Hashable]
        order: Literal["fifo", "fair"] = "fifo",
        concurrency: int | None = None,
        maxsize: int = 0,
        overflow: Literal["raise", "drop_oldest"] = "raise",
        catch_up: float = 0.010,
        adaptive: Adaptive | None = None,
        schedule: Authority | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if order not in ("fifo", "fair"):
            raise ValueError(f'order is "fifo" or "fair", not {order!r}')
        if overflow not in ("raise", "drop_oldest"):
            raise ValueError(f'overflow is "raise" or "drop_oldest", not {overflow!r}')
        if concurrency is not None:
            whole(concurrency, of="concurrency")
        positive(maxsize, of="maxsize", least=0)
        positive(catch_up, of="catch_up", least=0, most=LONGEST)
        if adaptive is not None and not hasattr(adaptive, "govern"):
            raise TypeError(f"adaptive takes an Adaptive(...), not {adaptive!r}")
        if schedule is not None and not hasattr(schedule, "join"):
            raise TypeError(f"schedule takes a SharedSchedule(...), not {schedule!r}")
        super().__init__(
            [as_limit(limit) for limit in limits],
            name=name,
            lanes={key: as_limits(own) for key, own in (lanes or {}).items()},
            fair=order == "fair",
            concurrency=math.inf if concurrency is None else concurrency,
            maxsize=maxsize,
            drop_oldest=overflow == "drop_oldest",
            catch_up=catch_up,
            adaptive=adaptive,
            authority=schedule,
            observers=observers,
        )

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
            TypeError: one that is no number; a key that is not hashable.
            RuntimeError: the queue is in use on another loop that is still alive.
        """
        if cost != 1 or priority != 0 or timeout is not None:
            self._check(priority, cost, timeout)
        if key is not None:
            hash(key)  # else only a call that has to wait would be refused
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
        hash(key)
        slot = Slot(self, key, priority, cost)
        if self._arrive(slot):
            return slot
        retry_in = self.estimate(key=key, priority=priority, cost=cost)
        raise WouldWait(f"{self!r}: the next slot is due in {retry_in:.3g} s", retry_in=retry_in)

    def estimate(self, *, key: Hashable = None, priority: float = 0, cost: float = 1) -> float:
        """Return the seconds that a newcomer would wait, as things stand.

        Exact for a FIFO queue with one limit (of a `Window`: and equal costs); otherwise an
        estimate: it knows nothing of when bodies will end, and counts all who wait as being ahead.
        Infinite while paused without end.

        Args:
            key: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.
        """
        self._check(priority, cost, None)
        now = self._now()
        if self._shared is not None:
            return self._shared.demand.estimate(key, cost, now) - now
        when = self._schedule.estimate(now, self._waiters.cost + cost)
        lane = self._lanes.find(key, now)
        if lane is not None:
            when = max(when, lane.estimate(now, self._waiters.cost_of(key) + cost))
        return when - now

    @overload
    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        return_exceptions: Literal[False] = False,
    ) -> AsyncIterator[R]: ...

    @overload
    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        return_exceptions: bool,
    ) -> AsyncIterator[R | BaseException]: ...

    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        return_exceptions: bool = False,
    ) -> AsyncIterator[R | BaseException]:
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
            key: whose lane, or `"*"`, or `"List*"`; default: the queue's own limits.

        Raises:
            TypeError: a limit that is none.
            ValueError: a limit that is none, or one too small for the cost of one who waits.
        """
        new = tuple(as_limit(limit) for limit in limits)
        schedule = self._new_schedule(new)
        for waiter in self._waiters:
            if key is None or fits(key, waiter.key):
                schedule.check(waiter.cost)
        if self._shared is not None:
            self._now()
            self._shared.set_limits(key, new)
        self._set_limits(key, new)

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
        positive(seconds, of="seconds", least=0, most=LONGEST)
        self._hold_back(seconds, key)

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
            positive(seconds, of="seconds", least=0, most=LONGEST)
        now = self._now()
        if self._shared is not None:
            self._shared.pause(seconds)
        self._paused = max(self._paused, math.inf if seconds is None else now + seconds)
        self._hold()
        self._nudge()

    def resume(self) -> None:
        """End a `pause`. What the other side asked for (`throttled`) stays in force."""
        now = self._now()
        if self._shared is not None:
            self._shared.resume()
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
                gets `QueueClosed`. A queue with a `SharedSchedule` then says that it is gone,
                for up to twice the `timeout` of that.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
        """
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
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
            if self._shared is not None:
                await self._shared.aclose()
        if self._ticker is not None:
            await asyncio.wait([self._ticker])  # nobody is left: one more step

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled: each copy would let the whole limit through."""
        raise TypeError(
            f"{self!r} cannot be copied or pickled, as each copy would let the whole limit "
            "through: pass the queue itself; for several processes, see schedule="
        )

    async def __aenter__(self) -> Self:
        self._now()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose(drain=kind is None)

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
        shared = self._shared
        return Stats(
            waiting=self.waiting,
            running=self.running,
            lanes=len(self._lanes.states),
            released=self._started,
            rate=self._schedule.allowed() if shared is None else shared.rate,
            asks=0 if shared is None else shared.asks,
            faults=0 if shared is None else shared.faults,
            fault="" if shared is None else shared.fault,
            waited=self._waited,
            longest_wait=self._longest_wait,
            **self._counts,
        )
