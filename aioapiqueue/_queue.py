"""What users call: `ApiQueue`, which checks arguments and carries the documentation.

What it does is done by its dispatcher (`_dispatcher.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Never,
    NoReturn,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    cast,
    overload,
    runtime_checkable,
)

from aioapiqueue._callables import CallOptions
from aioapiqueue._dispatcher import Dispatcher, loop_of_this_thread
from aioapiqueue._double_turns import DoubleTurns
from aioapiqueue._grammar import CALLS, duration_text
from aioapiqueue._map import paced_map
from aioapiqueue._options import Missing, refuse_unknown
from aioapiqueue._rate import LONGEST, Limit, Rate, Window, as_limits, positive, whole
from aioapiqueue._slot import NO_KEYS, Slot, check_count, keys_of
from aioapiqueue._view import LimiterView
from aioapiqueue._wait_queue import ORDERS, Order
from aioapiqueue.exceptions import QueueClosed, WouldWait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Hashable,
        Iterable,
        Sequence,
    )

    from aioapiqueue._double_turns import Turn
    from aioapiqueue._events import Observer
    from aioapiqueue._lanes import AdaptivePolicy
    from aioapiqueue._limiter import LimiterFactory
    from aioapiqueue._slot import Call
    from aioapiqueue._stats import Stats
    from aioapiqueue._units import Cost

__all__ = [
    "ApiQueue",
    "ObserverFactory",
    "Observers",
    "check_place",
    "dispatcher_of",
    "note_turn",
    "watch_turns",
]

Observers: TypeAlias = "Sequence[Observer | ObserverFactory]"

_ONCE = (
    '"async with queue:" works only once, because it closes the queue at the end. For each call, '
    'write "async with queue.slot():", or "async with limiter:" with limiter = queue.limiter(). '
    "A queue needs no start and no stop"
)
_CLOSED_BY_BLOCK = (
    '"async with queue:" closed it at the end of its block. Leave "async with queue:" out (a queue '
    "needs no start and no stop), or create a new queue each time"
)
_CLOSED = "aclose() closed it. Create a new queue, or leave this one open (it needs no stop)"

_NO_OPTIONS = ("limits", "unknown", "return")
_LIMITS_FIRST = 'pass limits first, without a name: ApiQueue("10/s")'
_HINTS = {
    **dict.fromkeys(("rate", "rates", "limit", "limits", "max_rate", "rps"), _LIMITS_FIRST),
    **dict.fromkeys(("burst", "capacity"), 'write it in the limit: ApiQueue("20/s burst 100")'),
    **dict.fromkeys(
        ("per", "period", "time_period"), 'write it in the limit: ApiQueue("7 per 2s")'
    ),
    "max_concurrency": "did you mean concurrency=?",
    "key": "pass it with each call: queue.slot(key=...)",
    "timeout": "pass it with each call: queue.slot(timeout=...)",
}
"""What to write instead of options that others have."""

_ONE = 1
"""The default of `cost`, told by what it is: to compare a mapping with a number takes longer."""
_ASK_AGAIN = 0.1
"""Seconds after which to try again where nobody knows when a slot will be free: so long that trying
costs nothing, and short beside most calls to an API."""

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


@runtime_checkable
class ObserverFactory(Protocol):
    """What `observers=` takes besides observers: one that makes an observer for each queue."""

    def for_queue(self, queue: ApiQueue, /) -> Observer:
        """Return the observer of a queue, which nobody uses yet."""


class ApiQueue:
    """A queue that releases its callers one at a time, at the rate that the other side can bear.

    >>> import asyncio
    >>> async def main():
    ...     queue = ApiQueue("100ms")
    ...     for _ in range(3):
    ...         async with queue.slot() as slot:
    ...             print(f"after {slot.waited:.1f} s")
    >>> asyncio.run(main())
    after 0.0 s
    after 0.1 s
    after 0.1 s

    It needs no start, and may be made at import time: it binds to the loop that first uses it.

    A slow lane holds up nobody else, keys take turns, and two bodies run at most:

    >>> async def main():
    ...     queue = ApiQueue("10/s", lanes={"slow": "2/s"}, order="fair", concurrency=2)
    ...     async def call(key):
    ...         async with queue.slot(key=key) as slot:
    ...             print(f"{key} after {slot.waited:.1f} s")
    ...     await asyncio.gather(*map(call, ["slow", "slow", "a", "a", "b"]))
    >>> asyncio.run(main())
    slow after 0.0 s
    a after 0.1 s
    b after 0.2 s
    a after 0.3 s
    slow after 0.5 s

    A queue that is full can turn away the least urgent first:

    >>> async def main():
    ...     queue = ApiQueue("10/s", Window(50, 60), maxsize=1, overflow="drop_oldest")
    ...     calls = [queue.enqueue(priority=priority) for priority in (0, 0, -1)]
    ...     for result in await asyncio.gather(*calls, return_exceptions=True):
    ...         print(result)
    >>> asyncio.run(main())
    <Slot held key=None cost=1>
    <ApiQueue 10/s, 50 in any 1min: open, 1 waiting, 1 running> is full (maxsize=1)
    <Slot held key=None cost=1>

    Args:
        limits: none (ordered and counted only), or any of: a string (`"10/s"`, `"100ms"`, several
            with commas), a `Rate`, a `Window`, a `Calendar`, a `Concurrency`. All hold at once.
        name: for `repr`, events and errors.
        lanes: limits of single keys, under the queue's: `{"ListKeys": "5/s", "*": "20/s"}`, each
            a string, a limit or a tuple of them. `"*"` gives every other key a lane of its own,
            `"List*"` every other one that begins so.
        order: `"fifo"`, by arrival, or `"fair"`, in turns by (the first) key, and by arrival among
            the calls of a key that come under the same limits. In either, a lower `priority` goes
            first.
        concurrency: how many bodies may run at once; default: any number.
        maxsize: how many may wait; default 0: any number.
        overflow: who gets `QueueFull` when more than `maxsize` wait: the newcomer (`"raise"`, the
            default), or the oldest of the least urgent (`"drop_oldest"`).
        catch_up: seconds by which late calls may be made up for, 0.010 by default: after a longer
            stall, missed ticks are dropped. With 0, no gap is ever shorter than the interval.
        adaptive: how to slow down when the other side pushes back (`Adaptive`); default: not at
            all, but for holds.
        schedule: by which many queues keep these limits together: a `HostSchedule`, for the
            processes of a host, or a `SharedSchedule` (of `aioapiqueue.integrations.redis`), for
            many hosts. Default: this queue keeps them for itself.
        observers: get every event, or what else they ask for: see `Observer`.
        strict_lanes: refuse a key that fits none of the lanes, in calls and in `set_rate`, `hold`
            and the like; calls without a key pass. Default: they come under the queue's own limits,
            and where it was given none, an `UnknownKeyWarning` says so once (not with a
            `HostSchedule`, as limits of others may pace them).
        unknown: refused, with the option that was probably meant.

    Raises:
        TypeError: a bare number as a limit, whose readings the message shows; or an unknown option.
        ValueError: a limit, size or word that is invalid; the message quotes it.
    """

    def __init__(
        self,
        *limits: str | Limit,
        name: str | None = None,
        lanes: Mapping[Any, Limits] | None = None,  # Any: dict[str, ...] is no Mapping[Hashable]
        order: Order = "fifo",
        concurrency: int | None = None,
        maxsize: int = 0,
        overflow: Literal["raise", "drop_oldest"] | None = None,
        catch_up: float = 0.010,
        adaptive: AdaptivePolicy | None = None,
        schedule: LimiterFactory | None = None,
        observers: Observers = (),
        strict_lanes: bool = False,
        **unknown: Never,
    ) -> None:
        if unknown:
            known = [name for name in ApiQueue.__init__.__annotations__ if name not in _NO_OPTIONS]
            refuse_unknown(unknown, known, by="ApiQueue", hints=_HINTS)
        if order not in ORDERS:
            words = " or ".join(f'"{word}"' for word in ORDERS)
            raise ValueError(f"order must be {words}, not {order!r}")
        if concurrency is not None:
            whole(concurrency, of="concurrency")
        _check_bound(maxsize, overflow)
        positive(catch_up, of="catch_up", least=0, most=LONGEST)
        if not isinstance(strict_lanes, bool):
            raise TypeError(f"strict_lanes must be True or False, not {strict_lanes!r}")
        if adaptive is not None and not _has(adaptive, "govern"):
            raise TypeError(f"adaptive must be an Adaptive, not {adaptive!r}: write Adaptive()")
        if schedule is not None and not _has(schedule, "make_limiter"):
            raise TypeError(
                f"schedule must be a HostSchedule or a SharedSchedule, not {schedule!r}: write "
                'HostSchedule("NAME")'
            )
        self._dispatcher = Dispatcher(
            as_limits(limits),
            name=name,
            lanes=_lanes_of(lanes),
            order=order,
            concurrency=math.inf if concurrency is None else concurrency,
            maxsize=maxsize,
            drop_oldest=overflow == "drop_oldest",
            catch_up=catch_up,
            adaptive=adaptive,
            factory=schedule,
            strict_lanes=strict_lanes,
        )
        if limits:
            self._dispatcher.permit_unknown_keys()  # these pace them: perhaps "unlimited"
        if observers:
            self._dispatcher.observe([_observer_for(self, observer) for observer in observers])
        self._call_type, self._detailed_call_type = self._dispatcher.call_types
        self._costs_of = self._dispatcher.units.costs_of
        self._entered_on: asyncio.AbstractEventLoop | None = None
        self._double_turns: DoubleTurns | None = None
        self._watches: DoubleTurns | None = None
        """The same, as long as slots are to be noted."""

    if not TYPE_CHECKING:  # a type checker says itself that there is none
        acquire = Missing(
            'write "async with queue.slot():" for a call, or "await queue.limiter().acquire()"'
        )

    @property
    def name(self) -> str | None:
        """The name that `repr`, events and errors have."""
        return self._dispatcher.name

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._dispatcher.waiters.live

    @property
    def running(self) -> int:
        """How many bodies run."""
        return self._dispatcher.running

    def __repr__(self) -> str:
        return repr(self._dispatcher)

    def _repr_html_(self) -> str:
        """Return a table of the queue's state and figures, which notebooks show."""
        return self._dispatcher.html()

    def slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
        timeout: float | None = None,
    ) -> Slot:
        """Wait for a slot, run the body of `async with`, end the call.

        The call starts when all its limits have room for it: the queue's own and those of each of
        its keys' lanes. It is then charged to all of them at one instant; until then, to none.

        A caller that is cancelled while it waits uses no slot; one cancelled after its slot was
        granted, but before it resumed, passes the slot to the next waiter. Slots are released in
        order; bodies released in one pass of the loop start as it resumes their tasks.

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
            keys: several kinds, `("tenant:acme", "search")`: it comes under the lane of each; its
                place with `order="fair"` is the first one's. Instead of `key`.
            priority: lower goes first; default 0.
            cost: how many calls it counts as, 1 by default; or amounts by unit, `{"tokens": 800}`,
                in which `calls` is 1 unless it says otherwise. Of a unit that one of its limits
                counts it must say something: 0, and the limit does not concern the call. A cost
                above a rate's burst waits for as long as that many calls take.
            timeout: seconds to wait at most; default: any time. A slot that is due when they are
                over, to the instant, is in time.

        Raises:
            SlotTimeout: no slot within `timeout`; at once where even the next one is later.
            QueueFull: too many wait.
            QueueClosed: the queue is closed, or closed while this waited.
            ValueError: an invalid cost, priority or timeout; a unit that no limit counts, or one
                that a limit of the call counts and its cost does not name; with `strict_lanes`, a
                key that fits no lane.
            TypeError: one of them is no number; a key that is not hashable; `key` and `keys`, or a
                string as `keys`.
            RuntimeError: the queue is in use on another loop that is still alive; or the task would
                wait for itself: it holds a slot already, under a limit of how many run at once that
                has no permit left.
        """
        dispatcher, call_type = self._dispatcher, self._call_type
        if key is None and keys is None and priority == 0 and timeout is None:
            call = call_type(dispatcher)  # most ask for no more
        else:
            all_keys = NO_KEYS
            if key is not None or keys is not None:
                all_keys = keys_of(key, keys)
            if priority != 0 or timeout is not None:
                check_place(priority, timeout)
            call = self._detailed_call_type(dispatcher, all_keys, priority, timeout)
        if cost is not _ONE:
            costs_of = self._costs_of
            call.costs = costs_of(cost)
        if self._watches is not None:
            self._note_turn(call)
        return call

    def _note_turn(self, call: Turn) -> None:
        watches = self._watches
        if watches is not None:
            if watches.is_over:
                self._watches = None
            else:
                watches.made(call)

    def _watch_turns(self, *, again: bool) -> None:
        """Look for calls that take two turns, as they may from now on; see `_double_turns.py`.

        Args:
            again: even if that was done before.
        """
        turns = self._double_turns
        if turns is None:
            turns = self._double_turns = DoubleTurns(self._dispatcher)
        elif again and not turns.has_warned:
            turns.begin()
        else:
            return
        self._watches = turns

    def enqueue(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
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

        The Future may be cancelled at any time before it is awaited: a slot that was granted
        meanwhile goes to the next waiter. So it does if a task that awaits it is cancelled.

        Args:
            key: what kind of call this is, as for `slot`.
            keys: several kinds, as for `slot`; instead of `key`.
            priority: lower goes first; default 0.
            cost: how many calls it counts as, 1 by default; or amounts by unit.
            timeout: seconds to wait at most; default: any time.

        Raises:
            SlotTimeout: at once where even the next slot comes too late; one that runs out of time
                later is an exception of the Future.
            QueueFull: too many wait.
            QueueClosed: the queue is closed. If it is closed while this waits, the Future has it.
            ValueError, TypeError: an argument is invalid, as for `slot`.
            RuntimeError: the queue is in use on another loop that is still alive.
        """
        slot = self.slot(key=key, keys=keys, priority=priority, cost=cost, timeout=timeout)
        call = cast("Call", slot)
        if self._watches is not None:
            self._watches.forget(call)
        return self._dispatcher.enqueue(call)

    def try_slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> Slot:
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
            keys: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.

        Raises:
            WouldWait: `slot` would wait; `retry_in` has the seconds, as things stand: 0.1 where
                that is not known, as a running call has to end first.
            QueueClosed: the queue is closed.
            ValueError: an invalid cost or priority.
        """
        call = cast("Call", self.slot(key=key, keys=keys, priority=priority, cost=cost))
        if self._watches is not None:
            self._watches.forget(call)
        if self._dispatcher.try_start(call):
            return call
        retry_in = self.estimate(key=key, keys=keys, priority=priority, cost=cost)
        if retry_in == math.inf:
            message = "it is paused until resume()"
        elif retry_in > 0:
            message = f"the next slot is due in {duration_text(retry_in)}"
        else:  # a permit is missing, those who wait are about to start, or a server is to be asked
            retry_in = _ASK_AGAIN
            message = f"no slot is free: try again in {retry_in:g} s, or wait with slot()"
        raise WouldWait(f"{self!r}: {message}", retry_in=retry_in)

    def estimate(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> float:
        """Return the seconds that a newcomer would wait, as things stand.

        Exact for a FIFO queue with one limit (of a `Window`: and equal costs); otherwise an
        estimate: when bodies will end is not known, so that a missing permit adds nothing, and all
        who wait are counted as being ahead, unless they are less urgent, all of them. Infinite
        while paused without end.

        Args:
            key: as in `slot`.
            keys: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.
        """
        watches, self._watches = self._watches, None  # this is no call
        try:
            call = cast("Call", self.slot(key=key, keys=keys, priority=priority, cost=cost))
        finally:
            self._watches = watches
        now = self._dispatcher.bind()
        return self._dispatcher.limiter.estimate(call, now) - now

    @property
    def eta(self) -> float:
        """Seconds until all who wait now will have started, as things stand; 0 if nobody waits.

        For progress bars: it falls by a second in each, as long as nobody joins.

        >>> import asyncio
        >>> async def main():
        ...     queue = ApiQueue("10/s", lanes={"slow": "1/s"})
        ...     for key in ("slow",) * 5 + ("fast",) * 20:
        ...         queue.enqueue(key=key)
        ...     print(f"{queue.eta:.1f} s")
        ...     await asyncio.sleep(1.5)
        ...     print(f"{queue.eta:.1f} s")
        >>> asyncio.run(main())
        4.0 s
        2.5 s

        Exact where one limit decides (of a `Window`: and costs are equal); otherwise a lower bound:
        calls that wait for two limits by turns may take longer, and so may those that wait for a
        permit, which alone adds nothing (0, though somebody waits). Of a quota shared with other
        processes, an estimate from what the server or the hub has said. Infinite while paused
        without end. It takes as long as there are keys under which calls wait: for 100,000 of them,
        some tenths of a second; of a `Calendar` each, much longer.
        """
        now = self._dispatcher.bind()
        if not self._dispatcher.waiters.live:
            return 0.0
        return self._dispatcher.limiter.all_started(now) - now

    def limiter(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        unit: str = CALLS,
    ) -> LimiterView:
        """Return a limiter for calls of one kind, in the shape that other libraries know.

        `async with limiter:` is one call, `await limiter.acquire(5)` five, and
        `limiter.has_capacity()` says whether one could start now. It can be entered any number of
        times, by many tasks at once.

        >>> import asyncio
        >>> async def main():
        ...     loop = asyncio.get_running_loop()
        ...     limiter = ApiQueue("10/s", lanes={"slow": "2/s"}).limiter(key="slow")
        ...     for _ in range(3):
        ...         async with limiter:
        ...             print(f"{loop.time():.1f} s", limiter.has_capacity())
        >>> asyncio.run(main())
        0.0 s False
        0.5 s False
        1.0 s False

        Args:
            key: as in `slot`.
            keys: as in `slot`.
            priority: as in `slot`.
            unit: what amounts count; default `"calls"`. In another one, each use is one call
                besides.

        Raises:
            TypeError: as in `slot`.
            ValueError: as in `slot`; or the queue's limits count more than this unit.
        """
        all_keys = None if key is keys is None else keys_of(key, keys)
        self._dispatcher.refuse_unknown(all_keys or ())
        check_place(priority, None)
        cost: Cost = {CALLS: 1, unit: 1}
        try:
            costs = self._dispatcher.units.costs_of(cost)
            self._dispatcher.limiter.check(costs)
        except ValueError as error:
            raise ValueError(
                f"limiter(unit={unit!r}): {error} (A limiter counts calls and one unit. For more, "
                "use queue.slot().)"
            ) from None
        return LimiterView(
            self,
            self._dispatcher.nesting,
            keys=all_keys,
            priority=priority,
            unit=None if unit == CALLS else unit,
        )

    @overload
    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], Hashable] | Hashable = None,
        keys: Callable[[T], Sequence[Hashable]] | Sequence[Hashable] | None = None,
        priority: float | Callable[[T], float] = 0,
        cost: Cost | Callable[[T], Cost] = 1,
        timeout: float | Callable[[T], float | None] | None = None,
        settle: Callable[[R], Cost | None] | None = None,
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
        key: Callable[[T], Hashable] | Hashable = None,
        keys: Callable[[T], Sequence[Hashable]] | Sequence[Hashable] | None = None,
        priority: float | Callable[[T], float] = 0,
        cost: Cost | Callable[[T], Cost] = 1,
        timeout: float | Callable[[T], float | None] | None = None,
        settle: Callable[[R], Cost | None] | None = None,
        concurrency: int | None = None,
        ordered: bool = False,
        return_exceptions: bool,
    ) -> AsyncIterator[R | BaseException]: ...

    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], Hashable] | Hashable = None,
        keys: Callable[[T], Sequence[Hashable]] | Sequence[Hashable] | None = None,
        priority: float | Callable[[T], float] = 0,
        cost: Cost | Callable[[T], Cost] = 1,
        timeout: float | Callable[[T], float | None] | None = None,
        settle: Callable[[R], Cost | None] | None = None,
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
                not paced twice, and says itself what its calls ask for.
            items: an iterable or an async iterable.
            key: as in `slot`, or a function of the item that returns it, as all that follow may
                be. (A key that can itself be called is returned by one: `lambda item: key`.)
            keys: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.
            timeout: as in `slot`; for the slot, not for the call.
            settle: a function of the result that returns the call's true cost, as `Slot.settle`
                takes it, or None: it is as it was. Not called where `fn` raises. An error in
                it is reported to the loop's exception handler, and costs no result.
            concurrency: how many calls may run, or have results not yet fetched, at once;
                default 100.
            ordered: yield in the order of `items`; default: as completed.
            return_exceptions: yield an exception as a result; default: raise the first one,
                after the calls still running have been cancelled.

        Raises:
            TypeError: `fn` is not a coroutine function; or it is `@rate_limited` by this queue,
                and a key, cost or the like is given here.
            ValueError: `concurrency` is below 1.
        """
        self._watch_turns(again=True)
        return paced_map(
            self,
            fn,
            items,
            CallOptions(
                "map",
                key=key,
                keys=keys,
                priority=priority,
                cost=cost,
                timeout=timeout,
                settle=settle,
            ),
            concurrency=concurrency,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )

    def set_rate(self, *limits: str | Limit, key: Hashable = None) -> None:
        """Replace the limits, now: calls that wait already are timed by the new ones.

        What has been let through still counts: of half an old interval still to wait, half a
        new one is left. A limit of another kind counts it, too:

        - A window or a calendar that replaces a rate starts with what the rate has not recovered.
        - A rate that replaces a window starts as if it had been in force all the time.
        - A rate that replaces a calendar starts used up, if the period has seen a burst or more.

        A limit of another kind gives nothing back for calls that started before it, whether they
        are settled or cancelled. A `Concurrency` that a lane did not have before counts the bodies
        that start from then on; the queue's own counts all that run.

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
            limits: as for `ApiQueue`; all of the old ones are replaced. `"unlimited"` lifts them.
            key: whose lane, or `"*"`, or `"List*"`; default: the queue's own limits.

        Raises:
            TypeError: something that is no limit; or none is given.
            ValueError: an invalid limit, or one too small for the cost of a call that waits; with
                `strict_lanes`, a key that fits no lane.
        """
        if not limits:
            raise TypeError(
                'set_rate() needs a limit: to remove all limits, write set_rate("unlimited")'
            )
        keys_of(key, None)
        parsed = tuple(as_limits(limits))
        self._dispatcher.check_lane(key)
        self._dispatcher.set_limits(key, parsed)
        self._call_type, self._detailed_call_type = self._dispatcher.call_types

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the other side pushed back: slow down, and start nothing for `retry_after`.

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
            ValueError: `retry_after` is negative, infinite or NaN; or `key` is a pattern.
        """
        if retry_after is not None:
            positive(retry_after, of="retry_after", least=0, most=LONGEST)
        self._dispatcher.throttled(retry_after, None, key)

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
            ValueError: `seconds` is negative, infinite or NaN; or `key` is a pattern.
        """
        positive(seconds, of="seconds", least=0, most=LONGEST)
        self._dispatcher.hold(seconds, None, key)

    def sync(
        self,
        remaining: float,
        *,
        unit: str = CALLS,
        reset: float | None = None,
        limit: float | None = None,
        key: Hashable = None,
    ) -> None:
        """Report what the other side says is left of a quota, such as on a page of its own.

        As `Slot.sync`, which is better where a call of this queue was answered so: it knows which
        calls had been counted by then. This takes off all that are out.

        >>> async def main():
        ...     queue = ApiQueue("100/min burst 100", lanes={"*": ()})
        ...     queue.sync(0, reset=30, key="busy.example")
        ...     return [queue.estimate(key=host) for host in ("busy.example", "idle.example")]
        >>> asyncio.run(main())
        [30.0, 0.0]

        Args:
            remaining: as of `Slot.sync`.
            unit: as of `Slot.sync`.
            reset: as of `Slot.sync`.
            limit: as of `Slot.sync`.
            key: whose lane, if it has one of its own; default: the whole queue.

        Raises:
            ValueError: a number that is negative, infinite or NaN; an unknown unit; or `key` is a
                pattern.
        """
        check_count(remaining, reset, limit)
        self._dispatcher.sync(None, remaining, unit=unit, reset=reset, limit=limit, key=key)

    def malformed(self, *, key: Hashable = None) -> None:
        """Count that the other side sent something that is not valid, such as "retry after -1".

        Args:
            key: the key of the call that it answered.
        """
        self._dispatcher.bind()
        self._dispatcher.count("malformed", key=key)

    def odd(self, *, key: Hashable = None) -> None:
        """Deprecated: the old name of `malformed`.

        Args:
            key: as of `malformed`.
        """
        warnings.warn("ApiQueue.odd is now ApiQueue.malformed", DeprecationWarning, stacklevel=2)
        self.malformed(key=key)

    def pause(self, seconds: float | None = None) -> None:
        """Let nothing start; bodies that run go on.

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
        self._dispatcher.pause(seconds)

    def resume(self) -> None:
        """End a `pause`. What the other side asked for (`throttled`) stays in force."""
        self._dispatcher.resume()

    async def aclose(
        self,
        *,
        drain: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends draining, not the call
    ) -> None:
        """Close: nobody else may join, and nobody waits when this returns.

        Bodies that run are their callers' and go on. Cancelled, it refuses at once all callers
        that still wait.

        Args:
            drain: let those who wait start first; default True. (A queue that is paused drains
                when it is resumed.)
            timeout: seconds for draining, at most; default: any time. Callers that still wait
                then get `QueueClosed`. A queue with a `SharedSchedule` then reports that it is
                gone, for up to twice the `timeout` of that.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
        """
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
        await self._dispatcher.aclose(drain=drain, within=timeout, why=_CLOSED)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled: each copy would let the whole limit through."""
        self._dispatcher.__reduce_ex__(protocol)

    async def __aenter__(self) -> Self:
        """Use the queue, and close it at the end: once, and not for each call.

        Raises:
            QueueClosed: it is closed.
            RuntimeError: it has been entered already; or no loop of asyncio runs, as under trio.
        """
        self._dispatcher.bind()
        if self.closed:
            raise QueueClosed(f"{self!r} is closed: {_ONCE}")
        loop = loop_of_this_thread()
        if self._entered_on is not None and not self._entered_on.is_closed():
            raise RuntimeError(f"{self!r} has already been entered: {_ONCE}")
        self._entered_on = loop
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._dispatcher.aclose(drain=kind is None, within=None, why=_CLOSED_BY_BLOCK)

    @property
    def closed(self) -> bool:
        """Whether the queue takes no more callers."""
        return bool(self._dispatcher.closed)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits in force, but for those of lanes."""
        return self._dispatcher.limiter.limits

    @property
    def stats(self) -> Stats:
        """The queue's figures, as things stand."""
        return self._dispatcher.stats()


