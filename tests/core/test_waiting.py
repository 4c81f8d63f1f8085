from __future__ import annotations

import asyncio
import math
import random
from collections import Counter

import pytest

from aioapiqueue import ApiQueue, QueueFull, Rate, Slot, SlotTimeout, Window, WouldWait
from tests.helpers.instants import exactly, now

# Order.


@pytest.mark.contract
@pytest.mark.ahead
async def test_lower_priority_goes_first(limiter):
    """A lower priority goes first also if it comes later.

    The slot is bound to a waiter at the tick, so an urgent newcomer gets the next one.
    """
    queue, order = limiter.queue("10/s"), []

    async def call(name, priority):
        async with queue.slot(priority=priority):
            order.append(name)

    async with asyncio.TaskGroup() as group:
        for name, priority in (("first", 5), ("b", 0), ("c", 1), ("d", 0)):
            group.create_task(call(name, priority))
            await limiter.settled()  # else all of them are sorted before the first is answered
        await asyncio.sleep(0.15)
        group.create_task(call("urgent", -1))
    assert order == ["first", "b", "urgent", "d", "c"]


@pytest.mark.contract
async def test_due_newcomer_is_not_overlooked(limiter):
    """A newcomer that is first and due is not overlooked.

    More urgent and cheaper than all who wait, it goes at once.
    """
    queue = limiter.queue(Window(6, 1))
    queue.enqueue(cost=4)
    await limiter.settled()
    urgent, later = queue.enqueue(cost=3, priority=-1), queue.enqueue(cost=4, priority=1)
    await urgent
    assert now() == limiter.exactly(1)
    await queue.enqueue(cost=1)
    assert now() == limiter.exactly(1)
    await later
    assert now() == limiter.exactly(2)


@pytest.mark.parametrize(("priority", "seconds"), [(1, 1), (0, 3), (-1, 3)])
async def test_estimate_goes_by_priority(priority, seconds):
    """A newcomer that says no priority is before those of a higher number, not of its own."""
    queue = ApiQueue("1/s")
    queue.try_slot()
    for _ in range(2):
        queue.enqueue(priority=priority)
    assert queue.estimate() == exactly(seconds)
    await queue.enqueue()
    assert now() == exactly(seconds)


@pytest.mark.contract
@pytest.mark.ahead
async def test_fair_serves_keys_beside_flood(limiter):
    """Fair gives each of a hundred keys its turn beside a flood.

    One key sends 99 % of 10,000 calls; every other one waits for two rounds at most.
    """
    queue, waits, keys = limiter.queue("1000/s", order="fair"), {}, 100
    flood = [queue.enqueue(key="flood") for _ in range(1000)]
    await limiter.settled()

    async def call(key):
        async with queue.slot(key=key) as slot:
            waits[key] = slot.waited

    async with asyncio.TaskGroup() as group:
        for key in range(keys - 1):
            flood += [queue.enqueue(key="flood") for _ in range(98)]
            await limiter.settled()
            group.create_task(call(key))
    assert len(waits) == keys - 1
    assert max(waits.values()) <= 2 * keys / 1000
    assert sum(future.done() for future in flood) < 10  # one a round
    for future in flood:
        future.cancel()


@pytest.mark.contract
async def test_fifo_ignores_keys(limiter):
    """Fifo stays in order of arrival whatever the keys.

    Without `order="fair"` a flood goes first if it came first.
    """
    queue, order = limiter.queue("1000/s"), []

    async def call(key):
        async with queue.slot(key=key):
            order.append(key)

    await asyncio.gather(*map(call, "aaaabac"))
    assert "".join(order) == "aaaabac"


# Not waiting for ever.


async def test_vain_timeout_is_at_once():
    """A timeout is at once where even the next slot is too late.

    Nobody waits in vain: SlotTimeout, a TimeoutError, without any time passing.
    """
    queue = ApiQueue("1/s")
    queue.try_slot()
    with pytest.raises(SlotTimeout, match="next is due in 1 s") as caught:
        await queue.slot(timeout=0.9).__aenter__()
    assert isinstance(caught.value, TimeoutError)
    assert now() == 0.0
    with pytest.raises(SlotTimeout):
        queue.enqueue(timeout=0)
    assert (queue.stats.timed_out, queue.waiting) == (2, 0)


