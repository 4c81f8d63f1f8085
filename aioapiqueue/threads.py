"""Blocking slots: an `ApiQueue` for the threads of this process.

The queue itself stays on an event loop: one of ours, in a daemon thread that starts at the first
use, or the user's, which is reached through anyio's `BlockingPortal`. A thread posts what it wants
to that loop and waits on a lock of its own; whatever belongs to the queue is touched in the loop's
thread only. Posts are done in order, so that threads get their turns in the order of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aioapiqueue import _gevent
from aioapiqueue._blocking_slot import BlockingSlot, ThreadTurn
from aioapiqueue._grammar import CALLS
from aioapiqueue._queue import dispatcher_of, note_turn
from aioapiqueue._slot import keys_of
from aioapiqueue._thread_loop import Job, check_alive, home, queues, running_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue._queue import ApiQueue
    from aioapiqueue._rate import Limit
    from aioapiqueue._stats import Stats
    from aioapiqueue._units import Cost

__all__ = ["Blocking", "BlockingSlot", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")

_OWN_THREAD = (
    "waiting here would block the event loop of this queue: in a coroutine, write "
    '"async with queue.slot():", or call blocking code with "await asyncio.to_thread(...)"'
)


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

    Raises:
        RuntimeError: a portal, where gevent has replaced threads.
    """
    return Blocking(queue, portal=portal)


