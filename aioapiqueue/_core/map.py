"""`ApiQueue.map`: call a function with many items, paced, in bounded memory."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from aioapiqueue._core.callables import CallOptions, is_paced_by, refuse_all_but_coroutine_functions
from aioapiqueue._core.loops import loop_of_this_thread
from aioapiqueue._limits.checks import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence

    from aioapiqueue._core.double_pacing import DoublePacing
    from aioapiqueue._core.slot import Slot
    from aioapiqueue._limits.cost_units import Cost

T = TypeVar("T")
R = TypeVar("R")


class FanOut:
    """Adds `map` to a class that has `slot`."""

    __slots__ = ()

    _watch: DoublePacing | None
    """Checks new slots for double pacing; None: there is nothing to check."""

    @abstractmethod
    def slot(self, *_: Any, **options: Any) -> Slot:  # noqa: ANN401 - see `ApiQueue.slot`
        """Wait for a slot, run the body of `async with`, and end the call."""

    @abstractmethod
    def _watch_double_pacing(self, *, again: bool) -> None:
        """Check new slots for double pacing from now on; see `double_pacing.py`.

        Args:
            again: begin again if that was done before, unless a warning was issued.
        """

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
        """Call `fn` with every item, paced, and yield the results.

        Items are taken one at a time as slots become free, so `items` may be endless. If you close
        the iterator, or cancel it while it waits for a result, it cancels the running calls.

        Args:
            fn: a coroutine function of one item. If it is `@rate_limited` by this queue, its calls
                are not paced twice, and the options of the decorator apply.
            items: an iterable or async iterable.
            key: as in `slot`, or a function of the item that returns it; the same holds for the
                options below. (Wrap a key that is callable: `lambda item: key`.)
            keys: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.
            timeout: as in `slot`; it limits the wait for the slot, not the call.
            settle: a function of the result that returns the true cost for `Slot.settle`, or None
                to keep the cost. It is not called if `fn` raises. If it fails, the error goes to
                the loop's exception handler, and the result is still yielded.
            concurrency: largest number of calls that run, or whose results wait to be fetched;
                default 100.
            ordered: yield results in the order of `items`; default: as completed.
            return_exceptions: yield exceptions as results. Default: cancel the running calls, and
                raise the first exception.

        Raises:
            TypeError: `fn` is not a coroutine function; or it is `@rate_limited` by this queue,
                and options such as `key` or `cost` are given here.
            ValueError: `concurrency` is below 1.

        >>> import asyncio
        >>> async def double(number):
        ...     return 2 * number
        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     return [result async for result in queue.map(double, range(5), ordered=True)]
        >>> asyncio.run(main())
        [0, 2, 4, 6, 8]
        """
        self._watch_double_pacing(again=True)
        how = {"key": key, "keys": keys, "priority": priority, "cost": cost, "timeout": timeout}
        options = CallOptions("map", settle=settle, **how)
        # Checked here, and not in the async generator, which would raise at the first result only.
        _refuse_swapped(fn, items)
        refuse_all_but_coroutine_functions(fn, "map")
        if options.given and is_paced_by(self, fn):
            raise _paced_by_itself(fn)
        at_once = 100 if concurrency is None else concurrency
        whole(at_once, of="concurrency")
        if not isinstance(items, Iterable | AsyncIterable):
            raise TypeError(f"map needs an iterable or async iterable of items, not {items!r}")
        return _results(
            self, fn, items, options, at_once, ordered=ordered, keep_errors=return_exceptions
        )


def _refuse_swapped(fn: object, items: object) -> None:
    if callable(items) and not callable(fn):
        name = getattr(items, "__name__", "f")
        raise TypeError(f"map takes the function first, then the items: queue.map({name}, items)")


async def _results(
    queue: FanOut,
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    options: CallOptions,
    at_once: int,
    *,
    ordered: bool,
    keep_errors: bool,
) -> AsyncIterator[R | BaseException]:
    loop_of_this_thread()  # raises before a coroutine exists that would never be awaited
    # Plain tasks instead of a task group: if the consumer leaves the loop with `break`, another
    # task closes this generator, and could not end a cancel scope that this one began.
    # A permit is held until the result is fetched, so that results do not pile up either.
    permits = asyncio.Semaphore(at_once)
    ready: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    calls: set[asyncio.Task[Any]] = set()

    async def feed() -> None:
        async with aclosing(_each(items)) as each:
            async for item in each:
                # If cancelled here, neither this item nor a later one is called.
                await permits.acquire()
                task = asyncio.create_task(_call(queue, fn, item, options))
                calls.add(task)
                if ordered:
                    ready.put_nowait(task)
                else:
                    task.add_done_callback(ready.put_nowait)

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(ready.put_nowait)  # to wake the loop below when `items` ends or raises
    try:
        while calls or not feeder.done():
            # If cancelled here, or closed while the consumer has a result: see `finally`.
            task = await ready.get()
            if task is feeder:
                feeder.result()  # raises the error of `items`
                continue
            await asyncio.wait([task])  # with `ordered`, a call may still run here
            calls.remove(task)
            permits.release()
            if keep_errors and (task.cancelled() or task.exception()):
                error = None if task.cancelled() else task.exception()
                yield error or asyncio.CancelledError()  # as gather does
            else:
                yield task.result()
    finally:
        # All are cancelled before any is awaited. The gather keeps this function until they have
        # ended: no call may run after `map` has.
        for task in (feeder, *calls):
            task.cancel()
        await asyncio.gather(feeder, *calls, return_exceptions=True)


async def _call(queue: FanOut, fn: Callable[[T], Awaitable[R]], item: T, options: CallOptions) -> R:
    # For each item, because the queue of a decorated function may depend on its argument.
    if is_paced_by(queue, fn, item):
        if options.given:
            raise _paced_by_itself(fn)
        return await fn(item)
    arguments = options.of(item)
    take: Callable[..., Slot] = queue.slot
    # Naming the maker of a slot takes 3 % of an item's time: only while new slots are checked.
    if queue._watch is not None:  # noqa: SLF001 - this function is a part of the class
        from aioapiqueue._core.double_pacing import made_by  # noqa: PLC0415 - few queues

        take = partial(made_by, "map", take)
    async with take(**arguments) as slot:
        result = await fn(item)
        options.settle(slot, result)
        return result


def _paced_by_itself(fn: object) -> TypeError:
    return TypeError(
        f"{fn!r} is already @rate_limited by this queue: pass key=, cost= and other options to "
        "@rate_limited, or map the function without the decorator"
    )


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    # An async generator is closed when `map` ends early; a plain one, as in any `for` loop, is not.
    if isinstance(items, AsyncIterable):
        closing = aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext()
        async with closing:
            async for item in items:
                yield item
    else:
        for item in items:
            yield item
