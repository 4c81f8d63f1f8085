"""An order that is added to the table of orders holds for each kind of limiter."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue.spi import orders
from tests.helpers.instants import now
from tests.helpers.limiters import Shared


class LastFirst(orders.Ordering):
    """Last come, first served."""

    step = -1


@pytest.fixture(autouse=True)
def last_first(monkeypatch):
    """Have "fifo" mean last come, first served: no other place knows what it means."""
    monkeypatch.setitem(orders.ORDERINGS, "fifo", LastFirst)


async def starts_of(queue, *calls):
    """Return the names of calls in the order in which they start; each is a name and options."""
    found = []

    async def call(name, options):
        async with queue.slot(**options):
            found.append(name)

    async with asyncio.TaskGroup() as group:
        for name, options in calls:
            group.create_task(call(name, options))
    return found


@pytest.mark.contract
async def test_order_of_the_table_holds(limiter):
    """Among calls of one priority."""
    async with limiter.queue("10/s") as queue:
        (await queue.enqueue()).release()
        calls = [("a", {}), ("b", {}), ("later", {"priority": 1}), ("now", {"priority": -1})]
        assert await starts_of(queue, *calls, ("c", {})) == ["now", "c", "b", "a", "later"]


@pytest.mark.contract
async def test_order_holds_for_later_calls(limiter):
    """A call that joins while others have waited for long goes before them."""
    async with limiter.queue("1/s") as queue:
        (await queue.enqueue()).release()
        found = []

        async def call(number):
            await asyncio.sleep(number * 0.7)
            async with queue.slot():
                found.append(number)

        await asyncio.gather(*(call(number) for number in range(6)))
        assert found == [1, 2, 4, 5, 3, 0]


async def test_estimate_knows_the_order(limiter):
    """A newcomer waits for no call of its priority, and for all that are more urgent."""
    if isinstance(limiter, Shared):
        pytest.skip("it estimates from the last reply of the server, whatever the order")
    async with limiter.queue("1/s") as queue:
        (await queue.enqueue()).release()
        waiting = [queue.enqueue() for _ in range(5)]
        await asyncio.sleep(0.5)
        assert queue.estimate() == pytest.approx(0.5, abs=0.01)
        assert queue.estimate(priority=1) == pytest.approx(5.5, abs=0.01)
        for one in waiting:
            one.cancel()


@pytest.mark.contract
async def test_again_keeps_the_place_of_a_call(limiter):
    """A call that waits again goes before older ones, and after those that joined since."""
    async with limiter.queue("1/s") as queue:
        (await queue.enqueue()).release()
        order = []

        def follow(future, name):
            future.add_done_callback(lambda _: order.append((name, now())))

        follow(queue.enqueue(), "old")
        slot = await queue.enqueue()
        for name in "ab":
            follow(queue.enqueue(), name)
        again = slot.again()
        follow(again, "again")
        await asyncio.wait([again])
        await asyncio.sleep(2)
        assert [name for name, _ in order] == ["b", "a", "again", "old"]
