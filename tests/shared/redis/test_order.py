"""Who goes first, and when, is as in a queue of one's own."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue, Rate, SlotTimeout
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.lane_calls import run_calls
from tests.helpers.virtual_client import VirtualClient


async def started(queue, *calls):
    """Return who starts when, of calls made in this order, given as (who, options)."""
    loop, found = asyncio.get_running_loop(), []

    async def call(who, options):
        async with queue.slot(**options):
            found.append((who, loop.time()))

    async with asyncio.TaskGroup() as group:
        for who, options in calls:
            group.create_task(call(who, options))
    return found


@pytest.mark.parametrize("ahead", [0, 0.2])
async def test_grown_share_overtakes_nobody(valkey, name, ahead):
    """Nobody is overtaken after a rest in which the share has grown.

    More is granted at once than the process knew: still not to one who came later.
    """
    schedule = SharedSchedule(VirtualClient(valkey), name, ahead=ahead)
    async with ApiQueue(Rate(5, burst=5), lanes={"a": "100/s"}, schedule=schedule) as queue:
        await started(queue, *[(number, {}) for number in range(6)])
        await asyncio.sleep(0.4)  # two slots
        calls = [("first", {}), ("second", {}), ("third", {"key": "a"}), ("fourth", {})]
        found = await started(queue, *calls)
    assert [who for who, _ in found] == ["first", "second", "third", "fourth"]
    assert [at for _, at in found] == pytest.approx([0.6, 0.6, 0.8, 1.0], abs=1e-5)


@pytest.mark.parametrize("key", [None, "a"])
async def test_leaving_delays_nobody_behind(valkey, name, key):
    """A caller behind one that leaves is due no later.

    Since when somebody has been waiting counts, not since when the first in line has.
    """
    loop = asyncio.get_running_loop()
    schedule = SharedSchedule(VirtualClient(valkey), name, ahead=0)
    limits = {"lanes": {"a": Rate(10, burst=1)}}
    async with ApiQueue(Rate(10), schedule=schedule, catch_up=0, **limits) as queue:
        leaving = queue.enqueue(key=key, cost=5)  # due at 0.4
        await asyncio.sleep(0.2)
        behind = queue.enqueue(key=key, cost=5)
        await asyncio.sleep(0.1)
        leaving.cancel()
        with await behind:
            assert loop.time() == pytest.approx(0.4, abs=1e-5)


async def test_further_calls_of_several_keys_are_asked_for(valkey, name):
    """Of callers that take turns by key, one behind others of its lanes has a place of its own.

    It was taken for as early as the first there, which had its slot; but behind that one somebody
    waited for another lane. So it was to be asked for at once, and never was: again and again.
    """
    client, lanes = VirtualClient(valkey), {"a": "5 per 3s", "b": ()}
    options = {"lanes": lanes, "order": "fair", "schedule": SharedSchedule(client, name, ahead=0)}
    async with ApiQueue("1000000 tokens/s burst 1000000", **options) as queue:
        calls = [
            (0, ("a",), 0, 50),
            (0, ("a", "b"), 0, 0),
            (0, ("a", "b"), 1, 1),
            (0.01, ("x", "b"), 1, 1),
            (0, ("b",), 0, 1),
        ]
        starts = await run_calls([queue], calls)
    order, instants = zip(*[(start.number, start.at) for start in starts], strict=True)
    assert order == (0, 4, 3, 1, 2)
    assert instants == pytest.approx((0, 0.01, 0.01, 0.6, 1.2), abs=1e-5)
    assert client.calls < 20


async def test_refused_newcomers_have_no_place(valkey, name):
    """An urgent call that is refused as it comes is none of those who wait, nor taken for one.

    It had no place among them, so that another could not be cancelled any more.
    """
    lanes, schedule = {"a": "1 per 10s"}, SharedSchedule(VirtualClient(valkey), name, ahead=0)
    async with ApiQueue("1/s", lanes=lanes, schedule=schedule) as queue:
        (await queue.enqueue(key="a")).release()
        first, _, unkeyed = queue.enqueue(key="a"), queue.enqueue(key="a"), queue.enqueue()
        await asyncio.sleep(0.1)
        queue.hold(0.3)
        with pytest.raises(SlotTimeout):
            queue.enqueue(priority=-1, timeout=0.2)
        first.cancel()
        (await unkeyed).release()
        assert asyncio.get_running_loop().time() == pytest.approx(1, abs=1e-5)
