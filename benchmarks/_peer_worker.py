"""Measures one limiter in one case, in a process of its own: `_peer_worker.py CASE PEER JSON`.

It says that it is ready, waits for a line, measures, and writes a line of JSON.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import json
import statistics
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING

import _peer_behaviour as behaviour
import _peer_figures as figures
from _common import CountingSelector, run
from _peer_all import PEERS
from _peer_calls import (
    MANY,
    Starts,
    burst_at,
    keep_threads_calling,
    leave,
    needed,
    pace,
    settled_of,
)
from _peer_limiters import FREE, NEVER, NOMINAL
from _peer_processes import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from _peer_calls import Result
    from _peer_limiters import Peer


def uncontended(peer: Peer) -> Result:
    """One caller, a turn always free."""

    async def microseconds() -> list[float]:
        worker = peer.worker(FREE, MANY)
        await worker(10)
        begun = time.perf_counter()
        await worker(20)
        calls = min(20_000, max(20, round(0.05 / (time.perf_counter() - begun) * 20)))
        costs = []
        for _ in range(7):
            gc.collect()
            gc.disable()
            begun = time.perf_counter()
            await worker(calls)
            costs.append((time.perf_counter() - begun) / calls * 1e6)
            gc.enable()
        return costs

    return {"us": min(run(microseconds()))}


def contended(peer: Peer) -> Result:
    """1,000 tasks at more than they can use."""

    async def per_second(calls: int) -> float:
        worker = peer.worker(NOMINAL, burst_at(NOMINAL))
        tasks = [asyncio.create_task(worker(calls)) for _ in range(1_000)]
        gc.collect()
        gc.disable()
        begun = time.perf_counter()
        await asyncio.gather(*tasks)
        gc.enable()
        return 1_000 * calls / (time.perf_counter() - begun)

    calls = min(50, max(1, round(run(per_second(1)) / 5_000)))  # a fifth of a second
    return {"per_second": statistics.median(run(per_second(calls)) for _ in range(5))}


def pacing(peer: Peer, *, rate: int, for_seconds: int, most: float) -> Result:
    """200 tasks at a rate: what was achieved, how evenly, and what it cost."""
    selector = CountingSelector()

    def clocks() -> tuple[float, ...]:
        return time.monotonic(), time.process_time(), selector.asleep

    starts = Starts(clocks)
    loop = functools.partial(asyncio.SelectorEventLoop, selector)
    pace(peer, starts, rate, for_seconds, most=most, loop=loop)
    took, cpu, asleep = starts.took()
    settled = settled_of(peer, rate, starts.at, for_seconds)
    gaps = figures.gaps(settled, rate)
    return {
        "share": figures.share(settled or starts.at, rate, until=time.monotonic()),
        "gap": gaps.median,
        "late": gaps.last_percentile,
        "cpu": 100 * cpu / took if took else 0.0,
        "awake": 100 * (1 - asleep / took) if took else 0.0,
    }


def backlog(peer: Peer, *, count: int, rate: int) -> Result:
    """Many tasks that all join at once: their order, and how long the last one waits."""
    order: list[int] = []
    joined = drained = 0.0

    def started(number: int) -> None:
        nonlocal drained
        order.append(number)
        drained = time.monotonic()

    async def drain() -> None:
        if peer.by == "itself":
            await peer.each(rate, lambda: started(len(order)), count)
            return
        acquire = peer.acquire(rate, burst_at(rate))

        async def call(number: int) -> None:
            nonlocal joined
            if number == count - 1:
                joined = time.monotonic()
            await acquire()
            started(number)

        await asyncio.gather(*map(call, range(count)))

    cpu, begun = time.process_time(), time.monotonic()
    run(drain())
    cpu = time.process_time() - cpu
    joined = joined or begun
    return {
        "joined": joined - begun,
        "drained": (drained - joined) / (count / rate),
        "inversions": figures.inversions(order),
        "cpu": cpu,
    }


def memory(peer: Peer, *, count: int) -> Result:
    """What each waiting task takes."""

    async def wait() -> float:
        worker = peer.worker(NEVER, 1)
        tracemalloc.start()
        tasks = [asyncio.create_task(worker(1)) for _ in range(count)]
        for _ in range(3):  # some wait for a lock first
            await asyncio.sleep(0)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(not task.done() for task in tasks) >= count - 1  # noqa: S101 - they do wait
        leave({"bytes": used / count})
        return 0.0

    return {"bytes": run(wait())}


def threads(peer: Peer, *, rate: int, for_seconds: int, most: float) -> Result:
    """8 threads at a rate."""
    starts = Starts(lambda: (time.monotonic(), time.process_time()))
    block = peer.block(rate, burst_at(rate))
    keep_threads_calling(block, starts, needed(peer, rate, for_seconds), most)
    took, cpu = starts.took()
    settled = settled_of(peer, rate, starts.at, for_seconds)
    return {
        "share": figures.share(settled or starts.at, rate, until=time.monotonic()),
        "cpu": 100 * cpu / took if took else 0.0,
    }


CASES: tuple[Callable[..., Result], ...] = (
    uncontended,
    contended,
    pacing,
    backlog,
    memory,
    behaviour.cancelled,
    behaviour.race,
    behaviour.idle,
    behaviour.opening,
    behaviour.second_loop,
    threads,
    behaviour.two,
    behaviour.lanes,
    processes,
)


def main() -> None:
    """Do what the command line asks for."""
    case, name, options = sys.argv[1:]
    measure = {one.__name__: one for one in CASES}[case]
    for module in PEERS[name].modules:
        importlib.import_module(module)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        result = measure(PEERS[name], **json.loads(options))
    except Exception as error:  # noqa: BLE001 - it is a result of a peer's
        result = {"error": f"{type(error).__name__}: {error}"}
    leave(result)


if __name__ == "__main__":
    main()
