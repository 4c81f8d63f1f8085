"""How clients that await use slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.spi import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue import Slot
    from aioapiqueue.integrations._http import HttpPacer
    from aioapiqueue.spi import Cost


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
