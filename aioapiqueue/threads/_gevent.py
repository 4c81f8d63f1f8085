"""Blocking slots after gevent has replaced threads by greenlets.

After `gevent.monkey.patch_all()`, "threads" are greenlets of one thread. A loop in one of them
would share its thread with the greenlets that wait for it, and could not distinguish them from its
own callbacks. So the loop gets a real thread. gevent gives that thread a hub of its own, so that
sockets and "threads" work on the loop as well. Greenlets wait at a `Gate`. This module imports
gevent only if the program has.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace
from typing import Any

_PATIENCE = 1.0
"""Longest time in seconds that the end of the program waits for a callback of the loop."""


def patched() -> bool:
    """Return whether threads are greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def refuse_greenlets_without_threads() -> None:
    """Refuse a program that has patched selectors but not threads: no loop can run in a thread.

    Raises:
        RuntimeError: the program has done so; the message says what to do.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and not patched() and _has_patched_selector(monkey):
        raise RuntimeError(
            "gevent has patched selectors but not threads (monkey.patch_all(thread=False)), so no "
            "event loop can run in a thread: call monkey.patch_all() without thread=False"
        )


def _has_patched_selector(monkey: Any) -> bool:  # noqa: ANN401 - a module
    """Return whether loops would use a selector of gevent, which needs greenlets."""
    if monkey.is_module_patched("selectors"):
        return True
    # `patch_select()` removes epoll and kqueue. If `selectors` was imported before, as on Python
    # 3.11 and 3.12, it still has them; otherwise its default is made of gevent's `poll`.
    plain = (getattr(selectors, "PollSelector", None), selectors.SelectSelector)
    return monkey.is_module_patched("select") and selectors.DefaultSelector in plain


def original(module: str, name: str) -> Any:  # noqa: ANN401 - anything in a module
    """Return the standard library's own version of something that gevent may have replaced."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(import_module(module), name)
    return monkey.get_original(module, name)


def plain_subprocess() -> Any:  # noqa: ANN401 - as above
    """Return `subprocess`, or an unpatched copy if gevent has replaced its functions.

    gevent's version starts programs in the main thread only. The copy also needs an unpatched `os`,
    because gevent's `close` leaves a pipe open until the hub runs.
    """
    monkey = sys.modules.get("gevent.monkey")
    spec = find_spec("subprocess")
    if monkey is None or spec is None or spec.loader is None:
        return subprocess
    # Not put into `sys.modules`: the program keeps gevent's version.
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    plain_os = {name: original("os", name) for name in dir(os)}
    module.os = SimpleNamespace(**plain_os)  # type: ignore[attr-defined]  # it imports os
    return module


def start_loop() -> asyncio.AbstractEventLoop:
    """Start a loop in a new, real thread.

    Raises:
        OSError: no file descriptor is left.
        RuntimeError: no thread is left.
    """
    made: list[asyncio.AbstractEventLoop | Exception] = []
    # Real locks, acquired here and released by the new thread: a `threading.Event` would be one for
    # greenlets.
    started, ended = (original("_thread", "allocate_lock")() for _ in range(2))
    started.acquire()
    ended.acquire()

    def run() -> None:
        try:
            # Made in this thread, because gevent ties its selector to the hub of the thread.
            loop = asyncio.SelectorEventLoop()
        except Exception as error:  # noqa: BLE001 - the caller raises it
            made.append(error)
            return
        else:
            made.append(loop)
        finally:  # even if no loop could be made, because the caller waits for this
            started.release()
        try:
            loop.run_forever()
        finally:
            import_module("gevent").get_hub().destroy()
            ended.release()

    original("_thread", "start_new_thread")(run, ())
    started.acquire()  # blocks all greenlets, for about a millisecond
    loop = made[0]
    if isinstance(loop, Exception):
        raise loop
    process = os.getpid()

    def stop() -> None:
        if os.getpid() == process:  # a child made by fork does not have the thread
            loop.call_soon_threadsafe(loop.stop)
            ended.acquire(timeout=_PATIENCE)

    # The interpreter can crash (SIGSEGV) if it ends while a hub runs in another thread.
    atexit.register(stop)
    return loop


class Gate:
    """A lock that begins locked: a greenlet waits for it, and a thread releases it.

    gevent's own `threading.Lock` would not do: the hub does not know that another thread will
    release it, so a program with a single greenlet ends with `LoopExit`.
    """

    __slots__ = ("_guard", "_opened", "_watcher")

    def __init__(self) -> None:
        # A real lock cannot deadlock here: no greenlet switches to another while it holds it.
        self._guard = original("_thread", "allocate_lock")()
        self._opened = False
        self._watcher: Any = None

    def acquire(self, *, timeout: float | None = None) -> bool:
        """Wait for the release, and let other greenlets run meanwhile.

        An exception that is thrown into the greenlet (`gevent.Timeout`, `GreenletExit`) ends the
        wait, and leaves nothing behind.

        Args:
            timeout: longest wait in seconds; default: no timeout.

        Returns:
            False after the timeout.
        """
        # An async watcher, because another thread may call its `send`.
        watcher = import_module("gevent").get_hub().loop.async_()
        event = import_module("gevent.event").Event()
        try:
            watcher.start(event.set)  # before `release` can see the watcher, and send to it
            with self._guard:
                if self._opened:
                    return True
                self._watcher = watcher
            opened: bool = event.wait(timeout)
            return opened
        finally:
            with self._guard:  # so that `release` never uses a closed watcher
                self._watcher = None
            watcher.close()

    def release(self) -> None:
        """Wake the greenlet; called in another thread."""
        with self._guard:
            self._opened = True
            if self._watcher is not None:
                self._watcher.send()
