"""A run with everything that metrics count, and what there was, counted by the callers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from aioapiqueue import QueueFull, SlotTimeout
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import ApiQueue, Slot

__all__ = ["Seen", "play"]


class BodyError(Exception):
    """What some bodies raise."""


class Seen:
    """What the callers have seen."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        """Bodies by outcome."""
        self.results: Counter[str] = Counter()
        """Calls by how their wait has ended."""
        self.waits: list[float] = []
        self.durations: list[float] = []
        self.throttled = 0
        self.tokens = 0

    async def call(self, queue: ApiQueue, number: int) -> None:
        """Make one call: each number is another kind of it."""
        key, tokens = ("search", None, "tenant:a", "tenant:b")[number % 4], 10 + number % 5
        timeout = 0.4 if number % 11 == 0 else None
        try:
            async with queue.slot(key=key, timeout=timeout, cost={"tokens": tokens}) as slot:
                self.results["released"] += 1
                self.waits.append(slot.waited)
                await self._body(slot, number, tokens)
        except QueueFull:
            self.results["refused"] += 1
        except SlotTimeout:
            self.results["timed_out"] += 1
        except BodyError:
            pass

    async def _body(self, slot: Slot, number: int, tokens: int) -> None:
        loop = asyncio.get_running_loop()
        began, outcome = loop.time(), "cancelled"
        try:
            await asyncio.sleep((0.003, 0.07, 0.8)[number % 3])
            if number % 13 == 0:
                slot.throttled()
                self.throttled += 1
            if number % 17 == 0:
                outcome = "error"
                raise BodyError
            slot.settle({"tokens": 5})
            tokens, outcome = 5, "ok"
        finally:
            self.tokens += tokens
            self.ends[outcome] += 1
            self.durations.append(loop.time() - began)

    async def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel a call, and count it if it was waiting."""
        before = self.results.copy(), self.ends.copy()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if (self.results, self.ends) == before:
                self.results["cancelled"] += 1

    async def refund(self, queue: ApiQueue) -> None:
        """Get a slot, and be cancelled before it is taken up."""
        slot = queue.enqueue(cost={"tokens": 3})
        while not slot.done():  # noqa: ASYNC110 - to await it would take it up
            await asyncio.sleep(0.01)
        slot.cancel()
        self.results["released"] += 1
        self.results["cancelled"] += 1
        self.waits.append(0.0)


def play(new_queue: Callable[[], ApiQueue], calls: int = 400) -> tuple[ApiQueue, Seen]:
    """Run calls in virtual time: cancelled, refunded, timed out, refused, throttled, failed."""

    async def main() -> tuple[ApiQueue, Seen]:
        queue, seen, chance = new_queue(), Seen(), random.Random(7)
        tasks = []
        for number in range(calls):
            tasks.append(asyncio.create_task(seen.call(queue, number)))
            await asyncio.sleep(chance.choice([0, 0, 0.02, 0.09]))
            if number % 7 == 3:
                await seen.cancel(chance.choice(tasks))
        await asyncio.wait(tasks)
        await seen.refund(queue)
        return queue, seen

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
