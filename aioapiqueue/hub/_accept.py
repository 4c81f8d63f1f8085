"""Takes in whoever connects to the hub, for as long as it may have more files.

asyncio's own server does not stop where files run out: it fails, and reports it, once for each
connection that its backlog may hold, and each of these failures tries again a second later. That
are tens of thousands of lines a second, and a hub that is busy with them lets nobody go.
"""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from aioapiqueue.hub._socket import raise_file_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["Acceptor"]

_AT_ONCE = 64  # then others have their turn on the loop
_SPARE = 16  # files that are left for whatever else this process does
_AGAIN_SECONDS = 0.2


class Acceptor:
    """Makes a protocol of each connection, as `asyncio.Server` does.

    Without files for more, whoever connects waits in the socket's backlog until others have gone;
    it is told once, to the loop's exception handler.

    Args:
        listener: listens already, and does not block. It is closed with this.
        protocol: makes one.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._coming: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Those that have been accepted stay."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._coming:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._has_room():
                self._pause()
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # of the whole system: ENFILE, ENOBUFS, ENOMEM
                self._pause()
                return
            connection.settimeout(0)
            task: asyncio.Task[object] = self._loop.create_task(
                self._loop.connect_accepted_socket(self._protocol, connection)
            )
            self._coming.add(task)
            task.add_done_callback(partial(self._came, connection))

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

    def _pause(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(_AGAIN_SECONDS, self._go_on)
        if not self._told:
            self._told = True
            self._loop.call_exception_handler(
                {
                    "message": "the hub may have no more open files: whoever connects waits until "
                    "others have gone. Raise the limit (ulimit -n)",
                    "exception": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
                }
            )

    def _go_on(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)
