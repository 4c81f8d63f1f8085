"""Limits that one process learns from the server's answers are those of all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.spi import Reporter, limit_types
from tests.helpers.instants import now
from tests.helpers.virtual_client import VirtualClient
from tests.shared.redis.test_server_bound import POLL, Waiting, fleet, started, take

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue import Slot

CATCH_UP = 0.010  # seconds, the default
LEASE = 10.0  # seconds, the default
LANES: dict[Hashable, tuple[()]] = {"*": ()}
COST = {"tokens": 10}


def learning(*queues: ApiQueue) -> None:
    """Have these learn a limit of tokens."""
    for queue in queues:
        Reporter(queue).learn(["tokens"])


def answer(queue: ApiQueue, slot: Slot, *limits: str) -> None:
    """Let a call have its answer, with these limits."""
    Reporter(queue).answered(slot)
    if limits:
        Reporter(queue).adopt(slot, [Rate.parse(one) for one in limits])


async def test_learnt_limits_are_for_all(valkey, name):
    """One learns them; the others keep them from their next request on, and know what they are."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        learning(one)
        (slot,) = await take(one, 1, key="model", cost=COST)
        answer(one, slot, "600 tokens/min burst 20")
        waiting = Waiting(one, 3, key="model", cost=COST)
        assert await started(waiting, 5) == 3  # the first paid nothing: there was no limit
        waiting = Waiting(other, 1, key="model")
        await asyncio.sleep(0)
        assert await started(waiting, 5) == 1
        learnt = {"model": (limit_types.LearntRate(600, 60.0, 20, "tokens"),)}
        assert one.stats.learnt == learnt
        assert other.stats.learnt == learnt
        begun = now()
        waiting = Waiting(other, 4, key="model", cost=COST)
        await asyncio.sleep(5)
        assert waiting.starts == [round(begun + wait, 6) for wait in (0, 0, 1, 2)]


async def test_unaccounted_calls_go(valkey, name):
    """A call that says nothing of a learnt unit is charged none of it, and counted, anywhere."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        learning(one)
        (slot,) = await take(one, 1, key="model", cost=COST)
        answer(one, slot, "60 tokens/min burst 1")
        await take(other, 1, key="another")  # hears of it
        for queue in (one, other):
            begun = now()
            paying = Waiting(one, 2, key="model", cost={"tokens": 1})
            await take(queue, 5, key="model")
            assert now() == begun
            assert queue.stats.unaccounted == 5
            assert await started(paying, 5) == 2


async def test_new_units_are_known(valkey, name):
    """A unit that only others count is known from then on: costs may state it."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        learning(one)
        (slot,) = await take(one, 1, key="model", cost=COST)
        answer(one, slot, "60 tokens/min burst 100")
        with pytest.raises(ValueError, match="tokens"):
            other.slot(key="model", cost=COST)
        await take(other, 1, key="model")
        begun = now()
        await take(other, 11, key="model", cost=COST)
        assert now() == pytest.approx(begun + 10, abs=0.001)


@pytest.mark.parametrize("number", [2, 4])
async def test_one_call_until_first_answer(valkey, name, number):
    """Until a lane has its first answer, one call of it is out, in all processes together."""
    async with fleet(valkey, name, number, lanes=LANES) as queues:
        learning(*queues)
        begun = now()
        waiting = [Waiting(queue, 3, key="model", cost=COST) for queue in queues]
        await asyncio.sleep(LEASE / 2)
        ((first, queue),) = [
            (slot, queue) for one, queue in zip(waiting, queues, strict=True) for slot in one.slots
        ]
        assert now() == begun + LEASE / 2
        other = Waiting(queues[0], 1, key="another")
        assert await started(other, 0) == 0
        assert await started(other, POLL) == 1  # each lane by itself
        answer(queue, first, "600 tokens/min burst 30")
        first.release()
        answered_at = now()
        await asyncio.sleep(60)
        starts = sorted(start for one in waiting for start in one.starts)
        assert len(starts) == 3 * number
        assert starts[1] >= round(answered_at, 6)
        # As the learnt limit allows, from when it is known: 3 at once, then one a second.
        for place, start in enumerate(starts[1:]):
            assert place + 1 <= 3 + start - answered_at + CATCH_UP
        assert starts[-1] <= answered_at + 3 * number - 4 + 2 * POLL


