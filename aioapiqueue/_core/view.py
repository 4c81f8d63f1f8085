"""`ApiQueue.limiter`: a queue with the interface of other limiters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._core.slot import NO_KEYS

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue._core.nesting import Nesting
    from aioapiqueue._core.slot import Slot
    from aioapiqueue._limits.cost_units import Cost


class Paces(Protocol):
    """The part of a queue that a view uses."""

    @property
    def closed(self) -> bool:
        """Whether the queue accepts no more calls."""

    def slot(self, *, keys: Sequence[Hashable] | None, priority: float = 0, cost: Cost = 1) -> Slot:
        """Wait for a slot, run the body of `async with`, and end the call."""

    def estimate(
        self, *, keys: Sequence[Hashable] | None, priority: float = 0, cost: Cost = 1
    ) -> float:
        """Estimate how many seconds a new call would wait."""


class LimiterView:
    """A queue as a limiter for one kind of call, from `ApiQueue.limiter`.

    You can keep it, share it and enter it any number of times, from many tasks at once.
    """

    __slots__ = ("_entered", "_keys", "_nesting", "_priority", "_queue", "_unit")

    def __init__(
        self,
        queue: Paces,
        nesting: Nesting,
        *,
        keys: Sequence[Hashable] | None,
        priority: float,
        unit: str | None,
    ) -> None:
        self._queue = queue
        self._nesting = nesting
        self._keys = keys
        self._priority = priority
        self._unit = unit
        # By task, because several tasks may be inside at once, and one of them several times.
        self._entered: dict[asyncio.Task[object] | None, list[Slot]] = {}

    def __repr__(self) -> str:
        keys = "" if self._keys is None else f", keys={tuple(self._keys)!r}"
        return f"<LimiterView of {self._queue!r}: unit={self._unit or 'calls'!r}{keys}>"

    def _cost(self, amount: float) -> Cost:
        return amount if self._unit is None else {self._unit: amount}

    def _slot(self, amount: float) -> Slot:
        cost = self._cost(amount)
        return self._queue.slot(keys=self._keys, priority=self._priority, cost=cost)

    async def __aenter__(self) -> Slot:
        slot = self._slot(1)
        await slot.__aenter__()
        # Noted only now: a call that is cancelled while it waits is never exited.
        self._entered.setdefault(asyncio.current_task(), []).append(slot)
        return slot

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        task = asyncio.current_task()
        if task not in self._entered:
            # An async generator may be closed by another task than the one that entered it.
            over = [one for one in self._entered if one is not None and one.done()]
            task = next(iter(over or self._entered), None)
            if task is None:
                raise RuntimeError(f'{self!r} has not been entered: write "async with limiter:"')
        slots = self._entered[task]
        # The last one: blocks of one task are left in the reverse order.
        slots.pop().__exit__(exc_type, exc, traceback)
        if not slots:  # else the dictionary would keep each task alive
            del self._entered[task]

    async def acquire(self, amount: float = 1) -> None:
        """Wait until this amount is available, and use it.

        There is nothing to release. A caller that is cancelled while it waits uses nothing.

        Args:
            amount: amount in the unit of the limiter; default 1. In a unit other than calls, each
                use also counts as one call.

        Raises:
            RuntimeError: a `Concurrency` limits these calls, and the queue would not know when one
                ends: write `async with limiter:`.
            ValueError: the amount is invalid, or larger than a limit ever allows.
            QueueFull: too many calls are waiting.
            QueueClosed: the queue is closed, or was closed while this call waited.

        >>> import asyncio
        >>> from aioapiqueue import ApiQueue
        >>> async def main():
        ...     loop = asyncio.get_running_loop()
        ...     limiter = ApiQueue("500/min burst 500", "100 tokens/s").limiter(unit="tokens")
        ...     for amount in (30, 50):
        ...         await limiter.acquire(amount)
        ...         print(f"{loop.time():.1f}")
        >>> asyncio.run(main())
        0.3
        0.8
        """
        if self._nesting.concerns(NO_KEYS if self._keys is None else self._keys):
            raise RuntimeError(
                f"{self._queue!r} limits how many calls run at once, but acquire() does not know "
                'when a call ends: write "async with limiter:" or "async with queue.slot():"'
            )
        async with self._slot(amount):
            pass  # no `Concurrency` applies, so it does not matter when the call ends

    def has_capacity(self, amount: float = 1) -> bool:
        """Return whether this amount is available now, without waiting.

        Calls that are already waiting come first, unless all of them are less urgent.

        Args:
            amount: as in `acquire`.

        Raises:
            ValueError: as in `acquire`.
        """
        # Permits are looked at here, because the estimate does not know when one will be free.
        if self._queue.closed or self._nesting.full(NO_KEYS if self._keys is None else self._keys):
            return False
        cost = self._cost(amount)
        return self._queue.estimate(keys=self._keys, priority=self._priority, cost=cost) <= 0
