"""What LangChain's limiter does besides: see `test_model_limiters` for what it shares."""

from __future__ import annotations

import asyncio
import time

import pytest
from anyio.from_thread import BlockingPortal

from aioapiqueue import ApiQueue
from tests.helpers.lazily import lazily
from tests.helpers.paced_models import LangChain, assert_paced

paced = lazily("aioapiqueue.integrations.langchain")


@pytest.fixture(scope="module", autouse=True)
def library():
    """Give LangChain, imported."""
    return LangChain()


async def test_not_blocking_async():
    """It returns at once: whether a slot was free, which it then has used."""
    limiter = paced.QueueRateLimiter(ApiQueue("10/s"))
    assert [await limiter.aacquire(blocking=False) for _ in range(2)] == [True, False]
    await asyncio.sleep(0.1)
    assert await limiter.aacquire(blocking=False)


@pytest.mark.real
def test_batches_are_paced(library):
    """`batch` calls from threads: its calls are paced together, and with `invoke`."""
    queue = ApiQueue("50/s")
    model = library.model(queue)
    begun = time.monotonic()
    model.batch(["?"] * 4, config={"max_concurrency": 4})
    model.invoke("?")
    assert len(model.calls) == queue.stats.released == 5
    assert_paced(model.calls, begun, 0.02)


@pytest.mark.real
def test_not_blocking_sync():
    """It returns at once: whether a slot was free, which it then has used."""
    limiter = paced.QueueRateLimiter(ApiQueue("1/min"))
    assert [limiter.acquire(blocking=False) for _ in range(2)] == [True, False]


@pytest.mark.real
async def test_sync_after_async_is_refused():
    """Without a portal, a thread is told what to do, and does not wait for ever."""
    limiter = paced.QueueRateLimiter(ApiQueue("100/s"))
    await limiter.aacquire()
    for blocking in (True, False):
        with pytest.raises(RuntimeError, match="come in through a portal") as raised:
            await asyncio.to_thread(limiter.acquire, blocking=blocking)
        assert any("LangChain" in note and "portal=" in note for note in raised.value.__notes__)
    await limiter.aacquire()  # as well as before


@pytest.mark.real
async def test_async_after_sync_is_refused():
    """A coroutine is told what to do, and does not wait for ever."""
    limiter = paced.QueueRateLimiter(ApiQueue("100/s"))
    await asyncio.to_thread(limiter.acquire)
    for blocking in (True, False):
        with pytest.raises(RuntimeError, match="on another event loop") as raised:
            await limiter.aacquire(blocking=blocking)
        assert any("portal=" in note for note in raised.value.__notes__)


@pytest.mark.real
async def test_priority_of_threads():
    """A thread's call with a lower priority goes before those that wait already."""
    async with BlockingPortal() as portal:
        queue, order = ApiQueue("50/s"), []
        queue.pause()
        plain = paced.QueueRateLimiter(queue)
        urgent = paced.QueueRateLimiter(queue, priority=-1, portal=portal)

        async def call(name, waiting):
            await waiting
            order.append(name)

        calls = [asyncio.create_task(call("plain", plain.aacquire())) for _ in range(2)]
        calls.append(asyncio.create_task(call("urgent", asyncio.to_thread(urgent.acquire))))
        async with asyncio.timeout(60):
            while queue.waiting < len(calls):  # noqa: ASYNC110 - a thread's arrival has no event
                await asyncio.sleep(0.001)
            queue.resume()
            await asyncio.gather(*calls)
    assert order == ["urgent", "plain", "plain"]


@pytest.mark.real
async def test_sync_on_the_loop_is_refused(library):
    """`invoke` in a coroutine would wait for itself: it raises."""
    async with BlockingPortal() as portal:
        model = library.model(ApiQueue("1/s"), portal=portal)
        await model.ainvoke("?")
        with pytest.raises(RuntimeError, match="would block the event loop"):
            model.invoke("?")


@pytest.mark.real
def test_other_lanes_permits_are_fine():
    """Permits of a lane that these calls do not come under concern others."""
    queue = ApiQueue(lanes={"chat": "5 at once", "embed": "10/s"})
    assert paced.QueueRateLimiter(queue, key="embed").acquire(blocking=False)


async def test_permits_set_later_are_refused():
    """After `set_rate`, calls in either way are refused, rather than never ended."""
    queue = ApiQueue("10/s")
    limiter = paced.QueueRateLimiter(queue)
    queue.set_rate("5 at once")
    for blocking in (True, False):
        with pytest.raises(ValueError, match="does not report when a call ends"):
            await limiter.aacquire(blocking=blocking)
        with pytest.raises(ValueError, match="does not report when a call ends"):
            limiter.acquire(blocking=blocking)
    assert queue.stats.released == 0
