"""How clients use slots: those that await, and those that block, in any number of threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.spi import Reporter
from aioapiqueue.threads import Blocking, blocking
from aioapiqueue.threads.spi import refuse_to_block

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue import ApiQueue, Slot
    from aioapiqueue.integrations._http import HttpPacer
    from aioapiqueue.spi import Cost
    from aioapiqueue.threads import BlockingSlot


class AsyncSteps:
    """The steps of a `Wire` that use the queue, for async clients.

    Args:
        pacer: the client's `HttpPacer`.
    """

    def __init__(self, pacer: HttpPacer) -> None:
        self._pacer = pacer

    async def join(self, key: Hashable, cost: Cost, *, priority: float = 0) -> Slot:
        """Wait for a slot, and return it. Cancelling the wait uses no slot."""
        pacer = self._pacer
        if pacer.needs_to_prepare(cost):
            pacer.prepare(cost)
        return await Reporter.request(
            pacer.queue.enqueue,
            key=key,
            cost=cost,
            priority=priority,
            timeout=pacer.timeout,
        )

    async def again(self, slot: Slot, cost: Cost) -> Slot:
        """Wait for another slot in the call's old place, and return it; cancelling uses no slot."""
        return await slot.again(cost=cost, timeout=self._pacer.timeout)

    def apply(self, slot: Slot, change: Callable[[Slot], None]) -> None:
        """Call `change(slot)`."""
        change(slot)


def as_blocking(queue: ApiQueue | Blocking) -> Blocking:
    """Return a queue as threads use it."""
    return queue if isinstance(queue, Blocking) else blocking(queue)


def queue_in(queue: ApiQueue | Blocking) -> ApiQueue:
    """Return a queue as coroutines use it."""
    return queue.queue if isinstance(queue, Blocking) else queue


class BlockingSteps:
    """The steps of a `Wire` that use the queue, for synchronous clients in any number of threads.

    Args:
        pacer: the client's `HttpPacer`.
        through: the result of `blocking(queue)` for the queue of the pacer.
    """

    def __init__(self, pacer: HttpPacer, through: Blocking) -> None:
        self._pacer = pacer
        self._through = through

    def join(self, key: Hashable, cost: Cost, *, priority: float = 0) -> BlockingSlot:
        """Wait for a slot, and return it. KeyboardInterrupt during the wait uses no slot."""
        pacer, through = self._pacer, self._through
        if pacer.needs_to_prepare(cost):
            refuse_to_block()  # before `call`, which waits for the thread of the loop
            through.call(pacer.prepare, cost)
        return Reporter.request(
            through.slot,
            key=key,
            cost=cost,
            priority=priority,
            timeout=pacer.timeout,
        ).__enter__()

    def again(self, slot: BlockingSlot, cost: Cost) -> BlockingSlot:
        """Wait for another slot in the call's old place, and return it.

        KeyboardInterrupt during the wait uses no slot.
        """
        return slot.again(cost=cost, timeout=self._pacer.timeout).__enter__()

    def apply(self, slot: BlockingSlot, change: Callable[[Slot], None]) -> None:
        """Schedule `change(slot)` in the thread of the event loop."""
        slot.apply(change)
