"""Pace pydantic-ai's models and agents; replaces its `ConcurrencyLimiter`.

    queue = ApiQueue("50/min", concurrency=10)
    model = limit_model_concurrency("openai:gpt-5", QueueConcurrencyLimiter(queue))

pydantic-ai reports the start and the end of requests, so this adapter limits pace and concurrency.
It does not report tokens or the outcome: a queue that limits tokens raises `ValueError`, and
response headers are not followed. Pace the HTTP client of the model if you need that
(`aioapiqueue docs llm`). Automatic retries of the model's SDK are not paced.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._extras import needs

with needs("pydantic-ai-slim 2.66 or later", to="pacing pydantic-ai", extra="pydantic-ai"):
    from pydantic_ai.concurrency import AbstractConcurrencyLimiter

from aioapiqueue.integrations._acquire_only import refuse_other_units

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue import ApiQueue, Slot

__all__ = ["QueueConcurrencyLimiter"]


class QueueConcurrencyLimiter(AbstractConcurrencyLimiter):
    """A queue as a concurrency limiter of pydantic-ai's models and agents.

    A request holds its slot until it ends, or until its stream is closed. pydantic-ai
    does not report which request has ended, so the oldest slot of this limiter is released.

    A request that is cancelled while it waits uses no slot. `QueueFull` and `QueueClosed` reach the
    caller of the model unchanged.

    Do not use one queue for an agent's `max_concurrency` and its models: a run holds a slot while
    its requests wait for slots, so the run may block itself.

    Args:
        queue: paces the requests; any number of limiters may share a queue.
        key: as in `ApiQueue.slot`. For a limit per model, give each model a limiter with its key.
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.

    Raises:
        TypeError: `queue` is not an `ApiQueue`; or as for `ApiQueue.slot`.
        ValueError: the queue limits a unit other than calls; or as for `ApiQueue.slot`.
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
        queue.limiter(key=key, keys=keys, priority=priority)  # raises their errors now
        self._queue = queue
        self._arguments: dict[str, Any] = {"key": key, "keys": keys, "priority": priority}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: deque[Slot] = deque()

    async def acquire(self, source: str) -> None:  # noqa: ARG002 - as the base class has it
        """Wait for a slot. Cancelling the wait uses no slot.

        Args:
            source: name of the caller; ignored.
        """
        slot = await self._queue.enqueue(**self._arguments)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the slots of an earlier loop ended with it
            self._loop, self._held = loop, deque()
        self._held.append(slot)

    def release(self) -> None:
        """Release the oldest slot.

        Raises:
            RuntimeError: no slot is held.
        """
        if not self._held:
            raise RuntimeError(f"{self._queue!r}: release() was called without acquire()")
        # All slots of a limiter have the same keys, so any of them has the right permits.
        self._held.popleft().release()