class Blocking:
    """What threads do with a queue; from `blocking`, which says what `portal` is.

    Where gevent has replaced threads (`monkey.patch_all()`), all of this holds for greenlets.

    Figures (`queue.stats`, `queue.waiting`) may be read from any thread without it. In a child made
    by `os.fork`, nobody waits, however many waited in the parent, and a new thread serves the
    queue; parent and child then keep its limits each for itself. A thread that waits keeps the
    process alive if it is no daemon, as whatever else it does would.

    Attributes:
        queue: which one.
    """

    __slots__ = ("_fork_generation", "_loop", "_portal", "queue")

    def __init__(self, queue: ApiQueue, *, portal: BlockingPortal | None = None) -> None:
        if portal is not None and _gevent.patched():
            raise RuntimeError(
                "portal= does not work under gevent, because its loop shares a thread with the "
                "waiting greenlets: leave it out, and the queue gets a loop in a thread of its own"
            )
        self.queue = queue
        self._portal = portal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fork_generation = home.fork_generation
        queues.add(queue)

    def __repr__(self) -> str:
        portal = "" if self._portal is None else " through a portal"
        return f"<Blocking{portal}: {self.queue!r}>"

    def _repr_html_(self) -> str:
        """Return a table of the queue's state and figures, which notebooks show."""
        return self.queue._repr_html_()

    @property
    def stats(self) -> Stats:
        """The queue's current figures, as `ApiQueue.stats`; may be read in any thread."""
        return self.queue.stats

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
            RuntimeError: called in a thread that runs an asyncio or trio event loop, which it
                would block; or the queue's loop has been closed; or the queue is in use on another
                loop.
        """
        asked = _asked(key, keys, priority, cost)
        return self._slot({**asked, "timeout": timeout}, tries=False)

    def _slot(self, asked: dict[str, Any], *, tries: bool) -> BlockingSlot:
        slot = BlockingSlot(
            self.queue,
            asked,
            tries=tries,
            loop=self._where,
            # On a loop of ours, a thread need not look whether the loop is still there.
            checks_loop=self._portal is not None,
        )
        if not tries:  # it may be handed to another thread
            note_turn(self.queue, ThreadTurn(slot))
        return slot

    def try_slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> BlockingSlot:
        """Return a slot if one is free now; as `ApiQueue.try_slot`.

        It is yours to end: by `with slot:`, or `slot.release()`. As it does not wait for its turn,
        it may be called in a thread that runs another event loop than the queue's.

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
            RuntimeError: called in the thread of the queue's own loop; or that has been closed; or
                the queue is in use on another loop.
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
            RuntimeError: called on the queue's own loop, which cannot wait for itself; or that
                loop has been closed; or the queue is in use on another loop.
        """
        return self.call(self.queue.estimate, key=key, keys=keys, priority=priority, cost=cost)

    @property
    def eta(self) -> float:
        """Seconds until all who wait now will have started; as `ApiQueue.eta`.

        Raises:
            RuntimeError: as for `estimate`.
        """
        return self.call(lambda: self.queue.eta)

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

    def hold(self, seconds: float, *, key: Hashable = None) -> None:
        """Start nothing for so long; as `ApiQueue.hold`.

        It is no push-back: it is not counted, and slows nothing down.

        >>> queue = ApiQueue(lanes={"*": ()})                # no limits, but lanes
        >>> blocking(queue).hold(30, key="busy.example")
        >>> round(blocking(queue).estimate(key="busy.example"))
        30

        Args:
            seconds: from now; a hold in force is only ever extended.
            key: whose lane, if it has one of its own; default: the whole queue.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN; or `key` is a pattern.
            RuntimeError: as for `estimate`.
        """
        self.call(self.queue.hold, seconds, key=key)

    def sync(
        self,
        remaining: float,
        *,
        unit: str = CALLS,
        reset: float | None = None,
        limit: float | None = None,
        key: Hashable = None,
    ) -> None:
        """Report what the other side says is left of a quota; as `ApiQueue.sync`.

        For a call whose slot is at hand, `BlockingSlot.sync` is better.

        >>> queue = ApiQueue("100/min burst 100")
        >>> blocking(queue).sync(0, reset=30)
        >>> round(blocking(queue).estimate())
        30

        Args:
            remaining: how much, at least 0.
            unit: what is counted; default `"calls"`.
            reset: seconds from now until the quota is full again.
            limit: the size of the quota.
            key: whose lane, if it has one of its own; default: the whole queue.

        Raises:
            ValueError: as of `ApiQueue.sync`.
            TypeError: no number.
            RuntimeError: as for `estimate`.
        """
        self.call(self.queue.sync, remaining, unit=unit, reset=reset, limit=limit, key=key)

    def malformed(self, *, key: Hashable = None) -> None:
        """Count that the other side sent something not valid; as `ApiQueue.malformed`.

        Args:
            key: the key of the call that it answered.

        Raises:
            RuntimeError: as for `estimate`.
        """
        self.call(self.queue.malformed, key=key)

    def set_rate(self, *limits: str | Limit, key: Hashable = None) -> None:
        """Replace the limits, also for threads that wait already; as `ApiQueue.set_rate`.

        >>> queue = ApiQueue("20/s")
        >>> blocking(queue).set_rate("5/s")
        >>> queue
        <ApiQueue 5/s: open, 0 waiting, 0 running>

        Args:
            limits: as for `ApiQueue`; all of the old ones are replaced.
            key: whose lane, or a pattern of lanes; default: the queue's own limits.

        Raises:
            TypeError: something that is no limit; or none is given.
            ValueError: an invalid limit, or one too small for the cost of a call that waits.
            RuntimeError: as for `estimate`.
        """
        self.call(self.queue.set_rate, *limits, key=key)

    def pause(self, seconds: float | None = None) -> None:
        """Let nothing start; bodies that run go on. As `ApiQueue.pause`.

        Args:
            seconds: for how long; default: until `resume`. A pause in force is only extended.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
            RuntimeError: as for `estimate`.
        """
        self.call(self.queue.pause, seconds)

    def resume(self) -> None:
        """End a `pause`; as `ApiQueue.resume`.

        Raises:
            RuntimeError: as for `estimate`.
        """
        self.call(self.queue.resume)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the loop's thread, where a queue may be changed.

        >>> queue = ApiQueue("20/s")
        >>> blocking(queue).call(lambda: (queue.waiting, queue.running))     # at one instant
        (0, 0)

        Args:
            function: must not block.
            args: passed on.
            kwargs: passed on.

        Raises:
            RuntimeError: as for `estimate`.

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
            RuntimeError: as for `estimate`.
        """
        self._run(lambda: self.queue.aclose(drain=drain, timeout=timeout))

    def _run(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return Job(coroutine, self._where()).run()

    def _where(self) -> asyncio.AbstractEventLoop:
        """Return the loop, in a thread that may wait for it."""
        loop = home.loop() if self._portal is None else self._users_loop(self._portal)
        if running_loop() is loop:
            raise RuntimeError(_OWN_THREAD)
        check_alive(loop)
        other = dispatcher_of(self.queue).loop
        if other is not None and other is not loop and not other.is_closed():
            raise RuntimeError(
                f"{self.queue!r} is in use on another event loop that is still open: pass a portal "
                "to that loop, blocking(queue, portal=...), or create a queue for threads alone"
            )
        return loop

    def _users_loop(self, portal: BlockingPortal) -> asyncio.AbstractEventLoop:
        if self._fork_generation != home.fork_generation:
            raise RuntimeError(
                "the portal's loop runs in the parent of this process: create a portal in the "
                "child, or leave portal= out"
            )
        if self._loop is None:
            try:
                self._loop = portal.call(asyncio.get_running_loop)
            except RuntimeError as error:
                if running_loop() is None:
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
