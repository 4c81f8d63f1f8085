"""Pace LlamaIndex's LLMs and embeddings; replaces its `TokenBucketRateLimiter`.

    limiter = QueueRateLimiter(ApiQueue("500/min"))
    llm, embedding = OpenAI(rate_limiter=limiter), OpenAIEmbedding(rate_limiter=limiter)

LlamaIndex does not report the model, the tokens, the end or the outcome of a request. So this
adapter limits requests only: a queue that limits tokens or concurrency raises `ValueError`, and
response headers are not followed. Pace the HTTP client of the model if you need that (`aioapiqueue
docs llm`).
"""

from __future__ import annotations

from typing import ClassVar

from aioapiqueue.integrations._extras import needs

with needs("llama-index-core 0.14 or later", to="pacing LlamaIndex", extra="llama-index"):
    from llama_index.core.rate_limiter import BaseRateLimiter

from aioapiqueue.integrations._acquire_only import AcquireOnly

__all__ = ["QueueRateLimiter"]


class QueueRateLimiter(AcquireOnly, BaseRateLimiter):
    """A queue as the `rate_limiter` of LlamaIndex's LLMs and embeddings.

    Async methods use the running event loop; sync methods use a background loop. A queue lives on
    one loop. To call both kinds of methods, pass a `portal`; without it, the second kind raises
    `RuntimeError`. The async methods of a plain `CustomLLM` also raise it, because they call its
    sync methods on the event loop: call the sync methods with `asyncio.to_thread` instead.

    A call that is cancelled while it waits uses no slot. `QueueFull` and `QueueClosed` reach the
    caller of the model unchanged.

    Args:
        queue: paces the requests; any number of models may share a queue.
        key: as in `ApiQueue.slot`. For a limit per model, give each model a limiter with its key.
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.
        portal: an `anyio.from_thread.BlockingPortal` to the queue's event loop, for sync methods,
            as in `aioapiqueue.threads.blocking`. Default: a background loop.

    Raises:
        TypeError: `queue` is not an `ApiQueue`; or as for `ApiQueue.slot`.
        ValueError: the queue limits a unit other than calls, or concurrency.
    """

    _library: ClassVar = "LlamaIndex"

    def acquire(self, num_tokens: int = 0) -> None:  # noqa: ARG002 - the library never passes it
        """Block the thread until a slot is granted. KeyboardInterrupt uses no slot.

        Args:
            num_tokens: ignored; LlamaIndex never passes it.

        Raises:
            RuntimeError: the queue is in use on an event loop without `portal`, or this thread runs
                an event loop.
        """
        self._wait()

    async def async_acquire(self, num_tokens: int = 0) -> None:  # noqa: ARG002 - as above
        """Wait for a slot. Cancelling the wait uses no slot.

        Args:
            num_tokens: ignored, as in `acquire`.

        Raises:
            RuntimeError: the queue is in use on another event loop.
        """
        await self._wait_async()
