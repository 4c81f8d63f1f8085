"""A call and its slot: what waits in the queue, then is the permission, then holds the place.

`Slot` is what users see. A `Call` behind it is what the modules underneath work on: one object for
both, as 100,000 waiters with one object more each would take too much memory.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, Self

from aioapiqueue._limits.checks import LONGEST, check_count, positive
from aioapiqueue._limits.grammar import CALLS
from aioapiqueue._limits.units import ONE_CALL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Hashable, Sequence

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.loop import BoundLoop
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.units import Cost

__all__ = [
    "GRANTED",
    "HELD",
    "LEFT",
    "NEW",
    "NO_KEYS",
    "OVER",
    "UNKNOWN",
    "WAITING",
    "Call",
    "CallOwner",
    "DetailedCall",
    "Reservation",
    "Slot",
    "keys_of",
]

NEW, WAITING, GRANTED, HELD, OVER, LEFT = range(6)
"""The states of a call. It has left if it waits no more and never started."""

UNKNOWN = object()
"""How a body has ended that nobody says anything of."""

NO_KEYS: tuple[Hashable, ...] = (None,)
"""The keys of a call without one."""


def keys_of(key: Hashable, keys: Sequence[Hashable] | None) -> tuple[Hashable, ...]:
    """Return the keys of a call, checked: at least one, none of them twice.

    Raises:
        TypeError: both; one that is not hashable, which only a call that has to wait would be
            refused for; or a string as `keys`, which would be as many keys as it has letters.
    """
    if keys is None:
        several: tuple[Hashable, ...] = (key,)
    elif key is not None:
        raise TypeError(f"pass key= or keys=, not both: keys=({key!r}, ...)")
    elif isinstance(keys, str | bytes):
        raise TypeError(
            f"keys must be a tuple or list of keys: write key={keys!r} or keys=({keys!r},)"
        )
    else:
        several = tuple(keys)
    try:
        return tuple(dict.fromkeys(several)) or NO_KEYS
    except TypeError as error:
        raise TypeError(
            f"a key must be hashable, such as a string or a tuple of strings: {error}, in "
            f"{key if keys is None else keys!r}"
        ) from None


class Slot(ABC):
    """A call's permission to start, from `ApiQueue.slot`, `enqueue` or `try_slot`.

    `async with queue.slot() as slot:` yields it and ends it. End a slot from `enqueue` or
    `try_slot` yourself, with `release()`, `with slot:` or `async with slot:`.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def priority(self) -> float:
        """Priority of the call; lower goes first."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """The first key of the call."""

    @property
    @abstractmethod
    def cost(self) -> float:
        """The cost that the call was charged, in calls."""

    @property
    @abstractmethod
    def waited(self) -> float:
        """Seconds that the call waited; 0.0 while it is waiting."""

    @abstractmethod
    def __aenter__(self) -> Awaitable[Self]: ...

    @abstractmethod
    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None: ...

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None: ...

    @abstractmethod
    def release(self) -> None:
        """End the call, which frees its permit under `concurrency`.

        Calling it again has no effect.
        """

    @abstractmethod
    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the server throttled this call (429).

        Prefer this to `ApiQueue.throttled`: the queue knows when this call started, so calls that
        started before the last slow-down do not slow it down again.

        Args:
            retry_after: seconds from now during which no call of the lane starts.
            key: key of the lane; default: the first key of the call that has a lane, or else the
                whole queue.

        Raises:
            ValueError: `retry_after` is negative, infinite or NaN; or `key` is a pattern.
        """

    @abstractmethod
    def settle(self, cost: Cost) -> None:
        """State the true cost of the call: the difference is charged or refunded.

        A refund lets later calls start sooner, but never so soon that they would exceed the limit
        together with the calls that have already started.

        You can settle after `release()`, and more than once: the last cost counts. An amount that a
        limit cannot refund, because other calls have since started or settled at a higher cost,
        stays charged.

        A rate counts the difference from now on, a window or calendar from the start of the call.

        Args:
            cost: amounts by unit, at least 0. Units that are not named keep their cost. A number
                means calls, if the queue counts nothing else.

        Raises:
            ValueError: the cost is negative, names an unknown unit, or is a number although the
                queue counts several units.
            RuntimeError: the call has not started.

        >>> async def main():
        ...     queue = ApiQueue("500/min burst 500", "1000 tokens/min burst 1000")
        ...     async with queue.slot(cost={"tokens": 800}) as slot:    # the most it can use
        ...         slot.settle({"tokens": 50})                         # what it used
        ...     return queue.estimate(cost={"tokens": 900})
        >>> asyncio.run(main())
        0.0
        """

    @abstractmethod
    def sync(
        self,
        remaining: float,
        *,
        unit: str = CALLS,
        reset: float | None = None,
        limit: float | None = None,
    ) -> None:
        """Report the remaining quota that the response to this call states.

        Until the reset, the queue starts at most this much, minus the cost of other calls in
        flight, which the server may not have counted yet. The queue thereby notices other users of
        the quota before the server throttles a call. The response to the most recently started
        call replaces earlier reports. After the reset, only the limits count.

        The report applies to the lane of the first key of the call that has a lane, or else to the
        whole queue. The queue tracks calls in flight from the first `sync` on; older ones are
        assumed to have the average cost.

        Args:
            remaining: remaining amount, at least 0.
            unit: unit of the quota; default `"calls"`.
            reset: seconds from now until the quota is full again. Default: the period of the limit
                that counts the unit (of the lane, or else of the queue), or a minute.
            limit: size of the quota, which tells quotas of the same unit apart, such as one per
                minute and one per day.

        Raises:
            ValueError: a number is negative, infinite or NaN; or the unit is unknown.
            RuntimeError: the call has not started.

        >>> import asyncio
        >>> async def main():
        ...     queue = ApiQueue("100/min burst 100")
        ...     async with queue.slot() as slot:            # the call; its response says
        ...         slot.sync(2, reset=30)                  # "remaining: 2, reset: 30"
        ...     return [(await queue.enqueue()).waited for _ in range(3)]
        >>> asyncio.run(main())
        [0.0, 0.0, 30.0]
        """

    @abstractmethod
    def again(
        self, *, cost: Cost | None = None, timeout: float | None = None
    ) -> asyncio.Future[Slot]:
        """Queue the call again, in its old place, because the server refused it.

        This releases the slot, and with it the permit. The call is charged again when it starts,
        because the server may have counted the first attempt. If the server did not count it,
        settle this slot to 0 afterwards.

        Args:
            cost: cost of the new attempt; default: the cost that this slot is charged.
            timeout: longest wait in seconds; default: no timeout.

        Returns:
            A Future of the new slot, as from `ApiQueue.enqueue`. Cancel it to leave the queue.

        Raises:
            SlotTimeout: as in `ApiQueue.enqueue`.
            QueueFull: too many calls are waiting.
            QueueClosed: the queue is closed.
            ValueError: the cost or timeout is invalid.
            TypeError: as in `ApiQueue.slot`.
            RuntimeError: the call has not started, or is over.
        """


