"""LangChain's own chat models, paced: `ainvoke`, `astream`, `invoke` and `batch`."""

from __future__ import annotations

import asyncio
import time

import pytest
from anyio.from_thread import BlockingPortal
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from aioapiqueue import ApiQueue, QueueClosed
from aioapiqueue.integrations.langchain import QueueRateLimiter

CATCH_UP = 0.010  # seconds, a queue's default


class NotingModel(BaseChatModel):
    """In the place of an API: notes when it is called, and answers at once."""

    calls: list[float] = Field(default_factory=list)

    @property
    def _llm_type(self):
        return "noting"

    def _generate(self, *_args, **_kwargs):
        self.calls.append(time.monotonic())
        return self._answer()

    async def _agenerate(self, *_args, **_kwargs):
        self.calls.append(asyncio.get_running_loop().time())
        return self._answer()

    async def _astream(self, *_args, **_kwargs):
        self.calls.append(asyncio.get_running_loop().time())
        for part in ("4", "2"):
            yield ChatGenerationChunk(message=AIMessageChunk(part))

    def _answer(self):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("42"))])


def model_of(queue, **how):
    """Return a model that is paced by a queue."""
    return NotingModel(rate_limiter=QueueRateLimiter(queue, **how))


def assert_paced(calls, interval):
    """Check that no call came sooner than the rate allows: late, never early."""
    for number, at in enumerate(calls):
        assert at - calls[0] >= number * interval - CATCH_UP, calls


async def test_async_calls_are_paced():
    """Each of 4 at once starts at its instant, and is one call."""
    queue = ApiQueue("10/s")
    model = model_of(queue)
    answers = await asyncio.gather(*(model.ainvoke("?") for _ in range(4)))
    assert [answer.content for answer in answers] == ["42"] * 4
    assert model.calls == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert queue.stats.released == 4
    assert queue.running == 0


async def test_a_stream_is_one_call():
    """It waits before its first chunk, and not before the others."""
    model = model_of(ApiQueue("10/s"))
    for _ in range(2):
        assert [chunk.content async for chunk in model.astream("?") if chunk.content] == ["4", "2"]
    assert model.calls == pytest.approx([0.0, 0.1])


async def test_models_have_their_lanes():
    """Of two limiters with a key each, on one queue, each keeps its lane's limit."""
    queue = ApiQueue(lanes={"small": "10/s", "large": "2/s"})
    small, large = model_of(queue, key="small"), model_of(queue, keys=("large",))
    await asyncio.gather(*(model.ainvoke("?") for model in (small, large) for _ in range(2)))
    assert small.calls == pytest.approx([0.0, 0.1])
    assert large.calls == pytest.approx([0.0, 0.5])


async def test_priority_goes_first():
    """A limiter with a lower priority is served before those that wait already."""
    queue = ApiQueue("10/s")
    plain, urgent = model_of(queue), model_of(queue, priority=-1)
    await asyncio.gather(*(model.ainvoke("?") for model in (plain, plain, urgent)))
    assert plain.calls == pytest.approx([0.0, 0.2])
    assert urgent.calls == pytest.approx([0.1])


async def test_not_blocking_async():
    """It returns at once: whether a slot was free, which it then has used."""
    limiter = QueueRateLimiter(ApiQueue("10/s"))
    assert [await limiter.aacquire(blocking=False) for _ in range(2)] == [True, False]
    await asyncio.sleep(0.1)
    assert await limiter.aacquire(blocking=False)


async def test_cancelled_wait_uses_nothing():
    """The one behind it has its slot."""
    loop, queue = asyncio.get_running_loop(), ApiQueue("10/s")
    model = model_of(queue)
    calls = [asyncio.create_task(model.ainvoke("?")) for _ in range(3)]
    await asyncio.sleep(0.05)
    calls[1].cancel()
    await asyncio.wait(calls)
    assert calls[1].cancelled()
    assert model.calls == pytest.approx([0.0, 0.1])
    assert loop.time() == pytest.approx(0.1)
    assert queue.stats.released == 2


async def test_closed_queue_reaches_caller():
    """The model is not called."""
    queue = ApiQueue("10/s")
    model = model_of(queue)
    await queue.aclose()
    with pytest.raises(QueueClosed, match="takes no more calls"):
        await model.ainvoke("?")
    assert model.calls == []


@pytest.mark.real
def test_sync_calls_are_paced():
    """`batch` calls from threads: its calls are paced together, and with `invoke`."""
    queue = ApiQueue("50/s")
    model = model_of(queue)
    model.batch(["?"] * 4, config={"max_concurrency": 4})
    model.invoke("?")
    assert len(model.calls) == queue.stats.released == 5
    assert_paced(sorted(model.calls), 0.02)


