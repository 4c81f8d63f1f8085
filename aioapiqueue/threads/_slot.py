"""The slot of a thread: the thread waits on a lock, while a call waits in the queue for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

from aioapiqueue.spi import CALLS, checks
from aioapiqueue.threads._loop import (
    PATIENCE,
    background,
    check_alive,
    closed_gate,
    post,
    refuse_to_block,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue import Slot
    from aioapiqueue.spi import Cost, ThreadAccess
    from aioapiqueue.threads._loop import ThreadGate

_ONE_CALL = "a slot is for one call: call slot() again for the next"
_UNKNOWN = object()
"""The outcome of a slot that was released with `release()`."""


class BlockingSlot:
    """A call's permission to start in a thread, from `Blocking.slot` or `try_slot`.

    It is for one thread and one call.

    Attributes:
        key: first key of the call.
        priority: priority of the call; lower goes first.
        cost: cost that the call was charged, in calls; before its start, the requested cost.
        waited: seconds that the call waited.
    """

    # The loop's side writes `_slot` and `_error`, and then opens the gate; the thread's side reads
    # them after it has passed the gate. An interruption (KeyboardInterrupt) may fall anywhere, so
    # everything that ends a call may be posted twice. Doing it twice does no harm, but a call that
    # is never ended holds its place for ever.
    __slots__ = (
        "__weakref__",
        "_access",
        "_arguments",
        "_checks_loop",
        "_enqueued",
        "_entered",
        "_error",
        "_find_loop",
        "_fork_generation",
        "_gate",
        "_joined",
        "_loop",
        "_over",
        "_raised",
        "_request",
        "_slot",
        "_tries",
        "cost",
        "key",
        "priority",
        "waited",
    )

    _fork_generation: int
    _gate: ThreadGate
    _loop: asyncio.AbstractEventLoop
    _slot: asyncio.Future[Slot]

    def __init__(
        self,
        access: ThreadAccess,
        arguments: dict[str, Any],
        *,
        request: Callable[[], asyncio.Future[Slot]],
        tries: bool,
        loop: Callable[[], asyncio.AbstractEventLoop],
        checks_loop: bool,
    ) -> None:
        cost = arguments["cost"]
        self.key: Hashable = arguments["keys"][0]
        self.priority: float = arguments["priority"]
        self.cost: float = cost.get(CALLS, 1) if isinstance(cost, Mapping) else cost
        self.waited: float = 0.0
        self._access = access
        self._find_loop = loop
        self._checks_loop = checks_loop
        self._arguments = arguments
        self._request = request
        """Requests the slot from the queue, in the loop's thread."""
        self._tries = tries
        """Whether the request raises `WouldWait` instead of waiting."""
        self._error: Exception | None = None
        self._raised: object = _UNKNOWN
        """Type of the exception that the body raised; None: it raised nothing."""
        self._joined = self._enqueued = self._entered = self._over = False

    def join(self) -> None:
        """Join the queue now, and wait when the `with` block is entered.

        Raises:
            RuntimeError: as in `Blocking.slot`; or the slot has already joined.
        """
        if self._joined:
            raise RuntimeError(_ONE_CALL)
        if not self._tries:
            refuse_to_block()
        # Found only now: a slot may be made before a fork, and used after it.
        self._loop = self._find_loop()
        self._fork_generation = background.fork_generation
        self._gate = closed_gate()
        self._joined = True
        self._loop.call_soon_threadsafe(self._arrive)

    def __enter__(self) -> Self:
        if self._entered and self._tries and not self._over:
            return self  # `try_slot` has entered it already
        if self._entered or self._over:
            raise RuntimeError(_ONE_CALL)
        try:
            if not self._joined:  # `again` and botocore's clients have called `join` already
                self.join()
            self._wait()
        except BaseException:
            self._leave()
            raise
        # Nothing is called from here on, so an interruption comes before this line or in the body,
        # never in between.
        self._entered = True
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        if not self._over:
            self._raised = exc_type
        try:
            self.release()
        finally:
            self.release()  # again, in case the first was interrupted

    def __del__(self) -> None:
        if self._joined and not self._over:  # interrupted before its call could leave
            self._leave()

    def release(self) -> None:
        """End the call, as leaving the `with` block does. Calling it again has no effect."""
        if not self._over:
            self._leave()

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the server throttled this call (429); see `Slot.throttled`."""
        if retry_after is not None:
            checks.positive(retry_after, of="retry_after", least=0, most=checks.LONGEST)
        self._access.check_throttled(key, self._arguments["keys"])
        self.apply(lambda slot: slot.throttled(retry_after, key=key))

    def settle(self, cost: Cost) -> None:
        """State the true cost of the call; see `Slot.settle`."""
        costs = frozen(cost)
        # Checked here, because an error on the loop would reach only its exception handler.
        calls = self._access.calls_of_settled(costs, self.cost)
        self.apply(lambda slot: slot.settle(costs))
        self.cost = calls  # the loop may settle later, but the thread reads its own cost back

    def sync(
        self,
        remaining: float,
        *,
        unit: str = CALLS,
        reset: float | None = None,
        limit: float | None = None,
    ) -> None:
        """Report the remaining quota that the response to this call states; see `Slot.sync`."""
        checks.check_count(remaining, reset, limit)
        self._access.check_unit(unit)
        self.apply(lambda slot: slot.sync(remaining, unit=unit, reset=reset, limit=limit))

    def again(self, *, cost: Cost | None = None, timeout: float | None = None) -> BlockingSlot:
        """Queue the call again, in its old place, and end this slot; see `Slot.again`.

        Returns:
            The new slot, which has joined the queue. Its `with` block waits, and raises the same
            errors as the one of `Blocking.slot`.

        Raises:
            ValueError: the cost is invalid, or `timeout` is negative, infinite or NaN.
            TypeError: an amount is not a number.
            RuntimeError: the call has not started, or is over.
        """
        if timeout is not None:
            checks.positive(timeout, of="timeout", least=0, most=checks.LONGEST)
        if not self._entered or self._over:
            raise RuntimeError("again() works only while the call is running")
        arguments = {**self._arguments, "timeout": timeout}
        if cost is not None:
            arguments["cost"] = cost = frozen(cost)
            self._access.costs_of(cost)
        another = BlockingSlot(
            self._access,
            arguments,
            request=lambda: self._slot.result().again(cost=cost, timeout=timeout),
            tries=False,
            loop=self._find_loop,
            checks_loop=self._checks_loop,
        )
        if cost is None:
            another.cost = self.cost
        # If interrupted from here on, leaving this slot ends it, and the other leaves the queue
        # when it is collected.
        another.join()
        self._over = True
        return another

    # In the thread.

    def _wait(self) -> None:
        if not self._checks_loop:
            self._gate.acquire()
        else:
            while not self._gate.acquire(timeout=PATIENCE):
                check_alive(self._loop)
        if self._error is not None:
            # Removed from the slot to avoid a reference cycle: the error's traceback refers to this
            # frame, and so to the slot.
            error, self._error = self._error, None
            raise error
        # asyncio's own method: that of `SlotFuture` would claim the slot, in the wrong thread.
        self.waited = asyncio.Future.result(self._slot).waited

    def _leave(self) -> None:
        self._post(self._end if self._entered else self._give_up)
        self._over = True

    def apply(self, what: Callable[[Slot], None]) -> None:
        """Run a function with the `Slot` in the thread of the loop, without waiting for it.

        Args:
            what: the function; it must not block. Its errors go to the loop's exception handler.

        Raises:
            RuntimeError: the call has not started.
        """
        if not self._entered:
            raise RuntimeError("the call has not started: enter the slot's `with` block first")
        self._post(lambda: what(self._slot.result()))

    def _post(self, what: Callable[[], None]) -> None:
        # After a fork, the child's queue does not know the parent's calls.
        if self._joined and self._fork_generation == background.fork_generation:
            post(self._loop, what)

    # In the loop's thread.

    def _arrive(self) -> None:
        try:
            slot = self._request()
        except Exception as error:  # noqa: BLE001 - the waiting thread raises it
            self._error = error
            self._gate.release()
            return
        self._slot, self._enqueued = slot, True
        if slot.done():  # a callback would run only in the next pass of the loop
            self._gate.release()
        else:
            slot.add_done_callback(self._granted)

    def _granted(self, _: object) -> None:
        self._gate.release()

    def _end(self) -> None:
        raised = self._raised
        if raised is _UNKNOWN:
            self._slot.result().release()
        else:
            self._slot.result().__exit__(raised, None, None)

    def _give_up(self) -> None:
        # `_arrive` was posted earlier, if at all: a slot that is not enqueued by now never will be.
        if self._enqueued:
            self._slot.cancel()  # the call leaves the queue, or its slot is refunded


class WatchedThreadSlot:
    """A thread's slot that is checked for double pacing; see `spi.ThreadAccess.watch`.

    It does not keep the slot alive: a slot leaves the queue when its thread drops it.

    Args:
        slot: the slot.
    """

    __slots__ = ("_access", "_arguments", "_slot")

    def __init__(self, slot: BlockingSlot) -> None:
        self._slot = ref(slot)
        self._arguments = slot._arguments  # noqa: SLF001 - of this module, as below
        self._access = slot._access  # noqa: SLF001

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """All keys of the call."""
        keys: tuple[Hashable, ...] = self._arguments["keys"]
        return keys

    @property
    def costs(self) -> tuple[float, ...]:
        """Costs of the call, by unit."""
        return self._access.costs_of(self._arguments["cost"])

    @property
    def holds(self) -> bool:
        """Whether the body of the slot's `with` block runs."""
        slot = self._slot()
        return slot is not None and slot._entered and not slot._over  # noqa: SLF001

    @property
    def is_over(self) -> bool:
        """Whether the body will not run any more."""
        slot = self._slot()
        return slot is None or slot._over  # noqa: SLF001


def frozen(cost: Cost) -> Cost:
    """Return a copy of a cost: the caller may change a mapping before the loop reads it."""
    return dict(cost) if isinstance(cost, Mapping) else cost
