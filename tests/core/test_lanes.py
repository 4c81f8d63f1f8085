from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections import defaultdict
from itertools import chain, pairwise

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from tests.helpers import introspect
from tests.helpers.instants import free, now


async def released(queue, keys, **options):
    """Let a task for each key queue up; return each key's starts."""
    starts = defaultdict(list)

    async def call(key):
        async with queue.slot(key=key, **options):
            starts[key].append(now())

    await asyncio.gather(*map(call, keys))
    return starts


# Under the queue's limits, a key's own.


@pytest.mark.contract
async def test_a_slow_lane_blocks_nobody(limiter):
    """A hundred who wait in a slow lane ahead of others do not delay them."""
    queue = limiter.queue("100/s", lanes={"slow": "1/s"})
    starts = await released(queue, ["slow"] * 10 + ["x"] * 5 + ["y"] * 5)
    assert sorted(starts["x"] + starts["y"]) == limiter.exactly([0.01 * n for n in range(1, 11)])
    assert starts["slow"] == limiter.exactly(range(10))


@pytest.mark.contract
@pytest.mark.ahead
async def test_queue_limits_hold_over_lanes(limiter):
    """The queue's limits hold over all lanes together.

    Four lanes of 10/s under 20/s make 20/s, shared by arrival.
    """
    queue = limiter.queue("20/s", lanes={"*": "10/s"})
    starts = await released(queue, "abcd" * 10)
    everything = sorted(chain(*starts.values()))
    assert everything == limiter.exactly([n / 20 for n in range(40)])
    for own in starts.values():
        assert min(b - a for a, b in pairwise(own)) >= 0.1 - 0.01


@pytest.mark.contract
async def test_star_gives_each_key_a_lane(limiter):
    """A star gives every other key a lane of its own.

    Each of them has the whole limit, those with their own entry that one.
    """
    queue = limiter.queue(lanes={"a": "1/s", "*": "10/s"})
    starts = await released(queue, ["a", "b", None] * 3)
    assert starts["a"] == limiter.exactly([0, 1, 2])
    assert starts["b"] == starts[None] == limiter.exactly([0, 0.1, 0.2])
    assert queue.stats.lanes_in_memory == 3


@pytest.mark.contract
async def test_keys_without_limits_share_the_queues(limiter):
    """Without "*", a key that is not listed has no lane at all."""
    queue = limiter.queue(lanes={"a": "1/s"})
    with limiter.warned_of_unpaced():
        starts = await released(queue, ["a", "b", "b", "b"])
    assert starts["b"] == [0.0] * 3
    assert queue.stats.lanes_in_memory == 1


@pytest.mark.contract
async def test_a_lane_may_have_several_limits(limiter):
    """All of a lane's limits hold at once."""
    queue = limiter.queue(lanes={"a": ("10/s", Window(3, 1))})
    assert (await released(queue, "aaaa"))["a"] == limiter.exactly([0, 0.1, 0.2, 1.0])


@pytest.mark.contract
async def test_lane_limit_survives_a_hold(limiter):
    """A lane keeps its limit after the queue was held.

    What piled up in a pause leaves the lane one by one, not in a burst.
    """
    queue = limiter.queue("1000/s", lanes={"a": "10/s"}, catch_up=0)
    queue.pause(60)
    starts = await released(queue, "aaaaa")
    assert starts["a"] == limiter.exactly([60, 60.1, 60.2, 60.3, 60.4])


@pytest.mark.contract
@pytest.mark.ahead
@pytest.mark.parametrize("order", ["fifo", "fair"])
async def test_lane_limit_holds_behind_busy_queue(limiter, order):
    """A lane keeps its limit behind a busy queue.

    Waiting for the queue's own limits saves up no burst for the lane.
    """
    queue = limiter.queue("100/s", lanes={"a": "50/s"}, order=order, catch_up=0)
    starts = await released(queue, "b" * 30 + "a" * 10 + "b" * 30)
    own = starts["a"]
    assert min(b - a for a, b in pairwise(own)) >= 0.02 - limiter.rounding
    assert sorted(chain(*starts.values())) == limiter.exactly([n / 100 for n in range(70)])


