"""Paces LlamaIndex's LLMs and embeddings, in the place of its `TokenBucketRateLimiter`.

    limiter = QueueRateLimiter(ApiQueue("500/min"))
    llm, embedding = OpenAI(rate_limiter=limiter), OpenAIEmbedding(rate_limiter=limiter)

LlamaIndex asks before each request, and says nothing of it: not which model it is for, how many
tokens it takes or when it ends, nor whether it was refused. So this counts requests only. A queue
that counts tokens, or limits how many calls run at once, is refused; what the server says is not
followed. Where that matters, pace the HTTP client of the model instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from llama_index.core.rate_limiter import BaseRateLimiter
except ImportError as error:
    raise ImportError(
        "pacing LlamaIndex needs llama-index-core 0.14 or later: "
        'pip install "aioapiqueue[llama-index]"',
        name=error.name,
    ) from error

from aioapiqueue.integrations._acquire_only import AcquireOnly

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue import ApiQueue

__all__ = ["QueueRateLimiter"]


class QueueRateLimiter(BaseRateLimiter):
    """A queue as the `rate_limiter` of LlamaIndex's LLMs and embeddings.

    One object serves async and sync methods, but not both at any time, as a queue lives on one
    event loop. Async methods use the loop that runs them. Sync methods use a loop in a thread of
    this package, or that of `portal`, with which both go together. Where they do not, the later
    one raises `RuntimeError`, which says what to do. An LLM whose async methods call its sync ones
    on the loop, as those of a bare `CustomLLM` do, is such a case: call the sync ones in threads.

    A call that is cancelled while it waits uses no slot. What the queue raises (`QueueFull`,
    `QueueClosed`) reaches the caller of the model as it is.

    Args:
        queue: paces the requests; any number of models may share one.
        key: as in `ApiQueue.slot`. LlamaIndex does not say which model asks: for limits of single
            models, give each a limiter of its own, with its key.
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.
        portal: to the loop that the queue lives on, for sync methods; as in
            `aioapiqueue.threads.blocking`.

    Raises:
        TypeError: `queue` is no `ApiQueue`; or as of `ApiQueue.slot`.
        ValueError: the queue counts more than calls, or limits how many run at once.
    """

    def __init__(
        self,
        queue: ApiQueue,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        portal: BlockingPortal | None = None,
    ) -> None:
        self._calls = AcquireOnly(
            queue, library="LlamaIndex", key=key, keys=keys, priority=priority, portal=portal
        )

    def acquire(self, num_tokens: int = 0) -> None:  # noqa: ARG002 - the library never gives them
        """Wait for a slot, in a thread.

        Args:
            num_tokens: not used, as LlamaIndex itself never gives it.

        Raises:
            RuntimeError: the queue is in use on a loop that is not the one of `portal`; or this is
                called on the loop itself, where it would wait for ever.
        """
        self._calls.wait()

    async def async_acquire(self, num_tokens: int = 0) -> None:  # noqa: ARG002 - as above
        """Wait for a slot; a caller that is cancelled uses none.

        Args:
            num_tokens: as of `acquire`.

        Raises:
            RuntimeError: the queue is in use on another loop.
        """
        await self._calls.wait_async()
