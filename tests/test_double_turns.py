"""One call that takes two turns of a queue, by mistake; with clients, see tests/integrations."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from aioapiqueue import ApiQueue, NestedSlotWarning, rate_limited
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


async def by_map(queue, **asked):
    """Take one for an item of another `map`."""

    async def call(item):
        return item

    assert [one async for one in queue.map(call, [1], **asked)] == [1]


async def use_map(queue, body, **asked):
    """Map a function, which ends with this; return how many items there were."""

    async def call(item):
        await body()
        return item

    return len([one async for one in queue.map(call, range(5), **asked)])


@pytest.mark.parametrize(
    "way", [by_slot, by_enqueue, by_limiter, by_decorator, in_another_task, by_map]
)
async def test_slot_inside_map_warns_once(limiter, way):
    """However many items there are: each takes two turns."""
    queue = limiter.queue("10/s")
    with pytest.warns(NestedSlotWarning) as caught:
        assert await use_map(queue, lambda: way(queue)) == 5
    assert await use_map(queue, lambda: way(queue)) == 5
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("<ApiQueue 10/s: open,")
    assert "the function that map() calls" in message
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
}


@pytest.mark.parametrize("name", QUIET)
async def test_what_is_meant_is_quiet(name):
    """Nothing of this takes two turns of one limit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await QUIET[name](ApiQueue("10/s"))
    assert caught == []


async def test_other_lanes_are_quiet():
    """Two calls of lanes that share no limit are two calls."""
    queue = ApiQueue(lanes={"a": "10/s", "b": "10/s"})
    assert await use_map(queue, lambda: by_slot(queue, key="b"), key="a") == 5


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
