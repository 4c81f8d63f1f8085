"""One call that takes two turns of a queue, by mistake; with clients, see tests/integrations."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from aioapiqueue import ApiQueue, NestedSlotWarning, rate_limited
from aioapiqueue.spi import Reporter
from tests.helpers import introspect
from tests.helpers.instants import now


async def by_slot(queue, **asked):
    """Take a slot as most do."""
    async with queue.slot(**asked):
        pass


async def by_enqueue(queue, **asked):
    """Join, and wait."""
    (await queue.enqueue(**asked)).release()


async def by_limiter(queue, **asked):
    """Take one by a view of the queue."""
    async with queue.limiter(**asked):
        pass


async def by_decorator(queue, **asked):
    """Take one by a decorated function that `map` does not see."""

    @rate_limited(queue, **asked)
    async def call():
        pass

    await call()


async def in_another_task(queue, **asked):
    """Take one in a task that the function waits for."""
    await asyncio.gather(by_slot(queue, **asked))


async def use_map(queue, body, **asked):
    """Map a function, which ends with this; return how many items there were."""

    async def call(item):
        await body()
        return item

    return len([one async for one in queue.map(call, range(5), **asked)])


@pytest.mark.parametrize("way", [by_slot, by_enqueue, by_limiter, by_decorator, in_another_task])
async def test_slot_inside_map_warns_once(limiter, way):
    """However many items there are: each takes two turns."""
    queue = limiter.queue("10/s")
    with pytest.warns(NestedSlotWarning) as caught:
        assert await use_map(queue, lambda: way(queue)) == 5
    assert await use_map(queue, lambda: way(queue)) == 5
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("<ApiQueue 10/s: open,")
    assert "the function that map() calls takes another slot" in message
    assert "If this is intended, ignore NestedSlotWarning." in message
    assert queue.stats.released == 20


async def test_warning_of_the_line_that_asks():
    """As that is where a slot is to be left out."""
    queue = ApiQueue("10/s")
    with pytest.warns(NestedSlotWarning) as caught:
        await use_map(queue, lambda: by_slot(queue))
    assert caught[0].filename == __file__


async def test_warning_made_an_error():
    """It is the item's, and nothing stays taken."""
    queue = ApiQueue("10/s")
    with pytest.raises(NestedSlotWarning):
        await use_map(queue, lambda: by_slot(queue))
    await asyncio.sleep(0)
    assert (queue.running, queue.waiting) == (0, 0)


@pytest.mark.parametrize("key", ["search", "tenant:a"])
async def test_one_lane_twice_warns(key):
    """A queue without limits of its own may have one that both come under."""
    queue = ApiQueue(lanes={"search": "10/s", "tenant:*": "10/s"})
    with pytest.warns(NestedSlotWarning):
        await use_map(queue, lambda: by_slot(queue, keys=(key,)), keys=("other", key))


QUIET = {
    "its own function": lambda queue: use_map(queue, lambda: asyncio.sleep(0)),
    "an estimate": lambda queue: use_map(queue, lambda: asyncio.sleep(queue.estimate() * 0)),
    "another queue's": lambda queue: use_map(queue, lambda: by_slot(ApiQueue("10/s"))),
    "one that costs no calls": lambda queue: use_map(queue, lambda: by_slot(queue, cost=0)),
    "beside one without": lambda queue: use_map(queue, lambda: by_slot(queue), cost=0),
    "a map inside a map": lambda queue: use_map(
        queue, lambda: use_map(queue, lambda: asyncio.sleep(0))
    ),
}


