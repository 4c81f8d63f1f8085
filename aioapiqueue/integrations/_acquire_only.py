"""The base of adapters for limiters that have an `acquire` and no `release`, async or not.

Their libraries report neither the cost nor the end of a call. So a queue that limits another unit
or concurrency is refused: costs would be wrong, and permits would never be returned.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue.exceptions import WouldWait
from aioapiqueue.spi import Reporter
from aioapiqueue.threads import Blocking, blocking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue import ApiQueue


_LLM_CLIENT = (
    "pass llm.client(queue, profile) to the model as its HTTP client (aioapiqueue docs llm)"
)


def refuse_other_units(queue: ApiQueue, *, library: str, paces_models: bool = True) -> None:
    """Raise an error if a queue limits a unit other than calls.

    Args:
        queue: the queue.
        library: the library that does not report costs.
        paces_models: whether it paces language models, whose HTTP clients know the costs.

    Raises:
        TypeError: `queue` is not an `ApiQueue`.
        ValueError: the queue limits another unit.
    """
    if not hasattr(queue, "enqueue"):
        raise TypeError(f"{library} needs an ApiQueue, not {queue!r}")
    # The first unit is always calls.
    units = Reporter(queue).units[1:]
    if units:
        client = f"{_LLM_CLIENT}, or " if paces_models else ""
        raise ValueError(
            f"{queue!r} limits {' and '.join(units)}, which {library} does not report: {client}use "
            "a queue that counts only calls (aioapiqueue docs adapters)"
        )


class AcquireOnly:
    """Base class of a library's limiter: each `acquire` uses a slot, and releases it at once.

    Args:
        queue: paces the calls.
        key: as in `ApiQueue.slot`.
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.
        portal: as in `aioapiqueue.threads.blocking`.

    Raises:
        TypeError: `queue` is not an `ApiQueue`; or as for `ApiQueue.slot`.
        ValueError: the queue limits a unit other than calls, or concurrency.
    """

    _library: ClassVar[str]
    """Name of the library, for messages."""

    def __init__(
        self,
        queue: ApiQueue,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        portal: BlockingPortal | None = None,
    ) -> None:
        refuse_other_units(queue, library=self._library)
        self._queue = queue
        # This raises the errors of wrong arguments now, not at the first call.
        self._view = queue.limiter(key=key, keys=keys, priority=priority)
        # Always `keys`, never `key`: `limits_concurrency` takes keys as well.
        several = (key,) if keys is None else tuple(keys)
        self._arguments: dict[str, Any] = {"keys": several, "priority": priority}
        self._blocking = blocking(queue, portal=portal)
        self._refuse_permits()

    def _refuse_permits(self) -> None:
        if Reporter(self._queue).limits_concurrency(self._arguments["keys"]):
            raise ValueError(
                f"{self._queue!r} limits concurrency, but {self._library} does not report when a "
                f"call ends: use a queue without that limit, and set concurrency in {self._library}"
            )

    async def _wait_async(self) -> None:
        """Wait for a slot. Cancelling the wait uses no slot."""
        with self._checked():
            await self._view.acquire()

    def _wait(self) -> None:
        """Wait for a slot in a thread. KeyboardInterrupt during the wait uses no slot."""
        with self._checked(), self._blocking.slot(**self._arguments):
            pass  # released at once: the library does not report when the call ends

    def _try(self, queue: ApiQueue | Blocking) -> bool:
        """Use a slot if one is free, and return whether there was one.

        Args:
            queue: `_queue` on its loop, or `_blocking` in a thread.
        """
        with self._checked(), suppress(WouldWait), queue.try_slot(**self._arguments):
            return True
        return False

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Add the remedy for this library to an error about event loops."""
        self._refuse_permits()  # again: `set_rate` may have added a limit of concurrency
        try:
            yield
        # QueueClosed and other errors of a queue are not RuntimeErrors, and get no note.
        except RuntimeError as error:
            error.add_note(
                "A queue lives on one event loop, but the async and sync methods of "
                f"{self._library} use different ones. To use both, open an "
                "anyio.from_thread.BlockingPortal on the loop of the async methods, pass it as "
                "portal=, and call the sync methods with asyncio.to_thread (aioapiqueue docs "
                "adapters)."
            )
            raise
