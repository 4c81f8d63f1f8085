"""Paces pydantic-ai's models and agents, in the place of its `ConcurrencyLimiter`.

    queue = ApiQueue("50/min", concurrency=10)
    model = limit_model_concurrency("openai:gpt-5", QueueConcurrencyLimiter(queue))

pydantic-ai says when a request may start and that one has ended, so that both the pace of a queue
and its limit of how many run at once hold. It does not say what a request costs or whether it was
refused: a queue that counts tokens is refused, and what the server says is not followed. Where that
matters, pace the HTTP client of the model instead. Requests that the model's SDK sends again by
itself are not asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

try:
    from pydantic_ai.concurrency import AbstractConcurrencyLimiter
except ImportError as error:
    raise ImportError(
        "pacing pydantic-ai needs pydantic-ai-slim 2.66 or later: "
        'pip install "aioapiqueue[pydantic-ai]"',
        name=error.name,
    ) from error

from aioapiqueue._slot import keys_of
from aioapiqueue.integrations._acquire_only import refuse_other_units

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue import ApiQueue, Slot

__all__ = ["QueueConcurrencyLimiter"]


class QueueConcurrencyLimiter(AbstractConcurrencyLimiter):
    """A queue as a concurrency limiter of pydantic-ai's models and agents.

    A request holds its slot until pydantic-ai releases it: a streamed one until its stream is
    closed, be it in another task. Which request has ended is not said, so that the longest held
    slot is released; all those of one limiter have the same keys, and so the same permits.

    A request that is cancelled while it waits uses no slot. What the queue raises (`QueueFull`,
    `QueueClosed`) reaches the caller of the model as it is.

    Give an agent's `max_concurrency` and its models' limiters different queues: a run holds its
    slot while it asks for those of its requests, and where the queue has no permit left, it waits
    for itself.

    Args:
        queue: paces the requests; any number of limiters may share one.
        key: as in `ApiQueue.slot`. For limits of single models, give each a limiter of its own,
            with its key.
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.

    Raises:
        TypeError: `queue` is no `ApiQueue`; or as of `ApiQueue.slot`.
        ValueError: the queue counts more than calls; or as of `ApiQueue.slot`.
    """

    def __init__(
        self,
        queue: ApiQueue,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
    ) -> None:
        refuse_other_units(queue, library="pydantic-ai")
        queue.limiter(key=key, keys=keys, priority=priority)  # refuses them now, if they are wrong
        self._queue = queue
        self._asked: dict[str, Any] = {"keys": keys_of(key, keys), "priority": priority}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: deque[Slot] = deque()

    async def acquire(self, source: str) -> None:  # noqa: ARG002 - a release could not be told by it
        """Wait for a slot; a caller that is cancelled uses none.

        Args:
            source: what asks. Not used: `release` does not say it.
        """
        slot = await self._queue.enqueue(**self._asked)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # those of an earlier loop have ended with it
            self._loop, self._held = loop, deque()
        self._held.append(slot)

    def release(self) -> None:
        """Release the slot that has been held longest.

        Raises:
            RuntimeError: none is held.
        """
        if not self._held:
            raise RuntimeError(f"{self._queue!r}: release() was called without acquire()")
        self._held.popleft().release()
