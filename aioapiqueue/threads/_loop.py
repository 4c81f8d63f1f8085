"""The event loop of queues that threads use, and the jobs that threads run on it.

A queue stays on one event loop: ours, in a daemon thread that starts at the first use, or the
user's. Only the loop's thread touches the queue. Other threads post work to the loop, and each
waits on a lock of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from aioapiqueue.spi import ThreadAccess, loops
from aioapiqueue.threads import _gevent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioapiqueue import ApiQueue

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds between two checks of whether the user's loop is still open."""

_ON_ASYNCIO = (
    "waiting here would block the event loop that runs in this thread: in a coroutine or a Jupyter "
    'cell, write "async with queue.slot():" or use an async client; call blocking code with "await '
    'asyncio.to_thread(...)"'
)
_UNDER_GEVENT = (
    "no greenlet can wait here while an event loop runs in this thread (asyncio.run): run the loop "
    "in a thread with gevent.get_hub().threadpool.apply(asyncio.run, [main()]); in a coroutine, "
    'write "async with queue.slot():"'
)
_ON_TRIO = (
    "waiting here would block trio, which runs in this thread: call blocking code with "
    '"await trio.to_thread.run_sync(...)" (with anyio: anyio.to_thread.run_sync)'
)


class ThreadGate(Protocol):
    """A lock that begins locked: a thread waits for it, and the loop releases it."""

    def acquire(self, *, timeout: float = ...) -> bool:
        """Wait for the release; return False after the timeout."""

    def release(self) -> None:
        """Wake the thread."""


def closed_gate() -> ThreadGate:
    """Return a gate for one wait of this thread, or of this greenlet under gevent."""
    if _gevent.patched():
        return _gevent.Gate()
    gate = threading.Lock()
    gate.acquire()
    return gate


class Job(Generic[T]):
    """A coroutine function that runs on a loop while another thread waits for its result.

    `asyncio.run_coroutine_threadsafe` would not do: a KeyboardInterrupt before it returns leaves
    nothing to cancel, and one inside the lock of its Future would block the loop's thread.

    Args:
        function: the coroutine function, called in the loop's thread.
        loop: the loop, which runs in another thread.
    """

    __slots__ = ("_cancelled", "_error", "_function", "_gate", "_loop", "_task")

    def __init__(
        self, function: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._function = function
        self._loop = loop
        self._gate = closed_gate()
        # Written in the loop's thread before the gate opens, and read here after it.
        self._task: asyncio.Task[T] | None = None
        self._error: Exception | None = None
        self._cancelled = False

    def run(self) -> T:
        """Run the function, and return its result; if interrupted, cancel it."""
        try:
            self._loop.call_soon_threadsafe(self._start)
            # With a timeout, because a loop that is closed meanwhile never opens the gate.
            while not self._gate.acquire(timeout=PATIENCE):
                check_alive(self._loop)
        except BaseException:  # mostly KeyboardInterrupt, which may come at any line above
            try:
                post(self._loop, self._cancel)
            finally:
                post(self._loop, self._cancel)  # again: the first post may have been interrupted
            raise
        if self._error is not None:
            raise self._error
        assert self._task is not None  # noqa: S101 - `_start` has made it
        if self._task.cancelled():
            raise CancelledError
        return self._task.result()

    # In the loop's thread.

    def _start(self) -> None:
        try:
            self._task = self._loop.create_task(self._function())
        except Exception as error:  # noqa: BLE001 - the waiting thread raises it
            self._error = error
            self._gate.release()
        else:
            self._task.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._gate.release()

    def _cancel(self) -> None:
        # In the next pass of the loop, after the first step of the task: a queue that is being
        # closed then refuses new calls. Only once, because a second cancellation would interrupt
        # the clean-up of the first.
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._loop.call_soon(self._task.cancel)


class BackgroundLoop:
    """Our own event loop, for queues without a portal."""

    def __init__(self) -> None:
        self.fork_generation = 0
        """Number of forks between the process that first imported this module and this one."""
        self._forget()

    def _forget(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cooperative = False
        """Whether gevent had replaced threads by greenlets when the loop was started."""
        # A new lock: if a thread of the parent held the old one at a fork, it is never released.
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop; the first call starts it, in a thread of its own.

        Raises:
            RuntimeError: gevent has patched threads since, or has patched too little.
        """
        if self._loop is None:  # once it has a loop, no call takes the lock
            with self._lock:
                if self._loop is None:  # another thread may have started one meanwhile
                    self._cooperative = _gevent.patched()
                    self._loop = _gevent.start_loop() if self._cooperative else _start_loop()
        if self._cooperative is not _gevent.patched():
            raise RuntimeError(
                "gevent.monkey.patch_all() was called after the first use of blocking(queue): call "
                "it before all other imports"
            )
        return self._loop

    def after_fork(self) -> None:
        """Start afresh in a child process: the loop's thread and all calls are in the parent."""
        self.fork_generation += 1
        _kept_alive.append(self._loop)
        self._forget()
        # The old loops and tickers are kept alive: closing a loop would change the parent's
        # selector, and a ticker that ends would change the queue's new state.
        _kept_alive.extend(ThreadAccess(queue).abandon_loop() for queue in list(queues))


def _start_loop() -> asyncio.AbstractEventLoop:
    _gevent.refuse_greenlets_without_threads()
    # Not a loop of the user's policy, which may require the main thread.
    loop = asyncio.SelectorEventLoop()
    threading.Thread(target=loop.run_forever, name="aioapiqueue", daemon=True).start()
    return loop


queues: WeakSet[ApiQueue] = WeakSet()
"""Queues that threads have used; after a fork they start afresh."""
_kept_alive: list[object] = []
"""Objects of parent processes, which must not be collected; see `BackgroundLoop.after_fork`."""
background = BackgroundLoop()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.after_fork)


def check_alive(loop: asyncio.AbstractEventLoop) -> None:
    """Raise RuntimeError if a loop is closed: a wait for it would never end."""
    if loop.is_closed():
        raise RuntimeError(
            "the queue's event loop has been closed: keep it running as long as threads wait"
        )


def post(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Run something in a loop's thread, without waiting; do nothing if the loop is closed."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, so no call is left on it
        loop.call_soon_threadsafe(what)


def refuse_to_block() -> None:
    """Refuse to wait in a thread that runs an event loop: everything on it would stop.

    The loop may be asyncio's (also uvloop) or trio's; anyio runs on one of these. Worker threads of
    a loop, such as those of `asyncio.to_thread`, may wait.

    Raises:
        RuntimeError: an event loop runs here; the message says what to write instead.
    """
    if loops.running_loop() is not None:
        raise RuntimeError(_UNDER_GEVENT if _gevent.patched() else _ON_ASYNCIO)
    if _trio_runs():
        raise RuntimeError(_ON_TRIO)


def _trio_runs() -> bool:
    """Return whether a trio loop runs in this thread."""
    # trio is not imported here: if the program has not (fully) imported it, it does not run.
    trio = getattr(sys.modules.get("trio"), "lowlevel", None)
    token_of_run = getattr(trio, "current_trio_token", None)
    if token_of_run is None:
        return False
    try:  # `trio.lowlevel.in_trio_run` needs no exception, but trio has it from 0.29 on only.
        token_of_run()
    except RuntimeError:
        return False
    return True
