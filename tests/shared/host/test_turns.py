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


async def test_newcomer_asks_after_those_before_it():
    """A call that comes while some of a long line have not asked yet starts after them.

    Its cost is another one, so that no other call of the line can have its grant.
    """
    hub, order = VirtualHub(), []
    queue = ApiQueue("10/s", "10000 tokens/s burst 10000", schedule=hub.schedule("crm"))

    async def call(number):
        async with queue.slot(cost={"tokens": 1 + number % 3}):
            order.append(number)

    tasks = [asyncio.create_task(call(number)) for number in range(80)]  # of which 64 ask
    await asyncio.sleep(1.05)
    tasks += [asyncio.create_task(call(number)) for number in range(80, 83)]
    await asyncio.gather(*tasks)
    assert order == list(range(83))


async def waiting(queue, starts, number, **call):
    """Have so many calls wait, each of which starts another one when it has started."""

    async def one():
        while True:
            async with queue.slot(**call):
                starts.append(asyncio.get_running_loop().time())

    return [asyncio.create_task(one()) for _ in range(number)]


@pytest.mark.parametrize(("lanes", "each"), [(10, 64), (200, 2)])
async def test_closed_lanes_put_no_call_far_back(lanes, each):
    """Calls that wait for hours in lanes of their own delay others of their process by moments."""
    hub, starts = VirtualHub(), []
    one = ApiQueue("10/s", lanes={"slow:*": "1/h"}, schedule=hub.schedule("crm"))
    other = ApiQueue("10/s", lanes={"b": "100/s"}, schedule=hub.schedule("crm"))
    for number in range(lanes):
        (await one.enqueue(key=f"slow:{number}")).release()
    closed = [one.enqueue(key=f"slow:{number}") for number in range(lanes) for _ in range(each)]
    tasks = await waiting(other, starts, 2, key="b")
    await asyncio.sleep(1)
    async with one.slot() as slot:
        assert slot.waited < (1.2 if lanes == 10 else 7)  # not a turn for each that waits
    for task in (*closed, *tasks):
        task.cancel()
    await asyncio.wait([*closed, *tasks])


async def test_lanes_have_no_turns_of_their_own():
    """A process that calls in many lanes has the same share as one that calls in one."""
    hub, lots, few = VirtualHub(), [], []
    one = ApiQueue("10/s", lanes={"*": "100/s"}, schedule=hub.schedule("crm"))
    other = ApiQueue("10/s", schedule=hub.schedule("crm"))
    tasks = []
    for key in "abcde":
        tasks += await waiting(one, lots, 10, key=key)
    tasks += await waiting(other, few, 10)
    await asyncio.sleep(100)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(lots) + len(few) == pytest.approx(1001, abs=2)
    assert len(few) / len(lots) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("closed", [8, 64])
async def test_closed_lanes_cost_no_share(closed):
    """A process that waits for lanes of its own has its share of those that it shares."""
    hub, counts = VirtualHub(), ([], [])
    lanes = {"own:*": "1/h", "shared": "10/s"}
    queues = [ApiQueue("1000/s", lanes=lanes, schedule=hub.schedule("crm")) for _ in range(2)]
    tasks = []
    for number in range(closed):
        key = f"own:{number}"
        (await queues[0].enqueue(key=key)).release()
        tasks.append(queues[0].enqueue(key=key))
    for queue, starts in zip(queues, counts, strict=True):
        tasks += await waiting(queue, starts, 10, key="shared")
    await asyncio.sleep(100)
    lately = [sum(at > 50 for at in starts) for starts in counts]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert lately == pytest.approx([250, 250], abs=5)
