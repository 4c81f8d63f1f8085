"""What threads do differently where gevent has replaced them by greenlets.

After `gevent.monkey.patch_all()`, "threads" are greenlets of one thread. A loop in one of them
would share its thread with the greenlets that wait for it, and could not tell them from its own
callbacks. So the loop gets a thread of the system. gevent gives that thread a hub of its own, so
that sockets and "threads" of the loop work there, too. Greenlets wait at a `Gate`. This module
imports gevent only where the program has.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace
from typing import Any

__all__ = [
    "Gate",
    "original",
    "patched",
    "plain_subprocess",
    "refuse_greenlets_without_threads",
    "start_loop",
]

_PATIENCE = 1.0
"""Seconds that the end of the program waits for the loop to stop: a callback may take long."""


def patched() -> bool:
    """Return whether threads are greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def refuse_greenlets_without_threads() -> None:
    """Refuse what lets no loop run in a thread: selectors of gevent, and threads of the system.

    Raises:
        RuntimeError: the program has patched that much; the message says what to do.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("selectors") and not patched():
        raise RuntimeError(
            "gevent has patched selectors but not threads (monkey.patch_all(thread=False)), so no "
            "event loop can run in a thread: call monkey.patch_all() without thread=False"
        )


def original(module: str, name: str) -> Any:  # noqa: ANN401 - whatever it is
    """Return what a module of the standard library has, whether or not gevent has replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(import_module(module), name)
    return monkey.get_original(module, name)


def plain_subprocess() -> Any:  # noqa: ANN401 - as above
    """Return `subprocess`; where gevent has replaced its functions, a copy that has its own.

    gevent's can start programs in the main thread only. The copy needs the `os` of the system, too:
    gevent's `close` leaves a pipe open until the hub runs.
    """
    monkey = sys.modules.get("gevent.monkey")
    spec = find_spec("subprocess")
    if monkey is None or spec is None or spec.loader is None:
        return subprocess
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    plain_os = {name: original("os", name) for name in dir(os)}
    module.os = SimpleNamespace(**plain_os)  # type: ignore[attr-defined]  # it imports os
    return module


def start_loop() -> asyncio.AbstractEventLoop:
    """Start a loop in a new thread of the system.

    Raises:
        OSError: no file is left.
        RuntimeError: no thread is left.
    """
    made: list[asyncio.AbstractEventLoop | Exception] = []
    started, ended = (original("_thread", "allocate_lock")() for _ in range(2))
    started.acquire()
    ended.acquire()

    def run() -> None:
        try:
            # Here: its selector belongs to the hub of the thread that makes it.
            loop = asyncio.SelectorEventLoop()
        except Exception as error:  # noqa: BLE001 - the caller's, who raises it
            made.append(error)
            return
        else:
            made.append(loop)
        finally:
            started.release()
        try:
            loop.run_forever()
        finally:
            import_module("gevent").get_hub().destroy()
            ended.release()

    original("_thread", "start_new_thread")(run, ())
    started.acquire()  # no greenlet runs meanwhile: it takes a millisecond
    loop = made[0]
    if isinstance(loop, Exception):
        raise loop
    process = os.getpid()

    def stop() -> None:
        if os.getpid() == process:  # after a fork, the thread is in the parent only
            loop.call_soon_threadsafe(loop.stop)
            ended.acquire(timeout=_PATIENCE)

    # An interpreter that ends while gevent's hub runs in another thread can crash (SIGSEGV).
    atexit.register(stop)
    return loop


class Gate:
    """A closed lock that one greenlet waits for, and another thread opens.

    Not the `threading.Lock` that gevent provides: it does not tell the hub that another thread will
    open it, so that a program with a single greenlet ends with `LoopExit`.
    """

    __slots__ = ("_guard", "_opened", "_watcher")

    def __init__(self) -> None:
        # One of the system: no greenlet ever waits while it has it.
        self._guard = original("_thread", "allocate_lock")()
        self._opened = False
        self._watcher: Any = None

    def acquire(self, *, timeout: float | None = None) -> bool:
        """Wait until it is open, and let other greenlets run meanwhile.

        Args:
            timeout: seconds to wait at most; default: any time.

        Returns:
            Whether it is open.

        An exception that is thrown into the greenlet (`gevent.Timeout`, `GreenletExit`) ends the
        wait, and leaves nothing behind.
        """
        watcher = import_module("gevent").get_hub().loop.async_()
        event = import_module("gevent.event").Event()
        try:
            watcher.start(event.set)
            with self._guard:
                if self._opened:
                    return True
                self._watcher = watcher
            opened: bool = event.wait(timeout)
            return opened
        finally:
            with self._guard:  # nobody sends to a watcher that has been closed
                self._watcher = None
            watcher.close()

    def release(self) -> None:
        """Open it, in another thread than the one that waits."""
        with self._guard:
            self._opened = True
            if self._watcher is not None:
                self._watcher.send()
