"""Blocking slots: an `ApiQueue` for the threads of this process.

The queue itself stays on an event loop: one of ours, in a daemon thread that starts at the first
use, or the user's, which is reached through anyio's `BlockingPortal`. A thread posts what it wants
to that loop and waits on a lock of its own; whatever belongs to the queue is touched in the loop's
thread only. Posts are done in order, so that threads get their turns in the order of arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, cast
from weakref import WeakSet

from aioapiqueue._queue import dispatcher_of
from aioapiqueue._rate import LONGEST, positive
from aioapiqueue._slot import GRANTED, Reservation, keys_of
from aioapiqueue._units import ONE_CALL

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue._queue import ApiQueue
    from aioapiqueue._slot import Call, Slot
    from aioapiqueue._units import Cost

__all__ = ["Blocking", "BlockingSlot", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds between two looks at whether the user's loop is still there."""


def blocking(queue: ApiQueue, *, portal: BlockingPortal | None = None) -> Blocking:
    """Give threads access to a queue.

    >>> queue = ApiQueue("20/s")
    >>> with blocking(queue).slot() as slot:                # waits
    ...     print(f"after {slot.waited:.0f} s")             # the call
    after 0 s

    The result costs nothing to make, and may be kept and shared by any number of threads.

    Coroutines may wait in the same queue, if it is on their loop: they use it as ever, and threads
    come in through a portal to that loop.

    Args:
        queue: belongs to the loop from the first use on, like any queue.
        portal: to the loop that the queue lives on, or is to live on; default: a loop of ours, in
            a daemon thread that all queues share.
    """
    return Blocking(queue, portal=portal)


