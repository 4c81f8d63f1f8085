"""Takes in whoever connects to the hub, for as long as it may have more files.

asyncio's own server does not stop where files run out: it fails, and reports it, once for each
connection that its backlog may hold, and each of these failures tries again a second later. That
are tens of thousands of lines a second, and a hub that is busy with them lets nobody go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
from functools import partial
from typing import TYPE_CHECKING

from aioapiqueue.hub import _protocol as protocol
from aioapiqueue.hub._socket import raise_file_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["Acceptor"]

_AT_ONCE = 64  # then others have their turn on the loop
_SPARE = 16  # files that are left for whatever else this process does
_AGAIN_SECONDS = 0.2
_LONGEST_PASS_SECONDS = 2.0  # between two looks; more of it is somebody's Ctrl-Z
_ROOM_SECONDS = 30.0
"""How long those who connect wait for a file, since the last one came free."""


class Acceptor:
    """Makes a protocol of each connection, as `asyncio.Server` does.

    Without a file for one more, an idle connection is closed. Where none is idle, clients that
    connect wait in the socket's backlog until a file comes free; the loop's exception handler hears
    of it once. Once none has come free for 30 seconds, all who wait there are refused.

    Args:
        listener: listens already, and does not block. It is closed with this.
        new: makes a protocol.
        close_idle: begins to close an idle connection; returns whether there was one.
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
        """When there was no file for somebody who waits; None: nobody waits for one."""
        self._looked = 0.0
        self._told = False
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def lacks_files(self) -> bool:
        """Whether somebody waits for a file, and none is about to come free."""
        return self._timer is not None

    def go_on(self) -> None:
        """Accept again, as a file comes free by the loop's next pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Those that have been accepted stay."""
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
        """Return a connection; None if nobody waits for one, or there is no file for it."""
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
        """See to it that those who wait get a file, or hear that there is none."""
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
        """Tell those who wait that there is no file for them, by one of those kept free."""
        for _ in range(_AT_ONCE):
            connection = self._next()
            if connection is None:
                return
            with connection, contextlib.suppress(OSError):
                connection.send(protocol.to_line(error=_no_file()))

    def _pause(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(_AGAIN_SECONDS, self.go_on)
        if not self._told:
            self._told = True
            self._loop.call_exception_handler(
                {
                    "message": "the hub may have no more open files: calls wait until others have "
                    f"ended, and fail where none ends for {_ROOM_SECONDS:g} s. Raise the limit "
                    "(ulimit -n), or use fewer threads",
                    "exception": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
                }
            )


def _no_file() -> str:
    return (
        "the hub has no file left for another connection, and none came free within "
        f"{_ROOM_SECONDS:g} s. Each thread that calls needs one: use fewer, or raise the limit "
        "(ulimit -n) where the hub is started"
    )