@pytest.mark.real
def test_not_blocking_sync():
    """It returns at once: whether a slot was free, which it then has used."""
    limiter = QueueRateLimiter(ApiQueue("1/min"))
    assert [limiter.acquire(blocking=False) for _ in range(2)] == [True, False]


@pytest.mark.real
async def test_sync_after_async_is_refused():
    """Without a portal, a thread is told what to do, and does not wait for ever."""
    limiter = QueueRateLimiter(ApiQueue("100/s"))
    await limiter.aacquire()
    for blocking in (True, False):
        with pytest.raises(RuntimeError, match="come in through a portal") as raised:
            await asyncio.to_thread(limiter.acquire, blocking=blocking)
        assert any("LangChain" in note and "portal=" in note for note in raised.value.__notes__)
    await limiter.aacquire()  # as well as before


@pytest.mark.real
async def test_async_after_sync_is_refused():
    """A coroutine is told what to do, and does not wait for ever."""
    limiter = QueueRateLimiter(ApiQueue("100/s"))
    await asyncio.to_thread(limiter.acquire)
    for blocking in (True, False):
        with pytest.raises(RuntimeError, match="on another event loop") as raised:
            await limiter.aacquire(blocking=blocking)
        assert any("portal=" in note for note in raised.value.__notes__)


@pytest.mark.real
async def test_portal_serves_both():
    """With a portal to the loop of the coroutines, both are paced as one."""
    async with BlockingPortal() as portal:
        queue = ApiQueue("50/s")
        model = model_of(queue, portal=portal)
        await asyncio.gather(
            *(model.ainvoke("?") for _ in range(2)),
            *(asyncio.to_thread(model.invoke, "?") for _ in range(2)),
        )
    assert queue.stats.released == 4
    assert_paced(sorted(model.calls), 0.02)


@pytest.mark.real
async def test_priority_of_threads():
    """A thread's call with a lower priority goes before those that wait already."""
    async with BlockingPortal() as portal:
        queue, order = ApiQueue("50/s"), []
        queue.pause()
        plain = QueueRateLimiter(queue)
        urgent = QueueRateLimiter(queue, priority=-1, portal=portal)

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
async def test_sync_on_the_loop_is_refused():
    """`invoke` in a coroutine would wait for itself: it raises."""
    async with BlockingPortal() as portal:
        model = model_of(ApiQueue("1/s"), portal=portal)
        await model.ainvoke("?")
        with pytest.raises(RuntimeError, match="would block the event loop"):
            model.invoke("?")


@pytest.mark.parametrize(
    ("queue", "match"),
    [
        (ApiQueue("10/s", concurrency=5), "does not say when one ends"),
        (ApiQueue(lanes={"chat": "5 at once"}), "does not say when one ends"),
        (ApiQueue("10/s", "30000 tokens/min burst 30000"), "counts tokens, and LangChain"),
        (ApiQueue("10/s", lanes={"chat": "30000 tokens/min"}), "counts tokens, and LangChain"),
    ],
    ids=["concurrency", "of a lane", "tokens", "tokens of a lane"],
)
def test_what_it_cannot_keep_is_refused(queue, match):
    """At construction, with what to do."""
    with pytest.raises(ValueError, match=match) as raised:
        QueueRateLimiter(queue, key="chat")
    assert "give it a queue" in str(raised.value)


@pytest.mark.real
def test_other_lanes_permits_are_fine():
    """Permits of a lane that these calls do not come under concern others."""
    queue = ApiQueue(lanes={"chat": "5 at once", "embed": "10/s"})
    assert QueueRateLimiter(queue, key="embed").acquire(blocking=False)


async def test_permits_set_later_are_refused():
    """After `set_rate`, calls in either way are refused, rather than never ended."""
    queue = ApiQueue("10/s")
    limiter = QueueRateLimiter(queue)
    queue.set_rate("5 at once")
    for blocking in (True, False):
        with pytest.raises(ValueError, match="does not say when one ends"):
            await limiter.aacquire(blocking=blocking)
        with pytest.raises(ValueError, match="does not say when one ends"):
            limiter.acquire(blocking=blocking)
    assert queue.stats.released == 0


def test_no_queue_is_refused():
    """A limit in the place of a queue is named."""
    with pytest.raises(TypeError, match="paced by an ApiQueue, not by '10/s'"):
        QueueRateLimiter("10/s")
