"""Accepts connections to the hub, for as long as it may have more open files.

asyncio's own server does not stop where files run out: each wake-up fails once for each connection
that its backlog may hold, and each failure is reported and tried again a second later. Made with a
backlog of 1, it still reports every second of a shortage, without a remedy; and it has no public
way to stop accepting for a while. So it can neither keep files for the rest of this process, nor
close an idle connection before it fails, nor refuse the clients that have waited for too long.
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

from aioapiqueue._shared.socket_file import raise_file_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["Acceptor"]

_AT_ONCE = 64
"""Connections accepted in one pass of the loop; then its other callbacks run."""
_SPARE = 16
"""Files that are left for the rest of this process: logs, reports, programs that it starts."""
_RETRY_SECONDS = 0.2
_LONGEST_PASS_SECONDS = 2.0
"""Between two attempts; if it took longer, this process was suspended (Ctrl-Z)."""
_ROOM_SECONDS = 30.0
"""How long clients that connect wait for a file, since the last one came free.

People look at a program that stands still after half a minute or so: by then there is a message.
"""


class Acceptor:
    """Makes a protocol for each connection, as `asyncio.Server` does.

    Without a file for one more, an idle connection is closed. Where none is idle, clients that
    connect wait in the socket's backlog until a file comes free; the loop's exception handler is
    called once. When none has come free for 30 seconds, all clients that wait there are refused.

    Args:
        listener: a socket that listens already, and does not block. `close` closes it.
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
        self._coming: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._short_since: float | None = None
        """Since when clients wait for a file; None while there is no such client."""
        self._looked = 0.0
        self._reported = False
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def lacks_files(self) -> bool:
        """Whether a client waits for a file, and none is about to come free."""
        return self._timer is not None

    def go_on(self) -> None:
        """Accept again, as a file comes free by the loop's next pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting. Connections that have been accepted stay."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._coming:
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
            self._coming.add(task)
            task.add_done_callback(partial(self._came, connection))

    def _next(self) -> socket.socket | None:
        """Accept a connection; return None if no client waits, or there is no file for one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._short_since = None
            return None
        except OSError:  # of the whole system: ENFILE, ENOBUFS, ENOMEM
            self._pause()
            return None
        connection.settimeout(0)
        return connection

    def _came(self, connection: socket.socket, task: asyncio.Task[object]) -> None:
        self._coming.discard(task)
        if task.cancelled() or task.exception() is not None:
            connection.close()

    def _has_room(self) -> bool:
        """Return whether there is a file for one more, after some that are kept free."""
        import resource  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

        try:
            number = os.dup(self._listener.fileno())  # the lowest that is free
        except OSError:
            return raise_file_limit()
        os.close(number)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return True
        return number < limit - min(_SPARE, limit // 8) or raise_file_limit()

    def _make_room(self) -> None:
        """Get a file for the clients that wait, or refuse them after their time."""
        waits = select.poll()
        waits.register(self._listener.fileno(), select.POLLIN)
        if not waits.poll(0):
            self._short_since = None
            return
        now = self._loop.time()
        if self._short_since is None:
            self._short_since = self._looked = now
        # While we, and maybe the program with us, were suspended, no file could come free.
        self._short_since += max(0.0, now - self._looked - _LONGEST_PASS_SECONDS)
        self._looked = now
        if self._close_idle():
            return  # closed by the loop's next pass, which comes back here
        if now - self._short_since < _ROOM_SECONDS:
            self._pause()
        else:
            self._refuse()

    def _refuse(self) -> None:
        """Refuse the clients that wait, each through one of the files that are kept free."""
        for _ in range(_AT_ONCE):
            connection = self._next()
            if connection is None:
                return
            with connection, contextlib.suppress(OSError):
                connection.send(json.dumps({"error": _no_file()}).encode() + b"\n")

    def _pause(self) -> None:
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


def _no_file() -> str:
    return (
        "the hub has reached its limit of open files, and no connection closed within "
        f"{_ROOM_SECONDS:g} s. Each calling thread needs one: use fewer threads, or raise the "
        "limit (ulimit -n) where the hub is started"
    )