class Blocking:
    """What threads do with a queue; from `blocking`.

    Figures (`queue.stats`, `queue.waiting`) may be read from any thread without it. In a child made
    by `os.fork`, nobody waits, however many waited in the parent, and a new thread serves the
    queue; parent and child then keep its limits each for itself. A thread that waits keeps the
    process alive if it is no daemon, as whatever else it does would.

    Attributes:
        queue: which one.
    """

    __slots__ = ("_fork_generation", "_loop", "_portal", "queue")

    def __init__(self, queue: ApiQueue, *, portal: BlockingPortal | None = None) -> None:
        self.queue = queue
        self._portal = portal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fork_generation = _home.fork_generation
        _queues.add(queue)

    def slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
        timeout: float | None = None,
    ) -> BlockingSlot:
        """Wait for a slot, run the body of `with`, end the call.

        An exception that a signal handler raises while this waits, such as KeyboardInterrupt,
        leaves the queue; if the slot came at that very moment, it passes to the next waiter.

        Leave one slot before you ask for the next under the same `concurrency`: a thread that waits
        for a permit which it holds itself waits until it is interrupted, or another ends.

        Args:
            key: as in `ApiQueue.slot`, like all of these.
            keys: several, instead of `key`.
            priority: lower goes first; default 0.
            cost: a number of calls, 1 by default, or amounts by unit.
            timeout: seconds to wait at most; default: any time.

        Raises:
            SlotTimeout: no slot within `timeout`.
            QueueFull: too many wait.
            QueueClosed: the queue is closed, or closed while this waited.
            ValueError: an invalid cost, priority or timeout.
            TypeError: as of `ApiQueue.slot`.
            RuntimeError: called in the loop's own thread, where waiting would wait for itself; or
                the loop has been closed; or the queue is in use on another loop.
        """
        asked = _asked(key, keys, priority, cost)
        return self._slot({**asked, "timeout": timeout}, tries=False)

    def _slot(self, asked: dict[str, Any], *, tries: bool) -> BlockingSlot:
        return BlockingSlot(
            self.queue,
            asked,
            tries=tries,
            loop=self._where,
            # On a loop of ours, a thread need not look whether the loop is still there.
            checks_loop=self._portal is not None,
        )

    def try_slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> BlockingSlot:
        """Return a slot if one is free now; as `ApiQueue.try_slot`.

        It is yours to end: by `with slot:`, or `slot.release()`.

        >>> queue = ApiQueue("1/min")
        >>> for _ in range(2):
        ...     try:
        ...         with blocking(queue).try_slot():
        ...             print("the call")
        ...     except WouldWait as error:
        ...         print(f"in {error.retry_in:.0f} s")
        the call
        in 60 s

        Args:
            key: as in `slot`.
            keys: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.

        Raises:
            WouldWait: `slot` would wait; `retry_in` has the seconds, as things stand.
            QueueClosed: the queue is closed.
            ValueError: as of `slot`.
            TypeError: as of `slot`.
            RuntimeError: as of `slot`.
        """
        slot = self._slot(_asked(key, keys, priority, cost), tries=True)
        return slot.__enter__()

    def estimate(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> float:
        """Return the seconds that a newcomer would wait; as `ApiQueue.estimate`.

        Args:
            key: as in `slot`.
            keys: as in `slot`.
            priority: as in `slot`.
            cost: as in `slot`.

        Raises:
            RuntimeError: as for `slot`.
        """
        return self.call(self.queue.estimate, key=key, keys=keys, priority=priority, cost=cost)

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the other side pushed back; as `ApiQueue.throttled`.

        For a call whose slot is at hand, `BlockingSlot.throttled` is better.

        Args:
            retry_after: seconds from now; a hold in force is only ever extended.
            key: whose lane, if it has limits of its own; default: the whole queue.

        Raises:
            ValueError: `retry_after` is negative, infinite or NaN.
        """
        self.call(self.queue.throttled, retry_after, key=key)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the loop's thread, where a queue may be changed.

        >>> queue = ApiQueue("20/s")
        >>> blocking(queue).call(queue.set_rate, "5/s")
        >>> queue
        <ApiQueue 5/s: open, 0 waiting, 0 running>

        Args:
            function: must not block; such as `queue.set_rate`, `pause`, `resume`, `estimate`.
            args: passed on.
            kwargs: passed on.

        Raises:
            RuntimeError: as for `slot`.

        What the function returns or raises is the caller's.
        """

        async def run() -> T:
            return function(*args, **kwargs)

        return self._run(run)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close the queue; as `ApiQueue.aclose`.

        Interrupted (KeyboardInterrupt), it refuses at once all callers that still wait.

        Args:
            drain: let those who wait start first; default True.
            timeout: seconds for draining, at most; default: any time.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
            RuntimeError: as for `slot`.
        """
        self._run(lambda: self.queue.aclose(drain=drain, timeout=timeout))

    def _run(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return _Job(coroutine, self._where()).run()

    def _where(self) -> asyncio.AbstractEventLoop:
        """Return the loop, in a thread that may wait for it."""
        loop = _home.loop() if self._portal is None else self._users_loop(self._portal)
        if _running_loop() is loop:
            raise RuntimeError(_OWN_THREAD)
        _check_alive(loop)
        other = dispatcher_of(self.queue).loop
        if other is not None and other is not loop and not other.is_closed():
            raise RuntimeError(
                f"{self.queue!r} is in use on another event loop that is still alive: come in "
                "through a portal to that one, blocking(queue, portal=...), or make a queue for "
                "the threads alone"
            )
        return loop

    def _users_loop(self, portal: BlockingPortal) -> asyncio.AbstractEventLoop:
        if self._fork_generation != _home.fork_generation:
            raise RuntimeError(
                "the portal's loop runs in the parent of this process, not here: make a portal in "
                "the child, or leave it out"
            )
        if self._loop is None:
            try:
                self._loop = portal.call(asyncio.get_running_loop)
            except RuntimeError as error:
                if _running_loop() is None:
                    raise  # it does not run, or not asyncio
                raise RuntimeError(_OWN_THREAD) from error
        return self._loop


def _asked(
    key: Hashable, keys: Sequence[Hashable] | None, priority: float, cost: Cost
) -> dict[str, Any]:
    """Return what a call asks for, by the names that `ApiQueue.slot` has."""
    # A mapping may be changed before the loop looks at it.
    costs = dict(cost) if isinstance(cost, Mapping) else cost
    return {"keys": keys_of(key, keys), "priority": priority, "cost": costs}


class _Job(Generic[T]):
    """A coroutine function that runs on a loop while another thread waits for its result.

    Not `asyncio.run_coroutine_threadsafe`: an interruption (KeyboardInterrupt) before that returns
    leaves nothing to cancel, and one inside its Future's lock would block the loop's thread.

    Args:
        function: called in the loop's thread.
        loop: another thread's.
    """

    __slots__ = ("_cancelled", "_error", "_function", "_gate", "_loop", "_task")

    def __init__(
        self, function: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._function = function
        self._loop = loop
        self._gate = threading.Lock()
        self._gate.acquire()
        self._task: asyncio.Task[T] | None = None
        self._error: Exception | None = None
        self._cancelled = False

    def run(self) -> T:
        """Run it; interrupted, cancel it, and wait no more."""
        try:
            self._loop.call_soon_threadsafe(self._start)
            while not self._gate.acquire(timeout=_PATIENCE):
                _check_alive(self._loop)
        except BaseException:
            try:
                _post(self._loop, self._cancel)
            finally:
                _post(self._loop, self._cancel)  # the first may have been interrupted itself
            raise
        if self._error is not None:
            raise self._error
        assert self._task is not None  # noqa: S101 - it has ended
        if self._task.cancelled():
            raise CancelledError
        return self._task.result()

    # In the loop.

    def _start(self) -> None:
        try:
            self._task = self._loop.create_task(self._function())
        except Exception as error:  # noqa: BLE001 - the thread's, which raises it
            self._error = error
            self._gate.release()
        else:
            self._task.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._gate.release()

    def _cancel(self) -> None:
        # In the pass after this one: by then the task has taken its first step, so that a queue
        # that is to be closed is closed. Only once: what it does on the way out is to be done.
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._loop.call_soon(self._task.cancel)


class BlockingSlot:
    """A thread's slot: one call's permission to start, from `Blocking.slot` or `try_slot`.

    It is for one thread and one call.

    Attributes:
        key: what the call was keyed by, or the first of its keys.
        waited: seconds that it waited.
    """

    # The loop's side writes `_slot` and `_error`, and then opens the gate; the thread's side reads
    # them once it has passed. Every post may be made twice, as an interruption may fall anywhere:
    # what is done twice does no harm, what is not done holds a place for ever.
    __slots__ = (
        "_asked",
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
        "_queue",
        "_slot",
        "_tries",
        "key",
        "waited",
    )

    _fork_generation: int
    _gate: threading.Lock
    _loop: asyncio.AbstractEventLoop
    _slot: asyncio.Future[Slot]

    def __init__(
        self,
        queue: ApiQueue,
        asked: dict[str, Any],
        *,
        tries: bool,
        loop: Callable[[], asyncio.AbstractEventLoop],
        checks_loop: bool,
    ) -> None:
        self.key: Hashable = asked["keys"][0]
        self.waited = 0.0
        self._queue = queue
        self._find_loop = loop
        self._checks_loop = checks_loop
        self._asked = asked
        self._tries = tries
        self._error: Exception | None = None
        self._joined = self._enqueued = self._entered = self._over = False

    def join(self) -> None:
        """Join the queue now, and wait later, when the `with` block is entered.

        Raises:
            RuntimeError: as for `Blocking.slot`, or it has joined already.
        """
        if self._joined:
            raise RuntimeError(_ONE_CALL)
        self._loop = self._find_loop()
        self._fork_generation = _home.fork_generation
        self._gate = threading.Lock()
        self._gate.acquire()
        self._joined = True
        self._loop.call_soon_threadsafe(self._arrive)

    def __enter__(self) -> Self:
        if self._entered and self._tries and not self._over:
            return self  # it came held
        if self._entered or self._over:
            raise RuntimeError(_ONE_CALL)
        try:
            if not self._joined:
                self.join()
            self._wait()
        except BaseException:
            self._leave()
            raise
        # Nothing is called from here on: an interruption comes before, or in the body.
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        finally:
            self.release()  # if interrupted

    def __del__(self) -> None:
        if self._joined and not self._over:  # interrupted before it could say so
            self._leave()

    def release(self) -> None:
        """End the call, as leaving the `with` block does. Doing so again does nothing."""
        if not self._over:
            self._leave()

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the other side pushed back on this call; as `Slot.throttled`.

        Args:
            retry_after: seconds from now in which nothing of this lane starts.
            key: whose lane; default: the first of the call's keys that has one, or the whole queue.

        Raises:
            ValueError: `retry_after` is negative, infinite or NaN; or `key` is a pattern.
            RuntimeError: the call has not started.
        """
        if retry_after is not None:
            positive(retry_after, of="retry_after", least=0, most=LONGEST)
        dispatcher_of(self._queue).refuse_pattern(key)
        self._apply(lambda slot: slot.throttled(retry_after, key=key))

    def settle(self, cost: Cost) -> None:
        """State the true cost, known now; as `Slot.settle`.

        Args:
            cost: amounts by unit, at least 0; or a number of calls, where nothing else is counted.

        Raises:
            ValueError: a negative cost, an unknown unit, or a number where other units are counted.
            TypeError: an amount that is no number.
            RuntimeError: the call has not started.
        """
        costs = dict(cost) if isinstance(cost, Mapping) else cost
        dispatcher_of(self._queue).units.settled(costs, ONE_CALL)  # raised here, and not there
        self._apply(lambda slot: slot.settle(costs))

    # In the thread.

    def _wait(self) -> None:
        if not self._checks_loop:
            self._gate.acquire()
        else:
            while not self._gate.acquire(timeout=_PATIENCE):
                _check_alive(self._loop)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        # Not the Reservation's own method, which would claim the slot: that is for the loop.
        self.waited = asyncio.Future.result(self._slot).waited

    def _leave(self) -> None:
        self._post(self._end if self._entered else self._give_up)
        self._over = True

    def _apply(self, what: Callable[[Slot], None]) -> None:
        if not self._entered:
            raise RuntimeError("the call has not started: enter the slot's `with` block first")
        self._post(lambda: what(self._slot.result()))

    def _post(self, what: Callable[[], None]) -> None:
        # After a fork, the queue here knows nothing of calls that the parent has let through.
        if self._joined and self._fork_generation == _home.fork_generation:
            _post(self._loop, what)

    # In the loop.

    def _arrive(self) -> None:
        try:
            if self._tries:
                slot = self._reserved(self._queue.try_slot(**self._asked))
            else:
                slot = self._queue.enqueue(**self._asked)
        except Exception as error:  # noqa: BLE001 - the thread's, which raises it
            self._error = error
            self._gate.release()
            return
        self._slot, self._enqueued = slot, True
        if slot.done():
            self._gate.release()
        else:
            slot.add_done_callback(self._came)

    def _reserved(self, slot: Slot) -> asyncio.Future[Slot]:
        """Return a slot that is free now as `enqueue` would: until it is used, it is refunded."""
        call = cast("Call", slot)
        future = Reservation(call, loop=self._loop)
        call.state = GRANTED
        future.set_result(call)
        return future

    def _came(self, _: object) -> None:
        self._gate.release()

    def _end(self) -> None:
        self._slot.result().release()

    def _give_up(self) -> None:
        if self._enqueued:
            self._slot.cancel()  # leaves the queue, or refunds the slot that has just come


class _Home:
    """The loop of ours, on which queues are that nobody has on another."""

    def __init__(self) -> None:
        self.fork_generation = 0
        """How many forks ago this process's first ancestor with this module was."""
        self._forget()

    def _forget(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    # Not the policy's: what that makes may want the main thread.
                    loop = asyncio.SelectorEventLoop()
                    threading.Thread(
                        target=loop.run_forever, name="aioapiqueue", daemon=True
                    ).start()
                    self._loop = loop
        return self._loop

    def after_fork(self) -> None:
        """Reset, in the child: the loop's thread and all who waited or ran are in the parent."""
        self.fork_generation += 1
        _left.append(self._loop)
        self._forget()
        # Closing the loop, or ending the ticker, would reach into the parent's selector or the
        # queue's new state: both are kept as they are.
        _left.extend(dispatcher_of(queue).abandon_loop() for queue in list(_queues))


_queues: WeakSet[ApiQueue] = WeakSet()
_left: list[object] = []
_home = _Home()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_home.after_fork)

_ONE_CALL = "a slot is for one call: ask for another"
_OWN_THREAD = (
    "waiting here would block the event loop that the queue lives on: in a coroutine, use "
    '"async with queue.slot():", or call what blocks through asyncio.to_thread'
)


def _check_alive(loop: asyncio.AbstractEventLoop) -> None:
    if loop.is_closed():
        raise RuntimeError(
            "the event loop that the queue lives on has been closed: keep it running for as long "
            "as threads wait"
        )


def _post(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and all on it is over
        loop.call_soon_threadsafe(what)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
