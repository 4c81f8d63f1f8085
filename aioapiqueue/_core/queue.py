"""`ApiQueue`, the public class: it checks arguments, and its dispatcher does the work."""

from __future__ import annotations

import math
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
    runtime_checkable,
)

from aioapiqueue._core.controls import Controls
from aioapiqueue._core.dispatcher import Dispatcher
from aioapiqueue._core.labels import queue_html
from aioapiqueue._core.loops import loop_of_this_thread
from aioapiqueue._core.map import FanOut
from aioapiqueue._core.options import (
    HINTS,
    Limits,
    Missing,
    check_parts,
    check_place,
    check_size,
    checked_weights,
    parsed_lanes,
)
from aioapiqueue._core.orders import ORDERS, Order
from aioapiqueue._core.seam import LimitSettings
from aioapiqueue._core.slot import NO_KEYS, Slot, keys_of
from aioapiqueue._limits.checks import LONGEST, positive, refuse_unknown, whole
from aioapiqueue._limits.grammar import CALLS, duration_text
from aioapiqueue._limits.limit_types import Limit, as_limits
from aioapiqueue.exceptions import QueueClosed, WouldWait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from aioapiqueue._core.double_pacing import DoublePacing, WatchedSlot
    from aioapiqueue._core.observers import Observer
    from aioapiqueue._core.seam import LimiterFactory
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._core.view import LimiterView
    from aioapiqueue._limits.cost_units import Cost
    from aioapiqueue._limits.state_maker import AdaptivePolicy

Observers: TypeAlias = "Sequence[Observer | ObserverFactory]"

_ONCE = (
    '"async with queue:" works only once, because it closes the queue at the end. For each call, '
    'write "async with queue.slot():"; for code that expects a limiter, pass queue.limiter(). '
    "You need not start or stop a queue"
)
_CLOSED_BY_BLOCK = (
    '"async with queue:" closed it at the end of its block. Leave "async with queue:" out (you '
    "need not start or stop a queue), or create a new queue each time"
)
_CLOSED = "aclose() closed it. Create a new queue, or leave this one open (you need not close it)"

_ONE = 1
"""The default of `cost`, which is compared by identity: `==` with a mapping takes longer."""
_ASK_AGAIN = 0.1
"""`WouldWait.retry_in` if it is unknown when a slot will be free: long enough for retries to cost
nothing, and short compared with most API calls."""

T = TypeVar("T")


@runtime_checkable
class ObserverFactory(Protocol):
    """An object in `observers=` that creates an observer for each queue."""

    def for_queue(self, queue: ApiQueue, /) -> Observer:
        """Return the observer of a queue that has not been used yet."""


