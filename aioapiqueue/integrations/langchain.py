"""Paces LangChain's chat models, in the place of its `InMemoryRateLimiter`.

    model = ChatAnthropic(model="...", rate_limiter=QueueRateLimiter(ApiQueue("50/min")))

LangChain asks before each request, and says nothing of it: not which model it is for, what it costs
or when it ends, nor whether it was refused. So this counts requests only. A queue that counts
tokens, or limits how many calls run at once, is refused; what the server says is not followed.
Where that matters, pace the HTTP client of the model instead. Requests that the model's SDK sends
again by itself are not asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from langchain_core.rate_limiters import BaseRateLimiter
except ImportError as error:
    raise ImportError(
        'pacing LangChain needs langchain-core: pip install "aioapiqueue[langchain]"',
        name=error.name,
    ) from error

from aioapiqueue.integrations._acquire_only import AcquireOnly

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue import ApiQueue

__all__ = ["QueueRateLimiter"]


class QueueRateLimiter(BaseRateLimiter):
    """A queue as the `rate_limiter` of LangChain's chat models.

    One object serves `ainvoke` and `invoke`, but not both at any time, as a queue lives on one
    event loop. Async methods use the loop that runs them. Sync methods use a loop in a thread of
    this package, or that of `portal`, with which both go together. Where they do not, the later
    one raises `RuntimeError`, which says what to do.

    A call that is cancelled while it waits uses no slot. What the queue raises (`QueueFull`,
    `QueueClosed`) reaches the caller of the model as it is.

    Args:
        queue: paces the requests; any number of models may share one.
        key: as in `ApiQueue.slot`. LangChain does not say which model asks: for limits of single
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
            queue, library="LangChain", key=key, keys=keys, priority=priority, portal=portal
        )

    def acquire(self, *, blocking: bool = True) -> bool:
        """Wait for a slot, in a thread.

        Args:
            blocking: wait for it; False: return whether one was free now.

        Raises:
            RuntimeError: the queue is in use on a loop that is not the one of `portal`; or this is
                called on the loop itself, where it would wait for ever.
        """
        if not blocking:
            return self._calls.try_now()
        self._calls.wait()
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Wait for a slot; a caller that is cancelled uses none.

        Args:
            blocking: wait for it; False: return whether one was free now.

        Raises:
            RuntimeError: the queue is in use on another loop.
        """
        if not blocking:
            return self._calls.try_async()
        await self._calls.wait_async()
        return True