@pytest.mark.parametrize("lanes", [{}, {"a": "10/s", "b": "10/s"}])
async def test_due_when_the_timeout_ends(lanes):
    """A slot that is due at the very instant is in time; the next one is not."""
    queue = ApiQueue("10/s", lanes=lanes)
    keys = ["a", "b", "a", "b"] if lanes else [None] * 4
    first = [queue.enqueue(key=key) for key in keys[:3]]
    # As floats count, the third interval is over a moment after 0.3.
    waiting = [queue.enqueue(key=key, timeout=0.3) for key in keys[2:]]
    slots = await asyncio.gather(*first, *waiting, return_exceptions=True)
    assert [slot.waited for slot in slots[:4]] == exactly([0, 0.1, 0.2, 0.3])
    assert isinstance(slots[4], SlotTimeout)
    assert now() == exactly(0.3)
    assert (queue.waiting, queue.stats.released, queue.stats.timed_out) == (0, 4, 1)
    assert not asyncio.get_running_loop().pending_timers


async def test_many_due_when_the_timeout_ends():
    """All that are due are in time, although they are more than one step of the queue lets go."""
    queue = ApiQueue()
    queue.pause(1)
    slots = await asyncio.gather(*[queue.enqueue(timeout=1) for _ in range(6000)])
    assert {slot.waited for slot in slots} == {1}


async def test_due_after_the_timeout_ends():
    """A slot that is due later is not in time, even if the timer of the time-out is later still."""
    queue = ApiQueue("10/s")
    queue.hold(0.1)
    waiting = queue.enqueue(timeout=0.25)
    queue.pause(0.3)
    await asyncio.sleep(0)
    asyncio.get_running_loop().stall(0.35)
    with pytest.raises(SlotTimeout):
        await waiting
    assert (now(), queue.stats.released) == (0.35, 0)


@pytest.mark.parametrize(
    ("limit", "due"), [("4 in any 10s", 10), ("4 in each hour", 3600), ("4/10s burst 4", 2.5)]
)
@pytest.mark.parametrize("late", [-1, 1])
async def test_stalled_until_there_is_room(limit, due, late):
    """Room that comes in a stall, after the time-out, is too late for it; before it, in time."""
    queue = ApiQueue(limit)
    queue.try_slot(cost=4)
    queue.pause()  # so that it is not known yet that the next slot comes too late
    waiting = queue.enqueue(timeout=due - late)
    queue.resume()
    await asyncio.sleep(0)
    asyncio.get_running_loop().stall(due + 2)
    if late > 0:
        with pytest.raises(SlotTimeout):
            await waiting
        assert queue.try_slot()
    else:
        assert (await waiting).waited == exactly(due + 2)


@pytest.mark.contract
async def test_a_timeout_uses_no_slot(limiter):
    """Who times out later leaves its place to those behind, who start on time."""
    queue, loop = limiter.queue("1/s"), asyncio.get_running_loop()
    behind = [queue.enqueue() for _ in range(2)]
    await limiter.settled()
    with pytest.raises(SlotTimeout, match=r"no slot within 1\.5 s"):
        async with queue.slot(timeout=1.5):
            pytest.fail("ran without a slot")
    assert now() == limiter.exactly(1.5)
    late = queue.enqueue(timeout=9)
    await limiter.settled()
    assert loop.pending_timers == 2  # the ticker's and this one's
    await asyncio.gather(*behind, late)
    assert now() == limiter.exactly(2.0)
    assert loop.pending_timers == 0
    assert (queue.stats.released, queue.stats.timed_out) == (3, 1)


async def test_try_slot_says_when_to_return():
    """`try_slot` says when to come again.

    A free slot is given at once; otherwise WouldWait has the seconds, and they are right.
    """
    queue = ApiQueue("10/s", name="ec2")
    with queue.try_slot(cost=1) as slot:
        assert (queue.running, slot.waited) == (1, 0.0)
    await asyncio.sleep(0.04)
    with pytest.raises(WouldWait, match="ec2") as caught:
        queue.try_slot()
    assert caught.value.retry_in == exactly(0.06)
    await asyncio.sleep(caught.value.retry_in)
    queue.try_slot().release()
    assert (queue.stats.released, queue.running, queue.waiting) == (2, 0, 0)


@pytest.mark.parametrize(("rate", "cost"), [(Rate(7, burst=3), 1), (Rate(1000, 3, burst=5), 2)])
async def test_retry_in_to_the_last_digit(rate, cost):
    """A caller that sleeps for so long has a slot then, and is not told to come back in 0.1 s."""
    queue = ApiQueue(rate)
    await asyncio.sleep(12.3456)
    for _ in range(300):
        try:
            queue.try_slot(cost=cost).release()
        except WouldWait as error:
            await asyncio.sleep(error.retry_in)
            queue.try_slot(cost=cost).release()
    assert now() == pytest.approx(12.3456 + (300 * cost - rate.burst) * rate.interval)


