"""What it costs to find the next of many who come under different limits."""

from __future__ import annotations

import asyncio
import functools
import gc
import statistics
import time
from typing import TYPE_CHECKING, Any

from _common import Report, interleave, main, run, spread
from _lanes import Tenants

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

coarse = functools.partial(VirtualLoop, grain=0.001)
BATCH = 100
"""Tasks that are started in one pass of the loop."""


def endpoints(report: Report, /, *, quick: bool) -> None:
    """50,000 calls of 5,000 tenants to 50 endpoints (virtual time)."""
    tenants(report, "tenants x endpoints", None, most=10, quick=quick)


def own_limit(report: Report, /, *, quick: bool) -> None:
    """The same under a limit of the queue, which is busy, too (virtual time)."""
    tenants(report, "tenants x endpoints, own limit", 80, most=45, quick=quick)


def tenants(report: Report, what: str, rate: float | None, *, most: float, quick: bool) -> None:
    """Measure one of both; `most` microseconds of scheduling a call.

    That is finding out who starts, and charging it; as where the target comes from, without what
    tells the caller, and without the garbage collector.
    """
    # Of fewer, the end is a larger part: when all but one endpoint are done.
    size = 5_000, 50, 50_000

    def measure() -> tuple[Tenants, float]:
        setting = Tenants(*size, rate=rate)
        gc.collect()
        gc.disable()
        try:
            return setting, run(setting.run(), coarse) / setting.ideal()
        finally:
            gc.enable()

    rounds = interleave({what: measure}, 1 if quick else 3)[what]
    times = [time for _, time in rounds]
    looks = [one.looks / one.calls for one, _ in rounds]
    joins = [one.joining / one.calls * 1e6 for one, _ in rounds]
    costs = [one.scheduling / one.calls * 1e6 for one, _ in rounds]
    together = "" if rate is None else f", {rate:g}/s in all"
    report.table(
        f"{size[2]:,} calls of {size[0]:,} tenants to {size[1]} endpoints{together}",
        ("", "times ideal", "looks a call", "us to join", "us in steps"),
        [
            (
                "",
                spread(times, ".4f"),
                spread(looks, ".2f"),
                spread(joins, ".0f"),
                spread(costs, ".1f"),
            )
        ],
    )
    report.target(f"{what}: time, times ideal", statistics.median(times), most=1.005)
    report.target(f"{what}: looks a call", statistics.median(looks), most=6)
    report.target(f"{what}: us of scheduling a call", statistics.median(costs), most=most)


class Passes:
    """Measures the longest pass of the loop, in CPU seconds, while as many tasks wait."""

    def __init__(self, tasks: int) -> None:
        self.tasks = self.left = tasks
        self.longest = 0.0
        self.over = asyncio.Event()

    async def watch(self) -> None:
        """Look at the clock in each pass."""
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest = max(self.longest, now - last)
            last = now

    async def bare(self) -> float:
        """Let them wait for an Event."""
        event = asyncio.Event()

        async def call(_: int) -> None:
            await event.wait()

        await self.start(call)
        event.set()
        return await self.ended()

    async def ours(self, interval: float) -> float:
        """Let each wait in a lane of its own; return the time from the last join to the end."""
        queue = ApiQueue(lanes={"*": Rate(1, interval)})

        async def call(number: int) -> None:
            for _ in range(2):
                async with queue.slot(key=number):
                    pass

        await self.start(call)
        joined = time.monotonic()
        await self.ended()
        return time.monotonic() - joined

    async def start(self, call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Start all, some in each pass."""
        self.watcher = asyncio.create_task(self.watch())
        self.started = []

        async def one(number: int) -> None:
            await call(number)
            self.left -= 1
            if not self.left:  # to wait for so many tasks would be the longest pass of all
                self.over.set()

        for first in range(0, self.tasks, BATCH):
            numbers = range(first, first + BATCH)
            self.started += [asyncio.create_task(one(number)) for number in numbers]
            await asyncio.sleep(0)

    async def ended(self) -> float:
        """Wait until all have ended; return the longest pass."""
        await self.over.wait()
        self.watcher.cancel()
        return self.longest


def pattern(report: Report, /, *, quick: bool) -> None:
    """100,000 lanes in which somebody waits, all found by one pattern (real time)."""
    tasks, interval = (20_000, 4.0) if quick else (100_000, 8.0)
    stalls: dict[str, list[float]] = {
        "tasks on an Event": [],
        "lanes": [],
        "lanes, no collector": [],
    }
    shares: list[float] = []
    for _ in range(1 if quick else 3):
        for name, one in stalls.items():
            passes = Passes(tasks)
            gc.collect()
            if name.endswith("collector"):
                gc.disable()
            if name.startswith("lanes"):
                shares.append(run(passes.ours(interval)) / interval)
            else:
                run(passes.bare())
            gc.enable()
            one.append(passes.longest)
    rows = [(name, spread([one * 1000 for one in values])) for name, values in stalls.items()]
    report.table(f"{tasks:,} lanes wait under one pattern", ("", "ms, the longest pass"), rows)
    event, lanes, bare = (statistics.median(values) for values in stalls.values())
    report.target(
        "a pattern's lanes: longest pass, times tasks on an Event", lanes / event, most=1.3
    )
    report.target("a pattern's lanes: ms of the longest pass, no collector", bare * 1000, most=10)
    report.target("a pattern's lanes: time, times ideal", statistics.median(shares), most=1.05)


def one_a_second(report: Report, /, *, quick: bool) -> None:
    """A call per second on a lane, or on two, which idle in between (virtual time)."""
    calls = 2_000 if quick else 20_000

    async def calling(keys: tuple[str, ...]) -> float:
        """Return the seconds of a call, from asking for its slot to its end."""
        queue = ApiQueue(lanes={"*": "10/s"})
        spent = 0.0
        for _ in range(calls):
            await asyncio.sleep(1)
            began = time.perf_counter()
            async with queue.slot(keys=keys):
                pass
            spent += time.perf_counter() - began
        return spent / calls

    def measure(*keys: str) -> Callable[[], float]:
        return lambda: run(calling(keys), VirtualLoop) * 1e6

    cases = {"no key": measure(), "one lane": measure("a"), "two lanes": measure("a", "b")}
    rounds = interleave(cases, 3 if quick else 5)
    rows = [(name, spread(times, ".2f")) for name, times in rounds.items()]
    report.table("A call per second", ("", "us a call"), rows)
    bare, one, two = (statistics.median(times) for times in rounds.values())
    report.target("a call per second on a lane, times one without a key", one / bare, most=1.4)
    report.target("a call per second on two lanes, times one", two / one, most=2)


CASES = (endpoints, own_limit, pattern, one_a_second)

if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], *CASES)
