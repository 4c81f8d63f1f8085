"""LlamaIndex's own LLMs and embeddings, paced: async, sync, streamed, in batches."""

from __future__ import annotations

import asyncio
import time

import pytest
from anyio.from_thread import BlockingPortal
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.embeddings.mock_embed_model import MockEmbedding
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.mock import MockLLM

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.llama_index import QueueRateLimiter

CATCH_UP = 0.010  # seconds, a queue's default


class NotingLLM(MockLLM):
    """In the place of an API with async methods of its own: notes when it is called."""

    def note(self):
        """Note the instant, on the loop's clock where one runs."""
        calls = self.__dict__.setdefault("calls", [])
        try:
            calls.append(asyncio.get_running_loop().time())
        except RuntimeError:
            calls.append(time.monotonic())
        return CompletionResponse(text="42")

    @llm_completion_callback()
    def complete(self, *_args, **_kwargs):
        """Answer at once."""
        return self.note()

    @llm_completion_callback()
    async def acomplete(self, *_args, **_kwargs):
        """Answer at once."""
        return self.note()

    @llm_completion_callback()
    async def astream_complete(self, *_args, **_kwargs):
        """Answer in two parts."""
        answer = self.note()

        async def parts():
            for part in answer.text:
                yield CompletionResponse(text=part, delta=part)

        return parts()


def llm_of(queue, **how):
    """Return an LLM that is paced by a queue."""
    llm = NotingLLM()
    llm.rate_limiter = QueueRateLimiter(queue, **how)
    return llm


def assert_paced(calls, interval):
    """Check that no call came sooner than the rate allows: late, never early."""
    for number, at in enumerate(calls):
        assert at - calls[0] >= number * interval - CATCH_UP, calls


async def test_async_calls_are_paced():
    """Each of 4 at once starts at its instant, and is one call."""
    queue = ApiQueue("10/s")
    llm = llm_of(queue)
    answers = await asyncio.gather(*(llm.acomplete("?") for _ in range(4)))
    assert [answer.text for answer in answers] == ["42"] * 4
    assert llm.calls == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert queue.stats.released == 4


async def test_a_stream_is_one_call():
    """It waits before its first part, and not before the others."""
    llm = llm_of(ApiQueue("10/s"))
    for _ in range(2):
        stream = await llm.astream_complete("?")
        assert [part.delta async for part in stream] == ["4", "2"]
    assert llm.calls == pytest.approx([0.0, 0.1])


async def test_llm_and_embedding_share():
    """One limiter paces both as one; a batch of texts is one call."""
    loop, queue = asyncio.get_running_loop(), ApiQueue("10/s")
    llm = llm_of(queue)
    embedding = MockEmbedding(embed_dim=2, rate_limiter=llm.rate_limiter, embed_batch_size=4)
    await llm.acomplete("?")
    assert await embedding.aget_text_embedding_batch(["text"] * 8) == [[0.5, 0.5]] * 8
    assert loop.time() == pytest.approx(0.2)
    assert queue.stats.released == 3


async def test_models_have_their_lanes():
    """Of two limiters with a key each, on one queue, each keeps its lane's limit."""
    queue = ApiQueue(lanes={"small": "10/s", "large": "2/s"})
    small, large = llm_of(queue, key="small"), llm_of(queue, keys=("large",))
    await asyncio.gather(*(llm.acomplete("?") for llm in (small, large) for _ in range(2)))
    assert small.calls == pytest.approx([0.0, 0.1])
    assert large.calls == pytest.approx([0.0, 0.5])


async def test_cancelled_wait_uses_nothing():
    """The one behind it has its slot."""
    queue = ApiQueue("10/s")
    llm = llm_of(queue)
    calls = [asyncio.create_task(llm.acomplete("?")) for _ in range(3)]
    await asyncio.sleep(0.05)
    calls[1].cancel()
    await asyncio.wait(calls)
    assert calls[1].cancelled()
    assert llm.calls == pytest.approx([0.0, 0.1])
    assert queue.stats.released == 2


@pytest.mark.real
def test_sync_calls_are_paced():
    """The calls of LLMs and embeddings wait in the thread that makes them."""
    queue = ApiQueue("50/s")
    llm = llm_of(queue)
    embedding = MockEmbedding(embed_dim=2, rate_limiter=llm.rate_limiter)
    for _ in range(3):
        llm.complete("?")
    assert_paced(llm.calls, 0.02)
    assert embedding.get_query_embedding("?") == [0.5, 0.5]
    assert queue.stats.released == 4


@pytest.mark.real
async def test_portal_serves_both():
    """With a portal to the loop of the coroutines, both are paced as one."""
    async with BlockingPortal() as portal:
        queue = ApiQueue("50/s")
        llm = llm_of(queue, portal=portal)
        await asyncio.gather(llm.acomplete("?"), asyncio.to_thread(llm.complete, "?"))
    assert queue.stats.released == 2


async def test_sync_method_on_loop_is_refused():
    """An LLM whose `acomplete` calls its `complete` is told what to do, and waits for nothing."""
    llm = MockLLM()
    llm.rate_limiter = QueueRateLimiter(ApiQueue("10/s"))
    with pytest.raises(RuntimeError, match="would block the event loop") as raised:
        await llm.acomplete("?")
    assert any("LlamaIndex" in note and "to_thread" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(
    ("queue", "match"),
    [
        (ApiQueue("500/min", "30000 tokens/min"), "counts tokens, and LlamaIndex does not say"),
        (ApiQueue("500/min", concurrency=5), "does not say when one ends"),
    ],
    ids=["tokens", "concurrency"],
)
def test_what_it_cannot_keep_is_refused(queue, match):
    """At construction, with what to do: a call that costs too much is not waited for for ever."""
    with pytest.raises(ValueError, match=match) as raised:
        QueueRateLimiter(queue)
    assert "give it a queue" in str(raised.value)
