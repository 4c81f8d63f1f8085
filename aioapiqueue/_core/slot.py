"""A call and its slot: one object, which waits in the queue, then runs, then has ended.

`Slot` is the public interface. The modules of the core work with the `Call` behind it. It is one
object for both, because one more for each of 100,000 waiting calls would take too much memory.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, Self

from aioapiqueue._limits.checks import LONGEST, check_count, positive
from aioapiqueue._limits.cost_units import ONE_CALL
from aioapiqueue._limits.grammar import CALLS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.loops import BoundLoop
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.cost_units import Cost

NEW, WAITING, GRANTED, HELD, OVER, LEFT = range(6)
"""The states of a call, in this order. LEFT: it left the queue, or refunded its slot, unused."""

UNKNOWN = object()
"""The outcome of a body whose slot was released with `release()`."""

NO_KEYS: tuple[Hashable, ...] = (None,)
"""The keys of a call without a key."""


def keys_of(key: Hashable, keys: Sequence[Hashable] | None) -> tuple[Hashable, ...]:
    """Return the keys of a call, checked and without duplicates; at least one.

    Raises:
        TypeError: both arguments are given, a key is not hashable, or `keys` is a string, whose
            letters would each be a key.
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
        hash(several)  # which needs the hash of each
        # Each key once, in its order: a call is charged once to a lane, however often it names it.
        return several if len(several) == 1 else tuple(dict.fromkeys(several)) or NO_KEYS
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
    """The part of the dispatcher that calls use; see `Dispatcher`."""

    loop: BoundLoop
    ended: int
    """Number of calls that have ended."""
    follows_ends: bool
    """Whether `finished` must be called when a body ends; otherwise counting it is enough."""

    def try_start(self, call: Call) -> bool:
        """Start a new call if it need not wait."""

    @property
    def join(self) -> Callable[[Call, asyncio.Future[Any]], None]:
        """Adds a new call to the queue; the Future is resolved with the call when it may start."""

    def leave(self, call: Call, kind: EventKind) -> None:
        """Take a waiting call out of the queue, without a slot."""

    def refund(self, call: Call) -> None:
        """Take back a granted slot whose caller was cancelled before it resumed."""

    def finished(self, call: Call, raised: object) -> None:
        """Process the end of a body; see `Call.finish`."""

    def throttled(self, retry_after: float | None, call: Call | None, key: Hashable) -> None:
        """Slow down, because the server throttled a call."""

    def settle(self, call: Call, cost: Cost) -> None:
        """Charge or refund the difference to the true costs of a call."""

    def sync(
        self,
        call: Call | None,
        remaining: float,
        *,
        unit: str,
        reset: float | None,
        limit: float | None,
    ) -> None:
        """Apply a remaining quota that the response to a call states."""

    def again(self, call: Call, cost: Cost | None, timeout: float | None) -> SlotFuture:
        """End a call, and queue it again in its old place."""


