"""How limiters behave when callers leave, at first, at rest, on a second loop, with keys."""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from typing import TYPE_CHECKING, Any

import _peer_figures as figures
from _common import CountingSelector, run
from _peer_calls import (
    MANY,
    SOON,
    Starts,
    keep_calling,
    keep_threads_calling,
    made_by_itself,
    turn,
    use_up,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from _peer_calls import Result
    from _peer_limiters import Peer

__all__ = ["cancelled", "idle", "lanes", "opening", "race", "second_loop", "two"]


def cancelled(peer: Peer) -> Result:
    """900 of 1,000 waiters leave at 100/s: the other 100 take one second."""

    async def seconds() -> float:
        acquire = peer.acquire(100, 1)
        await use_up(acquire, peer.bursts(100, 1))
        begun = time.monotonic()
        tasks = [asyncio.ensure_future(turn(acquire)) for _ in range(1_000)]
        await asyncio.sleep(0)
        for task in random.Random(0).sample(tasks, 900):  # noqa: S311 - the same ones every time
            task.cancel()
        await asyncio.wait(tasks)
        return time.monotonic() - begun

    return {"seconds": run(seconds())}


class Watching(CountingSelector):
    """A selector that has a look before each pass of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.look: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[Any]:
        """Select as usual."""
        self.look()
        return super().select(timeout)


def race(peer: Peer) -> Result:
    """A waiter is cancelled as its turn has come, before it runs: does the next one get the turn?

    When its turn comes is found out first, by one that is not cancelled.
    """
    rate, selector = 10, Watching()

    async def seconds(due: float | None) -> float:
        acquire = peer.acquire(rate, 1)
        await use_up(acquire, peer.bursts(rate, 1))
        begun = time.monotonic()
        first = asyncio.ensure_future(turn(acquire))
        if due is None:
            return await first - begun
        await asyncio.sleep(0)
        second = asyncio.ensure_future(turn(acquire))

        def look() -> None:
            awaited = getattr(first, "_fut_waiter", None)
            if awaited is not None and awaited.done() and time.monotonic() > begun + due / 2:
                first.cancel()

        selector.look = look
        await asyncio.wait([first, second])
        selector.look = lambda: None
        return second.result() - begun

    async def intervals_later() -> float:
        due = await seconds(None)
        return (await seconds(due) - due) * rate

    later = run(intervals_later(), lambda: asyncio.SelectorEventLoop(selector))
    return {"turn": "kept" if later < 0.5 else "LOST", "intervals": later}  # noqa: PLR2004 - 0 or 1


def idle(peer: Peer, *, for_seconds: float) -> Result:
    """What goes on after the last call."""
    selector = CountingSelector()

    async def rest() -> tuple[float, float]:
        worker = peer.worker(100, 1)
        await asyncio.gather(*(worker(2) for _ in range(5)))
        await asyncio.sleep(0.3)
        sleeps, cpu = selector.sleeps, time.process_time()
        await asyncio.sleep(for_seconds)
        return selector.sleeps - sleeps - 1, time.process_time() - cpu

    wakes, cpu = run(rest(), lambda: asyncio.SelectorEventLoop(selector))
    return {"wakes": wakes, "cpu": 100 * cpu / for_seconds}


def opening(peer: Peer) -> Result:
    """10 per second, written as the library's documentation has it: calls in the first 10 ms."""
    rate, seconds = 10, 0.35
    starts = Starts()
    if peer.by == "threads":
        keep_threads_calling(peer.block(rate, 1), starts, MANY, seconds)
    elif peer.by == "itself":
        run(made_by_itself(peer, starts, rate, MANY, seconds))
    else:
        run(keep_calling(peer.as_written(rate), starts, MANY, seconds))
    return {"calls": sum(at <= starts.at[0] + SOON for at in starts.at)}


def second_loop(peer: Peer) -> Result:
    """A limiter that outlives its event loop, in which callers waited at the end."""
    rate = 10
    acquire = peer.acquire(rate, 1)

    async def first() -> None:
        await use_up(acquire, peer.bursts(rate, 1))
        _left = [asyncio.ensure_future(turn(acquire)) for _ in range(3)]
        await asyncio.sleep(0.01)

    async def second() -> str:
        try:
            async with asyncio.timeout(3):
                for _ in range(3):
                    await acquire()
        except TimeoutError:
            return "hangs"
        return "works"

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(first())
        try:
            result = run(second())
        except RuntimeError as error:
            result = f"{type(error).__name__}"
    if caught and result == "works":
        result = f"works, {caught[0].category.__name__}"
    return {"result": result}


def two(peer: Peer, *, calls: int) -> Result:
    """Requests and tokens: are both limits kept, and is nothing of them lost?

    One call in five is large. After a second, all large ones that wait are cancelled: where calls
    have got through one limit, but not through the other, many small ones may then go at once.
    """
    requests, tokens, large, small = 100, 5_000, 1_000, 10
    costs = [large if number % 5 == 0 else small for number in range(calls)]
    started: list[tuple[float, int]] = []

    async def ask() -> float:
        acquire = peer.two(requests, tokens)

        async def one(cost: int) -> None:
            await acquire(cost)
            started.append((time.monotonic(), cost))

        begun = time.monotonic()
        tasks = [asyncio.create_task(one(cost)) for cost in costs]
        await asyncio.sleep(1)
        before = len(started)
        for task, cost in zip(tasks, costs, strict=True):
            if cost == large:
                task.cancel()
        await asyncio.wait(tasks)
        left = [1.0] * (len(started) - before)
        return (started[-1][0] - begun) / (1 + figures.ideal(left, requests, 0))

    async def microseconds() -> float:
        acquire = peer.two(1_000_000, 1_000_000_000, burst=MANY)
        await acquire(2)
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() < begun + 0.2:
            await acquire(2)
            calls += 1
        return (time.perf_counter() - begun) / calls * 1e6

    times = run(ask())
    burst = peer.bursts(requests, 1)
    return {
        "times": times,
        "calls_over": figures.excess([(at, 1) for at, _ in started], requests, burst),
        "tokens_over": figures.excess(started, tokens, tokens),
        "us": run(microseconds()),
    }


def lanes(peer: Peer, *, keys: int, calls: int) -> Result:
    """1,000 keys at one call a second each: the time for all, and whether each limit is kept."""
    starts: dict[str, list[float]] = {f"key-{number}": [] for number in range(keys)}

    async def ask() -> None:
        acquire = peer.lane(1)

        async def one(key: str) -> None:
            await acquire(key)
            starts[key].append(time.monotonic())

        await asyncio.gather(*(one(key) for _ in range(calls) for key in starts))

    cpu, begun = time.process_time(), time.monotonic()
    run(ask())
    cpu = time.process_time() - cpu
    ended = max(map(max, starts.values()))
    return {
        "times": (ended - begun) / (calls - 1),
        "cpu": cpu,
        "early": figures.early(starts.values(), 0.5),
    }