@pytest.mark.contract
async def test_lane_limit_holds_behind_full_places(limiter):
    """A lane keeps its limit behind full places.

    Nor does waiting for a place under `concurrency`.
    """
    queue, starts = limiter.queue(lanes={"a": "10/s"}, concurrency=1, catch_up=0), []

    async def call():
        async with queue.slot(key="a"):
            starts.append(now())

    async with queue.slot():
        tasks = [asyncio.create_task(call()) for _ in range(4)]
        await asyncio.sleep(5)
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([5, 5.1, 5.2, 5.3])


@pytest.mark.contract
@pytest.mark.parametrize("limits", [{"lanes": {"a": "1000/s"}}, {"*": "1000/s"}])
async def test_rest_before_places_saves_nothing(limiter, limits):
    """Rest before waiting for a place saves up no `catch_up`.

    Only the millisecond that it waited is made up for, not the rest before.
    """
    limit, lanes = limits.get("*"), limits.get("lanes")
    queue, starts = limiter.queue(*[limit] if limit else [], lanes=lanes, concurrency=30), []

    async def call():
        async with queue.slot(key="a"):
            starts.append(now())

    first = [await queue.enqueue(key="a") for _ in range(30)]
    await asyncio.sleep(5)
    tasks = [asyncio.create_task(call()) for _ in range(6)]
    await asyncio.sleep(0.001)
    for slot in first:
        slot.release()
    await asyncio.wait(tasks)
    assert [start - 5.029 for start in starts] == limiter.exactly(
        [0.001, 0.001, 0.002, 0.003, 0.004, 0.005]
    )


@pytest.mark.contract
async def test_fifo_holds_among_due_lanes(limiter):
    """Fifo holds among lanes that are due.

    Of several lanes that are due the earliest comer goes first.
    """
    queue, order = limiter.queue("10/s", lanes={"*": "100/s"}), []

    async def call(key):
        async with queue.slot(key=key):
            order.append(key)

    keys = [random.Random(2).choice("abc") for _ in range(50)]
    await asyncio.gather(*map(call, keys))
    assert order == keys


@pytest.mark.contract
@pytest.mark.ahead
async def test_priority_reaches_across_lanes(limiter):
    """Priority reaches across lanes and within one.

    The most urgent of those that are due goes first, wherever it waits.
    """
    queue, order = limiter.queue("10/s", lanes={"a": "5/s"}), []

    async def call(key, priority):
        async with queue.slot(key=key, priority=priority):
            order.append((key, priority))

    first = asyncio.ensure_future(call("x", 0))
    await limiter.settled()  # else all of them are sorted before it is answered
    others = [("a", 2), ("b", 1), ("a", -1), ("b", -2)]
    await asyncio.gather(first, *(call(*one) for one in others))
    assert order == [("x", 0), ("b", -2), ("a", -1), ("b", 1), ("a", 2)]


@pytest.mark.contract
async def test_leaving_a_lane_moves_others_up(limiter):
    """Cancelling in a slow lane moves up those behind.

    A lane's first that leaves, costs its lane nothing.
    """
    queue = limiter.queue(lanes={"a": "1/s"})
    await limiter.take(queue, key="a")
    dear, cheap = queue.enqueue(key="a", cost=5), queue.enqueue(key="a")
    await asyncio.sleep(0.5)
    dear.cancel()
    await cheap
    assert now() == limiter.exactly(1.0)


@pytest.mark.contract
async def test_a_timeout_in_a_lane(limiter):
    """The timer counts, wherever it waits, and uses nothing of the lane."""
    queue, loop = limiter.queue(lanes={"a": "1/s"}), asyncio.get_running_loop()
    await limiter.take(queue, key="a")
    with pytest.raises(TimeoutError):
        await queue.enqueue(key="a", timeout=0.5)
    behind = queue.enqueue(key="a", timeout=1.1)
    await behind
    assert (now(), loop.pending_timers) == (limiter.exactly(1.0), 0)