class CallOwner(Protocol):
    """What a call asks of its dispatcher."""

    loop: BoundLoop
    ended: int
    """How many bodies have ended."""
    follows_ends: bool
    """Whether `finished` is to be called when one does: there is more to do than to count it."""

    def try_start(self, call: Call) -> bool:
        """Let a new call start if it need not wait."""

    def join(self, call: Call, future: asyncio.Future[Any]) -> None:
        """Let a new call wait; `future` is resolved with it when it may start."""

    def leave(self, call: Call, kind: EventKind) -> None:
        """Take out a call that waits no more."""

    def refund(self, call: Call) -> None:
        """Take back the slot of a call that has been granted and not taken up."""

    def finished(self, call: Call, raised: object) -> None:
        """Process the end of a body; see `Call.finish`."""

    def throttled(self, retry_after: float | None, call: Call | None, key: Hashable) -> None:
        """Process push-back on a call."""

    def settle(self, call: Call, cost: Cost) -> None:
        """Charge the difference to the true costs of a call that has started."""

    def sync(
        self,
        call: Call | None,
        remaining: float,
        *,
        unit: str,
        reset: float | None,
        limit: float | None,
    ) -> None:
        """Let no more start than the server says in the answer to a call."""

    def again(self, call: Call, cost: Cost | None, timeout: float | None) -> Reservation:
        """Release a call, and let it wait once more, in its old place."""


