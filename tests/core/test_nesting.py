from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import Adaptive, ApiQueue, rate_limited
from aioapiqueue.spi import Reporter
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.learning import learning

WAITS = "this task would wait for itself: .* is reached. Release the outer slot"


async def nested(queue, outer, inner):
    """Ask for a slot inside another; return when each came."""
    async with queue.slot(**outer):
        first = now()
        async with queue.slot(**inner):
            return first, now()


@pytest.mark.parametrize("limits", [{"concurrency": 1}, {"concurrency": 5}])
async def test_last_permit_is_not_awaited(limiter, limits):
    """A task that holds a permit, where none is left, gets an error and no wait."""
    queue = limiter.queue(**limits)
    for _ in range(limits["concurrency"] - 1):
        await limiter.take(queue)
    with pytest.raises(RuntimeError, match=WAITS.replace(".*", ".* the queue")):
        await asyncio.wait_for(nested(queue, {}, {}), 60)
    assert (queue.waiting, queue.running) == (0, limits["concurrency"] - 1)
    await limiter.settled()
    (await limiter.take(queue)).release()


async def test_nested_slot_takes_its_turn(limiter):
    """With a permit to spare it waits for the rate, as any other."""
    queue = limiter.queue("10/s", concurrency=2)
    assert await nested(queue, {}, {}) == limiter.exactly((0, 0.1))
    assert queue.stats.released == 2


async def test_nested_without_concurrency_waits(limiter):
    """Nobody waits for a permit where there are none."""
    assert await nested(limiter.queue("10/s"), {}, {}) == limiter.exactly((0, 0.1))


async def test_error_leaves_nothing_behind(limiter):
    """The outer body goes on, and its permit comes back at its end."""
    queue = limiter.queue(concurrency=1)
    async with queue.slot():
        for _ in range(3):
            with pytest.raises(RuntimeError, match=WAITS):
                async with queue.slot(timeout=5):
                    pytest.fail("it has none")
        assert queue.running == 1
    async with queue.slot():
        assert (queue.running, queue.waiting) == (1, 0)
    assert queue.stats.released == 2


async def test_other_tasks_of_body_wait(limiter):
    """What a body starts is another task, which waits as any other."""
    queue, starts = limiter.queue(concurrency=1), []

    async def call():
        async with queue.slot():
            starts.append(now())

    async with queue.slot():
        task = asyncio.create_task(call())
        await asyncio.sleep(1)
    await task
    assert starts == limiter.exactly([1])


async def test_only_shared_lanes_count():
    """A permit of one lane is no obstacle to a slot of another."""
    queue = ApiQueue(lanes={"a": "1 at once", "b": "1 at once", "t:*": "2 at once"})
    one, other = {"keys": ("a", "t:x")}, {"keys": ("b", "t:x")}
    assert await nested(queue, one, other) == (0, 0)
    assert await nested(queue, {"key": "t:x"}, {"key": "t:y"}) == (0, 0)
    for keys, lane in ((("b", "a"), "'a'"), (("a", "t:y"), "'a'")):
        with pytest.raises(RuntimeError, match=WAITS.replace(".*", f".* the lane {lane}")):
            await asyncio.wait_for(nested(queue, one, {"keys": keys}), 60)
    with pytest.raises(RuntimeError, match=r"the lane 't:x' is reached"):
        async with queue.slot(key="t:x"):
            await asyncio.wait_for(nested(queue, {"key": "t:x"}, {"key": "t:x"}), 60)
    assert (queue.waiting, queue.running) == (0, 0)


async def test_released_slot_is_held_no_longer():
    """Of two slots of one task, only the one that it still holds counts."""
    queue = ApiQueue(lanes={"a": "1 at once", "b": "1 at once"})
    released, held = queue.slot(key="a"), queue.slot(key="b")
    await released.__aenter__()
    async with held:
        released.release()
        other = queue.try_slot(key="a")
        asyncio.get_running_loop().call_later(3, other.release)
        async with queue.slot(key="a") as again:
            assert again.waited == 3
        with pytest.raises(RuntimeError, match=WAITS):
            await asyncio.wait_for(queue.slot(key="b").__aenter__(), 60)


async def test_refunded_slot_takes_no_permit():
    """A slot that was cancelled before its body ran is not counted as one that is held."""
    queue = ApiQueue("1/s", lanes={"a": "2 at once"})
    async with queue.slot(key="a"):
        unused = queue.enqueue(key="a")
        await asyncio.sleep(1)
        assert unused.done()
        unused.cancel()
        queue.try_slot()
        async with queue.slot(key="a") as inner:
            assert inner.waited == 1


async def test_permit_that_others_hold():
    """A lane whose permits are all in use elsewhere is waited for."""
    queue = ApiQueue(lanes={"a": "1 at once", "b": "1 at once"})
    other = queue.try_slot(key="b")
    asyncio.get_running_loop().call_later(3, other.release)
    assert await nested(queue, {"key": "a"}, {"key": "b"}) == (0, 3)


async def test_enqueued_slot_belongs_to_its_user(limiter):
    """A slot is held by the task that enters it, not by the one that asked for it."""
    queue, starts = limiter.queue(concurrency=1), []

    async def work(slot):
        async with slot:
            await asyncio.sleep(1)

    for _ in range(3):  # none of these waits for itself
        task = asyncio.create_task(work(await queue.enqueue()))
        starts.append(now())
    async with queue.slot():
        starts.append(now())
    await task
    assert starts == limiter.exactly([0, 1, 2, 3])
    with await queue.enqueue(), pytest.raises(RuntimeError, match=WAITS):
        async with queue.slot():
            pytest.fail("it has none")