@pytest.mark.parametrize("name", QUIET)
async def test_what_is_meant_is_quiet(name):
    """Nothing of this takes two turns of one limit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await QUIET[name](ApiQueue("10/s"))
    assert caught == []


@pytest.mark.parametrize(
    ("limits", "lanes", "outer", "inner"),
    [
        ((), {"a": "10/s", "b": "10/s"}, {"key": "a"}, {"key": "b"}),
        ((), {"a": "10/s", "*": "unlimited"}, {"key": "b"}, {"key": "b"}),
        ((), {"*": ()}, {"key": "a"}, {"key": "a"}),
        (("unlimited",), {}, {"key": "a"}, {"key": "a"}),
        (("9 tokens/s burst 9",), {}, {"cost": {"tokens": 0}}, {"cost": {"tokens": 1}}),
        (("9 tokens/s burst 9",), {}, {"cost": {"tokens": 1}}, {"cost": {"tokens": 0}}),
    ],
)
async def test_no_limit_counts_both(limits, lanes, outer, inner):
    """Two calls that share no limit, or of which one uses nothing of it, are two calls."""
    queue = ApiQueue(*limits, lanes=lanes)
    assert await use_map(queue, lambda: by_slot(queue, **inner), **outer) == 5


@pytest.mark.parametrize(
    ("limit", "asked"),
    [
        ("9 tokens/s burst 9", {"cost": {"tokens": 1, "calls": 0}}),
        ("9/s, 9 tokens/s burst 9", {"cost": {"tokens": 0}}),
        ("9 at once", {"cost": 0}),
    ],
)
async def test_one_limit_counts_both(limit, asked):
    """Whatever it counts: tokens, calls or permits."""
    queue = ApiQueue(limit)
    with pytest.warns(NestedSlotWarning):
        await use_map(queue, lambda: by_slot(queue, **asked), **asked)


async def test_estimates_hide_no_mistake():
    """A function that asks for an estimate before it takes its slot takes two turns, too."""
    queue = ApiQueue("10/s")

    async def estimated():
        queue.estimate()
        await by_slot(queue)

    with pytest.warns(NestedSlotWarning):
        await use_map(queue, estimated)


async def test_one_outer_slot_is_quiet():
    """One item has started what all share: a worker, or something that goes on while it runs."""
    queue, jobs, workers = ApiQueue("100/s"), asyncio.Queue(), []

    async def work():
        while True:
            await jobs.get()
            await by_slot(queue)
            jobs.task_done()

    async def call(item):
        if not workers:
            workers.append(asyncio.create_task(work()))
        jobs.put_nowait(item)
        await jobs.join()
        return item

    for _ in range(2):  # a mistake is one of a single map
        assert len([one async for one in queue.map(call, range(5))]) == 5
        workers.pop().cancel()
    assert queue.stats.released == 20


async def test_decorated_functions_are_quiet():
    """`map` knows them, and takes no slot."""
    queue, starts = ApiQueue("10/s"), []

    @rate_limited(queue)
    async def call(item):
        starts.append(now())
        return item

    assert len([one async for one in queue.map(call, range(5))]) == 5
    assert starts == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


async def test_slots_inside_slots_are_quiet(limiter):
    """They are two calls, also while a `map` runs beside them."""
    queue = limiter.queue("100/s")

    async def call(item):
        await asyncio.sleep(0.5)
        return item

    results = queue.map(call, range(3))
    assert await anext(results) in range(3)
    async with queue.slot():
        await by_slot(queue)
        assert await use_map(queue, lambda: asyncio.sleep(0)) == 5
    await results.aclose()


@pytest.mark.parametrize("way", ["slot", "enqueue", "try_slot"])
async def test_clients_call_within_a_slot(way):
    """A client's call within a slot takes two turns, unless the slot may be for another task."""
    queue = ApiQueue("1000/s burst 1000")
    await use_map(queue, lambda: asyncio.sleep(0))  # from now on it looks
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            if way == "enqueue":
                slot = await queue.enqueue()
            elif way == "try_slot":
                slot = queue.try_slot()
            else:
                slot = await queue.slot().__aenter__()
            (await Reporter.request(queue.enqueue)).release()
            if way == "slot":
                await slot.__aexit__(None, None, None)
            else:
                slot.release()
    assert [one.category for one in caught] == [NestedSlotWarning] * (way == "slot")


async def test_slots_after_map_are_quiet():
    """What the function has started, and goes on when the item is done, is none of its turn."""
    queue, later = ApiQueue("10/s"), []

    async def afterwards():
        await asyncio.sleep(1)
        await by_slot(queue)

    async def call(item):
        later.append(asyncio.create_task(afterwards()))
        return item

    assert len([one async for one in queue.map(call, range(3))]) == 3
    await asyncio.gather(*later)
    assert queue.stats.released == 6


@pytest.mark.parametrize("way", ["map", "slots", "client"])
async def test_watching_ends(way):
    """After a hundred slots, of a `map` or not, and begins again with the next `map`."""
    queue = ApiQueue("1000/s burst 1000")

    async def call(item):
        if item >= 150:
            await by_slot(queue)
        return item

    if way == "map":
        assert len([one async for one in queue.map(call, range(200), concurrency=2)]) == 200
    else:
        results = queue.map(call, [0, 0, 0, 200, 200], concurrency=1)
        assert await anext(results) == 0
        for _ in range(150):
            if way == "slots":
                await by_slot(queue)
            else:
                (await Reporter.request(queue.enqueue)).release()
        assert [one async for one in results] == [0, 0, 200, 200]
    with pytest.warns(NestedSlotWarning):
        await use_map(queue, lambda: by_slot(queue))


async def test_watching_lasts_for_its_slots():
    """The mistake may begin after some dozen calls."""
    queue = ApiQueue("1000/s burst 1000")

    async def call(item):
        if item >= 50:
            await by_slot(queue)
        return item

    with pytest.warns(NestedSlotWarning):
        assert len([one async for one in queue.map(call, range(200), concurrency=2)]) == 200


@pytest.mark.usefixtures("no_collector")
async def test_tasks_keep_no_queue_alive():
    """One that was made by an item, or has used many queues, has numbers of their slots at most."""
    stop, tasks, left = asyncio.Event(), [], []

    async def call(item):
        tasks.append(asyncio.create_task(stop.wait()))
        return item

    for _ in range(20):
        queue = ApiQueue("10/s")
        assert len([one async for one in queue.map(call, range(3))]) == 3
        async with queue.slot():
            tasks.append(asyncio.create_task(stop.wait()))
        left.append(introspect.reference_to(queue))
        del queue
    await asyncio.sleep(1)  # the last queue's own task ends
    gc.collect(0)
    assert [one() for one in left] == [None] * 20
    stop.set()
    await asyncio.gather(*tasks)


async def test_few_slots_are_noted():
    """However many a task holds, or has held, while `map` after `map` begins."""
    queue, held = ApiQueue("10000/s burst 10000"), []
    for _ in range(30):
        assert await use_map(queue, lambda: asyncio.sleep(0)) == 5
        for _ in range(5):
            await by_slot(queue)
        held.append(await queue.slot().__aenter__())
    noted = introspect.slots_noted(queue)
    assert (len(noted), len(introspect.slots_around())) == (10, 10)
    for slot in held:
        slot.release()
    await by_slot(queue)
    assert len(noted) == 1  # that one: the others are over
