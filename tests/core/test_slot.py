from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.spi import Reporter
from tests.helpers import introspect
from tests.helpers.instants import exactly, free, now, use
from tests.helpers.limiters import Shared

# A slot's life.


async def test_a_slot_knows_its_call(limiter):
    """Key, cost and the time it waited; `running` counts the bodies."""
    queue = limiter.queue("10/s")
    async with queue.slot(key="a") as first, queue.slot(key="b", cost=2, priority=3) as second:
        assert (first.key, first.cost, first.waited) == ("a", 1, 0.0)
        assert (second.key, second.cost, second.priority) == ("b", 2, 3)
        assert second.waited == limiter.exactly(0.2)
        assert queue.running == 2
    assert queue.running == 0
    assert "over" in repr(first)


async def test_awaited_slot_is_refused(limiter):
    """A slot that is awaited is refused with both remedies.

    By itself, in a task, and one that has had its turn; the queue knows nothing of it.
    """
    queue = limiter.queue("10/s")
    both = r"async with queue\.slot\(\):.*await queue\.enqueue\(\)"
    with pytest.raises(TypeError, match=both):
        await queue.slot()
    with pytest.raises(TypeError, match=both):
        await asyncio.wait_for(queue.slot(), 1)
    for _ in range(2):
        async with queue.slot() as slot:
            with pytest.raises(TypeError, match=both):
                await slot
    assert (queue.running, queue.waiting, queue.stats.released) == (0, 0, 2)


async def test_a_slot_is_for_one_call(limiter):
    """Entering it again is refused with the remedy, waiting or over."""
    queue = limiter.queue("10/s")
    async with queue.slot() as slot:
        pass
    with pytest.raises(RuntimeError, match=r"call queue.slot\(\) again"):
        await slot.__aenter__()
    waiting = queue.slot()
    waiting.__aenter__()
    with pytest.raises(RuntimeError, match=r"call queue.slot\(\) again"):
        await waiting.__aenter__()
    assert queue.waiting == 1


async def test_slot_without_turn_is_no_context(limiter):
    """A slot without a turn is no plain context manager.

    `with queue.slot():` would not wait; the error says what to write.
    """
    with pytest.raises(RuntimeError, match="async with"), limiter.queue().slot():
        pytest.fail("ran without a slot")


@pytest.mark.parametrize("ask", ["slot", "enqueue", "try_slot", "estimate"])
async def test_key_and_keys_are_one_too_many(ask):
    """The message says how to write it."""
    with pytest.raises(TypeError, match=r"key= or keys=, not both: keys=\('a', ...\)"):
        getattr(ApiQueue(), ask)(key="a", keys=("b",))


@pytest.mark.contract
async def test_release_by_hand_counts_once(limiter):
    """A slot from `enqueue` is its holder's to end; ending it again does nothing."""
    queue = limiter.queue(concurrency=1)
    slot = await queue.enqueue()
    behind = queue.enqueue()
    await asyncio.sleep(1)
    assert not behind.done()
    slot.release()
    slot.release()
    with await behind:
        assert queue.running == 1
    assert queue.running == 0


@pytest.mark.contract
async def test_reservation_joins_when_made(limiter):
    """A reservation joins when it is made.

    `enqueue` is a plain call: its place in the queue is that of the call, not of the await.
    """
    queue, starts = limiter.queue("10/s"), []
    futures = [queue.enqueue() for _ in range(3)]
    await limiter.settled()
    assert (queue.running, queue.waiting) == (1, 2)
    other = asyncio.create_task(use(queue, starts))
    await asyncio.sleep(5)
    assert [(await future).waited for future in futures] == limiter.exactly([0, 0.1, 0.2])
    await other
    assert starts == limiter.exactly([0.3])


@pytest.mark.contract
@pytest.mark.ahead
@pytest.mark.parametrize(("given", "settled", "next_due"), [(1, 6, 0.3), (6, 1, 0.0), (3, 3, 0.0)])
async def test_settling_charges_the_difference(limiter, given, settled, next_due):
    """Settling charges or gives back the difference.

    On 10/s with a burst of 4, the next call is due by the true cost.
    """
    queue = limiter.queue(Rate(10, burst=4))
    await asyncio.sleep(10)
    began = now()
    async with queue.slot(cost=given) as slot:
        started = now() - began
        slot.settle(settled)
        await limiter.settled()
        assert slot.cost == settled
    assert started == limiter.exactly(0.2 if given == 6 else 0)
    assert queue.estimate() == limiter.exactly(next_due)


