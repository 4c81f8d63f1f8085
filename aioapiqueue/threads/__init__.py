"""Blocking slots: an `ApiQueue` for the threads of this process.

The queue itself lives on an event loop: a loop in a daemon thread, which starts at the first use,
or the user's loop, which is reached through anyio's `BlockingPortal`. A thread posts requests to
that loop, and waits on a lock of its own. Only the loop's thread touches the queue. Posts run in
order, so threads get their slots in order of arrival.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aioapiqueue.spi import ThreadAccess, ThreadControls, loops
from aioapiqueue.threads import _gevent
from aioapiqueue.threads._loop import Job, background, check_alive, queues
from aioapiqueue.threads._slot import BlockingSlot, WatchedThreadSlot, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence

    from anyio.from_thread import BlockingPortal

    from aioapiqueue import ApiQueue, Slot, Stats
    from aioapiqueue.spi import Cost

__all__ = ["Blocking", "BlockingSlot", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")

_OWN_THREAD = (
    "waiting here would block the event loop of this queue: in a coroutine, write "
    '"async with queue.slot():", or call blocking code with "await asyncio.to_thread(...)"'
)


def blocking(queue: ApiQueue, *, portal: BlockingPortal | None = None) -> Blocking:
    """Give threads access to a queue.

    You can keep the result and share it between threads; it is cheap to create. Coroutines can wait
    in the same queue if it lives on their event loop: pass a portal to that loop.

    Args:
        queue: the queue, which belongs to one event loop from its first use on.
        portal: a portal to the event loop of the queue. Default: a loop in a daemon thread, which
            all such queues share.

    Raises:
        RuntimeError: a portal was given, but gevent has replaced threads.

    >>> queue = ApiQueue("20/s")
    >>> with blocking(queue).slot() as slot:                # waits
    ...     print(f"after {slot.waited:.0f} s")             # the call
    after 0 s
    """
    return Blocking(queue, portal=portal)


class Blocking(ThreadControls):
    """A queue for threads, from `blocking`; also for greenlets after `monkey.patch_all()`.

    Any thread may read figures from the queue itself (`queue.stats`, `queue.waiting`).

    After `os.fork`, the child has no waiting calls and a new thread for the queue; parent and child
    enforce the limits separately. A thread that waits keeps the process alive, unless it is a
    daemon.

    Attributes:
        queue: the queue.
    """

    __slots__ = ("_access", "_fork_generation", "_loop", "_portal", "queue")

    def __init__(self, queue: ApiQueue, *, portal: BlockingPortal | None = None) -> None:
        if portal is not None and _gevent.patched():
            raise RuntimeError(
                "portal= does not work under gevent, because the portal's loop shares a thread "
                "with the waiting greenlets: leave portal= out, and the queue gets a loop in a "
                "thread of its own"
            )
        self.queue = queue
        self._access = ThreadAccess(queue)
        self._portal = portal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fork_generation = background.fork_generation
        queues.add(queue)  # a child made by fork gives the queue a new loop

    def __repr__(self) -> str:
        portal = "" if self._portal is None else " through a portal"
        return f"<Blocking{portal}: {self.queue!r}>"

    def _repr_html_(self) -> str:
        """Return a table of the queue's state and figures, which notebooks show."""
        return self.queue._repr_html_()

    @property
    def stats(self) -> Stats:
        """The queue's current figures, like `ApiQueue.stats`; may be read in any thread."""
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
        """Wait for a slot, run the body of `with`, and end the call.

        If a signal handler raises an exception during the wait (KeyboardInterrupt), the call leaves
        the queue, and its slot goes to the next waiting call.

        With `concurrency`, release a slot before you request the next. Otherwise the thread may
        wait for a permit that it holds itself, until another call ends or it is interrupted.

        The arguments are those of `ApiQueue.slot`, and so are the errors, apart from one:

        Raises:
            RuntimeError: an asyncio or trio event loop runs in this thread, and would be blocked;
                or the queue's loop has been closed, or the queue is in use on another loop.
        """
        arguments = _arguments(key, keys, priority, cost) | {"timeout": timeout}
        slot = self._slot(arguments, self.queue.enqueue, tries=False)
        # Called in this thread, because the enclosing slots are found in its context.
        self._access.watch(WatchedThreadSlot(slot))
        return slot

    def _slot(
        self,
        arguments: dict[str, Any],
        request: Callable[..., asyncio.Future[Slot]],
        *,
        tries: bool,
    ) -> BlockingSlot:
        return BlockingSlot(
            self._access,
            arguments,
            # Called in the loop's thread: only there may the queue be touched.
            request=partial(request, **arguments),
            tries=tries,
            loop=self._reachable_loop,
            checks_loop=self._portal is not None,  # our own loop is never closed
        )

    def try_slot(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> BlockingSlot:
        """Return a slot if one is free now, like `ApiQueue.try_slot`.

        End it with `with slot:` or `slot.release()`. This does not wait, so it is allowed in a
        thread with an event loop, unless that is the queue's own. The arguments and errors are
        those of `ApiQueue.try_slot`, apart from one:

        Raises:
            RuntimeError: this is the thread of the queue's own loop; or that loop has been closed,
                or the queue is in use on another loop.

        >>> queue = ApiQueue("1/min")
        >>> for _ in range(2):
        ...     try:
        ...         with blocking(queue).try_slot():
        ...             print("the call")
        ...     except WouldWait as error:
        ...         print(f"in {error.retry_in:.0f} s")
        the call
        in 60 s
        """
        arguments = _arguments(key, keys, priority, cost)
        # Entered here, to raise `WouldWait` from this call and not from `with`.
        return self._slot(arguments, self._access.try_reserve, tries=True).__enter__()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the thread of the loop, and return or raise its result.

        Args:
            function: called there; it may change the queue, and must not block.
            args: positional arguments of the function.
            kwargs: keyword arguments of the function.

        Raises:
            RuntimeError: as in `try_slot`.

        >>> queue = ApiQueue("20/s")
        >>> blocking(queue).call(lambda: (queue.waiting, queue.running))     # at one moment
        (0, 0)
        """

        # A coroutine, so that `Job` handles its result, errors and interruptions, as for `aclose`.
        async def run() -> T:
            return function(*args, **kwargs)

        return self._run(run)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close the queue, like `ApiQueue.aclose`.

        If this is interrupted (KeyboardInterrupt), all waiting calls are refused at once. The
        arguments are those of `ApiQueue.aclose`.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
            RuntimeError: as in `try_slot`.
        """
        self._run(lambda: self.queue.aclose(drain=drain, timeout=timeout))

    def _run(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return Job(coroutine, self._reachable_loop()).run()

    def _reachable_loop(self) -> asyncio.AbstractEventLoop:
        """Return the queue's loop, or refuse a thread that cannot reach or must not block it."""
        loop = background.loop() if self._portal is None else self._users_loop(self._portal)
        if loops.running_loop() is loop:
            raise RuntimeError(_OWN_THREAD)  # a wait for this thread, in this thread, never ends
        check_alive(loop)
        other = self._access.loop
        # A closed loop may be replaced by the next one, as for coroutines.
        if other is not None and other is not loop and not other.is_closed():
            raise RuntimeError(
                f"{self.queue!r} is in use on another event loop that is still open: pass a portal "
                "to that loop, blocking(queue, portal=...), or create a queue for threads alone"
            )
        return loop

    def _users_loop(self, portal: BlockingPortal) -> asyncio.AbstractEventLoop:
        if self._fork_generation != background.fork_generation:
            raise RuntimeError(
                "the portal's loop runs in the parent of this process: create a portal in the "
                "child, or leave portal= out"
            )
        if self._loop is None:  # asked once, because a call through the portal waits for the loop
            try:
                self._loop = portal.call(asyncio.get_running_loop)
            except RuntimeError as error:
                # anyio raises an error of its own for a call from the thread of the portal's loop.
                if loops.running_loop() is None:
                    raise  # the portal's loop does not run, or is not asyncio's
                raise RuntimeError(_OWN_THREAD) from error
        return self._loop


def _arguments(
    key: Hashable, keys: Sequence[Hashable] | None, priority: float, cost: Cost
) -> dict[str, Any]:
    """Return the arguments of a call, named as in `ApiQueue.slot`."""
    return {"keys": ThreadAccess.keys_of(key, keys), "priority": priority, "cost": frozen(cost)}