class Call(Slot):
    """One call, from `slot()` until its body ends, without key, priority and timeout.

    Made by `new`: for a class with slots, Python calls an `__init__` through C, and making a call
    would cost a quarter more.
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
    """Number by arrival. A call that does not wait gets one when an event first names it."""
    costs: tuple[float, ...]
    """Costs by unit."""
    dispatcher: CallOwner
    """The dispatcher of its queue."""
    future: asyncio.Future[Any]
    """Resolved when the call may start; an attribute only while the call waits."""
    joined_at: float
    """Time (loop clock) at which the call arrived."""
    limits: Any
    """The limits of the call, in a form that its limiter chooses; None: the queue's own limits."""
    line: Line[Self]
    """The line in which the call waits; an attribute only while it waits."""
    state: int
    """One of NEW to LEFT."""
    waited_until: float
    """Time (loop clock) at which the wait ended; a call that starts is charged as of then."""

    # Attributes of the class here, and of each instance in `DetailedCall`: most calls use these
    # defaults, and take neither the memory nor the time to set them.
    keys: tuple[Hashable, ...] = NO_KEYS
    priority: float = 0
    timeout: float | None = None
    """Longest wait in seconds; None: no timeout."""

    @classmethod
    def new(cls, dispatcher: CallOwner) -> Self:
        """Make a call for this dispatcher."""
        call = cls()
        call.dispatcher = dispatcher
        call.costs = ONE_CALL
        call.limits = None
        call.state = NEW
        return call

    @classmethod
    def of(cls, call: Call) -> Self:
        """Return the same call, which must be of this class.

        Raises:
            TypeError: it was made by a queue of another kind.
        """
        if not isinstance(call, cls):
            raise TypeError(f"{call!r} was made by a queue of another kind")
        return call

    @property
    def key(self) -> Hashable:
        """The first key of the call."""
        return self.keys[0]

    @property
    def cost(self) -> float:
        """The cost that the call was charged, in calls."""
        return self.costs[0]

    @property
    def waited(self) -> float:
        """Seconds that the call waited; 0.0 while it is waiting."""
        return 0.0 if self.state <= WAITING else self.waited_until - self.joined_at

    @property
    def waits(self) -> bool:
        """Whether the call waits, and was neither granted nor cancelled."""
        # Cancelling a task cancels the Future at once, but `close` sets the state to LEFT only when
        # the task runs again. Until then, the Future alone tells that the call will never start.
        return self.state == WAITING and not self.future.done()

    @property
    def holds(self) -> bool:
        """Whether the body runs."""
        return self.state == HELD

    @property
    def is_over(self) -> bool:
        """Whether the body will not run any more."""
        return self.state > HELD

    @property
    def started(self) -> bool:
        """Whether the body has begun; it may have ended."""
        return HELD <= self.state <= OVER

    def claim(self) -> None:
        """Begin the body of a call whose slot was granted."""
        self.state = HELD

    def check_before_waiting(self) -> None:
        """Refuse to wait if the task would wait for itself; see `_core/nesting.py`."""

    # A call that must wait is its own awaitable and iterator. A coroutine would be shorter, but it
    # takes 264 bytes for each waiting call, and 100,000 calls would take more memory than as many
    # tasks that wait for an asyncio.Event.

    def __aenter__(self) -> Awaitable[Self]:
        if self.state == NEW:
            dispatcher = self.dispatcher
            if not dispatcher.try_start(self):
                # Only now: most calls need no Future, and `try_start` has bound the queue to the
                # running loop, for which asyncio.Future() would have to search.
                join = dispatcher.join  # a local, for the reason in `Dispatcher.try_start`
                join(self, asyncio.Future(loop=dispatcher.loop.current))
                return self  # type: ignore[return-value]  # as __await__ says
        elif self.state != HELD:  # a slot of `try_slot` is held when it is entered
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
        # A Future that is pending yields itself to the task, which calls this again when it is
        # done. One that has failed raises its error here.
        try:  # costs nothing unless it raises
            return next(iter(self.future))
        except AttributeError:  # the call has not joined, or was granted before
            raise TypeError(
                'a slot cannot be awaited: write "async with queue.slot():", or '
                '"await queue.enqueue()" for a slot that you release yourself'
            ) from None

    # `close` and `throw` make it an iterator that a coroutine can delegate to: the interpreter
    # calls them when the coroutine is closed, or cancelled.

    def throw(self, error: BaseException, *_: object) -> None:
        """End the wait with an error; called by the task that awaits this call."""
        self.close()
        raise error

    def close(self) -> None:
        """Leave the queue, or refund a granted slot; called when the awaiting task ends."""
        if self.state == WAITING:
            self.dispatcher.leave(self, "cancelled")
        elif self.state == GRANTED:
            self.dispatcher.refund(self)
        # Otherwise its body has begun, or it has left: there is nothing to give back.

    # A coroutine, although it never waits: one shared Future that is done, in place of it, is
    # faster on CPython 3.11 and slower on 3.13. Named arguments, because gathering them into a
    # tuple (*args) takes longer.
    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        if self.state == HELD:  # the same as `finish`, inlined: each slot ends here
            self.state = OVER
            dispatcher = self.dispatcher
            if dispatcher.follows_ends:
                dispatcher.finished(self, exc_type)
            else:
                dispatcher.ended += 1

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
            raised: type of the exception that the body raised; None: it raised nothing; UNKNOWN:
                the slot was released by hand.
        """
        if self.state == HELD:  # else it has ended: `release()` within `async with` is allowed
            self.state = OVER
            dispatcher = self.dispatcher
            if dispatcher.follows_ends:
                dispatcher.finished(self, raised)
            else:
                dispatcher.ended += 1  # all that most queues need: no call for it

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the server throttled this call; see `Slot.throttled`."""
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
        """Report the remaining quota; see `Slot.sync`."""
        if not self.started:
            raise RuntimeError("sync() works only after the call has started")
        check_count(remaining, reset, limit)
        self.dispatcher.sync(self, remaining, unit=unit, reset=reset, limit=limit)

    def again(
        self, *, cost: Cost | None = None, timeout: float | None = None
    ) -> asyncio.Future[Slot]:
        """Queue the call again; see `Slot.again`."""
        if self.state != HELD:
            raise RuntimeError("again() works only while the call is running")
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)
        return self.dispatcher.again(self, cost, timeout)

    def __repr__(self) -> str:
        state = ("new", "waiting", "granted", "held", "over", "left")[self.state]
        return f"<Slot {state} key={self.key!r} cost={self.cost:g}>"


class DetailedCall(Call):
    """A call with a key, a priority or a timeout."""

    __slots__ = ("keys", "priority", "timeout")

    @classmethod
    def new(
        cls,
        dispatcher: CallOwner,
        keys: tuple[Hashable, ...] = NO_KEYS,
        priority: float = 0,
        timeout: float | None = None,
    ) -> Self:
        """Make a call for this dispatcher.

        Args:
            dispatcher: the dispatcher of its queue.
            keys: all keys of the call.
            priority: lower goes first.
            timeout: longest wait in seconds; None: no timeout.
        """
        call = cls()
        call.dispatcher = dispatcher  # as in `Call`: super().new() would cost each slot more
        call.costs = ONE_CALL
        call.limits = None
        call.state = NEW
        call.keys = keys
        call.priority = priority
        call.timeout = timeout
        return call


class SlotFuture(asyncio.Future[Slot]):
    """The Future that `enqueue` returns: it refunds the slot if cancelled before it is claimed.

    A task that is cancelled after the slot was granted, but before it resumed, calls `cancel` too,
    although the Future is done by then.

    Args:
        call: the call of the slot.
        loop: the running loop.
    """

    def __init__(self, call: Call, *, loop: asyncio.AbstractEventLoop | None) -> None:
        super().__init__(loop=loop)
        self._call = call

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401 - as asyncio.Future's
        cancelled = super().cancel(msg)
        self._call.close()  # also if the Future was done: the slot may not have been claimed
        return cancelled

    def result(self) -> Slot:
        """Return the slot; the caller has to end it from now on."""
        slot = super().result()
        # `max`, because this may be called again after the call has ended.
        self._call.state = max(self._call.state, HELD)
        return slot

    def __await__(self) -> Generator[Any, None, Slot]:
        if not self.done():
            try:
                self._call.check_before_waiting()
            except BaseException:
                self.cancel()  # the task will never claim the slot
                raise
        yield from super().__await__()  # returns the slot without claiming it
        return self.result()

    __iter__ = __await__
