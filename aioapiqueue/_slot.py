"""A caller's turn: what waits in the queue, and what the caller holds while its call runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from aioapiqueue._rate import positive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Hashable

    from aioapiqueue._dispatcher import Dispatcher
    from aioapiqueue._wait_queue import KeyQueue

__all__ = ["GRANTED", "HELD", "NEW", "OVER", "WAITING", "Reservation", "Slot", "TimedSlot"]

NEW, WAITING, GRANTED, HELD, OVER = range(5)


class Slot:
    """A turn: one call's permission to start, from `ApiQueue.slot`, `enqueue` or `try_slot`.

    From `slot()` it is what `async with` yields. From `enqueue` or `try_slot` it is yours to end:
    by `release()`, or as a context manager of its own (`with slot:` or `async with slot:`).

    Attributes:
        key: what the call was keyed by.
        priority: lower goes first.
        cost: what the call has been charged.
        waited: seconds it waited for its turn.
    """

    __slots__ = (
        "_future",
        "_queue",
        "_since",
        "_state",
        "cost",
        "key",
        "line",
        "priority",
        "sequence",
        "waited",
    )

    _future: asyncio.Future[Self]
    """While it waits: resolved by the ticker."""
    _since: float
    """When it joined; once granted, when that was."""
    line: KeyQueue | None
    """While it waits: where. (Then a `Member` keeps here by which lease it was granted.)"""
    sequence: int

    _timeout: float | None = None
    """Seconds that it waits at most: of a `TimedSlot` only, so that the others need no room."""

    def __init__(self, queue: Dispatcher, key: Hashable, priority: float, cost: float) -> None:
        self._queue = queue
        self.key = key
        self.priority = priority
        self.cost = cost
        self._state = NEW
        self.waited = 0.0

    @property
    def waits(self) -> bool:
        """Whether it still waits for its turn."""
        return self._state == WAITING and not self._future.done()

    # A slot that must wait is its own awaitable. A coroutine would do the same in fewer words and
    # 264 bytes a waiter: 100,000 of them would take more memory than as many tasks on an Event.

    def __aenter__(self) -> Awaitable[Self]:
        if self._state == NEW:
            queue = self._queue
            if not queue._arrive(self):
                queue._join(self, asyncio.Future(loop=queue._loop))
                return self  # type: ignore[return-value]  # as __await__ says
        elif self._state != HELD:
            raise RuntimeError("a slot is for one call: ask the queue for another")
        return self._entered()

    async def _entered(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self  # type: ignore[return-value]  # an iterator is all that await needs

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> asyncio.Future[Self]:
        if self._state == GRANTED:
            self._state = HELD
            raise StopIteration(self)
        try:  # costs nothing where nothing is raised, so that who waits properly does not pay
            return next(iter(self._future))
        except AttributeError:  # it has not joined, or has had its turn
            raise TypeError(
                'a slot is not to be awaited: use "async with queue.slot():", or '
                '"await queue.enqueue()" for a slot that you release yourself'
            ) from None

    def throw(self, error: BaseException, *_: object) -> None:
        """For the awaiting task, which is cancelled, timed out or refused."""
        self.close()
        raise error

    def close(self) -> None:
        """For the awaiting task, which ends: leave, or hand on the turn not yet taken up."""
        if self._state == WAITING:
            self._queue._leave(self, "cancelled")
        elif self._state == GRANTED:
            self._queue._hand_on(self)

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __enter__(self) -> Self:
        if self._state != HELD:
            raise RuntimeError('no turn yet, or no longer: use "async with queue.slot():"')
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """End the call: its place under `concurrency` is free. Doing so again does nothing."""
        if self._state == HELD:
            self._state = OVER
            queue = self._queue
            queue._ended += 1
            if queue._heeds_ends:
                queue._finished(self)

    def throttled(self, retry_after: float | None = None) -> None:
        """Tell the queue that the other side pushed back on this call.

        As `ApiQueue.throttled`, and better: when this call was released is known, so that one
        released before the last slow-down does not slow down again.

        Args:
            retry_after: seconds from now in which nothing of this key starts.

        Raises:
            ValueError: `retry_after` is negative, infinite or NaN.
        """
        self._queue._throttled(retry_after, self)

    def settle(self, cost: float) -> None:
        """State the true cost, known now: the difference is charged, or given back.

        What is given back lets later calls start sooner, but never so that those which have
        started already would break the limit.

        >>> async def main():
        ...     queue = ApiQueue(Rate(1000, 60, burst=1000))        # tokens per minute
        ...     async with queue.slot(cost=800) as slot:            # the most it can be
        ...         slot.settle(50)                                 # the bill says 50
        ...     return queue.estimate(cost=900)
        >>> asyncio.run(main())
        0.0

        Args:
            cost: units, at least 0.

        Raises:
            ValueError: a negative cost.
            RuntimeError: the call has not started.
        """
        positive(cost, of="cost", least=0)
        if self._state not in (HELD, OVER):
            raise RuntimeError("only a call that has started has a true cost")
        self._queue._adjust(self, cost - self.cost)
        self.cost = cost

    def __repr__(self) -> str:
        state = ("new", "waiting", "granted", "held", "over")[self._state]
        return f"<Slot {state} key={self.key!r} cost={self.cost:g}>"


class TimedSlot(Slot):
    """A slot that its caller waits for only so long."""

    __slots__ = ("_timeout",)

    def __init__(
        self, queue: Dispatcher, key: Hashable, priority: float, cost: float, timeout: float
    ) -> None:
        super().__init__(queue, key, priority, cost)
        self._timeout = timeout


class Reservation(asyncio.Future[Slot]):
    """What `enqueue` returns: a Future that hands on its slot if cancelled before it is claimed.

    A task that awaits it and is cancelled between the tick and its resumption calls `cancel` too,
    although the future is done by then.
    """

    def __init__(self, slot: Slot, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._slot = slot

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401 - as asyncio.Future's
        cancelled = super().cancel(msg)
        self._slot.close()
        return cancelled

    def result(self) -> Slot:
        slot = super().result()
        slot._state = max(slot._state, HELD)
        return slot

    def __await__(self) -> Generator[Any, None, Slot]:
        yield from super().__await__()
        return self.result()

    __iter__ = __await__