@pytest.mark.contract
async def test_settling_from_nothing_leaves_no_burst(limiter):
    """A cost that is known afterwards only counts from then on, whatever older calls give back.

    The first call's 400 tokens had been paid off at 4 s: to give them back at 5 s is worth nothing.
    """
    queue, starts = limiter.queue("100 tokens/s burst 400"), []
    began = now()
    reserved = await limiter.take(queue, cost={"tokens": 400})
    await asyncio.sleep(5)
    unknown = await limiter.take(queue, cost={"tokens": 0})
    unknown.settle({"tokens": 400})
    reserved.settle({"tokens": 0})
    await limiter.settled()
    await use(queue, starts, cost={"tokens": 400})
    assert starts[0] - began == limiter.exactly(9)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("limit", "figures", "at", "due"),
    [
        ("10 tokens/s", (1, 300, 1), 0.005, 0.1),
        ("100 tokens/s burst 400", (100, 400, 100), 5, 5),
        ("100 tokens/s burst 400", (400, 800, 400), 1, 4),
        ("100 tokens/s burst 400", (0, 400, 0), 5, 5),
    ],
)
async def test_settling_back_is_as_if_never_up(limiter, limit, figures, at, due):
    """The latest figure holds: what a settlement charged, a later one of that call gives back.

    (A server does not know that it is the same charge: see docs/fleet.md.)
    """
    queue, starts = limiter.queue(limit, catch_up=0.01), []
    began = now()
    slot = await limiter.take(queue, cost={"tokens": figures[0]})
    await asyncio.sleep(at)
    for tokens in figures[1:]:
        slot.settle({"tokens": tokens})
        await limiter.settled()
    await use(queue, starts, cost={"tokens": 1 if "burst" not in limit else 400})
    later = isinstance(limiter, Shared)
    assert (starts[0] - began >= due) if later else (starts[0] - began == limiter.exactly(due))


async def test_settled_up_after_settling_back():
    """Once a surcharge has been given back, the next one of that call counts from its own instant.

    So part of it can come back, though the bucket was full again after the call had started.
    """
    queue = ApiQueue("1 tokens/s burst 10")
    with queue.try_slot(cost={"tokens": 5}) as slot:
        for tokens in (8, 3):
            slot.settle({"tokens": tokens})
        await asyncio.sleep(100)
        for tokens, left in ((6, 7), (4, 9)):
            slot.settle({"tokens": tokens})
            assert queue.stats.remaining["tokens"] == exactly(left)


async def test_surcharge_as_the_bucket_is_full():
    """What started before the bucket was full gives nothing back, be it full at that instant."""
    queue = ApiQueue("4/s burst 4", catch_up=0.5)
    one, other = [queue.try_slot(cost=2) for _ in range(2)]
    await asyncio.sleep(1)
    one.settle(4)
    other.settle(0)
    assert free(queue) == 2


@pytest.mark.contract
@pytest.mark.ahead
async def test_cancelled_beside_a_settlement(limiter):
    """A slot of a pace that nobody takes up comes back, though another call has settled since."""
    queue, starts = limiter.queue("1 tokens/s", catch_up=0.01), []
    other = await limiter.take(queue, cost={"tokens": 0})
    async with queue.slot(cost={"tokens": 1}):
        pass
    began = now()
    granted = queue.enqueue(cost={"tokens": 1})
    await asyncio.sleep(1.005)
    await limiter.settled()
    assert granted.done()
    other.settle({"tokens": 0.001})
    await limiter.settled()
    granted.cancel()
    await limiter.settled()
    await use(queue, starts, cost={"tokens": 1})
    assert 1.005 <= starts[0] - began < 1.01


@pytest.mark.contract
@pytest.mark.ahead
async def test_settling_moves_those_already_waiting(limiter):
    """A refund lets the next one go sooner, an extra charge later, after the body too."""
    for settled, expected in ((1, 0.1), (9, 0.9)):
        queue, starts = limiter.queue(Rate(10, burst=5)), []
        began = now()
        slot = await limiter.take(queue, cost=5)
        waiting = asyncio.create_task(use(queue, starts, cost=5))
        await asyncio.sleep(0.05)
        slot.release()
        slot.settle(settled)
        await waiting
        assert starts[0] - began == limiter.exactly(expected)


async def test_settling_reaches_lane_and_window():
    """The difference is given back wherever the cost was charged."""
    queue = ApiQueue(Window(10, 1), lanes={"a": Window(6, 1)})
    with queue.try_slot(key="a", cost=6) as slot:
        assert queue.estimate(key="a") == exactly(1.0)
        slot.settle(2)
    assert queue.estimate(key="a", cost=4) == 0.0
    assert queue.estimate(key="a", cost=5) == exactly(1.0)
    assert queue.estimate(cost=8) == 0.0


@pytest.mark.contract
async def test_only_started_calls_are_settled(limiter):
    """Only a call that has started is settled.

    Waiting or negative: refused.
    """
    queue = limiter.queue("1/s")
    with pytest.raises(RuntimeError, match=r"settle\(\) works only after the call has started"):
        queue.slot().settle(1)
    with pytest.raises(ValueError, match="cost"):
        (await limiter.take(queue)).settle(-1)


async def test_costs_after_settling_are_known():
    """A client can ask what a call would have cost, without settling it."""
    queue = ApiQueue("10/s", "100 tokens/s burst 100")
    reporter = Reporter(queue)
    with queue.try_slot(cost={"tokens": 3}) as slot:
        assert reporter.settled(slot, {"tokens": 8}) == {"calls": 1, "tokens": 8}
        assert reporter.costs_of(slot) == {"calls": 1, "tokens": 3}
        slot.settle({"tokens": 8})
        assert reporter.costs_of(slot) == {"calls": 1, "tokens": 8}


async def test_settle_needs_a_start():
    """A call that left was charged nothing that could come back."""
    queue = ApiQueue("10/s")
    queue.try_slot()
    slot = queue.slot()
    task = asyncio.ensure_future(slot.__aenter__())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(RuntimeError, match="has started"):
        slot.settle(0)


async def test_slot_of_another_kind():
    """What keeps its limits elsewhere takes no call that was made for a queue in this process."""
    slot = ApiQueue("10/s").try_slot()
    with pytest.raises(TypeError, match="was made by a queue of another kind"):
        introspect.host_call(slot)
