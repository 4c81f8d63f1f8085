"""Requests and tokens of an LLM API, for four processes that share one quota."""

from __future__ import annotations

import asyncio
import random
import statistics

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.budget_server import BudgetServer, least_time
from tests.helpers.instants import now
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient

PERIOD = 10
LIMITS = "60 in any 10500ms", "5000 tokens in any 10500ms"  # 5 % longer than the server's
CALLS, SECONDS, PROCESSES = 110, 0.2, 4


def budget(period):
    """Make the server, or what the limits by themselves would take."""
    return BudgetServer(requests=60, tokens=5000, period=period)


def a_job(seed):
    """Return (true cost, estimate) of each call: the estimate is 1 to 1.3 times as much."""
    rng = random.Random(seed)
    costs = [rng.randint(200, 900) for _ in range(CALLS)]
    return [(cost, cost * rng.uniform(1, 1.3)) for cost in costs]


async def run_job(queues, job):
    """Let all calls queue up, one process after the other; return the server."""
    server = budget(PERIOD)

    async def call(queue, cost, estimate):
        async with queue.slot(cost={"tokens": estimate}) as slot:
            server.request(now(), cost)
            await asyncio.sleep(SECONDS)
            slot.settle({"tokens": cost})

    calls = [call(queues[n % len(queues)], *one) for n, one in enumerate(job)]
    await asyncio.gather(*calls)
    return server


def lost(valkey, seed, run_virtual):
    """Return how many calls were refused, and the time as a share of the least one."""

    async def main():
        name, queues = fresh_name(), []
        for number in range(PROCESSES):
            client = VirtualClient(valkey, latency=(0.001, 0.003), seed=number)
            queues.append(ApiQueue(*LIMITS, schedule=SharedSchedule(client, name)))
        begun = now()
        server = await run_job(queues, a_job(seed))
        await asyncio.gather(*(queue.aclose() for queue in queues))
        return server, max(at for at, _ in server.arrivals) - begun

    server, last = run_virtual(main)
    in_their_order = [tokens for _, tokens in server.arrivals]
    least = least_time(budget(1.05 * PERIOD), in_their_order)
    return server.refused, (last + SECONDS) / (least + SECONDS)


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(20), marks=pytest.mark.slow)])
def test_four_processes_share_a_budget(valkey, run_virtual, seeds):
    """Nothing is refused; the time is within 1.05 of the least in that order, the worst 1.10."""
    results = [lost(valkey, seed, run_virtual) for seed in seeds]
    shares = [share for _, share in results]
    assert sum(refused for refused, _ in results) == 0
    assert statistics.median(shares) <= 1.05
    assert max(shares) <= 1.10