async def test_estimate_and_try_slot_know_lanes(limiter):
    """Estimate and `try_slot` know the lane.

    The later of the queue's and the lane's next slot.
    """
    queue = limiter.queue("10/s", lanes={"a": "1/s"})
    await limiter.take(queue, key="a")
    assert queue.estimate() == limiter.exactly(0.1)
    assert queue.estimate(key="a") == limiter.exactly(1.0)
    waiting = queue.enqueue(key="a")
    await limiter.settled()
    assert queue.estimate(key="a") == limiter.exactly(2.0)
    waiting.cancel()


# Memory.


@pytest.mark.parametrize("count", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_lanes_used_once_are_forgotten(monkeypatch, count):
    """Many keys, each used once: when they are at rest, the next calls free their memory."""
    if count < 10_000:  # so many keys are remembered for the figures, whatever becomes of lanes
        introspect.replace(monkeypatch, "keys cached for figures", count // 100)
    queue = ApiQueue(lanes={"*": "10/s"})
    for key in range(1000):  # what interpreter and queue keep once and for all
        queue.try_slot(key=-1 - key).release()
    await asyncio.sleep(10)
    queue.try_slot(key="first").release()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in range(count):
            queue.try_slot(key=key).release()
        assert queue.stats.lanes_in_memory > count
        full = tracemalloc.get_traced_memory()[0] - before
        for _ in range(count // 10):  # a few are forgotten at each call
            await asyncio.sleep(1)
            queue.try_slot(key="next").release()
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert queue.stats.lanes_in_memory <= 2
    assert full > 100 * count
    assert left < full / 10


@pytest.mark.contract
async def test_flow_of_keys_keeps_few_lanes(limiter):
    """A flow of new keys holds no more lanes than matter.

    At 100 new keys a second with lanes that rest after 0.1 s, some ten are kept.
    """
    queue, most = limiter.queue("100/s", lanes={"*": "10/s"}), 0
    for key in range(200):
        async with queue.slot(key=key):
            most = max(most, queue.stats.lanes_in_memory)
    assert most < 30


@pytest.mark.contract
@pytest.mark.parametrize("limit", [Rate(1), Rate(1, burst=3), Window(1, 1)])
async def test_lane_in_debt_is_not_forgotten(limiter, limit):
    """A lane that is not fresh yet is not forgotten.

    Others come and go: a key gets no second helping before its time.
    """
    queue = limiter.queue(lanes={"a": limit, "*": "1000/s"})
    burst = getattr(limit, "burst", 1)
    for _ in range(burst):
        await limiter.take(queue, key="a")
    for n in range(99):
        await asyncio.sleep(0.01)
        await limiter.take(queue, key=n)
        if not limiter.shared:  # there, the server knows
            assert "a" in introspect.lanes_of(queue)
        assert queue.estimate(key="a") == limiter.exactly(1 - (n + 1) * 0.01)


async def test_lane_that_may_catch_up_stays():
    """Calls of other keys do not make a lane forget what it may still catch up with."""
    queue = ApiQueue(lanes={"*": "10/s"}, catch_up=1)
    queue.try_slot(key="a").release()
    await asyncio.sleep(0.55)
    queue.try_slot(key="another").release()
    assert free(queue, key="a") == 5  # due 0.1, 0.2 ... 0.5 s after the first


@pytest.mark.contract
async def test_a_held_lane_is_not_forgotten(limiter):
    """A push-back that it heard is obeyed, though nobody asked for the key meanwhile."""
    queue = limiter.queue(lanes={"*": "1000/s"})
    queue.throttled(50, key="a")
    await limiter.settled()
    for n in range(49):
        await asyncio.sleep(1)
        await limiter.take(queue, key=n)
    assert queue.estimate(key="a") == limiter.exactly(1.0)


@pytest.mark.contract
async def test_a_lanes_hold_is_only_extended(limiter):
    """A smaller hint for the same key changes nothing."""
    queue = limiter.queue(lanes={"a": "10/s"})
    for retry_after in (5, 1):
        queue.throttled(retry_after, key="a")
        await limiter.settled()
    assert queue.estimate(key="a") == limiter.exactly(5)


async def test_lane_with_waiters_is_not_forgotten(limiter):
    """A lane somebody waits in is not forgotten.

    Held by the queue's pause, its waiters keep their lane, and its limit afterwards.
    """
    queue = limiter.queue(lanes={"*": "10/s"}, catch_up=0)
    queue.pause(100)
    await limiter.settled()
    waiting = asyncio.create_task(released(queue, ["a"] * 3))
    for n in range(50):
        await asyncio.sleep(1)
        queue.estimate(key=n)
        assert "a" in introspect.lanes_of(queue)
    assert queue.stats.lanes_in_memory < 5
    assert (await waiting)["a"] == limiter.exactly([100, 100.1, 100.2])


# Places.


@pytest.mark.contract
@pytest.mark.ahead
async def test_bodies_never_exceed_concurrency(limiter):
    """Never more bodies at once than concurrency allows.

    Five places; bodies raise, are cancelled, time out: never six at once, none leaked.
    """
    queue, rng = limiter.queue("200/s", concurrency=5, lanes={"a": "50/s"}), random.Random(11)
    running = most = ran = 0

    async def body(seconds):
        nonlocal running, most, ran
        running, ran = running + 1, ran + 1
        most = max(most, running)
        assert queue.running >= running
        try:
            await asyncio.sleep(seconds)
            if rng.random() < 0.3:
                raise ZeroDivisionError
        finally:
            running -= 1

    async def call(key):
        async with asyncio.timeout(rng.random() * 3), queue.slot(key=key, timeout=2):
            await body(rng.random() * 0.1)

    tasks = []
    for n in range(300):
        tasks.append(asyncio.create_task(call(rng.choice([None, "a"]))))
        await asyncio.sleep(rng.random() * 0.01)
        if n % 5 == 0:
            rng.choice(tasks).cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {type(result).__name__ for result in results}
    assert {"NoneType", "ZeroDivisionError", "CancelledError", "TimeoutError"} <= kinds
    assert (most, running, queue.running, queue.waiting) == (5, 0, 0, 0)
    assert queue.stats.released == ran
    places = [await queue.enqueue() for _ in range(5)]
    with pytest.raises(TimeoutError):
        await queue.enqueue(timeout=1)
    assert len(places) == queue.running == 5


@pytest.mark.contract
async def test_free_place_goes_to_a_waiter(limiter):
    """A place that comes free goes to who waits not to who ran.

    A worker that loops does not starve the others for want of a suspension.
    """
    queue, order = limiter.queue(concurrency=1), []

    async def worker(name):
        for _ in range(3):
            async with queue.slot():
                order.append(name)
                await asyncio.sleep(1)

    await asyncio.gather(*map(worker, "ab"))
    assert "".join(order) == "ababab"


@pytest.mark.contract
@pytest.mark.ahead
async def test_lane_that_waited_makes_no_burst(limiter):
    """A call that its lane let start later than the queue would have is late once, not twice.

    So those that come with it find as little room as at any other time.
    """
    queue, starts = limiter.queue("100/s", lanes={"slow": "10/s"}), []

    async def call(key):
        async with queue.slot(key=key):
            starts.append(now())

    calls = [asyncio.create_task(call("slow")) for _ in range(2)]
    await asyncio.sleep(0.1)
    calls += [asyncio.create_task(call("b")) for _ in range(2)]
    await asyncio.gather(*calls)
    assert starts == limiter.exactly([0, 0.1, 0.1, 0.11])
