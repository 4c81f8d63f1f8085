"""Use a limiter for a number of slots: `slot_cases.py CASE SLOTS`.

`tests/test_instructions.py` counts the instructions. Calls that wait do so in virtual time, so that
each run takes the same steps.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING, Any

from aiolimiter import AsyncLimiter
from asynciolimiter import Limiter

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Worker = Callable[[int], Awaitable[None]]
    """Use a limiter so many times."""

TASKS = 1000
NOMINAL = 1_000_000


def entering(limiter: Any) -> Worker:
    """Enter a context manager again and again."""

    async def work(times: int) -> None:
        for _ in range(times):
            async with limiter:
                pass

    return work


def waiting(limiter: Limiter) -> Worker:
    """Wait for a limiter again and again."""

    async def work(times: int) -> None:
        for _ in range(times):
            await limiter.wait()

    return work


def ours(*limits: Rate, lanes: dict[str, Rate] | None = None, **options: Any) -> Worker:
    """Use a queue; with lanes, 100 of them, by tasks of ten priorities."""
    queue = ApiQueue(*limits, lanes=lanes or {})
    numbers = iter(range(TASKS))

    async def work(times: int) -> None:
        for _ in range(times):
            async with queue.slot(**options):
                pass

    async def in_lane(times: int) -> None:
        priority, lane = divmod(next(numbers), 100)
        for _ in range(times):
            async with queue.slot(key=f"lane{lane}", priority=priority):
                pass

    return work if lanes is None else in_lane


UNCONTENDED: dict[str, Callable[[], Worker]] = {
    "aiolimiter": lambda: entering(AsyncLimiter(1e9, 1)),
    "pace": lambda: ours(Rate(1e9)),
    "bucket": lambda: ours(Rate(1e9, burst=1000)),
    "bucket that is not full": lambda: ours(Rate(10, burst=10**7)),
    "two limits": lambda: ours(Rate(1e9), Rate(2e9, burst=2, unit="tokens"), cost={"tokens": 2}),
}
QUEUED: dict[str, Callable[[], Worker]] = {
    "asynciolimiter": lambda: waiting(Limiter(NOMINAL, max_burst=NOMINAL // 1000)),
    "queued": lambda: ours(Rate(NOMINAL)),
    "lanes": lambda: ours(Rate(NOMINAL), lanes={"*": Rate(NOMINAL // 100)}),
}


async def crowd(worker: Worker, times: int) -> None:
    """Let all tasks use it at once."""
    await asyncio.gather(*(asyncio.create_task(worker(times)) for _ in range(TASKS)))


def main(case: str, slots: int) -> None:
    """Run one case."""
    if case in UNCONTENDED:
        asyncio.run(UNCONTENDED[case]()(slots))
    else:
        with asyncio.Runner(loop_factory=functools.partial(VirtualLoop, grain=0.001)) as runner:
            runner.run(crowd(QUEUED[case](), slots // TASKS))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
