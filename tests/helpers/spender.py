"""A process that spends money: each reservation, settlement and refusal is a line of one file.

    python -m tests.helpers.spender WHERE LEDGER CALLS TASKS SEED COST

`WHERE` is `host:NAME` or a URL of Redis with `#NAME`: the quota has 5 USD. Or it is `unsafe`: then
a call reads what was spent, is made if there is room, and adds its cost when it has ended, as in
the reports of users whose budgets are exceeded.

Calls reserve 0.8 to 1.6 times COST. It reads a line before it begins. A line of the ledger is an
amount that was added to what is reserved or spent, and is written at once, as all processes append
to the file: so no sum of its first lines may exceed the budget.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from aioapiqueue import ApiQueue, HostSchedule, LimitExceeded
from tests.helpers.hubs import begin_hubs_as_told
from tests.helpers.ledger import BUDGET, sums
from tests.helpers.measured import measure_hubs


class Spender:
    """Makes calls, which reserve more than they use.

    Args:
        ledger: the file.
        seed: of the costs.
        cost: about what a call reserves.
    """

    def __init__(self, ledger: Path, seed: int, cost: float) -> None:
        self.cost = cost
        self.ledger = ledger
        self.file = os.open(ledger, os.O_WRONLY | os.O_APPEND)
        self.rng = random.Random(seed)
        self.queue: ApiQueue | None = None

    def write(self, amount: float) -> None:
        """Add a line."""
        os.write(self.file, f"{amount:.9f}\n".encode())

    async def call(self, reserved: float, used: float) -> None:
        """Make a call, if there is room for it."""
        if self.queue is None:
            if sums(self.ledger)[-1] + reserved <= BUDGET:
                await asyncio.sleep(0.02)
                self.write(used)
            return
        try:
            async with self.queue.slot(cost={"usd": reserved}) as slot:
                self.write(reserved)
                await asyncio.sleep(0.02)
                # Before the queue knows: nothing else may start because of it until then.
                self.write(used - reserved)
                slot.settle({"usd": used})
        except LimitExceeded:
            pass

    async def work(self, calls: int) -> None:
        """Make some calls, one after the other."""
        for _ in range(calls):
            reserved = round(self.cost * self.rng.uniform(0.8, 1.6), 6)
            used = round(reserved * self.rng.choice([1, 1, 1, self.rng.random()]), 6)
            await self.call(reserved, used)


async def main(where: str, ledger: str, calls: str, tasks: str, seed: str, cost: str) -> None:  # noqa: PLR0917 - the words of a command
    """Spend."""
    spender = Spender(Path(ledger), int(seed), float(cost))
    async with AsyncExitStack() as stack:
        kind, _, name = where.partition(":")
        if kind == "host":
            spender.queue = ApiQueue(f"{BUDGET} usd in all", schedule=HostSchedule(name))
        elif kind != "unsafe":
            from redis.asyncio import Redis

            from aioapiqueue.integrations.redis import SharedSchedule

            url, _, name = where.partition("#")
            client = await stack.enter_async_context(Redis.from_url(url))
            spender.queue = ApiQueue(f"{BUDGET} usd in all", schedule=SharedSchedule(client, name))
        sys.stdin.readline()
        await asyncio.gather(*(spender.work(int(calls) // int(tasks)) for _ in range(int(tasks))))
        if spender.queue is not None:
            await spender.queue.aclose()


if __name__ == "__main__":
    measure_hubs()
    begin_hubs_as_told()
    asyncio.run(main(*sys.argv[1:]))
