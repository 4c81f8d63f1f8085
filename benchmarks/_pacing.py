"""Pace calls in real time, and measure when they start and what that costs."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop
from _common import CountingSelector, rate_of, run
from aiolimiter import AsyncLimiter
from asynciolimiter import Limiter, StrictLimiter

from aioapiqueue import ApiQueue, Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Call = Callable[[], Coroutine[Any, Any, None]]
    """Makes one call."""

__all__ = [
    "CONTENDERS",
    "LIMITER",
    "OURS",
    "TASKS",
    "TIMER",
    "CountingUvloop",
    "Pacing",
    "pace",
    "starts",
]

OURS = "aioapiqueue"
LIMITER = "asynciolimiter.Limiter"
TIMER = "bare timer"
TASKS = 200
SECOND = 2
CATCH_UP = 0.010
"""Seconds of lateness that a queue makes up for by default."""


def ours(rate: float) -> Call:
    """Enter a slot of a queue."""
    queue = ApiQueue(Rate(rate))

    async def call() -> None:
        async with queue.slot():
            pass

    return call


def entering(rate: float) -> Call:
    """Enter an aiolimiter without burst."""
    limiter = AsyncLimiter(1, 1 / rate)

    async def call() -> None:
        async with limiter:
            pass

    return call


def bursting(rate: float) -> Call:
    """Wait for an asynciolimiter that makes up for as much lateness as our queue.

    `max_burst` counts the call that is on time, too. The default of 5 reaches a quarter of 20,000
    per second, and would compare our CPU with that of a quarter of the calls.
    """
    return Limiter(rate, max_burst=1 + round(rate * CATCH_UP)).wait


CONTENDERS: dict[str, Callable[[float], Call]] = {
    OURS: ours,
    LIMITER: bursting,
    "asynciolimiter.Strict": lambda rate: StrictLimiter(rate).wait,
    "aiolimiter, burst 1": entering,
}


class CountingUvloop(uvloop.Loop):
    """A uvloop that counts its timers."""

    sleeps = 0
    asleep = float("nan")
    """Unknown: uvloop waits in C."""

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]  # noqa: ANN401
        """Schedule as usual."""
        self.sleeps += 1
        return super().call_later(*args, **kwargs)


@dataclass(frozen=True)
class Pacing:
    """What one contender did at one rate.

    Attributes:
        rate: the nominal rate.
        starts: instants at which calls started.
        cpu: CPU time of the process for each slot, in microseconds.
        awake: the same by the time that the loop was not asleep in its selector.
        sleeps: how often the loop went to sleep, for each slot; on uvloop, its timers.
    """

    rate: float
    starts: list[float]
    cpu: float = float("nan")
    awake: float = float("nan")
    sleeps: float = float("nan")

    @property
    def wake_ups(self) -> float:
        """Number of sleeps per second; on uvloop, of timers."""
        return self.sleeps * self.achieved * self.rate

    @property
    def achieved(self) -> float:
        """Share of the nominal rate."""
        return rate_of(self.starts) / self.rate

    @property
    def first_percentile(self) -> float:
        """The gap that one in a hundred falls below, in intervals."""
        gaps = [after - before for before, after in itertools.pairwise(self.starts)]
        return statistics.quantiles(gaps, n=100, method="inclusive")[0] * self.rate

    @property
    def most_in_ten(self) -> int:
        """How many started within any ten intervals, at most."""
        most = begin = 0
        for end, start in enumerate(self.starts):
            while start - self.starts[begin] >= 10 / self.rate:
                begin += 1
            most = max(most, end - begin + 1)
        return most


async def starts(
    call: Call, count: int, seconds: float, mark: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Let all tasks call until `count` calls have started, or much too long; return when.

    `mark` is called with the number of starts: at the second one, when all tasks have joined, and
    at the end.
    """
    times: list[float] = []
    enough = asyncio.get_running_loop().create_future()

    async def keep_calling() -> None:
        while True:
            await call()
            times.append(time.monotonic())
            if len(times) == SECOND:
                mark(SECOND)
            elif len(times) == count and not enough.done():
                enough.set_result(None)

    tasks = [asyncio.create_task(keep_calling()) for _ in range(TASKS)]
    await asyncio.wait([enough], timeout=1.5 * seconds)
    mark(len(times))
    enough.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return times[:count]


async def ticks(rate: float, count: int, mark: Callable[[int], None]) -> list[float]:
    """The same by a timer alone, which makes up for every late call: what the loop can do."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    enough = loop.create_future()
    begun = loop.time()

    def tick() -> None:
        times.append(time.monotonic())
        if len(times) == SECOND:
            mark(SECOND)
        if len(times) < count:
            loop.call_at(begun + len(times) / rate, tick)
        else:
            enough.set_result(None)

    tick()
    await enough
    mark(count)
    return times


def pace(name: str, rate: float, seconds: float, *, on_uvloop: bool = False) -> Pacing:
    """Pace on a loop that counts its sleeps, and measure between the second start and the last."""
    count = round(rate * seconds) + 1
    marks: list[tuple[float, float, float, float, int]] = []
    sleeper = CountingUvloop() if on_uvloop else CountingSelector()

    def mark(slots: int) -> None:
        clocks = time.process_time(), time.perf_counter()
        marks.append((*clocks, sleeper.asleep, sleeper.sleeps, slots))

    def loop() -> asyncio.AbstractEventLoop:
        if isinstance(sleeper, CountingUvloop):
            return sleeper
        return asyncio.SelectorEventLoop(sleeper)

    if name == TIMER:
        pacing = ticks(rate, count, mark)
    else:
        pacing = starts(CONTENDERS[name](rate), count, seconds, mark)
    times = run(pacing, loop)
    cpu, took, asleep, sleeps, slots = (
        after - before for before, after in zip(*marks, strict=True)
    )
    return Pacing(rate, times, cpu / slots * 1e6, (took - asleep) / slots * 1e6, sleeps / slots)
