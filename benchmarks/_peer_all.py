"""All that is measured: also what no caller of a coroutine waits for, and what has no limit."""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, ClassVar

from _contenders import Nothing, entering, future, on_event
from _peer_limiters import (
    NEVER,
    NO_WEIGHTS,
    NOMINAL,
    Aiolimiter,
    Asynciolimiter,
    AsyncioThrottle,
    Leaky,
    LimiterPeer,
    Ours,
    Peer,
    Strict,
    Throttler,
)
from _peer_servers import Limits, Pyrate, ThrottledPy, TokenThrottle

if TYPE_CHECKING:
    from collections.abc import Callable

    from _contenders import Worker
    from _peer_limiters import Block

__all__ = ["OURS", "PEERS", "REFERENCE", "missing"]

OURS, REFERENCE = "aioapiqueue", "(bare asyncio)"


class Bare(Peer):
    """What asyncio itself costs, where that is the floor."""

    distribution = ""
    modules = ()
    by = "itself"
    mode = "an empty async with; a Future; a timer that makes up for lateness; an Event"
    absent: ClassVar = dict.fromkeys(
        ("backlog", "cancelled", "race", "opening", "second_loop", "threads", "two", "lanes"),
        "there is no limit in bare asyncio",
    )

    def worker(self, rate: float, burst: int) -> Worker:
        """Do what comes nearest to what is asked for."""
        if rate == NEVER:
            return on_event(asyncio.Event())
        return future() if rate == NOMINAL else entering(Nothing())

    async def each(self, rate: float, call: Callable[[], None], count: int) -> None:
        """Tick by timers."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        begun = loop.time()
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1
            call()
            if ticks < count:
                loop.call_at(begun + ticks / rate, tick)
            else:
                done.set_result(None)

        tick()
        await done


class Aiometer(Peer):
    """A map over a list."""

    distribution = "aiometer"
    modules = ("aiometer",)
    by = "itself"
    mode = "run_on_each(function, list, max_per_second=r): a task for each call"
    absent: ClassVar = dict.fromkeys(
        ("contended", "memory", "cancelled", "race", "second_loop", "threads", "two", "lanes"),
        "a map over a list: no caller waits, or can be cancelled",
    )

    def bursts(self, rate: float, burst: int) -> int:
        """Return 1: there is no burst."""
        return 1

    def worker(self, rate: float, burst: int) -> Worker:
        """Map over as many as there are calls."""

        async def worker(calls: int) -> None:
            await self.each(rate, lambda: None, calls)

        return worker

    async def each(self, rate: float, call: Callable[[], None], count: int) -> None:
        """Map over a range."""
        from aiometer import run_on_each

        async def one(_: int) -> None:
            call()

        await run_on_each(one, range(count), max_per_second=rate)


class Origin(Peer):
    """The first apiqueue, for threads."""

    distribution = "apiqueue"
    modules = ("apiqueue.apiqueue",)
    by = "threads"
    mode = "ApiQueue(ms), start(); 8 threads ask each 1 ms (README: without a pause)"
    absent: ClassVar = {
        **dict.fromkeys(("contended", "backlog", "memory"), "a thread for each waiter"),
        **dict.fromkeys(("cancelled", "race"), "nothing can be cancelled"),
        **dict.fromkeys(("second_loop",), "threads only"),
        "two": NO_WEIGHTS,
        "lanes": "each limiter is a thread that never rests",
    }

    def bursts(self, rate: float, burst: int) -> int:
        """Return 1: there is no burst."""
        return 1

    def worker(self, rate: float, burst: int) -> Worker:
        """Wait in this thread."""
        block = self.block(rate, burst)

        async def worker(calls: int) -> None:
            for _ in range(calls):
                block()

        return worker

    def block(self, rate: float, burst: int) -> Block:
        """Ask whether it is our turn."""
        from apiqueue.apiqueue import ApiQueue

        queue = ApiQueue(1000 / rate)
        queue.start()

        def acquire() -> None:
            waiter = queue.enqueue()
            while waiter.waiting:
                time.sleep(0.001)

        return acquire


PEERS: dict[str, Peer] = {
    OURS: Ours(),
    "aiolimiter": Aiolimiter(),
    "asynciolimiter": Asynciolimiter(),
    "asynciolimiter Strict": Strict(),
    "asynciolimiter Leaky": Leaky(),
    "pyrate-limiter": Pyrate(),
    "throttler": Throttler(),
    "asyncio-throttle": AsyncioThrottle(),
    "limiter": LimiterPeer(),
    "aiometer": Aiometer(),
    "throttled-py": ThrottledPy(),
    "token-throttle": TokenThrottle(),
    "limits": Limits(),
    "apiqueue (origin)": Origin(),
    REFERENCE: Bare(),
}


def missing(peer: Peer) -> str | None:
    """Return why a peer cannot be measured here, if it cannot."""
    if sys.version_info < peer.python:
        return f"not for Python {platform.python_version().rpartition('.')[0]}"
    if peer.distribution:
        try:
            version(peer.distribution)
        except PackageNotFoundError:
            return "not installed"
    return None
