"""A simulated server whose bucket is shared with a bystander who comes and goes; virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioapiqueue import ApiQueue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioapiqueue import Adaptive

__all__ = ["AWAY", "BACK", "END", "Log", "adaptive_queue", "share"]

AWAY, BACK, END = 600.0, 900.0, 1200.0
"""Seconds: when the bystander leaves, when it is back, when all ends."""


@dataclass
class Log:
    """What one party sent: when each request reached the server, and whether it was served."""

    at: list[float] = field(default_factory=list)
    served: list[bool] = field(default_factory=list)

    def part(self, begin: float, end: float) -> tuple[int, int]:
        """Return how many requests came from `begin` to before `end`, and how many were served."""
        first, last = bisect_left(self.at, begin), bisect_left(self.at, end)
        return last - first, sum(self.served[first:last])

    def refused(self, begin: float, end: float) -> float:
        """Return which share of the requests was refused."""
        sent, served = self.part(begin, end)
        return (sent - served) / sent

    def rate(self, begin: float, end: float) -> float:
        """Return how many requests were served per second."""
        return self.part(begin, end)[1] / (end - begin)


async def share(
    call: Callable[[Callable[[], Awaitable[bool]]], Awaitable[object]],
    *,
    capacity: float,
    refill: float,
    bystander: float,
    latency: float,
    seed: int,
    end: float = END,
) -> tuple[Log, Log]:
    """Let 40 workers `call` as fast as they are let, beside a bystander; return both logs.

    Args:
        call: makes one call by the function that it is given, which returns whether it was served.
        capacity: of the server's token bucket, full at first.
        refill: tokens per second.
        bystander: its calls per second, evenly spaced; it never retries, and is away for 5 minutes.
        latency: seconds there and back, half to one and a half of it.
        seed: of the latencies.
        end: when all ends.
    """
    loop = asyncio.get_running_loop()
    dice = random.Random(seed)  # noqa: S311 - no secret
    tokens, filled_at = capacity, 0.0
    ours, theirs = Log(), Log()

    async def send(log: Log) -> bool:
        nonlocal tokens, filled_at
        await asyncio.sleep(dice.uniform(0.5, 1.5) * latency / 2)
        now = loop.time()
        tokens, filled_at = min(capacity, tokens + (now - filled_at) * refill), now
        served = tokens >= 1
        tokens -= served
        log.at.append(now)
        log.served.append(served)
        await asyncio.sleep(dice.uniform(0.5, 1.5) * latency / 2)
        return served

    async def work() -> None:
        while True:
            await call(lambda: send(ours))

    async def stand_by() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(1 / bystander)
                if not AWAY <= loop.time() < BACK:
                    group.create_task(send(theirs))

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(end), asyncio.TaskGroup() as group:
            group.create_task(stand_by())
            for _ in range(40):
                group.create_task(work())
    return ours, theirs


def adaptive_queue(
    limit: str, adaptive: Adaptive | None
) -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[object]]:
    """Return a way to call through an `ApiQueue` that is given every refusal."""
    queue = ApiQueue(limit, adaptive=adaptive)

    async def call(send: Callable[[], Awaitable[bool]]) -> None:
        async with queue.slot() as slot:
            if not await send():
                slot.throttled()

    return call
