"""Accepts connections of a hub's clients, as long as the hub may open more files.

asyncio's own server cannot stop accepting for a while. When files run out, each wake-up fails once
for each connection in its backlog, and each failure is logged, without a remedy, and tried again a
second later. So it cannot keep files for the rest of this process, close an idle connection
instead, or refuse clients that have waited for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_MACOS_FILES = 10_240
"""OPEN_MAX: the highest limit that macOS accepts where the hard limit is infinite."""


def raise_file_limit() -> bool:
    """Raise the limit of open files to the hard limit; return whether it changed."""
    import resource  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    for most in (hard, _MACOS_FILES):
        if most == _MACOS_FILES and most <= soft:
            break  # the fallback would lower the limit
        with contextlib.suppress(ValueError, OSError):  # macOS refuses infinity
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return True
    return False


_AT_ONCE = 64
"""Connections accepted in one pass of the loop; then its other callbacks run."""
_SPARE = 16
"""Files that are kept for the rest of this process: logs, reports, programs that it starts."""
_RETRY_SECONDS = 0.2
_LONGEST_PASS_SECONDS = 2.0
"""The longest time between two attempts; if it was longer, this process was suspended (Ctrl-Z)."""
_ROOM_SECONDS = 30.0
"""Seconds for which clients wait for a file, since the last one was freed.

People look at a program that stands still after half a minute or so: by then, it has an error.
"""
_NO_FILE = (
    "the hub has reached its limit of open files, and no connection closed within "
    f"{_ROOM_SECONDS:g} s. Each calling thread needs one: use fewer threads, or raise the "
    "limit (ulimit -n) where the hub is started"
)
"""The error of a refused client."""


class Acceptor:
    """Makes a protocol for each connection, as `asyncio.Server` does.

    If there is no file for another connection, an idle one is closed. If none is idle, clients
    wait in the socket's backlog until a file is freed, and the loop's exception handler is called
    once. If none is freed for 30 seconds, all waiting clients are refused.

    Args:
        listener: a listening socket that does not block. `close` closes it.
        new: makes a protocol.
        close_idle: begins to close an idle connection, and returns whether there was one.
    """

    def __init__(
        self,
        listener: socket.socket,
        new: Callable[[], asyncio.BaseProtocol],
        *,
        close_idle: Callable[[], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._new = new
        self._close_idle = close_idle
        self._connecting: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._short_since: float | None = None
        """The instant since which clients wait for a file; None: no client does."""
        self._looked_at = 0.0
        self._reported = False
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def lacks_files(self) -> bool:
        """Whether a client waits for a file, and none is about to be freed."""
        return self._timer is not None

    def go_on(self) -> None:
        """Accept again: a file will be free in the loop's next pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting. Accepted connections stay."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._connecting:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._has_room():
                self._make_room()
                return
            connection = self._next()
            if connection is None:
                return
            self._short_since = None
            task: asyncio.Task[object] = self._loop.create_task(
                self._loop.connect_accepted_socket(self._new, connection)
            )
            self._connecting.add(task)  # the loop keeps only weak references to tasks
            task.add_done_callback(partial(self._connected, connection))

    def _next(self) -> socket.socket | None:
        """Accept a connection; return None if no client waits, or no file is free."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._short_since = None  # the backlog is empty: the next client gets the full time
            return None
        except OSError:  # a shortage of the whole system: ENFILE, ENOBUFS, ENOMEM
            self._pause()
            return None
        connection.settimeout(0)
        return connection

    def _connected(self, connection: socket.socket, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        # A task that failed may not have made a transport, which would close the socket. Reading
        # the exception keeps asyncio from logging that it was never retrieved.
        if task.cancelled() or task.exception() is not None:
            connection.close()

    def _has_room(self) -> bool:
        """Return whether there is a file for another connection, apart from those kept."""
        import resource  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

        # POSIX promises the lowest free number. So it is below the threshold as long as any number
        # below that is free, and no list of open files is needed, which would cost a system call
        # for each.
        try:
            number = os.dup(self._listener.fileno())
        except OSError:
            return raise_file_limit()
        os.close(number)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return True
        # An eighth, so that a limit of a few dozen files still leaves most of them to clients.
        return number < limit - min(_SPARE, limit // 8) or raise_file_limit()

    def _make_room(self) -> None:
        """Free a file for the waiting clients, or refuse them after their time."""
        # `accept` would tell, too, but it takes a file. `poll` has no limit on file numbers, as
        # `select` has (1024).
        waits = select.poll()
        waits.register(self._listener.fileno(), select.POLLIN)
        if not waits.poll(0):
            self._short_since = None
            return
        now = self._loop.time()
        if self._short_since is None:
            self._short_since = self._looked_at = now
        # Time during which this process was suspended does not count: no file could be freed.
        self._short_since += max(0.0, now - self._looked_at - _LONGEST_PASS_SECONDS)
        self._looked_at = now
        if self._close_idle():
            return  # closed by the loop's next pass, which comes back here
        if now - self._short_since < _ROOM_SECONDS:
            self._pause()
        else:
            self._refuse()

    def _refuse(self) -> None:
        """Refuse the waiting clients, with the files that are kept."""
        for _ in range(_AT_ONCE):
            connection = self._next()
            if connection is None:
                return
            with connection, contextlib.suppress(OSError):
                connection.send(json.dumps({"error": _NO_FILE}).encode() + b"\n")

    def _pause(self) -> None:
        # The listener stays readable while a client waits: with its reader, the loop would spin.
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(_RETRY_SECONDS, self.go_on)
        if not self._reported:
            self._reported = True
            self._loop.call_exception_handler(
                {
                    "message": "the hub has reached its limit of open files: new connections wait, "
                    f"and fail if none closes within {_ROOM_SECONDS:g} s. Raise the limit "
                    "(ulimit -n), or use fewer threads",
                    "exception": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
                }
            )