class ApiQueue(Controls, FanOut):
    """A rate limiter for asyncio: calls wait in a queue until their limits allow them to start.

    You need not start or stop a queue. You can create it at import time. It belongs to the event
    loop that first uses it.

    Args:
        limits: any number of limits, which all apply: strings (`"10/s"`, `"100ms"`, several with
            commas), `Rate`, `Window`, `Calendar`, `Concurrency`, `Budget`. Without limits, the
            queue only orders and counts calls.
        name: name in `repr`, events and errors.
        lanes: limits of single keys, in addition to the queue's own, such as
            `{"ListKeys": "5/s", "*": "20/s"}`. Each is a string, a limit or a tuple of them. `"*"`
            gives every other key a lane of its own, and `"List*"` every other key that begins with
            `List`.
        order: `"fifo"`, in order of arrival, or `"fair"`: keys (the first of each call) take turns,
            and calls of one key with the same limits start in order of arrival. A lower `priority`
            always goes first.
        concurrency: largest number of calls that run at once; default: no limit.
        maxsize: largest number of waiting calls; 0, the default: no limit.
        overflow: which call gets `QueueFull` if more than `maxsize` wait: the new one (`"raise"`,
            the default) or the oldest of the least urgent (`"drop_oldest"`).
        catch_up: longest delay, in seconds, for which the queue compensates by starting the next
            calls earlier; default 0.010. After a longer delay, missed calls are lost. Under a rate,
            calls that are due within half of it, 5 ms at most, start together, which saves CPU
            and leaves the other half for delays of the machine. With 0, the interval between
            calls is never shortened.
        adaptive: an `Adaptive`, which slows down when the server throttles calls. Default: the
            queue only waits as long as the server asks.
        schedule: shares these limits between queues: a `HostSchedule` between the processes on one
            host, a `SharedSchedule` (`aioapiqueue.integrations.redis`) between hosts.
        observers: objects that receive events; see `Observer`.
        weights: shares of keys with `order="fair"`, by key or pattern, such as
            `{"a": 3, "tenant:*": 2}`: while calls of both wait, three calls of `a` start for each
            of a key with the weight 1, the default of all keys. What a key does not use, the others
            share. A pattern gives its weight to each key. Weights are numbers above 0.
        weights_unit: the unit in which keys have shares; default: that of the first limit. A turn
            costs a key what its call is charged in this unit, corrected by `settle`; a call that is
            charged none counts like an average one.
        strict_lanes: refuse keys without a lane in calls, `set_rate`, `hold` and similar methods.
            Calls without a key are accepted. Default: calls with such keys are subject only to the
            queue's own limits. If the queue has none, an `UnknownKeyWarning` is issued once (not
            with a `HostSchedule`, because other processes may limit the key).
        unknown: refused; the error names the option that was probably meant.

    Raises:
        TypeError: a limit is a bare number, or an option is unknown.
        ValueError: a limit, size or word is invalid; the message quotes it.

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

    A slow lane delays only its own calls, keys take turns, and at most two calls run at once:

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

    A full queue can drop the least urgent call:

    >>> async def main():
    ...     queue = ApiQueue("10/s", Window(50, 60), maxsize=1, overflow="drop_oldest")
    ...     calls = [queue.enqueue(priority=priority) for priority in (0, 0, -1)]
    ...     for result in await asyncio.gather(*calls, return_exceptions=True):
    ...         print(result)
    >>> asyncio.run(main())
    <Slot held key=None cost=1>
    <ApiQueue 10/s, 50 in any 1min: open, 1 waiting, 1 running> is full (maxsize=1)
    <Slot held key=None cost=1>
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
        weights: Mapping[Any, float] | None = None,  # Any: as for lanes
        weights_unit: str | None = None,
        strict_lanes: bool = False,
        **unknown: Never,
    ) -> None:
        if unknown:  # Python's own TypeError could not say which option was probably meant
            annotated = ApiQueue.__init__.__annotations__
            known = [name for name in annotated if name not in ("limits", "unknown", "return")]
            refuse_unknown(unknown, known, by="ApiQueue", hints=HINTS)
        if order not in ORDERS:
            words = " or ".join(f'"{word}"' for word in ORDERS)
            raise ValueError(f"order must be {words}, not {order!r}")
        if concurrency is not None:
            whole(concurrency, of="concurrency")
        check_size(maxsize, overflow)
        positive(catch_up, of="catch_up", least=0, most=LONGEST)
        check_parts(adaptive=adaptive, schedule=schedule, strict_lanes=strict_lanes)
        self._dispatcher = Dispatcher(
            LimitSettings(
                limits=as_limits(limits),
                lanes=parsed_lanes(lanes),
                concurrency=math.inf if concurrency is None else concurrency,
                catch_up=catch_up,
                adaptive=adaptive,
            ),
            name=name,
            order=order,
            maxsize=maxsize,
            drop_oldest=overflow == "drop_oldest",
            factory=schedule,
            strict_lanes=strict_lanes,
            weights=checked_weights(weights, weights_unit, order),
        )
        if limits:
            self._dispatcher.unknown_keys.permit()  # the user says what paces every call
        if observers:
            self._dispatcher.observe([_observer_for(self, observer) for observer in observers])
        # Looked up once, because each slot needs them; `_control` looks up the first two again.
        self._new_call, self._new_detailed_call = self._dispatcher.call_makers
        self._costs_of = self._dispatcher.units.costs_of
        self._entered_on: asyncio.AbstractEventLoop | None = None
        self._double_pacing: DoublePacing | None = None
        self._watch: DoublePacing | None = None
        """The same object while new slots are checked; None: the hot path does nothing for it."""

    if not TYPE_CHECKING:  # a type checker reports the missing attribute itself
        acquire = Missing(
            'write "async with queue.slot():", or pass queue.limiter() to code that calls acquire()'
        )

    @property
    def name(self) -> str | None:
        """Name of the queue in `repr`, events and errors."""
        return self._dispatcher.name

    @property
    def waiting(self) -> int:
        """Number of calls that are waiting."""
        return self._dispatcher.waiters.live

    @property
    def running(self) -> int:
        """Number of calls that are running."""
        return self._dispatcher.running

    @property
    def closed(self) -> bool:
        """Whether the queue accepts no more calls."""
        return bool(self._dispatcher.closed)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits in force, without those of lanes."""
        return self._dispatcher.limits

    @property
    def stats(self) -> Stats:
        """The queue's current figures."""
        return self._dispatcher.stats()

    def __repr__(self) -> str:
        return repr(self._dispatcher)

    def _repr_html_(self) -> str:
        """Return a table of the queue's state and figures, which notebooks show."""
        return queue_html(self._dispatcher, self.stats)

    def slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
        timeout: float | None = None,
    ) -> Slot:
        """Wait for a slot, run the body of `async with`, and end the call.

        The call starts when all its limits have room: the queue's own, and those of the lane of
        each of its keys. It is charged to all of them at that moment, and to none before.

        A caller that is cancelled while it waits uses no slot. If it is cancelled after it got the
        slot, but before it resumed, the slot goes to the next waiting call.

        Args:
            key: kind of the call; chooses its lane, and its turn with `order="fair"`.
            keys: several keys instead of `key`, such as `("tenant:acme", "search")`: the call is
                subject to the lane of each. With `order="fair"`, the first key counts.
            priority: lower goes first; default 0.
            cost: number of calls that it counts as, default 1; or amounts by unit, such as
                `{"tokens": 800}`, with 1 for `calls` unless it is named. Name every unit that a
                limit of the call counts; with 0, that limit ignores the call. A cost above the
                burst of a rate waits until that much has refilled.
            timeout: longest wait in seconds; default: no timeout. A slot that is due exactly when
                the timeout ends is still granted.

        Raises:
            SlotTimeout: no slot within `timeout`; raised at once if even the next one is too late.
            LimitExceeded: a budget, or a limit with `or raise`, has no room for the call.
            QueueFull: too many calls are waiting.
            QueueClosed: the queue is closed, or was closed while this call waited.
            ValueError: the cost, priority or timeout is invalid; the cost names an unknown unit, or
                does not name one that a limit of the call counts; or, with `strict_lanes`, a key
                has no lane.
            TypeError: a value is not a number, a key is not hashable, both `key` and `keys` are
                given, or `keys` is a string.
            RuntimeError: the queue is in use on another event loop that is still open; or the task
                would wait for itself, because it holds a slot and no permit is free.

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     async def call(name, **how):
        ...         async with queue.slot(**how) as slot:
        ...             print(f"{name} after {slot.waited:.1f} s")
        ...     await asyncio.gather(
        ...         call("first"), call("second"), call("big", cost=3), call("urgent", priority=-1)
        ...     )
        ...     try:
        ...         await asyncio.gather(*(call(n, timeout=0.15) for n in ("next", "late")))
        ...     except SlotTimeout:
        ...         print("late: no slot within 0.15 s")
        >>> asyncio.run(main())
        first after 0.0 s
        urgent after 0.1 s
        second after 0.2 s
        big after 0.5 s
        next after 0.1 s
        late: no slot within 0.15 s
        """
        dispatcher, new_call = self._dispatcher, self._new_call
        if key is None and keys is None and priority == 0 and timeout is None:
            call = new_call(dispatcher)  # the commonest call, in the fewest steps
        else:
            # Each check is a call, so it is made only if its argument is not the default.
            all_keys = NO_KEYS
            if type(key) is str and keys is None:  # most keys, and nothing to check
                all_keys = (key,)
            elif key is not None or keys is not None:
                all_keys = keys_of(key, keys)
            if priority != 0 or timeout is not None:
                check_place(priority, timeout)
            new_call = self._new_detailed_call  # a local, as in `Dispatcher.try_start`
            call = new_call(dispatcher, all_keys, priority, timeout)
        if cost is not _ONE:
            costs_of = self._costs_of  # as above
            call.costs = costs_of(cost)
        if self._watch is not None:
            self._note_slot(call)
        return call

    def _note_slot(self, call: WatchedSlot) -> None:
        watch = self._watch  # a local, because another thread may set it to None
        if watch is not None:
            if watch.is_over:
                self._watch = None
            else:
                watch.made(call)

    def _watch_double_pacing(self, *, again: bool) -> None:
        from aioapiqueue._core.double_pacing import DoublePacing  # noqa: PLC0415 - few queues

        watch = self._double_pacing
        if watch is None:
            watch = self._double_pacing = DoublePacing(self._dispatcher)
        elif again and not watch.has_warned:
            watch.begin()
        else:  # a queue whose client is already checked, or that has warned
            return
        self._watch = watch

    def enqueue(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
        timeout: float | None = None,
    ) -> asyncio.Future[Slot]:
        """Join the queue now, and return a Future of the `Slot`.

        Cancel the Future to leave the queue. End the slot yourself, with `with slot:` or
        `slot.release()`.

        If the Future, or a task that awaits it, is cancelled after the slot was granted, the slot
        goes to the next waiting call. The arguments are those of `slot`.

        Raises:
            SlotTimeout: even the next slot comes too late. A later timeout is set on the Future.
            LimitExceeded: as in `slot`. If room runs out later, the error is set on the Future.
            QueueFull: too many calls are waiting.
            QueueClosed: the queue is closed. If it closes later, the error is set on the Future.
            ValueError, TypeError: an argument is invalid, as in `slot`.
            RuntimeError: the queue is in use on another event loop that is still open.

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     one, other, third = [queue.enqueue() for _ in range(3)]
        ...     other.cancel()                               # leaves; the third moves up
        ...     with await one, await third as slot:
        ...         return slot.waited
        >>> asyncio.run(main())
        0.1
        """
        slot = self.slot(key=key, keys=keys, priority=priority, cost=cost, timeout=timeout)
        call = cast("Call", slot)
        watch = self._watch  # a local, as in `_note_slot`
        if watch is not None:
            watch.forget(call)  # the Future may be handed to another task
        return self._dispatcher.enqueue(call)

    def try_slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> Slot:
        """Return a slot if one is free now, without waiting. The arguments are those of `slot`.

        Raises:
            WouldWait: the call would have to wait; `retry_in` is the estimated time in seconds, or
                0.1 if it is unknown because a running call must end first.
            LimitExceeded: as in `slot`; on a shared quota, `WouldWait` is raised instead.
            QueueClosed: the queue is closed.
            ValueError: the cost or priority is invalid.

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
        """
        call = cast("Call", self.slot(key=key, keys=keys, priority=priority, cost=cost))
        watch = self._watch
        if watch is not None:
            watch.forget(call)  # this slot may be handed to another task, too
        if self._dispatcher.try_start(call):
            return call
        # The call was charged to no limit and waits nowhere, so there is nothing to undo.
        retry_in = self.estimate(key=key, keys=keys, priority=priority, cost=cost)
        if retry_in == math.inf:
            message = "the queue is paused until resume()"
        elif retry_in > 0:
            message = f"the next slot is due in {duration_text(retry_in)}"
        else:  # no permit is free, waiting calls start first, or a server must be asked
            retry_in = _ASK_AGAIN
            message = f"no slot is free: try again in {retry_in:g} s, or wait with slot()"
        raise WouldWait(f"{self!r}: {message}", retry_in=retry_in)

    def limiter(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        unit: str = CALLS,
    ) -> LimiterView:
        """Return a limiter for one kind of call, with the interface that other libraries expect.

        `async with limiter:` is one call, `await limiter.acquire(5)` five calls, and
        `limiter.has_capacity()` returns whether a call could start now. Many tasks can use it at
        once, any number of times.

        Args:
            key: as in `slot`.
            keys: as in `slot`.
            priority: as in `slot`.
            unit: unit of the amounts; default `"calls"`. With another unit, each use also counts
                as one call.

        Raises:
            TypeError: as in `slot`.
            ValueError: as in `slot`; or the queue's limits count other units as well.

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
        """
        all_keys = None if key is keys is None else keys_of(key, keys)
        self._dispatcher.unknown_keys.refuse(all_keys or ())
        check_place(priority, None)
        # A cost that can never be charged is refused here, and not at the first call.
        cost: Cost = {CALLS: 1, unit: 1}
        try:
            costs = self._dispatcher.units.costs_of(cost)
            self._dispatcher.limiter.check(costs)
        except ValueError as error:
            raise ValueError(
                f"limiter(unit={unit!r}): {error} (A limiter counts calls and one unit. For more, "
                "use queue.slot().)"
            ) from None
        from aioapiqueue._core.view import LimiterView  # noqa: PLC0415 - few queues have one

        return LimiterView(
            self,
            self._dispatcher.nesting,
            keys=all_keys,
            priority=priority,
            unit=None if unit == CALLS else unit,
        )

    def _check_lane(self, key: Hashable) -> None:
        self._dispatcher.unknown_keys.check_lane(key)

    def _control(self, do: Callable[[Dispatcher], T]) -> T:
        self._dispatcher.bind()  # first, because `do` reads the clock of the loop
        result = do(self._dispatcher)
        # New limits may need other calls, such as calls that track which task holds them.
        self._new_call, self._new_detailed_call = self._dispatcher.call_makers
        return result

    async def aclose(
        self,
        *,
        drain: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends draining, not the call
    ) -> None:
        """Close the queue: it accepts no more calls, and none is waiting when this returns.

        Running calls continue. If this is cancelled, all waiting calls are refused at once.

        Args:
            drain: let the waiting calls start first; default True. A paused queue drains when it
                is resumed.
            timeout: longest time to drain, in seconds; default: no limit. Calls that are still
                waiting then get `QueueClosed`. A queue with a `SharedSchedule` then reports
                to the server that it has closed, which may take twice the schedule's `timeout`.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
        """
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
        await self._dispatcher.aclose(drain=drain, within=timeout, why=_CLOSED)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled: each copy would allow the full limit."""
        self._dispatcher.__reduce_ex__(protocol)

    async def __aenter__(self) -> Self:
        """Use the queue, and close it at the end. This works once, not for each call.

        Raises:
            QueueClosed: the queue is closed.
            RuntimeError: the queue has already been entered; or no asyncio event loop is running.
        """
        self._dispatcher.bind()
        if self.closed:
            why = self._dispatcher.closed
            raise QueueClosed(f"{self!r} is closed: {_ONCE if why == _CLOSED_BY_BLOCK else why}")
        loop = loop_of_this_thread()
        # A loop that was closed within the block never left it: the next loop may enter again.
        if self._entered_on is not None and not self._entered_on.is_closed():
            raise RuntimeError(f"{self!r} has already been entered: {_ONCE}")
        self._entered_on = loop
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error in the block, the waiting calls are refused instead of started.
        await self._dispatcher.aclose(drain=kind is None, within=None, why=_CLOSED_BY_BLOCK)


def _observer_for(queue: ApiQueue, observer: Observer | ObserverFactory) -> Observer:
    """Return the observer to attach to a queue; a factory makes one for it."""
    # A class has the methods of its objects, and would pass both checks.
    if isinstance(observer, ObserverFactory) and not isinstance(observer, type):
        observer = observer.for_queue(queue)
    if isinstance(observer, type) or not callable(getattr(observer, "on_event", None)):
        raise TypeError(f"an observer must be an object with an on_event method, not {observer!r}")
    return observer


def dispatcher_of(queue: ApiQueue) -> Dispatcher:
    """Return the dispatcher of a queue."""
    return queue._dispatcher  # noqa: SLF001 - the one way in
