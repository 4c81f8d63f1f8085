"""The limiters that are compared: workers that call through them, one call after the other.

Each has a loop of its own, so that no limiter pays for another's call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

    from asynciolimiter import LeakyBucketLimiter, Limiter

    from aioapiqueue import ApiQueue

    Worker = Callable[[int], Coroutine[Any, Any, None]]
    """Makes this many calls."""

__all__ = ["Nothing", "entering", "future", "on_event", "ours", "ours_by_lane", "waiting"]


def ours(queue: ApiQueue, *, cost: Mapping[str, float] | None = None) -> Worker:
    """Enter and leave slots, that cost one call or so much."""

    async def worker(calls: int) -> None:
        for _ in range(calls):
            async with queue.slot():
                pass

    async def costly(calls: int) -> None:
        assert cost is not None  # noqa: S101
        for _ in range(calls):
            async with queue.slot(cost=cost):
                pass

    return worker if cost is None else costly


def ours_by_lane(queue: ApiQueue) -> Worker:
    """The same with ten priorities and a hundred keys, in the order in which workers start."""
    started = iter(range(10_000))

    async def worker(calls: int) -> None:
        number = next(started)
        key, priority = number % 100, number // 100 % 10
        for _ in range(calls):
            async with queue.slot(key=key, priority=priority):
                pass

    return worker


def entering(limiter: AbstractAsyncContextManager[object]) -> Worker:
    """Enter and leave a context manager."""

    async def worker(calls: int) -> None:
        for _ in range(calls):
            async with limiter:
                pass

    return worker


def waiting(limiter: Limiter | LeakyBucketLimiter) -> Worker:
    """Wait for asynciolimiter."""

    async def worker(calls: int) -> None:
        for _ in range(calls):
            await limiter.wait()

    return worker


def future() -> Worker:
    """Await a Future that the loop resolves in its next pass: the least that a hand-over costs."""

    async def worker(calls: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(calls):
            handed = loop.create_future()
            loop.call_soon(handed.set_result, None)
            await handed

    return worker


def on_event(event: asyncio.Event) -> Worker:
    """Wait for an Event."""

    async def worker(calls: int) -> None:
        for _ in range(calls):
            await event.wait()

    return worker


class Nothing:
    """The context manager that costs least."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...
