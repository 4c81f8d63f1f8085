"""Who is next: among the calls of one queue, which decides that itself, and among processes."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.virtual_hub import VirtualHub


async def test_call_that_is_not_the_first_of_its_line_is_let_go():
    """A call that came again has its old place here and a new one at the hub: all start."""
    hub, starts = VirtualHub(), []
    limits = ("1/s", "10000 tokens/s burst 10000")
    queue = ApiQueue(*limits, schedule=hub.schedule("crm"))

    async def call(tokens):
        async with queue.slot(cost={"tokens": tokens}):
            starts.append((tokens, asyncio.get_running_loop().time()))

    first = await queue.enqueue(cost={"tokens": 1})
    tasks = [asyncio.create_task(call(10 + number)) for number in range(3)]
    await asyncio.sleep(0.5)
    again = first.again()
    await asyncio.sleep(0.1)
    tasks += [asyncio.create_task(call(20 + number)) for number in range(3)]
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)
        (await again).release()
    assert [at for _, at in starts] == pytest.approx([1, 2, 3, 5, 6, 7])  # and it had 4
    assert [tokens for tokens, _ in starts] == [10, 11, 12, 20, 21, 22]
    assert queue.stats.running == queue.stats.waiting == 0
