"""How much work something is: in functions called, and in CPU time of a pass of the loop."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def work(action: Callable[[], object]) -> int:
    """Return how many functions `action` called, in Python and in C."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


async def worst_stall(
    call: Callable[[int], Awaitable[None]], release: Callable[[], object], *, tasks: int
) -> float:
    """Start so many tasks, 100 at a time; return the longest pass until all ended, in CPU seconds.

    Args:
        call: what each task does, given its number.
        release: called when all have been started.
        tasks: how many, a multiple of 100.
    """
    stalls: list[float] = []

    async def watch() -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            stalls.append(now - last)
            last = now

    watcher = asyncio.create_task(watch())
    started = []
    for first in range(0, tasks, 100):
        started += [asyncio.create_task(call(first + number)) for number in range(100)]
        await asyncio.sleep(0.001)
    release()
    await asyncio.gather(*started)
    watcher.cancel()
    return max(stalls)


async def stall_of_bare_tasks(tasks: int) -> float:
    """Return the same for tasks that wait for an Event."""
    event = asyncio.Event()

    async def wait(_: int) -> None:
        await event.wait()

    return await worst_stall(wait, event.set, tasks=tasks)
