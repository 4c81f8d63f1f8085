"""What calls through a limiter: tasks, threads, or the library itself."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from _common import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from _peer_limiters import Acquire, Block, Peer

    Result = dict[str, float | str]

__all__ = [
    "MANY",
    "SOON",
    "TASKS",
    "burst_at",
    "keep_calling",
    "keep_threads_calling",
    "leave",
    "made_by_itself",
    "starts_at",
    "turn",
    "use_up",
]

TASKS, THREADS = 200, 8
MANY = 1_000_000
"""A burst that is never used up."""
SOON = 0.010
"""Seconds of a rate that may be let through at once, as ours makes up for lateness."""


def burst_at(rate: float) -> int:
    """Return what a limiter may let through at once in order to keep up."""
    return max(1, round(rate * SOON))


async def keep_calling(acquire: Acquire, count: int, seconds: float, tasks: int) -> list[float]:
    """Let tasks call until so many calls have started, or for so long; return when they did."""
    starts: list[float] = []
    enough = asyncio.get_running_loop().create_future()

    async def call() -> None:
        while True:
            await acquire()
            starts.append(time.monotonic())
            if len(starts) == count and not enough.done():
                enough.set_result(None)

    running = [asyncio.create_task(call()) for _ in range(tasks)]
    await asyncio.wait([enough, *running], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    for ended in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended
    return starts[:count]


def keep_threads_calling(block: Block, count: int, seconds: float) -> list[float]:
    """Let threads do the same."""
    starts: list[float] = []
    enough = threading.Event()

    def call() -> None:
        while not enough.is_set():
            block()
            starts.append(time.monotonic())
            if len(starts) >= count:
                enough.set()

    for _ in range(THREADS):
        threading.Thread(target=call, daemon=True).start()
    enough.wait(seconds)
    enough.set()
    return sorted(starts)[:count]


async def made_by_itself(peer: Peer, rate: float, count: int, seconds: float) -> list[float]:
    """Let the library make the calls."""
    starts: list[float] = []
    with_time = asyncio.timeout(seconds)
    try:
        async with with_time:
            await peer.each(rate, lambda: starts.append(time.monotonic()), count)
    except TimeoutError:
        if not with_time.expired():
            raise
    return starts


def starts_at(
    peer: Peer, rate: float, count: int, seconds: float, loop: Callable[[], Any]
) -> list[float]:
    """Return when calls started, by whatever way the library has."""
    burst = burst_at(rate)
    if peer.by == "itself":
        return run(made_by_itself(peer, rate, count, seconds), loop)
    if peer.by == "threads":
        return keep_threads_calling(peer.block(rate, burst), count, seconds)
    return run(keep_calling(peer.acquire(rate, burst), count, seconds, TASKS), loop)


async def use_up(acquire: Acquire, bursts: int) -> None:
    """Take what may start at once, so that the next caller waits."""
    for _ in range(bursts):
        await acquire()


async def turn(acquire: Acquire) -> float:
    """Wait for a turn; return when it came."""
    await acquire()
    return time.monotonic()


def leave(result: Result) -> None:
    """Write a result, and end without waiting for what still waits."""
    print(json.dumps(result), flush=True)
    os._exit(0)
