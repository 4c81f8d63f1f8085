"""Pace LangChain's chat models; replaces its `InMemoryRateLimiter`.

    model = ChatAnthropic(model="...", rate_limiter=QueueRateLimiter(ApiQueue("50/min")))

LangChain does not report the model, the tokens, the end or the outcome of a request. So this
adapter limits requests only: a queue that limits tokens or concurrency raises `ValueError`,
and response headers are not followed. Pace the HTTP client of the model if you need that
(`aioapiqueue docs llm`). Automatic retries of the model's SDK are not paced.
"""

from __future__ import annotations

from typing import ClassVar

from aioapiqueue.integrations._extras import needs

with needs("langchain-core", to="pacing LangChain", extra="langchain"):
    from langchain_core.rate_limiters import BaseRateLimiter

from aioapiqueue.integrations._acquire_only import AcquireOnly

__all__ = ["QueueRateLimiter"]


class QueueRateLimiter(AcquireOnly, BaseRateLimiter):
    """A queue as the `rate_limiter` of LangChain's chat models.

    Async methods (`ainvoke`) use the running event loop; sync methods (`invoke`) use a background
    loop. A queue lives on one loop. To call both kinds of methods, pass a `portal`; without it, the
    second kind raises `RuntimeError`.

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

    _library: ClassVar = "LangChain"

    def acquire(self, *, blocking: bool = True) -> bool:
        """Block the thread until a slot is granted. KeyboardInterrupt uses no slot.

        Args:
            blocking: whether to wait. Default: True. If False, return immediately: True if a slot
                was free (the call then uses it), else False.

        Raises:
            RuntimeError: the queue is in use on an event loop without `portal`, or this thread runs
                an event loop.
        """
        if not blocking:
            return self._try(self._blocking)
        self._wait()
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Wait for a slot. Cancelling the wait uses no slot.

        Args:
            blocking: whether to wait. Default: True. If False, return immediately: True if a slot
                was free (the call then uses it), else False.

        Raises:
            RuntimeError: the queue is in use on another event loop.
        """
        if not blocking:
            return self._try(self._queue)
        await self._wait_async()
        return True
