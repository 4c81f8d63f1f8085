"""One attempt that a client has asked for: it waits, and then is under way."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioapiqueue._botocore_calls import AHEAD

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aioapiqueue import Slot
    from aioapiqueue.hub._records import CallStats, Client, Kind
    from aioapiqueue.registry import Turn

__all__ = ["Request"]


@dataclass(slots=True, eq=False)
class Request:
    """An attempt: it waits for its slots, one after the other, and then is under way.

    Attributes:
        client: the process that calls.
        kind: what is called.
        stats: the counts of its kind of call.
        queue_stats: the counts of each queue in `needs`.
        needs: the slots that it needs, in order; empty if nothing paces it.
        ahead: whether it goes ahead of all waiters.
        slots: the slots that it has.
        under_way: whether it has been let go.
    """

    client: Client
    kind: Kind
    stats: CallStats
    queue_stats: Sequence[CallStats]
    needs: Sequence[Turn]
    ahead: bool
    slots: list[Slot] = field(default_factory=list)
    under_way: bool = False
    _waits_for: asyncio.Future[Slot] | None = None

    @property
    def all_stats(self) -> tuple[CallStats, ...]:
        """The counts of its kind of call, and of each queue that it needs a slot of."""
        return (self.stats, *self.queue_stats)

    def advance(self) -> asyncio.Future[Slot] | None:
        """Return what is to be waited for next, or None: the attempt may start.

        Raises:
            Exception: whatever a queue raises.
        """
        if self._waits_for is not None:
            self.slots.append(self._waits_for.result())
            self._waits_for = None
        priority = AHEAD if self.ahead else 0
        for queue, key, cost in self.needs[len(self.slots) :]:
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
        self.client.requests += 1
        self.client.ahead += self.ahead
        self.stats.waiting += 1

    def count_start(self) -> None:
        """Count an attempt that is let go."""
        self.under_way = True
        if self.ahead:
            self.client.ahead -= 1
        else:
            self.client.calls += 1
        self.stats.waiting -= 1
        self.stats.running += 1
        now, waited = time.monotonic(), 0.0
        for slot, of_queue in zip(self.slots, self.queue_stats, strict=True):
            waited += slot.waited
            of_queue.let_go(now, slot.waited)
        self.stats.let_go(now, waited)

    def count_end(self, *, sent: bool = True) -> None:
        """Count the end of an attempt that waits or is under way.

        Args:
            sent: whether it was sent, if it is under way; default True.
        """
        self.client.requests -= 1
        if not self.under_way:
            self.client.ahead -= self.ahead
            self.stats.waiting -= 1
            return
        self.client.calls -= not self.ahead
        self.stats.running -= 1
        if not sent:
            for stats in self.all_stats:
                stats.calls -= 1
