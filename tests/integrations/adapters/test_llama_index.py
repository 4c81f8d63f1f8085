"""What LlamaIndex's limiter does besides: see `test_model_limiters` for what it shares."""

from __future__ import annotations

import asyncio
import time

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.lazily import lazily
from tests.helpers.paced_models import LlamaIndex, assert_paced

embed, mock = (
    lazily("llama_index.core.embeddings.mock_embed_model"),
    lazily("llama_index.core.llms.mock"),
)


@pytest.fixture(scope="module", autouse=True)
def library():
    """Give LlamaIndex, imported."""
    return LlamaIndex()


async def test_llm_and_embedding_share(library):
    """One limiter paces both as one; a batch of texts is one call."""
    loop, queue = asyncio.get_running_loop(), ApiQueue("10/s")
    llm = library.model(queue)
    embedding = embed.MockEmbedding(embed_dim=2, rate_limiter=llm.rate_limiter, embed_batch_size=4)
    await llm.acomplete("?")
    assert await embedding.aget_text_embedding_batch(["text"] * 8) == [[0.5, 0.5]] * 8
    assert loop.time() == pytest.approx(0.2)
    assert queue.stats.released == 3


@pytest.mark.real
def test_sync_embeddings_are_paced(library):
    """The calls of LLMs and embeddings wait in the thread that makes them."""
    queue = ApiQueue("50/s")
    llm = library.model(queue)
    embedding = embed.MockEmbedding(embed_dim=2, rate_limiter=llm.rate_limiter)
    begun = time.monotonic()
    assert embedding.get_query_embedding("?") == [0.5, 0.5]
    for _ in range(2):
        llm.complete("?")
    assert queue.stats.released == 3
    assert_paced([begun, *llm.calls], begun, 0.02)


async def test_sync_method_on_loop_is_refused(library):
    """An LLM whose `acomplete` calls its `complete` is told what to do, and waits for nothing."""
    llm = mock.MockLLM()
    llm.rate_limiter = library.limiter(ApiQueue("10/s"))
    with pytest.raises(RuntimeError, match="would block the event loop") as raised:
        await llm.acomplete("?")
    assert any("LlamaIndex" in note and "to_thread" in note for note in raised.value.__notes__)