async def test_retry_in_where_a_permit_is_missing():
    """Nobody knows when a body ends: a caller that sleeps for so long does not spin."""
    queue, tries = ApiQueue("20/s burst 2", concurrency=1, lanes={"lane": "1 at once"}), 0

    async def run(seconds):
        async with queue.slot(key="lane"):
            await asyncio.sleep(seconds)

    task = asyncio.create_task(run(1.05))
    await asyncio.sleep(0)
    for key in (None, "lane"):
        with pytest.raises(
            WouldWait, match=r"no slot is free: try again in 0\.1 s, or wait with slot\(\)"
        ):
            queue.try_slot(key=key)
    with pytest.raises(WouldWait, match=r"due in 0\.05 s") as caught:
        queue.try_slot(cost=2)  # what the other limits say, where that is later
    assert caught.value.retry_in == exactly(0.05)
    while True:
        try:
            queue.try_slot().release()
            break
        except WouldWait as error:
            tries += 1
            await asyncio.sleep(error.retry_in)
    assert (now(), tries) == (exactly(1.1), 11)
    await task
    queue.pause()
    with pytest.raises(WouldWait) as caught:
        queue.try_slot()
    assert caught.value.retry_in == math.inf


@pytest.mark.contract
async def test_retry_in_is_never_zero(limiter):
    """Not on a shared quota either, which has to be asked first."""
    queue = limiter.queue("10/s", concurrency=1)
    with await limiter.take(queue):
        await asyncio.sleep(1)
        with pytest.raises(WouldWait) as caught:
            queue.try_slot()
    assert caught.value.retry_in == 0.1


@pytest.mark.contract
@pytest.mark.parametrize("limit", [Rate(7), Rate(7, burst=4), Window(4, 1), Window(7, 3)])
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))]
)
async def test_estimate_is_the_wait(limiter, limit, seed):
    """An estimate is what the newcomer then waits.

    FIFO on one limit: exact at random moments, after withdrawals and in holds.
    """
    queue, rng, pairs = limiter.queue(limit), random.Random(seed), []

    async def call():
        estimate = queue.estimate()
        async with queue.slot() as slot:
            pairs.append((estimate, slot.waited))

    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            if not queue.waiting and rng.random() < 0.3:
                queue.pause(1)
                await limiter.settled()
            group.create_task(call())
            await asyncio.sleep(rng.choice([0, 0, 0, 0.01, 0.3, 1.7]))
            if rng.random() < 0.2:
                withdrawn = queue.enqueue()
                await asyncio.sleep(0)
                await limiter.settled()
                withdrawn.cancel()
                await limiter.settled()
    assert len(pairs) == 60
    assert max(waited for _, waited in pairs) > 0
    rounding = 3e-6 if limiter.shared else limiter.rounding  # of three instants
    if limiter.shared and isinstance(limit, Window):
        rounding += limit.per  # the server tells of the next call only
    assert all(abs(waited - estimate) <= rounding for estimate, waited in pairs)


# Not too many.


async def test_too_many_waiters_are_refused(limiter):
    """`maxsize` waiters, and QueueFull for the next; bodies that run do not count."""
    queue = limiter.queue("10/s", maxsize=2)
    running = [await limiter.take(queue)]
    waiting = [queue.enqueue(), queue.enqueue()]
    await limiter.settled()
    with pytest.raises(QueueFull, match=r"is full \(maxsize=2\)$"):
        queue.enqueue(timeout=5)
    with pytest.raises(QueueFull):
        await queue.slot(priority=-9).__aenter__()
    await asyncio.gather(*waiting)
    assert (now(), queue.running) == (limiter.exactly(0.2), len(running) + 2)
    assert queue.stats.refused == 2
    assert asyncio.get_running_loop().pending_timers == 0


async def test_drop_oldest_refuses_least_urgent(limiter):
    """`drop_oldest` refuses the oldest of the least urgent.

    An urgent newcomer takes its place; one less urgent than all is refused itself.
    """
    queue = limiter.queue("10/s", maxsize=3, overflow="drop_oldest")
    await limiter.take(queue)
    urgent, old, young = (queue.enqueue(priority=priority) for priority in (-1, 1, 1))
    await limiter.settled()
    with pytest.raises(QueueFull):
        queue.enqueue(priority=2)
    newcomer = queue.enqueue(priority=0)
    results = await asyncio.gather(urgent, old, young, newcomer, return_exceptions=True)
    assert isinstance(results[1], QueueFull)
    assert [results[n].waited for n in (0, 3, 2)] == limiter.exactly([0.1, 0.2, 0.3])
    kinds = [Slot if isinstance(result, Slot) else type(result) for result in results]
    assert Counter(kinds) == {Slot: 3, QueueFull: 1}
    assert (queue.stats.refused, queue.stats.released) == (2, 4)
