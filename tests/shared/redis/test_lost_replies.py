"""Answers that are lost: what they answered is said again, and counts once."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as Disconnected

from aioapiqueue import Adaptive, ApiQueue, Rate, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import keys_of
from tests.helpers.virtual_client import VirtualClient


class Deaf(VirtualClient):
    """Loses so many answers to what is said with `verb`; redis-py may repeat it by itself."""

    def __init__(self, target, verb, lost, *, repeats=False):
        super().__init__(target)
        self.verb, self.lost, self.repeats = verb, lost, repeats

    async def _call(self, method, script, numkeys, *keys_and_args):
        answer = await super()._call(method, script, numkeys, *keys_and_args)
        while keys_and_args[numkeys] == self.verb and self.lost > 0:
            self.lost -= 1
            if not self.repeats:
                raise Disconnected("the answer is lost")
            answer = await super()._call(method, script, numkeys, *keys_and_args)
        return answer


async def starts(queue, count, seconds):
    """Let so many callers call once; return when they did, within some seconds."""
    loop, found = asyncio.get_running_loop(), []

    async def call():
        async with queue.slot():
            found.append(loop.time())

    calls = [asyncio.create_task(call()) for _ in range(count)]
    await asyncio.sleep(seconds)
    for one in calls:
        one.cancel()
    await asyncio.wait(calls)
    return found


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("lost", [0, 1, 3])
@pytest.mark.parametrize("limit", [Window(10, 10), Rate(1, burst=10)])
async def test_refunds_count_once(valkey, name, limit, lost, repeats):
    """What is given back is so once.

    A cost that turned out to be less, although the answer to that was lost.
    """
    client = Deaf(valkey, "adjust", lost, repeats=repeats)
    async with ApiQueue(limit, schedule=SharedSchedule(client, name, ahead=0)) as queue:
        with await queue.enqueue(cost=8) as slot:
            slot.settle(1)
        found = await starts(queue, 40, 9.0)
        assert 9 <= len(found) <= (9 if isinstance(limit, Window) else 18)
        assert client.lost == 0
        await queue.aclose(drain=False)


@pytest.mark.parametrize("repeats", [False, True])
async def test_surplus_leases_are_refunded_once(valkey, name, repeats):
    """Leases of callers that have left are given back once.

    Of a window, which would have room for more calls than it is to have.
    """
    client = Deaf(valkey, "return", 3, repeats=repeats)
    schedule = SharedSchedule(client, name, ahead=2.0)
    async with ApiQueue("20/s", Window(10, 10), schedule=schedule) as queue:
        first = await starts(queue, 10, 0.26)
        assert 0 < len(first) < 10
        then = await starts(queue, 40, 9.0)
        assert client.lost == 0
        assert len(first) + len(then) == 10
        await queue.aclose(drain=False)


@pytest.mark.parametrize("repeats", [False, True])
async def test_push_back_is_heard_once(valkey, name, repeats):
    """Also where it is about no call in particular."""
    rates = []
    for lost in (0, 3):
        client = Deaf(valkey, "slowdown", lost, repeats=repeats)
        schedule = SharedSchedule(client, f"{name}{lost}")
        async with ApiQueue("100/s", adaptive=Adaptive(), schedule=schedule) as queue:
            await starts(queue, 1000, 2.0)
            queue.throttled()
            await asyncio.sleep(0.5)
            await starts(queue, 1, 0.1)
            rates.append(queue.stats.rate)
            await queue.aclose(drain=False)
    assert rates[1] == pytest.approx(rates[0], rel=0.02)


async def test_permits_in_lost_reply_are_freed(valkey, name):
    """Permits in a lost reply are free although the caller has left.

    It says how many it has: none.
    """
    client = Deaf(valkey, "ask", 1)
    deaf, other = (
        ApiQueue(concurrency=2, schedule=SharedSchedule(one, name))
        for one in (client, VirtualClient(valkey))
    )
    waiting = [deaf.enqueue() for _ in range(2)]
    await asyncio.sleep(0.01)
    assert client.lost == 0
    for one in waiting:
        one.cancel()
    await asyncio.sleep(1)
    async with asyncio.timeout(1):
        for _ in range(2):
            await other.enqueue()
    for queue in (deaf, other):
        await queue.aclose(drain=False)


async def test_old_refund_is_not_repeated(valkey, name):
    """What may have been given back long ago is not given back again.

    The server does not know any more what it has heard. What costs more is said nevertheless.
    """
    client = Deaf(valkey, "adjust", 1)
    async with ApiQueue(Window(10, 100), schedule=SharedSchedule(client, name, ahead=0)) as queue:
        with await queue.enqueue(cost=4) as less, await queue.enqueue(cost=1) as more:
            less.settle(1)
            await asyncio.sleep(0.01)
            more.settle(3)
            client.down = True
            await asyncio.sleep(20)
            for key in keys_of(valkey, name):
                if ":said:" in key:  # it expires in real time
                    valkey.sync().delete(key)
            client.down = False
        assert len(await starts(queue, 20, 20)) == 10 - 1 - 3
        await queue.aclose(drain=False)


async def test_what_was_said_leaves_nothing_behind(valkey, name):
    """It expires with the rest, and goes with its process."""
    client = VirtualClient(valkey, outlive=False)
    queue = ApiQueue(Window(10, 10), schedule=SharedSchedule(client, name))
    with await queue.enqueue(cost=4) as slot:
        slot.settle(1)
    await asyncio.sleep(0.1)
    (left,) = [left for key, left in keys_of(valkey, name).items() if ":said:" in key]
    assert left == pytest.approx(7, abs=2)
    await queue.aclose()
    assert not any(":said:" in key for key in keys_of(valkey, name))