async def test_slot_released_by_another_task(limiter):
    """Then the task that took it holds nothing any more."""
    queue = limiter.queue(concurrency=1)
    async with queue.slot() as slot:
        await asyncio.create_task(asyncio.to_thread(int))
        slot.release()
        async with queue.slot():
            assert queue.running == 1


async def test_slot_entered_twice_by_one_task():
    """It is held once: at its end, nothing is kept of the task."""
    queue = ApiQueue(concurrency=1)
    async with queue.slot() as slot:
        with slot:
            assert introspect.nesting_sizes(queue) == [1, 0, 0]
    assert introspect.nesting_sizes(queue) == [0, 0, 0]


@pytest.mark.parametrize("how", ["with", "async with"])
async def test_slot_entered_by_another_task(how):
    """It is held by that one from then on: the first waits for its end, and is kept no longer."""
    queue = ApiQueue(concurrency=1)

    async def work(slot):
        if how == "with":
            with slot:
                await asyncio.sleep(1)
        else:
            async with slot:
                await asyncio.sleep(1)

    async with queue.slot() as slot:
        task = asyncio.create_task(work(slot))
        await asyncio.sleep(0)
        async with queue.slot() as other:
            assert other.waited == 1
    await task
    assert introspect.nesting_sizes(queue) == [0, 0, 0]


async def test_slot_entered_by_a_callback():
    """It is held by no task from then on; its end is no end of what the first task holds."""
    queue = ApiQueue(concurrency=2)
    async with queue.slot() as slot, queue.slot() as other:
        asyncio.get_running_loop().call_soon(slot.__enter__)
        await asyncio.sleep(0)
        slot.release()
        queue.try_slot()
        with pytest.raises(RuntimeError, match=WAITS):
            async with queue.slot(timeout=5):
                pytest.fail("it has none")
        other.release()
        async with queue.slot() as last:
            assert last.waited == 0
    assert introspect.nesting_sizes(queue) == [0, 0, 0]


async def test_permits_that_adaptive_lowered():
    """Of five permits that push-back has made two, the third is not waited for."""
    queue = ApiQueue("10/s", concurrency=5, adaptive=Adaptive("1/s", 0.5, concurrency=1))
    async with queue.slot() as first, queue.slot(), queue.slot():
        first.throttled()
        with pytest.raises(RuntimeError, match=WAITS):
            async with queue.slot():
                pytest.fail("it has none")


async def test_permit_before_the_first_answer():
    """Of a queue that learns limits, one call is out before any answer: no other is waited for."""
    queue = learning(concurrency=2)
    with pytest.raises(RuntimeError, match=WAITS):
        await asyncio.wait_for(nested(queue, {}, {}), 60)
    with queue.try_slot() as slot:
        Reporter(queue).answered(slot)
    assert await nested(queue, {}, {}) == (0, 0)


async def test_concurrency_set_later():
    """Slots that are asked for from then on are tracked; lifted, none is refused."""
    queue = ApiQueue()
    queue.set_rate("1 at once")
    with pytest.raises(RuntimeError, match=WAITS):
        await nested(queue, {}, {})
    queue.set_rate("unlimited")
    assert await nested(queue, {}, {}) == (0, 0)
    queue.set_rate("1 at once", key="a")
    with pytest.raises(RuntimeError, match="lane 'a'"):
        await nested(queue, {"key": "a"}, {"key": "a"})


async def test_decorated_functions_that_call_each_other():
    """Of two functions under one limit that call each other, the inner one is refused."""
    queue = ApiQueue(concurrency=1)

    @rate_limited(queue)
    async def inner():
        return 1

    @rate_limited(queue)
    async def outer():
        return await inner()

    with pytest.raises(RuntimeError, match="pace only the inner call"):
        await outer()


def test_no_concurrency_no_tracking():
    """Calls of queues without a Concurrency are of the plain kind."""
    plain, limited = ApiQueue("10/s", lanes={"a": "1/s"}), ApiQueue(concurrency=3)
    assert type(plain.slot()) in type(limited.slot()).__mro__
    assert type(plain.slot()) is not type(limited.slot())


async def test_many_slots_are_forgotten():
    """Nothing is kept of slots that are over, be they cancelled or not."""
    queue = ApiQueue("10/s", lanes={"*": "3 at once"}, concurrency=2)

    async def call(n):
        async with queue.slot(key=n % 7):
            await asyncio.sleep(0.3)

    tasks = [asyncio.create_task(call(n)) for n in range(60)]
    await asyncio.sleep(2.5)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert (queue.waiting, queue.running) == (0, 0)
    assert introspect.nesting_sizes(queue) == [0, 0, 0]


async def test_nested_enqueue_raises():
    """A slot from `enqueue` raises where it is awaited, and leaves the queue."""
    queue = ApiQueue(concurrency=1)
    async with queue.slot():
        with pytest.raises(RuntimeError, match="itself"):
            await queue.enqueue()
        assert queue.waiting == 0


async def test_entered_outside_of_a_task():
    """A slot that a callback enters is held by no task: who asks for the next one just waits."""
    queue, slots = ApiQueue(lanes={"a": "1 at once"}), []

    def enter():
        slots.append(queue.try_slot(key="a").__enter__())

    asyncio.get_running_loop().call_soon(enter)
    await asyncio.sleep(0)
    assert introspect.nesting_sizes(queue) == [0, 1, 1]
    asyncio.get_running_loop().call_later(3, slots[0].release)
    async with queue.slot(key="a") as slot:
        assert slot.waited == 3
    assert introspect.nesting_sizes(queue) == [0, 0, 0]
