"""What calls through a limiter: tasks, threads, or the library itself."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import _peer_figures as figures
from _common import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _peer_limiters import Acquire, Block, Peer

    Result = dict[str, float | str | None]

__all__ = [
    "MANY",
    "SOON",
    "TASKS",
    "Starts",
    "burst_at",
    "keep_calling",
    "keep_threads_calling",
    "leave",
    "made_by_itself",
    "needed",
    "pace",
    "settled_of",
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


@dataclass
class Starts:
    """When calls started, and what clocks showed at the second start and at the end.

    By the second one all callers have joined.
    """

    clocks: Callable[[], tuple[float, ...]] = tuple
    at: list[float] = field(default_factory=list)
    shown: list[tuple[float, ...]] = field(default_factory=list)

    def note(self) -> None:
        """Note that a call starts."""
        self.at.append(time.monotonic())
        if len(self.at) == 2:  # noqa: PLR2004 - the second
            self.end()

    def end(self) -> None:
        """Read the clocks."""
        self.shown.append(self.clocks())

    def took(self) -> tuple[float, ...]:
        """Return by how much each clock went on."""
        first, last = self.shown[0], self.shown[-1]
        return tuple(after - before for before, after in zip(first, last, strict=True))


async def keep_calling(
    acquire: Acquire, starts: Starts, count: int, seconds: float, tasks: int = TASKS
) -> None:
    """Let tasks call until so many calls have started, or for so long."""
    enough = asyncio.get_running_loop().create_future()

    async def call() -> None:
        while True:
            await acquire()
            starts.note()
            if len(starts.at) == count and not enough.done():
                enough.set_result(None)

    running = [asyncio.create_task(call()) for _ in range(tasks)]
    await asyncio.wait([enough, *running], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    starts.end()
    for task in running:
        task.cancel()
    for ended in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended


def keep_threads_calling(block: Block, starts: Starts, count: int, seconds: float) -> None:
    """Let threads do the same."""
    enough = threading.Event()

    def call() -> None:
        while not enough.is_set():
            block()
            starts.note()
            if len(starts.at) >= count:
                enough.set()

    for _ in range(THREADS):
        threading.Thread(target=call, daemon=True).start()
    enough.wait(seconds)
    enough.set()
    starts.end()
    starts.at.sort()


async def made_by_itself(
    peer: Peer, starts: Starts, rate: float, count: int, seconds: float
) -> None:
    """Let the library make the calls."""
    with_time = asyncio.timeout(seconds)
    try:
        async with with_time:
            await peer.each(rate, starts.note, count)
    except TimeoutError:
        if not with_time.expired():
            raise
    starts.end()


def needed(peer: Peer, rate: float, seconds: int) -> int:
    """Return how many calls to wait for: so many seconds of them, after the beginning."""
    beginning = peer.bursts(rate, burst_at(rate)) - 1 + round(rate * peer.settles)
    return beginning + round(rate * seconds) + 1


def settled_of(peer: Peer, rate: float, starts: Sequence[float], seconds: int) -> Sequence[float]:
    """Return the calls after the beginning."""
    skip, count = peer.bursts(rate, burst_at(rate)) - 1, round(rate * seconds) + 1
    return figures.settled(starts, count, skip=skip, after=peer.settles)


def pace(
    peer: Peer, starts: Starts, rate: float, seconds: int, *, most: float, loop: Callable[[], Any]
) -> None:
    """Call at a rate, by whatever way the library has; `most` seconds at most."""
    burst, count = burst_at(rate), needed(peer, rate, seconds)
    if peer.by == "itself":
        run(made_by_itself(peer, starts, rate, count, most), loop)
    elif peer.by == "threads":
        keep_threads_calling(peer.block(rate, burst), starts, count, most)
    else:
        run(keep_calling(peer.acquire(rate, burst), starts, count, most), loop)


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
