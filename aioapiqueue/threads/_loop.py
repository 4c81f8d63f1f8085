"""The loop that queues of threads are on, and what threads have done there.

A queue stays on an event loop: one of ours, in a daemon thread that starts at the first use, or the
user's. Whatever belongs to the queue is touched in the loop's thread only. Other threads post what
is to be done, and wait on a lock of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from aioapiqueue.spi import ThreadAccess
from aioapiqueue.threads import _gevent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioapiqueue import ApiQueue

__all__ = [
    "PATIENCE",
    "Gate",
    "Home",
    "Job",
    "check_alive",
    "closed_gate",
    "home",
    "post",
    "queues",
    "running_loop",
]

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds between two looks at whether the user's loop is still there."""


class Gate(Protocol):
    """What a thread waits at, until the loop's thread opens it: a lock that is taken."""

    def acquire(self, *, timeout: float = ...) -> bool:
        """Wait until it is open; return whether it is."""

    def release(self) -> None:
        """Open it."""


def closed_gate() -> Gate:
    """Return a gate for one wait of this thread, or greenlet of gevent."""
    if _gevent.patched():
        return _gevent.Gate()
    gate = threading.Lock()
    gate.acquire()
    return gate


class Job(Generic[T]):
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
        self._gate = closed_gate()
        self._task: asyncio.Task[T] | None = None
        self._error: Exception | None = None
        self._cancelled = False

    def run(self) -> T:
        """Run it; interrupted, cancel it, and wait no more."""
        try:
            self._loop.call_soon_threadsafe(self._start)
            while not self._gate.acquire(timeout=PATIENCE):
                check_alive(self._loop)
        except BaseException:
            try:
                post(self._loop, self._cancel)
            finally:
                post(self._loop, self._cancel)  # the first may have been interrupted itself
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


class Home:
    """Our own event loop, for queues not bound to another."""

    def __init__(self) -> None:
        self.fork_generation = 0
        """How many forks ago this process's first ancestor with this module was."""
        self._forget()

    def _forget(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cooperative = False
        """Whether the loop was started where threads are greenlets."""
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, in its thread, which the first call starts.

        Raises:
            RuntimeError: threads have become greenlets since, or gevent has patched too little.
        """
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    self._cooperative = _gevent.patched()
                    self._loop = _gevent.start_loop() if self._cooperative else _start_loop()
        if self._cooperative is not _gevent.patched():
            raise RuntimeError(
                "gevent.monkey.patch_all() was called after the first use of blocking(queue): call "
                "it before all other imports"
            )
        return self._loop

    def after_fork(self) -> None:
        """Reset, in the child: the loop's thread and all who waited or ran are in the parent."""
        self.fork_generation += 1
        _left.append(self._loop)
        self._forget()
        # Closing the loop, or ending the ticker, would reach into the parent's selector or the
        # queue's new state: both are kept as they are.
        _left.extend(ThreadAccess(queue).abandon_loop() for queue in list(queues))


def _start_loop() -> asyncio.AbstractEventLoop:
    _gevent.refuse_greenlets_without_threads()
    # Not the policy's: what that makes may want the main thread.
    loop = asyncio.SelectorEventLoop()
    threading.Thread(target=loop.run_forever, name="aioapiqueue", daemon=True).start()
    return loop


queues: WeakSet[ApiQueue] = WeakSet()
"""Those that threads have used: after a fork they start again."""
_left: list[object] = []
home = Home()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=home.after_fork)


def check_alive(loop: asyncio.AbstractEventLoop) -> None:
    """Raise RuntimeError where a loop has been closed: nobody would end the wait."""
    if loop.is_closed():
        raise RuntimeError(
            "the queue's event loop has been closed: keep it running as long as threads wait"
        )


def post(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Have a loop's thread do something, if the loop is still there."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and all on it is over
        loop.call_soon_threadsafe(what)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
