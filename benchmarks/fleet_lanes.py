"""How long the script of a shared quota keeps its server busy, where thousands of lanes wait.

On a real Valkey, in real time: processes (tasks with a queue and a connection of their own) whose
callers wait under more lanes than one request may name. What a call of the script took is by the
server's own clock (LATENCY HISTOGRAM, whose steps are powers of two: the one below 5 ms is 4.2 ms).
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _common import Report, main
from _valkey import serving
from redis.asyncio import Redis as AsyncRedis

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule

if TYPE_CHECKING:
    from redis import Redis

_SECONDS = 8.0
_SETTLE = 2.0
_LONGEST = 5e-3  # seconds that one call of the script may take


@dataclass(frozen=True)
class Case:
    """Who waits.

    Attributes:
        lanes: how many there are.
        limits: of the queue.
        own: of each lane.
        pairs: whether each call comes under two lanes.
        processes: how many there are.
        nominal: calls per second that the limits allow.
    """

    lanes: int
    limits: tuple[str, ...]
    own: str
    nominal: float
    pairs: bool = False
    processes: int = 2


CASES = {
    "2,000 lanes of 1/s": Case(2000, (), "1/s", nominal=2000),
    "2,000 lanes of 1/s under 500/s": Case(2000, ("500/s",), "1/s", nominal=500),
    "2,000 lanes of 5/s under 500/s": Case(2000, ("500/s",), "5/s", nominal=500),
    "2,000 pairs under 500/s": Case(2000, ("500/s",), "1/s", pairs=True, nominal=500),
    "20 lanes of 30/s under 500/s": Case(20, ("500/s",), "30/s", nominal=500),
}


async def _watch(port: int, name: str, case: Case, seconds: float) -> tuple[int, int, int]:
    """Return how many calls started, how many requests were made, and how many of those failed."""
    started, counting = 0, False

    async def caller(queue: ApiQueue, number: int) -> None:
        nonlocal started
        keys: tuple[str, ...] = (f"lane {number}",)
        if case.pairs:
            keys = (*keys, f"group {number % 50}")
        while True:
            async with queue.slot(keys=keys):
                started += counting

    clients = [AsyncRedis(port=port) for _ in range(case.processes)]
    lanes = {"lane *": case.own, "group *": "50/s"}
    queues = [
        ApiQueue(*case.limits, lanes=lanes, schedule=SharedSchedule(client, name))
        for client in clients
    ]
    callers = [
        asyncio.create_task(caller(queue, number))
        for queue in queues
        for number in range(case.lanes)
    ]
    await asyncio.sleep(_SETTLE)
    # As a service does that keeps thousands of tasks: else a full collection stops this process,
    # which stands for several, for 70 to 130 ms every few seconds.
    gc.freeze()
    before = [queue.stats for queue in queues]
    counting, begun = True, time.monotonic()
    await asyncio.sleep(seconds)
    counting, taken = False, time.monotonic() - begun
    gc.unfreeze()
    after = [queue.stats for queue in queues]
    for one in callers:
        one.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    for queue, client in zip(queues, clients, strict=True):
        await queue.aclose(drain=False)
        await client.aclose()
    asks = sum(now.asks - then.asks for now, then in zip(after, before, strict=True))
    faults = sum(now.faults for now in after)
    return round(started * seconds / taken), asks, faults


def _times(server: Redis) -> tuple[float, list[tuple[float, float]]]:
    """Return the mean time of a call of the script, and which share took at most how long."""
    client: Any = server  # `execute_command` has no types
    stats = client.info("commandstats")
    mean = stats["cmdstat_evalsha"]["usec_per_call"] / 1e6
    found = client.execute_command("LATENCY", "HISTOGRAM", "evalsha")
    if isinstance(found, dict):
        ((_, own),) = found.items()
    else:
        own = found[1]
    figures = own if isinstance(own, dict) else dict(zip(own[::2], own[1::2], strict=True))
    calls, histogram = figures[b"calls"], figures[b"histogram_usec"]
    if not isinstance(histogram, dict):
        histogram = dict(zip(histogram[::2], histogram[1::2], strict=True))
    return mean, [(most / 1e6, count / calls) for most, count in histogram.items()]


def lanes(report: Report, *, quick: bool) -> None:
    """Let thousands of lanes wait, and watch how long the script takes."""
    rows = []
    seconds = 3.0 if quick else _SECONDS
    for name, case in CASES.items():
        with serving() as server:
            port = server.connection_pool.connection_kwargs["port"]
            started, asks, faults = asyncio.run(_watch(port, name, case, seconds))
            mean, shares = _times(server)
        within = max(share for most, share in shares if most <= _LONGEST)
        used = started / seconds / case.nominal
        rows.append(
            (
                name,
                f"{used:.1%}",
                f"{asks / seconds:,.0f}",
                f"{faults}",
                f"{mean * 1000:.2f}",
                f"{within:.1%}",
                f"{shares[-1][0] * 1000:.0f}",
            )
        )
        report.target(f"share of the limit used, {name}", used, least=0.98)
        # Of the rest, on a machine that has other work, nobody knows what they waited for.
        report.target(f"calls of the script within 5 ms, {name}", within, least=0.99)
    report.table(
        f"Two processes on one Valkey, {seconds:g} s; script: ms by the server's clock",
        ("who waits", "used", "requests/s", "failed", "mean", "4.2 ms", "all in"),
        rows,
    )


if __name__ == "__main__":
    main(str(__doc__).partition("\n")[0], lanes)
