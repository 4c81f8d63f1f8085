from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from aioapiqueue import (
    ApiQueue,
    LimiterView,
    QueueClosed,
    Slot,
    SlotTimeout,
    UnknownKeyWarning,
    Window,
)
from tests.helpers import introspect
from tests.helpers.instants import now


@pytest.mark.contract
async def test_each_entry_is_one_call(limiter):
    """One view, entered by many tasks at once and again, has the queue's pace."""
    view, starts = limiter.queue("10/s").limiter(), []

    async def call():
        for _ in range(2):
            async with view as slot:
                assert isinstance(slot, Slot)
                starts.append(now())
                await asyncio.sleep(1)

    await asyncio.gather(*(call() for _ in range(5)))
    assert starts == limiter.exactly([*(n / 10 for n in range(5)), *(1 + n / 10 for n in range(5))])
    assert isinstance(view, AbstractAsyncContextManager)


async def test_acquire_and_capacity(limiter):
    """`acquire` waits and releases nothing; `has_capacity` looks."""
    queue = limiter.queue("10/s burst 5")
    view = queue.limiter()
    for amount, before in ((3, 0), (2, 0), (4, 0.4), (1, 0.1)):
        start = now()
        assert await view.acquire(amount) is None
        assert now() - start == limiter.exactly(before)
    assert queue.running == 0
    if not limiter.shared:
        assert not view.has_capacity()
        await asyncio.sleep(0.3)
        assert [view.has_capacity(amount) for amount in (1, 3, 4)] == [True, True, False]
        assert queue.stats.released == 4  # looking costs nothing


async def test_amounts_in_a_unit():
    """In another unit than calls, each use is one call besides."""
    queue = ApiQueue("10/s", "100 tokens/s burst 100")
    view = queue.limiter(unit="tokens")
    await view.acquire(100)
    assert [view.has_capacity(amount) for amount in (0, 1)] == [False, False]
    await view.acquire(50)
    assert now() == pytest.approx(0.5)
    async with view:
        assert now() == pytest.approx(
            0.6, abs=0.011
        )  # a tenth of a second for a call, less for a token
    assert queue.stats.costs == {"calls": 3, "tokens": 151}


async def test_smallest_limits_suit_a_view():
    """A view costs one call and one of its unit, so that limits of one each allow it."""
    queue = ApiQueue("1 in any 1s", "1 tokens in any 1s")
    view = queue.limiter(unit="tokens")
    starts = []
    for _ in range(2):
        async with view:
            starts.append(now())
    assert starts == [0, 1]


async def test_keys_and_priority_of_view():
    """Its calls come under their lanes, and have their place among those that wait."""
    queue, order = ApiQueue("10/s", lanes={"slow": "1/s", "t:*": "2/s"}), []
    slow = queue.limiter(keys=("slow", "t:a"))
    urgent, plain = queue.limiter(priority=-1), queue.limiter(key="t:b")

    async def use(view, name):
        async with view as slot:
            order.append((name, now(), slot.key))

    await asyncio.gather(use(slow, "s"), use(slow, "s"), use(plain, "p"), use(urgent, "u"))
    assert order == [
        ("s", 0, "slow"),
        ("u", pytest.approx(0.1), None),
        ("p", pytest.approx(0.2), "t:b"),
        ("s", pytest.approx(1), "slow"),
    ]
    await asyncio.sleep(0.1)
    assert not slow.has_capacity()
    assert queue.limiter(key="other").has_capacity()


@pytest.mark.parametrize("key", [None, "lane"])
async def test_capacity_for_the_urgent(key):
    """An urgent view has some where only less urgent calls wait, and its call starts at once."""
    queue = ApiQueue("10/s burst 10", lanes={"lane": "10/s burst 10"})
    urgent, plain = (queue.limiter(key=key, priority=priority) for priority in (-1, 0))
    await plain.acquire(7)
    waiting = queue.enqueue(key=key, cost=5)
    gone = queue.enqueue(key=key, cost=5, priority=-2)
    assert [view.has_capacity() for view in (urgent, plain)] == [False, False]
    gone.cancel()
    await asyncio.sleep(0)
    assert [view.has_capacity() for view in (urgent, plain)] == [True, False]
    assert [view.has_capacity(4) for view in (urgent, plain)] == [False, False]
    assert queue.estimate(key=key, priority=-1, cost=4) == pytest.approx(0.1)
    await urgent.acquire(3)
    assert now() == 0
    await waiting
    assert now() == pytest.approx(0.5)


@pytest.mark.contract
async def test_several_views_of_one_queue(limiter):
    """Together they have the rate of the queue."""
    queue = limiter.queue("10/s")
    views = [queue.limiter(key=key) for key in "abc"]
    await asyncio.gather(*(view.acquire() for view in views * 2))
    assert now() == limiter.exactly(0.5)


@pytest.mark.parametrize("how", [{"concurrency": 3}, {"lanes": {"a*": "3 at once"}}])
async def test_acquire_is_refused_under_concurrency(limiter, how):
    """It would not say when the call ends; `async with` does."""
    if limiter.shared and "lanes" in how:
        return
    queue = limiter.queue(**how)
    view = queue.limiter(key="ab")
    with pytest.raises(RuntimeError, match='write "async with limiter:"'):
        await view.acquire()
    async with view:
        assert queue.running == 1
    if "lanes" in how:
        with pytest.warns(UnknownKeyWarning):
            await queue.limiter(key="b").acquire()  # comes under no such lane
    assert queue.running == 0


