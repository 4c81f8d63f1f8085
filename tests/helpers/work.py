"""How much work something is: in functions called, in CPU time of a pass, in looks at a queue."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from typing import TYPE_CHECKING

from tests.helpers import introspect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioapiqueue import ApiQueue


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


class Ticks:
    """Counts how often a queue looks for whom to release at one and the same instant."""

    def __init__(self, queue: ApiQueue) -> None:
        self.most = self.count = 0
        self.last = -math.inf
        introspect.wrap_looks(queue, self._wrap)

    def _wrap(self, release_due: Callable[..., float | None]) -> Callable[..., float | None]:
        self.release_due = release_due
        return self._look

    def _look(self, now: float, **how: float) -> float | None:
        self.count = self.count + 1 if now == self.last else 1
        self.last, self.most = now, max(self.most, self.count)
        if self.count > 1000:
            raise SystemExit("no time passes")  # anything else would be tried again, without end
        return self.release_due(now, **how)


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
