"""What adapters for limiters with an `acquire` and no release share, for coroutines and threads.

Their libraries ask for permission, and say neither what a call costs nor when it ends. So a queue
that limits more than how often calls start is refused: it would be given figures that are wrong, or
permits that nobody gives back.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aioapiqueue.exceptions import WouldWait
from aioapiqueue.spi import Reporter, keys_of
from aioapiqueue.threads import blocking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue import ApiQueue

__all__ = ["AcquireOnly", "refuse_other_units"]


def refuse_other_units(queue: ApiQueue, *, library: str) -> None:
    """Refuse a queue that counts more than calls.

    Args:
        queue: to be checked.
        library: which one does not say what a call costs.

    Raises:
        TypeError: it is no `ApiQueue`.
        ValueError: it counts something else.
    """
    if not hasattr(queue, "enqueue"):
        raise TypeError(f"{library} needs an ApiQueue, not {queue!r}")
    units = Reporter(queue).units[1:]
    if units:
        raise ValueError(
            f"{queue!r} limits {' and '.join(units)}, which {library} does not report: use a queue "
            "that counts only calls (aioapiqueue docs adapters)"
        )


class AcquireOnly:
    """Slots of a queue for calls of one kind, which are over as soon as they have started.

    Args:
        queue: paces the calls.
        library: whose calls, for messages.
        key: as in `ApiQueue.slot`.
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.
        portal: as in `aioapiqueue.threads.blocking`.

    Raises:
        TypeError: `queue` is no `ApiQueue`; or as of `ApiQueue.slot`.
        ValueError: the queue counts more than calls, or limits how many run at once.
    """

    def __init__(
        self,
        queue: ApiQueue,
        *,
        library: str,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        portal: BlockingPortal | None = None,
    ) -> None:
        refuse_other_units(queue, library=library)
        self._queue = queue
        self._library = library
        self._view = queue.limiter(key=key, keys=keys, priority=priority)
        self._asked: dict[str, Any] = {"keys": keys_of(key, keys), "priority": priority}
        self._blocking = blocking(queue, portal=portal)
        self._refuse_permits()

    def _refuse_permits(self) -> None:
        if Reporter(self._queue).limits_concurrency(self._asked["keys"]):
            raise ValueError(
                f"{self._queue!r} limits concurrency, but {self._library} does not report when a "
                f"call ends: use a queue without that limit, and set concurrency in {self._library}"
            )

    async def wait_async(self) -> None:
        """Wait for a slot; a caller that is cancelled while it waits uses none."""
        self._refuse_permits()  # `set_rate` may have added some
        with self._explaining_loops():
            await self._view.acquire()

    def wait(self) -> None:
        """Wait for a slot, in a thread; interrupted, it uses none."""
        self._refuse_permits()
        with self._explaining_loops(), self._blocking.slot(**self._asked):
            pass

    def try_async(self) -> bool:
        """Return whether a slot was free now, on the loop; then it is used."""
        self._refuse_permits()
        with self._explaining_loops():
            try:
                with self._queue.try_slot(**self._asked):
                    return True
            except WouldWait:
                return False

    def try_now(self) -> bool:
        """Return whether a slot was free now, in a thread; then it is used."""
        self._refuse_permits()
        with self._explaining_loops():
            try:
                with self._blocking.try_slot(**self._asked):
                    return True
            except WouldWait:
                return False

    @contextmanager
    def _explaining_loops(self) -> Iterator[None]:
        """Add what to do in this library to an error about loops."""
        try:
            yield
        except RuntimeError as error:
            error.add_note(
                "A queue lives on one event loop, but the async and sync methods of "
                f"{self._library} use different ones. To use both, open an "
                "anyio.from_thread.BlockingPortal on the loop of the async methods, pass it as "
                "portal=, and call the sync methods with asyncio.to_thread (aioapiqueue docs "
                "adapters)."
            )
            raise