async def test_capacity_under_concurrency():
    """There is some while a permit is left."""
    queue = ApiQueue(concurrency=2, lanes={"a": "1 at once"})
    view, of_lane = queue.limiter(), queue.limiter(key="a")
    async with of_lane:
        assert (view.has_capacity(), of_lane.has_capacity()) == (True, False)
        async with view:
            assert (view.has_capacity(), of_lane.has_capacity()) == (False, False)
    assert of_lane.has_capacity()


async def test_each_task_leaves_its_own_slot():
    """The task that leaves first ends its own call, not the latest."""
    queue = ApiQueue(concurrency=3)
    view, slots = queue.limiter(), {}

    async def call(name, seconds):
        async with view as slot:
            slots[name] = slot
            await asyncio.sleep(seconds)

    tasks = [asyncio.create_task(call(name, seconds)) for name, seconds in (("a", 1), ("b", 2))]
    await asyncio.sleep(1.5)
    assert ["held" in repr(slots[name]) for name in "ab"] == [False, True]
    async with view, view:
        assert queue.running == 3
    await asyncio.wait(tasks)
    assert queue.running == 0
    assert introspect.entered(view) == 0


async def test_left_in_another_task():
    """An async generator that is closed elsewhere ends its call."""
    queue = ApiQueue(concurrency=2)
    view = queue.limiter()

    async def generator():
        async with view:
            yield 1

    left = generator()
    await asyncio.create_task(anext(left))
    async with view:
        assert queue.running == 2
        await asyncio.create_task(left.aclose())
        assert queue.running == 1
    assert (queue.running, introspect.entered(view)) == (0, 0)
    with pytest.raises(RuntimeError, match="has not been entered: write"):
        await view.__aexit__(None, None, None)


async def test_left_elsewhere_after_its_task():
    """The call that ends is that of the task that has ended, even if others entered before it."""
    queue = ApiQueue()
    view = queue.limiter()

    async def generator():
        async with view as slot:
            yield slot

    async with view as own:
        left = generator()
        entered = await asyncio.create_task(anext(left))
        await asyncio.create_task(left.aclose())
        assert [slot.holds for slot in (own, entered)] == [True, False]
    assert (queue.running, introspect.entered(view)) == (0, 0)


async def test_cancelled_while_it_waits(limiter):
    """A task that is cancelled uses nothing, and is not inside."""
    queue = limiter.queue("1/s")
    view = queue.limiter()
    await view.acquire()
    for wait in (view.acquire, view.__aenter__):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (queue.waiting, queue.running, introspect.entered(view)) == (0, 0, 0)
    await view.acquire()
    assert now() == limiter.exactly(1)


async def test_nested_entry_is_no_deadlock():
    """A task that is inside, where that is all there is, gets an error at once."""
    view = ApiQueue(concurrency=1).limiter()
    async with view:
        with pytest.raises(RuntimeError, match="wait for itself"):
            async with view:
                pytest.fail("it has no permit")
    async with view:
        pass


async def test_closed_queue_has_no_capacity(limiter):
    """Its views refuse as it does."""
    queue = limiter.queue("10/s")
    view = queue.limiter()
    await queue.aclose()
    assert not view.has_capacity()
    for use in (view.acquire, view.__aenter__):
        with pytest.raises(QueueClosed):
            await use()


def test_what_a_view_refuses():
    """Arguments are checked when it is made, amounts when they are used."""
    queue = ApiQueue(Window(5, 60), "9 tokens/s")
    for how, error, words in (
        ({}, ValueError, r"does not name tokens.*cost=\{\"tokens\": amount\}"),
        ({"unit": "token"}, ValueError, "did you mean 'tokens'"),
        ({"unit": "tokens", "keys": "ab"}, TypeError, "a tuple or list of keys"),
        ({"unit": "tokens", "key": ["a"]}, TypeError, r"hashable.*\['a'\]"),
        ({"unit": "tokens", "keys": (["a"],)}, TypeError, "hashable"),
        ({"unit": "tokens", "priority": "high"}, TypeError, "priority"),
    ):
        with pytest.raises(error, match=words):
            queue.limiter(**how)
    view = ApiQueue(Window(5, 60)).limiter()
    assert isinstance(view, LimiterView)
    for amount, words in ((-1, "at least 0"), (6, "never fits")):
        with pytest.raises(ValueError, match=words):
            view.has_capacity(amount)
    assert repr(queue.limiter(key="a", unit="tokens")).endswith(": unit='tokens', keys=('a',)>")


async def test_timeout_around_a_view(limiter):
    """`asyncio.timeout` ends the wait, as it does for any other."""
    queue = limiter.queue("1/s")
    view = queue.limiter()
    await view.acquire()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.5):
            await view.acquire()
    assert not isinstance(caught.value, SlotTimeout)
    assert (now(), queue.waiting) == (limiter.exactly(0.5), 0)
