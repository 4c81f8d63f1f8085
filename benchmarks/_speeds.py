"""What a slot costs: with one caller, and with 1,000 tasks that call at once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import _contenders as contenders
from _common import ratios, run, spread
from aiolimiter import AsyncLimiter
from asynciolimiter import LeakyBucketLimiter, Limiter

from aioapiqueue import ApiQueue, Rate

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Mapping, Sequence

    from _common import Report
    from _contenders import Worker

    Makers = dict[str, Callable[[], Worker]]
    Loop = Callable[[], AbstractEventLoop]

__all__ = [
    "AIOLIMITER",
    "BUCKET",
    "FUTURE",
    "LIMITER",
    "NOMINAL",
    "OURS",
    "TASKS",
    "Costs",
    "alone",
    "at_once",
    "free_limiters",
    "limiters",
    "show_alone",
    "show_at_once",
]

OURS = "aioapiqueue"
BUCKET = "aioapiqueue, burst 100"
AIOLIMITER = "aiolimiter"
LIMITER = "asynciolimiter.Limiter"
FUTURE = "bare Future, call_soon"
NOMINAL = 1_000_000
TASKS = 1_000


def limiters(rate: int, burst: int) -> Makers:
    """Return limiters that 1,000 tasks use; `burst` is what the peers may release at once."""
    return {
        OURS: lambda: contenders.ours(ApiQueue(Rate(rate))),
        FUTURE: contenders.future,
        LIMITER: lambda: contenders.waiting(Limiter(rate, max_burst=burst)),
        AIOLIMITER: lambda: contenders.entering(AsyncLimiter(burst, burst / rate)),
    }


def free_limiters() -> Makers:
    """Return limiters in which a slot is always free for one caller."""
    return {
        OURS: lambda: contenders.ours(ApiQueue(Rate(1e9))),
        BUCKET: lambda: contenders.ours(ApiQueue(Rate(1e9, burst=100))),
        # The next one never has a full bucket: calls that use up a burst, one after the other.
        "the same, not full": lambda: contenders.ours(ApiQueue(Rate(1, burst=1_000_000))),
        AIOLIMITER: lambda: contenders.entering(AsyncLimiter(1e9, 1)),
        "aiolimiter, burst 100": lambda: contenders.entering(AsyncLimiter(100, 100 / 1e9)),
        "asynciolimiter.Leaky": lambda: contenders.waiting(LeakyBucketLimiter(1e9, capacity=10**9)),
        "an empty async with": lambda: contenders.entering(contenders.Nothing()),
    }


def alone(make: Callable[[], Worker], loop: Loop = asyncio.new_event_loop) -> float:
    """Return the nanoseconds of CPU of a slot for one caller."""
    calls = 20_000

    async def nanoseconds(worker: Worker) -> float:
        await worker(100)
        begun = time.process_time()
        await worker(calls)
        return (time.process_time() - begun) / calls * 1e9

    return run(nanoseconds(make()), loop)


class Costs(NamedTuple):
    """What a slot costs if all tasks call at once, in nanoseconds.

    Attributes:
        time: by the clock.
        cpu: of CPU, for those who sleep.
    """

    time: float
    cpu: float


def at_once(
    make: Callable[[], Worker], loop: Loop = asyncio.new_event_loop, *, calls: int
) -> Costs:
    """Let all tasks call at once, each of them so many times."""

    async def costs(worker: Worker) -> Costs:
        tasks = [asyncio.create_task(worker(calls)) for _ in range(TASKS)]
        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*tasks)
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
        return Costs(*(seconds / TASKS / calls * 1e9 for seconds in (took, cpu)))

    return run(costs(make()), loop)


def show_alone(report: Report, title: str, costs: Mapping[str, Sequence[float]]) -> None:
    """Show what slots cost one caller."""
    rows = [
        (name, spread(values, ".0f"), spread(ratios(values, costs[AIOLIMITER])))
        for name, values in costs.items()
    ]
    report.table(title, ("", "ns a slot", "times aiolimiter's"), rows)


def show_at_once(report: Report, title: str, costs: Mapping[str, Sequence[Costs]]) -> None:
    """Show slots per second, CPU, and how many times their speed ours is by that CPU."""
    mine = [one.cpu for one in costs[OURS]]
    rows = [
        (
            name,
            spread([1e6 / one.time for one in own], ".0f"),
            spread([one.cpu for one in own], ".0f"),
            "" if name == OURS else spread(ratios([one.cpu for one in own], mine)),
        )
        for name, own in costs.items()
    ]
    report.table(title, ("", "1,000 slots/s", "ns of CPU", "ours / theirs"), rows)
