"""One process that spends a budget: call after call, until there is no room.

Started with JSON as the argument: the server, the quota, its number of callers and calls. Each call
is paid for on the same server, whose own sum is what a provider would bill. With "naive", it reads
the total, calls, and adds its cost afterwards, as programs without a reservation do.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

import redis.asyncio

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.integrations.redis import SharedSchedule

ESTIMATE = 10_000_000  # billionths of a dollar


async def main(settings):
    """Do what the settings say."""
    rng, name = random.Random(settings["seed"]), settings["name"]
    client = redis.asyncio.from_url(settings["url"])
    left = settings["calls"]
    queue = ApiQueue("5 usd in all", schedule=SharedSchedule(client, name))

    async def provider(true):
        """Bill a call, as it begins; the highest sum is kept."""
        billed = await client.incrby(f"billed:{name}", true)
        await asyncio.sleep(rng.uniform(0.001, 0.01))
        return billed

    async def naive(true):
        if int(await client.get(f"total:{name}") or 0) + ESTIMATE > 5 * 10**9:
            return False
        await provider(true)
        await client.incrby(f"total:{name}", true)
        return True

    async def ours(true):
        try:
            async with queue.slot(cost={"usd": ESTIMATE / 10**9}) as slot:
                await provider(true)
                slot.settle({"usd": true / 10**9})
        except LimitExceeded:
            return False
        return True

    async def caller():
        nonlocal left
        while left > 0:
            left -= 1
            true = rng.randint(ESTIMATE // 2, ESTIMATE)
            if not await (naive if settings["naive"] else ours)(true):
                return

    async with client, queue:
        await asyncio.gather(*(caller() for _ in range(settings["callers"])))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