def _observer_for(queue: ApiQueue, observer: Observer | ObserverFactory) -> Observer:
    """Return what is to observe a queue, which has been made with this observer."""
    if isinstance(observer, ObserverFactory) and not isinstance(observer, type):
        observer = observer.for_queue(queue)
    if isinstance(observer, type) or not callable(getattr(observer, "on_event", None)):
        raise TypeError(f"an observer must be an object with an on_event method, not {observer!r}")
    return observer


def _has(value: object, method: str) -> bool:
    """Return whether an object has a method; its class has not."""
    return hasattr(value, method) and not isinstance(value, type)


def _lanes_of(lanes: Mapping[Hashable, Limits] | None) -> dict[Hashable, Sequence[Limit]]:
    """Return the limits of each lane.

    Raises:
        TypeError: no mapping of keys to limits; the message names the lane.
        ValueError: an invalid limit, likewise.
    """
    if lanes is None:
        return {}
    if not isinstance(lanes, Mapping):
        raise TypeError(
            f'lanes must map keys to limits, such as {{"search": "2/s"}}, not {lanes!r}'
        )
    found: dict[Hashable, Sequence[Limit]] = {}
    for key, limits in lanes.items():
        try:
            found[key] = as_limits(limits)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"lanes[{key!r}]: {error}") from None
    return found


