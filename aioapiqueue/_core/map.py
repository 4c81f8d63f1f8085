"""`ApiQueue.map`: a paced fan-out in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aioapiqueue._core.callables import CallOptions, is_paced_by, refuse_all_but_coroutine_functions
from aioapiqueue._core.double_pacing import made_by
from aioapiqueue._core.loop import loop_of_this_thread
from aioapiqueue._limits.rates import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence

    from aioapiqueue._core.double_pacing import DoublePacing
    from aioapiqueue._core.slot import Slot
    from aioapiqueue._limits.units import Cost

__all__ = ["paced_map"]

T = TypeVar("T")
R = TypeVar("R")


class Paces(Protocol):
    """What `paced_map` needs of a queue."""

    _watch: DoublePacing | None

    def slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
        timeout: float | None = None,
    ) -> Slot:
        """Wait for a slot, and hold it until the body ends."""


def paced_map(
    queue: Paces,
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    options: CallOptions,
    *,
    concurrency: int | None,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncIterator[R | BaseException]:
    """Check the arguments now, not at the first result; see `ApiQueue.map`."""
    _refuse_swapped(fn, items)
    refuse_all_but_coroutine_functions(fn, "map")
    if options.given and is_paced_by(queue, fn):
        raise _asks_itself(fn)
    at_once = 100 if concurrency is None else concurrency
    whole(at_once, of="concurrency")
    if not isinstance(items, Iterable | AsyncIterable):
        raise TypeError(f"map needs an iterable or async iterable of items, not {items!r}")
    return _results(
        queue, fn, items, options, at_once, ordered=ordered, forgiving=return_exceptions
    )


def _refuse_swapped(fn: object, items: object) -> None:
    if callable(items) and not callable(fn):
        name = getattr(items, "__name__", "f")
        raise TypeError(f"map takes the function first, then the items: queue.map({name}, items)")


async def _results(
    queue: Paces,
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    options: CallOptions,
    at_once: int,
    *,
    ordered: bool,
    forgiving: bool,
) -> AsyncIterator[R | BaseException]:
    loop_of_this_thread()  # before there is a coroutine that would never be awaited
    # Plain tasks and no task group: a generator that is left by `break` is closed by another
    # task, where a cancel scope could not be ended.
    permits = asyncio.Semaphore(at_once)
    ready: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    calls: set[asyncio.Task[Any]] = set()

    async def feed() -> None:
        async with aclosing(_each(items)) as each:
            async for item in each:
                # Cancelled here: this item has not been called, like those behind it.
                await permits.acquire()
                task = asyncio.create_task(_call(queue, fn, item, options))
                calls.add(task)
                if ordered:
                    ready.put_nowait(task)
                else:
                    task.add_done_callback(ready.put_nowait)

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(ready.put_nowait)
    try:
        while calls or not feeder.done():
            # Cancelled or closed in here, or while the consumer has a result: see `finally`.
            task = await ready.get()
            if task is feeder:
                feeder.result()
                continue
            await asyncio.wait([task])
            calls.remove(task)
            permits.release()
            if forgiving and (task.cancelled() or task.exception()):
                error = None if task.cancelled() else task.exception()
                yield error or asyncio.CancelledError()  # as gather does
            else:
                yield task.result()
    finally:
        for task in (feeder, *calls):
            task.cancel()
        await asyncio.gather(feeder, *calls, return_exceptions=True)


async def _call(queue: Paces, fn: Callable[[T], Awaitable[R]], item: T, options: CallOptions) -> R:
    if is_paced_by(queue, fn, item):
        if options.given:
            raise _asks_itself(fn)
        return await fn(item)
    asked = options.of(item)
    # To say who makes a slot takes 3 % of an item's time: only where somebody asks.
    watched = queue._watch is not None  # noqa: SLF001 - as this is a part of it
    async with made_by("map", queue.slot, **asked) if watched else queue.slot(**asked) as slot:
        result = await fn(item)
        options.settle(slot, result)
        return result


def _asks_itself(fn: object) -> TypeError:
    return TypeError(
        f"{fn!r} is already @rate_limited by this queue: pass key=, cost= and other options to "
        "@rate_limited, or map the function without the decorator"
    )


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        closing = aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext()
        async with closing:
            async for item in items:
                yield item
    else:
        for item in items:
            yield item
