"""One attempt of a client, which waits and then is in flight: `Request`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioapiqueue.integrations.spi import MAX_HOLD, apply_advice, shortened
from aioapiqueue.registry.spi import AHEAD, is_host
from aioapiqueue.spi import CALLS, Reporter

if TYPE_CHECKING:
    import asyncio

    from aioapiqueue import Slot
    from aioapiqueue.integrations.spi import Advice
    from aioapiqueue.registry import PacedCall
    from aioapiqueue_run.hub.records import CallStats, Kind, ProcessLoad

__all__ = ["Request"]

_ONE_CALL: Mapping[str, float] = {CALLS: 1}


@dataclass(slots=True, eq=False)
class Request:
    """An HTTP attempt: waiting for its slot, then in flight.

    Attributes:
        client: the calling process.
        kind: what is called.
        stats: counts of its kind of call.
        needs: its queue, keys and cost; None if no limit applies.
        paced: whether it waits for its limits.
        ahead: whether it overtakes all waiting calls.
        again: whether it had a turn that it could not use; it then overtakes all but `ahead` calls.
        slot: its slot, once granted.
        under_way: whether it has started.
        started_at: when it started, as `time.monotonic()`.
        throttled: whether the server throttled it; None until the response has been read.
    """

    client: ProcessLoad
    kind: Kind
    stats: CallStats
    needs: PacedCall | None
    paced: bool
    ahead: bool
    again: bool = False
    slot: Slot | None = None
    under_way: bool = False
    started_at: float = 0.0
    throttled: bool | None = None
    _waits_for: asyncio.Future[Slot] | None = None

    @property
    def costs(self) -> Mapping[str, float]:
        """Its cost by unit, calls first."""
        if self.needs is None or self.needs.cost == 1:
            return _ONE_CALL
        cost = self.needs.cost
        return {CALLS: 1, **cost} if isinstance(cost, Mapping) else {CALLS: cost}

    @property
    def waited(self) -> float:
        """Seconds that it has waited for its slot."""
        return 0.0 if self.slot is None else self.slot.waited

    def join(self) -> asyncio.Future[Slot] | None:
        """Join the queue; return a future of the slot, or None if the attempt may start at once.

        Raises:
            Exception: an exception of the queue.
        """
        if self.needs is None or not self.paced:
            return None
        queue, keys, cost = self.needs
        # What a host reports as remaining is compared with the calls in flight: so these are
        # tracked before the first response.
        if is_host(self.kind.service):
            Reporter(queue).track()
        priority = AHEAD if self.ahead else -int(self.again)
        future = self._waits_for = queue.enqueue(keys=keys, cost=cost, priority=priority)
        if not future.done():
            return future
        self.take_slot()  # raises here if the queue has refused the attempt
        return None

    def take_slot(self) -> None:
        """Take the slot that the request waited for.

        Raises:
            Exception: the reason if the queue has refused it.
        """
        if self._waits_for is not None:
            self.slot = self._waits_for.result()
            self._waits_for = None

    def advise(self, advice: Advice) -> None:
        """Apply the advice of the response to the queue."""
        self.throttled = advice.throttled
        if self.slot is not None and self.needs is not None:
            # Bounded here, too: the client may be any program that speaks the protocol.
            apply_advice(
                shortened(advice, MAX_HOLD),
                self.slot,
                Reporter(self.needs.queue),
                max_hold=MAX_HOLD,
            )

    def answered(self) -> None:
        """Note that the server has answered: later reports of its quota include this attempt."""
        if self.slot is not None and self.needs is not None:
            Reporter(self.needs.queue).answered(self.slot)

    def release(self) -> None:
        """Release the slot."""
        if self.slot is not None:
            self.slot.release()

    def withdraw(self) -> None:
        """Leave the queue, or return the unused slot."""
        future, self._waits_for = self._waits_for, None
        # Cancelling the future leaves the queue, or returns a slot that has just been granted.
        if future is not None and not future.cancel() and not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not log it
        if self.slot is not None and self.needs is not None:
            # Nothing was sent: the slot costs nothing in any unit.
            cost = self.needs.cost
            units = cost if isinstance(cost, Mapping) else ()
            self.slot.settle({CALLS: 0} | dict.fromkeys(units, 0))
            self.slot.release()
