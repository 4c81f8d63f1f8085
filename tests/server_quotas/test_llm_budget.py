"""Requests and tokens of an LLM API at once: nothing is refused, and hardly any time is lost."""

from __future__ import annotations

import asyncio
import random
import statistics

from aioapiqueue import ApiQueue
from tests.helpers.budget_server import BudgetServer, least_time
from tests.helpers.instants import now

LIMITS = {"requests": 60, "tokens": 5000, "period": 10}
CALLS, SECONDS = 110, 0.2


def a_job(seed):
    """Return (true cost, estimate) of each call: the estimate is 1 to 1.3 times as much.

    All take some twelve periods, so that one period more is less than a tenth of the time: a call
    that fits the last one by its true cost, and not by its estimate, costs as much as that.
    """
    rng = random.Random(seed)
    costs = [rng.randint(200, 900) for _ in range(CALLS)]
    return [(cost, cost * rng.uniform(1, 1.3)) for cost in costs]


async def run_job(queue, job, *, settles=True):
    """Let all calls queue up; return the server, and when the last of them arrived."""
    server = BudgetServer(**LIMITS)

    async def call(cost, estimate):
        async with queue.slot(cost={"tokens": estimate}) as slot:
            server.request(now(), cost)
            at = now()
            await asyncio.sleep(SECONDS)
            if settles:
                slot.settle({"tokens": cost})
        return at

    return server, max(await asyncio.gather(*(call(*one) for one in job)))


def lost(seed, run_virtual, **options):
    """Return how many calls were refused, and the time as a share of the least one."""
    job = a_job(seed)

    async def main():
        return await run_job(ApiQueue("60 in any 10s", "5000 tokens in any 10s"), job, **options)

    server, last = run_virtual(main)
    least = least_time(BudgetServer(**LIMITS), [cost for cost, _ in job])
    return server.refused, (last + SECONDS) / (least + SECONDS)


def test_estimates_cost_hardly_any_time(run_virtual):
    """Over 20 jobs: 0 refused, the median within 1.05 of the least time, the worst within 1.10."""
    results = [lost(seed, run_virtual) for seed in range(20)]
    shares = [share for _, share in results]
    assert sum(refused for refused, _ in results) == 0
    assert statistics.median(shares) <= 1.05
    assert max(shares) <= 1.10
    assert min(shares) >= 1  # or the least time is not the least


def test_without_settling_time_is_lost(run_virtual):
    """What is not given back is lost: the estimates are 1.15 times too high on average."""
    assert statistics.median(lost(seed, run_virtual, settles=False)[1] for seed in range(5)) > 1.1


def test_the_server_refuses_unpaced_calls(run_virtual):
    """All at once, most are refused: else it would show nothing."""

    async def main():
        return await run_job(ApiQueue(lanes={"unused": "1 tokens/s"}), a_job(0))

    server, _ = run_virtual(main)
    assert server.refused > CALLS / 2


def test_nested_queues_are_refused(run_virtual):
    """Two queues, one in the other, hold requests while they wait for tokens.

    Once a few large calls are through, the small ones behind them leave together.
    """

    async def main():
        server = BudgetServer(**LIMITS)
        requests, tokens = ApiQueue("60 in any 10s"), ApiQueue("5000 tokens in any 10s")

        async def call(cost):
            async with requests.slot(), tokens.slot(cost={"tokens": cost}):
                server.request(now(), cost)
                await asyncio.sleep(SECONDS)

        await asyncio.gather(*map(call, [400] * 40 + [20] * 120))
        return server

    assert run_virtual(main).refused > 30


def test_both_at_once_are_not_refused(run_virtual):
    """The same calls under both limits of one queue."""

    async def main():
        queue = ApiQueue("60 in any 10s", "5000 tokens in any 10s")
        return await run_job(queue, [(cost, cost) for cost in [400] * 40 + [20] * 120])

    server, last = run_virtual(main)
    assert server.refused == 0
    assert last == least_time(BudgetServer(**LIMITS), [400] * 40 + [20] * 120)
