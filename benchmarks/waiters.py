"""What many waiters cost: a long backlog, memory, a million of them, cancelled ones, none."""

from __future__ import annotations

import asyncio
import functools
import itertools
import multiprocessing
import random
import statistics
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import _contenders as contenders
from _common import CountingSelector, Report, interleave, main, run, spread
from _speeds import LIMITER, NOMINAL, OURS
from aiolimiter import AsyncLimiter
from asynciolimiter import Limiter

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from _contenders import Worker
    from _speeds import Makers

coarse = functools.partial(VirtualLoop, grain=0.001)


def backlog(report: Report, /, *, quick: bool) -> None:
    """100,000 waiting tasks: order, time to drain."""
    count, rate = (20_000 if quick else 100_000), 50_000
    order: list[int] = []
    joined = drained = 0.0

    async def call(queue: ApiQueue, number: int) -> None:
        nonlocal joined, drained
        if number == count - 1:
            joined = time.monotonic()
        async with queue.slot():
            order.append(number)
            drained = time.monotonic()

    async def drain() -> None:
        queue = ApiQueue(Rate(rate))
        await asyncio.gather(*(call(queue, number) for number in range(count)))

    shares = []
    inversions = 0
    for _ in range(1 if quick else 3):
        order.clear()
        run(drain())
        shares.append((drained - joined) / (count / rate))
        inversions += sum(before > after for before, after in itertools.pairwise(order))
    title = f"A backlog of {count:,} tasks at {rate:,}/s"
    row = (OURS, spread(shares, ".3f"), str(inversions))
    report.table(title, ("", "drained in, times ideal", "FIFO inversions"), [row])
    report.target("backlog: FIFO inversions", inversions, most=0)
    report.target("backlog: time to drain, times ideal", statistics.median(shares), most=1.01)


WAITERS: Makers = {
    "a task on an asyncio.Event": lambda: contenders.on_event(asyncio.Event()),
    OURS: lambda: contenders.ours(ApiQueue("1/h")),
    LIMITER: lambda: contenders.waiting(Limiter(1 / 3600)),
    "aiolimiter": lambda: contenders.entering(AsyncLimiter(1, 3600)),
}


def bytes_each(name: str, count: int) -> float:
    """Let `count` tasks wait; return the memory that each takes."""

    async def wait() -> float:
        worker = WAITERS[name]()
        tracemalloc.start()
        tasks = [asyncio.create_task(worker(1)) for _ in range(count)]
        await asyncio.sleep(0)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        return used / count

    return run(wait())


def memory(report: Report, /, *, quick: bool) -> None:
    """Bytes for each waiting task, beside tasks on an Event; each in a process of its own."""
    count = 50_000 if quick else 100_000
    spawn = multiprocessing.get_context("spawn")
    # asyncio keeps a set of all tasks, which grows only once in a process: 42 bytes a task.
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as fresh:
        sizes = dict(zip(WAITERS, fresh.map(bytes_each, WAITERS, [count] * 4), strict=True))
    event = next(iter(sizes.values()))
    rows = [(name, f"{size:,.1f}", f"{size / event:.3f}") for name, size in sizes.items()]
    report.table(f"Memory: {count:,} tasks wait", ("", "bytes a task", "times Event"), rows)
    report.target("bytes a waiting task, times a task on an Event", sizes[OURS] / event, most=1)


def million(report: Report, /, *, quick: bool) -> None:
    """Time for each of 1,000,000 waiters, beside 100,000 (virtual time, garbage collected)."""

    async def microseconds(count: int) -> float:
        begun = time.perf_counter()
        worker = contenders.ours(ApiQueue(Rate(NOMINAL)))
        tasks = [asyncio.create_task(worker(1)) for _ in range(count)]
        await asyncio.wait(tasks)
        return (time.perf_counter() - begun) / count * 1e6

    few, many = 100_000, (300_000 if quick else 1_000_000)
    costs = {
        count: [run(microseconds(count), coarse) for _ in range(rounds)]
        for count, rounds in ((few, 3), (many, 1 if quick else 3))
    }
    base = statistics.median(costs[few])
    rows = [(f"{count:,}", spread(values)) for count, values in costs.items()]
    report.table("Many waiters, from task to end", ("waiters", "us each"), rows)
    growth = statistics.median(costs[many]) / base
    report.target(f"time for each of {many:,} waiters, times {few:,}", growth, most=1.5)


def cancelled(report: Report, /, *, quick: bool) -> None:
    """900 of 1,000 waiters leave at 100/s: the other 100 take one second."""

    async def seconds(worker: Worker) -> float:
        begun = time.monotonic()
        await worker(1)
        tasks = [asyncio.create_task(worker(1)) for _ in range(1000)]
        await asyncio.sleep(0)
        for task in random.Random(0).sample(tasks, 900):  # noqa: S311 - the same ones every time
            task.cancel()
        await asyncio.wait(tasks)
        return time.monotonic() - begun

    times = interleave(
        {
            OURS: lambda: run(seconds(contenders.ours(ApiQueue("100/s")))),
            LIMITER: lambda: run(seconds(contenders.waiting(Limiter(100)))),
            "aiolimiter": lambda: run(seconds(contenders.entering(AsyncLimiter(1, 0.01)))),
        },
        2 if quick else 5,
    )
    rows = [(name, spread(values, ".3f")) for name, values in times.items()]
    report.table("900 of 1,000 cancelled, at 100/s", ("", "s for the rest"), rows)
    median = statistics.median(times[OURS])
    report.target("900 of 1,000 cancelled: s for the rest", median, least=1, most=1.01)


def idle(report: Report, /, *, quick: bool) -> None:
    """What runs after the last caller has gone."""
    seconds = 0.2 if quick else 2.0

    async def rest(queue: ApiQueue | None, selector: CountingSelector) -> int:
        if queue is not None:
            worker = contenders.ours(queue)
            await asyncio.gather(*(worker(2) for _ in range(10)))
        before = selector.sleeps
        await asyncio.sleep(seconds)  # one sleep of the loop, if nothing else wakes it
        return selector.sleeps - before

    async def left_behind() -> int:
        await rest(ApiQueue("100/s"), CountingSelector())
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)  # noqa: S101
        return loop.pending_timers + len(asyncio.all_tasks()) - 1

    wake_ups = []
    for queue in (None, ApiQueue("100/s")):
        selector = CountingSelector()
        loop = functools.partial(asyncio.SelectorEventLoop, selector)
        wake_ups.append(run(rest(queue, selector), loop) - 1)
    things = run(left_behind(), VirtualLoop)
    rows = [("no queue", str(wake_ups[0]), "0"), (OURS, str(wake_ups[1]), str(things))]
    report.table(f"At rest for {seconds:g} s", ("", "wake-ups", "tasks and timers"), rows)
    report.target("idle: wake-ups more than without a queue", wake_ups[1] - wake_ups[0], most=0)
    report.target("idle: tasks and timers left", things, most=0)


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], backlog, memory, million, cancelled, idle)
