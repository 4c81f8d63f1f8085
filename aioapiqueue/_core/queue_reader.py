"""What metrics, reports and registries read of a queue, beside `ApiQueue.stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._core.queue import dispatcher_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Sequence

    from aioapiqueue._core.events import Observer
    from aioapiqueue._core.limiter import LimiterStats
    from aioapiqueue._core.queue import ApiQueue
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._limits.rates import Limit


class QueueReader:
    """Reads the figures and the state of a queue, which it does not keep alive.

    Args:
        queue: the queue to read.
    """

    __slots__ = ("_dispatcher",)

    def __init__(self, queue: ApiQueue) -> None:
        # Not the queue: an exporter watches it only as long as a program uses it, and reads the
        # last figures when it is collected.
        self._dispatcher = dispatcher_of(queue)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the queue is in use on; None: it was not used yet."""
        return self._dispatcher.loop.current

    def to_wall(self, at: float) -> float:
        """Convert an instant of the queue's loop to seconds since the epoch."""
        return self._dispatcher.loop.to_wall(at)

    def stats(self) -> Stats:
        """Return the current figures, as `ApiQueue.stats` does."""
        return self._dispatcher.stats()

    def snapshot(self, key: Hashable = None) -> LimiterStats:
        """Return the figures of the limiter; `remaining` is that of a key's lane."""
        return self._dispatcher.limiter.snapshot(key)

    def lane_of(self, keys: Sequence[Hashable]) -> Hashable:
        """Return the name of the lane that a call with these keys is counted in; None: no lane."""
        return self._dispatcher.lane_of(keys)

    def limits_of(self, key: Hashable) -> tuple[Limit, ...]:
        """Return the limits of a key's lane, or of the queue (None)."""
        return self._dispatcher.limiter.limits_of(key) or ()

    def is_idle(self) -> bool:
        """Return whether the queue is as good as new: nothing waits or runs, all limits are full.

        Never while it is closed, shares its quota with others, or has limits that were set since
        it was made.
        """
        return self._dispatcher.idle()

    def observe(self, observer: Observer) -> None:
        """Send the events of the queue to one more observer, from now on."""
        self._dispatcher.observe([observer])
