"""What `aioapiqueue.threads` needs of a queue that is used from other threads than its loop's."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aioapiqueue._core.queue import control, dispatcher_of, note_turn
from aioapiqueue._core.slot import GRANTED, Reservation

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable

    from aioapiqueue._core.dispatcher import Dispatcher
    from aioapiqueue._core.double_pacing import Turn
    from aioapiqueue._core.queue import ApiQueue
    from aioapiqueue._core.slot import Call, Slot
    from aioapiqueue._limits.units import Cost

__all__ = ["ThreadAccess"]


class ThreadAccess:
    """A queue, for code in other threads than the one of its loop.

    Args:
        queue: the queue that threads use.
    """

    __slots__ = ("_dispatcher", "_queue")

    def __init__(self, queue: ApiQueue) -> None:
        self._queue = queue
        self._dispatcher = dispatcher_of(queue)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the queue is in use on; None: it was not used yet."""
        return self._dispatcher.loop.current

    def abandon_loop(self) -> tuple[object, ...]:
        """Forget the loop and its calls, in a child made by `fork`; see `Dispatcher`."""
        return self._dispatcher.abandon_loop()

    # In any thread: these only read, so that the caller's thread gets the error.

    def check_key(self, key: Hashable) -> None:
        """Refuse a pattern, and a key that a strict queue does not know."""
        self._dispatcher.unknown_keys.refuse_pattern(key)

    def check_unit(self, unit: str) -> None:
        """Refuse a unit that no limit of the queue counts."""
        self._dispatcher.units.known_place_of(unit)

    def costs_of(self, cost: Cost) -> tuple[float, ...]:
        """Return costs by place, as `Units.costs_of` does."""
        return self._dispatcher.units.costs_of(cost)

    def settled_calls(self, cost: Cost, calls: float) -> float:
        """Return how many calls a call counts as after `settle(cost)`; before, it was `calls`."""
        return self._dispatcher.units.settled(cost, (calls,))[0]

    # In the thread of the loop.

    def control(self, do: Callable[[Dispatcher], None]) -> None:
        """Control the queue, as its own methods do."""
        control(self._queue, do)

    def note_turn(self, slot: Turn) -> None:
        """Note a thread's slot, to detect calls that are paced twice."""
        note_turn(self._queue, slot)

    def reserve(self, slot: Slot, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Slot]:
        """Return a slot from `try_slot` as `enqueue` would: it is refunded unless it is used."""
        call = cast("Call", slot)
        future = Reservation(call, loop=loop)
        call.state = GRANTED
        future.set_result(call)
        return future