class Call(Slot):
    """One call, from `slot()` until its body ends; by itself one that asks for nothing special.

    Args:
        dispatcher: where it waits.
    """

    __slots__ = (
        "arrival",
        "costs",
        "dispatcher",
        "future",
        "joined_at",
        "limits",
        "line",
        "state",
        "waited_until",
    )

    arrival: int
    """Its number by arrival. A call that does not wait gets one when an event first names it."""
    costs: tuple[float, ...]
    """What it costs, by unit."""
    future: asyncio.Future[Any]
    """While it waits: resolved when it may start."""
    joined_at: float
    """The instant at which it came."""
    limits: Any
    """What it comes under, for the limiter; None: the queue's own limits."""
    line: Line[Self]
    """While it waits: where."""
    waited_until: float
    """The instant at which its wait ended; a call that may start is charged as of then."""

    # What a `DetailedCall` has of its own: most calls need neither the room nor the time for it.
    keys: tuple[Hashable, ...] = NO_KEYS
    """What kinds of call it is."""
    priority: float = 0
    timeout: float | None = None
    """Seconds that it waits at most."""

    def __init__(self, dispatcher: CallOwner) -> None:
        self.dispatcher = dispatcher
        self.costs = ONE_CALL
        self.limits = None
        self.state = NEW

    @classmethod
    def of(cls, call: Call) -> Self:
        """Return a call of which the caller knows that it is one of this class.

        Raises:
            TypeError: it is not: it was made by a queue of another kind.
        """
        if not isinstance(call, cls):
            raise TypeError(f"{call!r} was made by a queue of another kind")
        return call

    @property
    def key(self) -> Hashable:
        """The first of its keys."""
        return self.keys[0]

    @property
    def cost(self) -> float:
        """Its cost in calls."""
        return self.costs[0]

    @property
    def waited(self) -> float:
        """Seconds that it waited; 0.0 while it waits."""
        return 0.0 if self.state <= WAITING else self.waited_until - self.joined_at

    @property
    def waits(self) -> bool:
        """Whether it still waits."""
        return self.state == WAITING and not self.future.done()

    @property
    def holds(self) -> bool:
        """Whether its body runs."""
        return self.state == HELD

    @property
    def is_over(self) -> bool:
        """Whether its body will not run any more."""
        return self.state > HELD

    @property
    def started(self) -> bool:
        """Whether its body has begun."""
        return HELD <= self.state <= OVER

    def claim(self) -> None:
        """Take up a slot that was granted: its body runs from now on."""
        self.state = HELD

    def check_before_waiting(self) -> None:
        """Refuse to wait where the task would wait for itself; see `_core/nesting.py`."""

    # A call that must wait is its own awaitable. A coroutine would do the same in fewer words and
    # 264 bytes a waiter: 100,000 of them would take more memory than as many tasks on an Event.

    def __aenter__(self) -> Awaitable[Self]:
        if self.state == NEW:
            dispatcher = self.dispatcher
            if not dispatcher.try_start(self):
                dispatcher.join(self, asyncio.Future(loop=dispatcher.loop.current))
                return self  # type: ignore[return-value]  # as __await__ says
        elif self.state != HELD:
            raise RuntimeError("a slot is for one call: call queue.slot() again for the next")
        return self._entered()

    async def _entered(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self  # type: ignore[return-value]  # an iterator is all that await needs

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> asyncio.Future[Self]:
        if self.state == GRANTED:
            self.state = HELD
            raise StopIteration(self)
        try:  # costs nothing where nothing is raised, so that proper use does not pay for it
            return next(iter(self.future))
        except AttributeError:  # it has not joined, or has been granted before
            raise TypeError(
                'a slot cannot be awaited: write "async with queue.slot():", or '
                '"await queue.enqueue()" for a slot that you release yourself'
            ) from None

    def throw(self, error: BaseException, *_: object) -> None:
        """For the awaiting task, which is cancelled, timed out or refused."""
        self.close()
        raise error

    def close(self) -> None:
        """For the awaiting task, which ends: leave, or refund the slot not yet taken up."""
        if self.state == WAITING:
            self.dispatcher.leave(self, "cancelled")
        elif self.state == GRANTED:
            self.dispatcher.refund(self)

    # Arguments by name: to gather them into a tuple takes longer.
    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.finish(exc_type)

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.finish(exc_type)

    def __enter__(self) -> Self:
        if self.state != HELD:
            if self.state > HELD:
                raise RuntimeError("this slot has ended: call queue.slot() again for the next call")
            raise RuntimeError(
                '"with" does not wait for a slot: write "async with queue.slot():", or in threads '
                '"with blocking(queue).slot():" (aioapiqueue.threads)'
            )
        return self

    def release(self) -> None:
        """End the call; see `Slot.release`."""
        self.finish(UNKNOWN)

    def finish(self, raised: object) -> None:
        """End the call, if it has not ended.

        Args:
            raised: the type of what its body has raised; None: nothing; UNKNOWN: nobody says.
        """
        if self.state == HELD:
            self.state = OVER
            dispatcher = self.dispatcher
            if dispatcher.follows_ends:
                dispatcher.finished(self, raised)
            else:
                dispatcher.ended += 1

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report push-back on this call; see `Slot.throttled`."""
        if retry_after is not None:
            positive(retry_after, of="retry_after", least=0, most=LONGEST)
        self.dispatcher.throttled(retry_after, self, self.key if key is None else key)

    def settle(self, cost: Cost) -> None:
        """State the true cost; see `Slot.settle`."""
        if not self.started:
            raise RuntimeError("settle() works only after the call has started")
        self.dispatcher.settle(self, cost)

    def sync(
        self,
        remaining: float,
        *,
        unit: str = CALLS,
        reset: float | None = None,
        limit: float | None = None,
    ) -> None:
        """Report what is left of a quota; see `Slot.sync`."""
        if not self.started:
            raise RuntimeError("sync() works only after the call has started")
        check_count(remaining, reset, limit)
        self.dispatcher.sync(self, remaining, unit=unit, reset=reset, limit=limit)

    def again(
        self, *, cost: Cost | None = None, timeout: float | None = None
    ) -> asyncio.Future[Slot]:
        """Wait once more, in the old place; see `Slot.again`."""
        if self.state != HELD:
            raise RuntimeError("again() works only while the call is running")
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
        return self.dispatcher.again(self, cost, timeout)

    def __repr__(self) -> str:
        state = ("new", "waiting", "granted", "held", "over", "left")[self.state]
        return f"<Slot {state} key={self.key!r} cost={self.cost:g}>"


class DetailedCall(Call):
    """A call with a key, a priority or a time-out.

    Args:
        dispatcher: where it waits.
        keys: what kinds of call it is.
        priority: lower goes first.
        timeout: seconds that it waits at most; None: any time.
    """

    __slots__ = ("keys", "priority", "timeout")

    def __init__(
        self,
        dispatcher: CallOwner,
        keys: tuple[Hashable, ...] = NO_KEYS,
        priority: float = 0,
        timeout: float | None = None,
    ) -> None:
        self.dispatcher = dispatcher  # not by the inherited method: this is done for each slot
        self.costs = ONE_CALL
        self.limits = None
        self.state = NEW
        self.keys = keys
        self.priority = priority
        self.timeout = timeout


class Reservation(asyncio.Future[Slot]):
    """What `enqueue` returns: a Future that refunds its slot if cancelled before it is claimed.

    A task that awaits it and is cancelled between the tick and its resumption calls `cancel` too,
    although the future is done by then.

    Args:
        call: whose slot.
        loop: the running one.
    """

    def __init__(self, call: Call, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._call = call

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401 - as asyncio.Future's
        cancelled = super().cancel(msg)
        self._call.close()
        return cancelled

    def result(self) -> Slot:
        """Return the slot, which is the caller's from now on."""
        slot = super().result()
        self._call.state = max(self._call.state, HELD)
        return slot

    def __await__(self) -> Generator[Any, None, Slot]:
        if not self.done():
            try:
                self._call.check_before_waiting()
            except BaseException:
                self.cancel()  # it would wait for itself: nobody is left to claim the slot
                raise
        yield from super().__await__()
        return self.result()

    __iter__ = __await__
