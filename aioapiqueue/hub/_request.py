"""One attempt that a client has asked for: it waits, and then is under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aioapiqueue._botocore_calls import AHEAD

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aioapiqueue import Slot
    from aioapiqueue.hub._records import CallStats, Client, Kind
    from aioapiqueue.registry import Turn

__all__ = ["Request"]


class Request:
    """An attempt: it waits for its slots, one after the other, and then is under way.

    Attributes:
        kind: what is called.
        stats: the counts of its kind of call.
        needs: the slots that it needs, in order; empty if nothing paces it.
        slots: the slots that it has.
        under_way: whether it has been let go.
    """

    __slots__ = (
        "_ahead",
        "_client",
        "_of_queues",
        "_turns",
        "_waits_for",
        "kind",
        "needs",
        "slots",
        "stats",
        "under_way",
    )

    def __init__(
        self,
        client: Client,
        kind: Kind,
        stats: CallStats,
        of_queues: Sequence[CallStats],
        turns: Sequence[Turn],
        *,
        ahead: bool,
    ) -> None:
        self.kind = kind
        self.stats = stats
        self.needs = turns
        self.slots: list[Slot] = []
        self.under_way = False
        self._client = client
        self._of_queues = of_queues
        self._turns = iter(turns)
        self._ahead = ahead
        self._waits_for: asyncio.Future[Slot] | None = None

    @property
    def all_stats(self) -> tuple[CallStats, ...]:
        """The counts of its kind of call, and of each queue that it needs a slot of."""
        return (self.stats, *self._of_queues)

    def advance(self) -> asyncio.Future[Slot] | None:
        """Return what is to be waited for next, or None: the attempt may start.

        Raises:
            Exception: whatever a queue raises.
        """
        if self._waits_for is not None:
            self.slots.append(self._waits_for.result())
            self._waits_for = None
        priority = AHEAD if self._ahead else 0
        for queue, key, cost in self._turns:
            future = queue.enqueue(key=key, priority=priority, cost=cost)
            if not future.done():
                self._waits_for = future
                return future
            self.slots.append(future.result())
        return None

    def release(self) -> None:
        """End its slots."""
        for slot in self.slots:
            slot.release()

    def withdraw(self) -> None:
        """Leave the queue that it waits in, and give back what it has not used."""
        future, self._waits_for = self._waits_for, None
        # It leaves, or the slot that it has just got passes to the next waiter.
        if future is not None and not future.cancel() and not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not log it
        for slot in self.slots:
            slot.settle(0)
            slot.release()

    # Its counts.

    def count_waiting(self) -> None:
        """Count an attempt that was asked for."""
        self._client.requests += 1
        self._client.ahead += self._ahead
        self.stats.waiting += 1

    def count_start(self) -> None:
        """Count an attempt that is let go."""
        self.under_way = True
        if self._ahead:
            self._client.ahead -= 1
        else:
            self._client.calls += 1
        self.stats.waiting -= 1
        self.stats.running += 1
        now, waited = time.monotonic(), 0.0
        for slot, of_queue in zip(self.slots, self._of_queues, strict=True):
            waited += slot.waited
            of_queue.let_go(now, slot.waited)
        self.stats.let_go(now, waited)

    def count_end(self, *, sent: bool = True) -> None:
        """Count the end of an attempt that waits or is under way.

        Args:
            sent: whether it was sent, if it is under way; default True.
        """
        self._client.requests -= 1
        if not self.under_way:
            self._client.ahead -= self._ahead
            self.stats.waiting -= 1
            return
        self._client.calls -= not self._ahead
        self.stats.running -= 1
        if not sent:
            for stats in self.all_stats:
                stats.calls -= 1