async def test_first_call_without_answer(valkey, name):
    """If the first call ends without one, the next is the first, here or elsewhere."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        learning(one, other)
        (first,) = await take(one, 1, key="model")
        waiting = Waiting(other, 1, key="model"), Waiting(one, 1, key="model")
        await asyncio.sleep(3)
        first.release()
        await asyncio.sleep(2 * POLL)
        starts = [len(each.starts) for each in waiting]
        assert sum(starts) == 1
        waiting[starts.index(1)].slots[0].release()
        await asyncio.sleep(2 * POLL)
        assert [len(each.starts) for each in waiting] == [1, 1]


async def test_first_call_cancelled_gives_way(valkey, name):
    """A slot that was leased to a call which is cancelled then is for the next."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        learning(one, other)
        call = one.enqueue(key="model")
        waiting = Waiting(other, 1, key="model")
        await asyncio.sleep(0.01)
        assert not waiting.starts
        call.cancel()
        assert await started(waiting, 2 * POLL) == 1


async def test_first_call_of_one_that_dies(valkey, name):
    """It holds others up for the time of a lease."""
    client = VirtualClient(valkey)
    dead = ApiQueue(lanes=LANES, schedule=SharedSchedule(client, name))
    async with fleet(valkey, name, 1, lanes=LANES) as (one,):
        learning(one, dead)
        (held,) = await take(dead, 1, key="model")
        begun = now()
        client.down = True
        waiting = Waiting(one, 1, key="model")
        await asyncio.sleep(LEASE + 2 * POLL)
        assert begun + LEASE <= waiting.starts[0] <= begun + LEASE + POLL
        held.release()
        await dead.aclose(drain=False)


async def test_queue_without_lanes_waits_too(valkey, name):
    """A queue that has no lanes has its first answer as a whole."""
    async with fleet(valkey, name, 2) as (one, other):
        learning(one, other)
        waiting = Waiting(one, 2), Waiting(other, 2)
        await asyncio.sleep(5)
        assert sorted(len(each.starts) for each in waiting) == [0, 1]
        queue, its = (one, waiting[0]) if waiting[0].starts else (other, waiting[1])
        answer(queue, its.slots[0])
        await asyncio.sleep(2 * POLL)
        assert [len(each.starts) for each in waiting] == [2, 2]


async def test_lane_learnt_elsewhere_waits_not(valkey, name):
    """A lane whose limits another process has learnt needs no first answer here."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        learning(one, other)
        (slot,) = await take(one, 1, key="model", cost=COST)
        answer(one, slot, "600 tokens/min burst 30")
        await asyncio.sleep(5)  # the lane is forgotten, its limits are not
        begun = now()
        await take(other, 3, key="model", cost=COST)
        assert now() == begun


async def test_same_limits_learnt_at_once(valkey, name):
    """Two processes that learn the same send it once each at most, and nothing more afterwards."""
    client = VirtualClient(valkey, latency=(0.01, 0.02))
    queues = [ApiQueue(lanes=LANES, schedule=SharedSchedule(client, name)) for _ in range(2)]
    one, other = queues
    slots = [(await take(queue, 1, key="model"))[0] for queue in queues]
    learning(*queues)
    for queue, slot in zip(queues, slots, strict=True):
        answer(queue, slot, "600 tokens/min burst 30", "60/min burst 60")
    await asyncio.sleep(1)
    sent = [op for _, op in client.log if op == "decide"]
    assert 1 <= len(sent) <= 2
    revision = valkey.sync().hget(f"{{aioapiqueue:{name}}}", "rev")
    for _ in range(3):
        for queue, slot in zip(queues, slots, strict=True):
            answer(queue, slot, "600 tokens/min burst 30", "60/min burst 60")
            await take(queue, 1, key="model")
    await asyncio.sleep(1)
    assert [op for _, op in client.log if op == "decide"] == sent
    assert valkey.sync().hget(f"{{aioapiqueue:{name}}}", "rev") == revision
    assert one.stats.learnt == other.stats.learnt
    for queue in queues:
        await queue.aclose()


async def test_changed_limit_is_followed(valkey, name):
    """What the server states later replaces what it stated before, for all."""
    async with fleet(valkey, name, 2, "1000/s burst 1000", lanes=LANES) as (one, other):
        learning(one, other)
        (slot,) = await take(one, 1, key="model", cost=COST)
        answer(one, slot, "600 tokens/min burst 10")
        (slot,) = await take(other, 1, key="model", cost=COST)
        answer(other, slot, "1200 tokens/min burst 10")
        await asyncio.sleep(POLL)
        await take(one, 1, key="model", cost=COST)
        learnt = {"model": (limit_types.LearntRate(1200, 60.0, 10, "tokens"),)}
        assert one.stats.learnt == other.stats.learnt == learnt
        assert one.limits == other.limits == (Rate(1000, burst=1000),)
        begun = now()
        await take(one, 4, key="model", cost=COST)
        assert now() == pytest.approx(begun + 2, abs=0.001)
