"""What `aioapiqueue.threads` needs of a queue beyond the queue's public methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from aioapiqueue._core.queue import dispatcher_of
from aioapiqueue._core.slot import GRANTED, Reservation, keys_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Sequence

    from aioapiqueue._core.dispatcher import Dispatcher
    from aioapiqueue._core.double_pacing import WatchedSlot
    from aioapiqueue._core.queue import ApiQueue
    from aioapiqueue._core.slot import Call, Slot
    from aioapiqueue._limits.units import Cost

T = TypeVar("T")


class ThreadAccess:
    """A queue, as threads reach it.

    The checks run in the caller's thread, which receives their errors; the loop could only log
    them. `control`, `try_reserve` and `abandon_loop` run in the loop's thread only.

    Attributes:
        queue: the queue.
    """

    __slots__ = ("_dispatcher", "queue")

    def __init__(self, queue: ApiQueue) -> None:
        self.queue = queue
        self._dispatcher = dispatcher_of(queue)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the queue is bound to, which may be closed; None: no loop yet."""
        return self._dispatcher.loop.current

    @staticmethod
    def keys_of(key: Hashable, keys: Sequence[Hashable] | None) -> tuple[Hashable, ...]:
        """Return the keys of a call, or refuse them; see `ApiQueue.slot`."""
        return keys_of(key, keys)

    def watch(self, slot: WatchedSlot) -> None:
        """Check a new slot of a thread for double pacing, as `ApiQueue.slot` does."""
        self.queue._note_slot(slot)  # noqa: SLF001 - this class is the queue's other half

    def costs_of(self, cost: Cost) -> tuple[float, ...]:
        """Return a cost by unit, or refuse it."""
        return self._dispatcher.units.costs_of(cost)

    def calls_of_settled(self, cost: Cost, calls: float) -> float:
        """Return the number of calls in a true cost, or refuse the cost; see `Slot.settle`."""
        return self._dispatcher.units.settled(cost, (calls,))[0]

    def check_unit(self, unit: str) -> None:
        """Refuse a unit that the queue does not know."""
        self._dispatcher.units.known_place_of(unit)

    def check_throttled(self, key: Hashable, keys: Sequence[Hashable]) -> None:
        """Refuse a pattern where a key is meant; see `Slot.throttled`."""
        if key not in keys:
            self._dispatcher.unknown_keys.refuse_pattern(key)

    def check_lane(self, key: Hashable) -> None:
        """Refuse a key that is about to get limits, or warn of a typo; see `set_rate`."""
        self._dispatcher.unknown_keys.check_lane(key)

    def control(self, do: Callable[[Dispatcher], T]) -> T:
        """Control the queue, as its own methods do."""
        return self.queue._control(do)  # noqa: SLF001 - as above

    def try_reserve(self, **arguments: Any) -> asyncio.Future[Slot]:  # noqa: ANN401 - as `try_slot`
        """Return a slot that is free now, as `enqueue` would: it is refunded until it is used."""
        call = cast("Call", self.queue.try_slot(**arguments))
        call.state = GRANTED
        future = Reservation(call, loop=self._dispatcher.loop.current)
        future.set_result(call)
        return future

    def abandon_loop(self) -> tuple[object, ...]:
        """Forget the loop, in a child process made by `fork`; see `Dispatcher.abandon_loop`."""
        return self._dispatcher.abandon_loop()
