"""`ApiQueue.map`: a paced fan-out in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aioapiqueue._callables import refuse_all_but_coroutine_functions
from aioapiqueue._rate import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aioapiqueue._slot import Slot

__all__ = ["paced_map"]

T = TypeVar("T")
R = TypeVar("R")


class Paces(Protocol):
    """What `paced_map` needs of a queue."""

    def slot(self) -> Slot:
        """Wait for a slot, and hold it until the body ends."""


def paced_map(
    queue: Paces,
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    concurrency: int | None,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncIterator[R | BaseException]:
    """Check the arguments now, not at the first result; see `ApiQueue.map`."""
    refuse_all_but_coroutine_functions(fn, "map")
    at_once = 100 if concurrency is None else concurrency
    whole(at_once, of="concurrency")
    if not isinstance(items, Iterable | AsyncIterable):
        raise TypeError(f"map takes an iterable or async iterable of items, not {items!r}")
    return _results(queue, fn, items, at_once, ordered=ordered, forgiving=return_exceptions)


async def _results(
    queue: Paces,
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    at_once: int,
    *,
    ordered: bool,
    forgiving: bool,
) -> AsyncIterator[R | BaseException]:
    # Plain tasks and no task group: a generator that is left by `break` is closed by another
    # task, where a cancel scope could not be ended.
    paced_already = getattr(fn, "__rate_limited_by__", None) is queue
    permits = asyncio.Semaphore(at_once)
    ready: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    calls: set[asyncio.Task[Any]] = set()

    async def call(item: T) -> R:
        if paced_already:
            return await fn(item)
        async with queue.slot():
            return await fn(item)

    async def feed() -> None:
        async with aclosing(_each(items)) as each:
            async for item in each:
                # Cancelled here: this item has not been called, like those behind it.
                await permits.acquire()
                task = asyncio.create_task(call(item))
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


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        closing = aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext()
        async with closing:
            async for item in items:
                yield item
    else:
        for item in items:
            yield item