def _check_bound(maxsize: int, overflow: str | None) -> None:
    """Refuse a size that is none, and an overflow that is none, or could never happen."""
    if overflow not in (None, "raise", "drop_oldest"):
        raise ValueError(f'overflow must be "raise" or "drop_oldest", not {overflow!r}')
    positive(maxsize, of="maxsize", least=0)
    if overflow is not None and maxsize == 0:
        raise ValueError(
            f"overflow={overflow!r} needs maxsize, as without it the queue is never full: write "
            f"maxsize=1000, overflow={overflow!r}, or leave it out"
        )


def check_place(priority: float, timeout: float | None) -> None:
    """Refuse a priority that is none, and a time-out that is none."""
    try:
        in_order = priority < 0 or priority >= 0
    except TypeError:
        raise TypeError(f"priority must be a number, not {priority!r}") from None
    if not in_order:
        raise ValueError("priority must be a number, not NaN")
    if timeout is not None:
        positive(timeout, of="timeout", least=0, most=LONGEST)


def watch_turns(queue: ApiQueue) -> None:
    """Look for slots that are held around requests of a client that this queue paces."""
    queue._watch_turns(again=False)  # noqa: SLF001 - as in `dispatcher_of`


def note_turn(queue: ApiQueue, slot: Turn) -> None:
    """Note a thread's slot; as `ApiQueue.slot` does with those of coroutines."""
    queue._note_turn(slot)  # noqa: SLF001 - as in `dispatcher_of`


def dispatcher_of(queue: ApiQueue) -> Dispatcher:
    """Return what is under a queue, for the parts of this package that manage queues."""
    return queue._dispatcher  # noqa: SLF001 - the one way in
