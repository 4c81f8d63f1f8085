"""The server of both hubs, the host hub and the run hub: lines of text on a Unix domain socket.

It accepts this user's processes only, bounds the length of their lines and what they leave unread,
and has a handler process the lines.

Why not `asyncio.Server`: it cannot stop accepting, so it takes all files that the process may open.
`aioapiqueue run` fails when it next needs one itself, and so do all calls of its programs: a scan
with four processes of 100 threads each did, under `ulimit -n 256`. Nor can it close the idle
connections of one process, so the threads of another might wait forever for a free file. See
`test_four_times_fifty_threads_share_files` and `test_idle_connections_make_room_for_others`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from aioapiqueue._shared.local_sockets import peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_CHUNK = 1 << 14
"""Most bytes read from a connection in one pass of the loop, so that others are read, too."""
_UNREAD = 1 << 24
"""Most bytes that a client may leave unread: some 400,000 grants."""
_MOST_PIECES = 64
"""Most pieces read from a client that has hung up: a MiB, and a socket's buffer has less."""
_HELLO_SECONDS = 30.0
"""Seconds in which a connection must send its first line: a silent one would keep a file open."""
_AT_ONCE = 64
"""Connections accepted in one pass of the loop; then its other callbacks run."""
_SPARE = 16
"""Files that are kept for the rest of this process: logs, reports, programs that it starts."""
_RETRY_SECONDS = 0.2
_MACOS_FILES = 10_240
"""OPEN_MAX: the highest limit that macOS accepts where the hard limit is infinite."""


class ConnectionHandler(Protocol):
    """What serves one connection."""

    def received(self, lines: list[bytes]) -> None:
        """Process complete lines, as long as the connection `is_open`."""

    def close_idle(self) -> bool:
        """Close the connection if its client has announced that this may be done, and is idle.

        Returns:
            Whether it was closed.
        """

    def lost(self) -> None:
        """Drop what the client had: its connection has ended, closed by it or from here."""


H = TypeVar("H", bound=ConnectionHandler)


class HubServer(Generic[H]):
    """Accepts connections, and closes them.

    If there is no file for another connection, an idle one is closed. If none is idle, clients
    wait until a file is freed, and the loop's exception handler is called once.

    Args:
        listener: a listening socket that does not block. `close` closes it.
        handler: makes the handler of a connection.
        longest: most bytes of a line.
        refusal: the key of the reason in the object that a refused client gets.
    """

    def __init__(
        self,
        listener: socket.socket,
        handler: Callable[[HubConnection[H]], H],
        *,
        longest: int,
        refusal: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self.new_handler = handler
        self.longest = longest
        self._refusal = refusal
        self.buffer = memoryview(bytearray(_CHUNK))
        """What all connections read into: each is read and processed in one step of the loop."""
        self._connections: dict[HubConnection[H], None] = {}
        """In the order in which they were made."""
        self._connecting: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._reported = False
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def handlers(self) -> list[H]:
        """The handlers of all connections that are open."""
        return [one.handler for one in self._connections if one.handler is not None]

    @property
    def lacks_files(self) -> bool:
        """Whether a client is waiting because no file is free, and none is about to be."""
        return self._timer is not None

    def listen_on(self, listener: socket.socket) -> None:
        """Accept connections from another listening socket, and close the one before."""
        self._stop_accepting()
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self, why: str | None = None) -> None:
        """Stop accepting, and close all connections.

        Args:
            why: the reason that each client gets. None: they get no reason, but all that is unsent.
        """
        self._stop_accepting()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._connections):
            if why is None:
                connection.finish()
            else:
                connection.refuse(why)

    def _stop_accepting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        for number in range(_AT_ONCE):
            if not self._has_room():
                # A client is surely waiting only before the first is accepted, as the listener was
                # readable. Of the idle connections, the oldest is closed: each has its turn.
                if not number and not any(one.close_idle() for one in self.handlers):
                    self._pause()
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # a shortage of the whole system: ENFILE, ENOBUFS, ENOMEM
                self._pause()
                return
            sock.settimeout(0)
            task: asyncio.Task[object] = self._loop.create_task(
                self._loop.connect_accepted_socket(partial(HubConnection, self), sock)
            )
            self._connecting.add(task)  # the loop keeps only weak references to tasks
            task.add_done_callback(partial(self._connected, sock))

    def _connected(self, sock: socket.socket, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        # A task that failed may not have made a transport, which would close the socket. Reading
        # the exception keeps asyncio from logging that it was never retrieved.
        if task.cancelled() or task.exception() is not None:
            sock.close()

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

    def _pause(self) -> None:
        # The listener stays readable while a client waits: with its reader, the loop would spin.
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(_RETRY_SECONDS, self._go_on)
        if not self._reported:
            self._reported = True
            self._loop.call_exception_handler(
                {
                    "message": "the hub has reached its limit of open files: new connections wait "
                    "until others close. Raise the limit (ulimit -n), or use fewer threads",
                    "exception": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
                }
            )

    def _go_on(self) -> None:
        """Accept again: a file will be free in the loop's next pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.add_reader(self._listener.fileno(), self._accept)

    # What connections call.

    def opened(self, connection: HubConnection[H]) -> None:
        """Note a connection."""
        self._connections[connection] = None

    def closed(self, connection: HubConnection[H]) -> None:
        """Note the end of a connection."""
        self._connections.pop(connection, None)
        self._go_on()

    def refusal_for(self, why: str) -> bytes:
        """Return the line that a refused client gets."""
        return json.dumps({self._refusal: why}).encode() + b"\n"


class HubConnection(asyncio.BufferedProtocol, Generic[H]):
    """One connection, from its first line to its end.

    Args:
        server: the server that has accepted it.
    """

    def __init__(self, server: HubServer[H]) -> None:
        self._server = server
        self._buffer = server.buffer
        self.handler: H | None = None
        """None: another user's connection, or it has been closed."""
        self.is_open = True
        """Whether lines are processed. False once it has ended, or was closed from this side."""
        self.peer: int | None = None
        """The client's process id, from the kernel; None: the kernel does not know it."""
        self._pieces: list[bytes] = []
        """The pieces of an incomplete line, which are joined once: it may be long."""
        self._length = 0
        """Number of bytes in these."""
        self._held = self._unread = False
        """Why nothing is read: its handler holds it; or its client does not read."""
        self._transport: asyncio.Transport
        self._hello_timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the client if this user runs it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no such class
        self._server.opened(self)
        try:
            uid, self.peer = peer_of(transport.get_extra_info("socket"))
        except OSError:  # the client has hung up already
            self._transport.abort()
            self._end()
            return
        if uid not in {None, os.geteuid()}:
            self.refuse(f"the hub serves user id {os.geteuid()} only, not {uid}")
            return
        self._hello_timer = asyncio.get_running_loop().call_later(
            _HELLO_SECONDS, self.refuse, f"the client sent no hello within {_HELLO_SECONDS:g} s"
        )
        self.handler = self._server.new_handler(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        try:
            # After another error, the client may go on sending for ever.
            if isinstance(exc, ConnectionError) and self.is_open:
                self._read_rest()
        finally:
            self._server.closed(self)
            self._end()

    def _read_rest(self) -> None:
        """Process what the client sent before it hung up.

        asyncio stops reading once a write fails, such as an answer to a client that has just left.
        """
        fd = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            # A client that has only stopped reading (`SHUT_RD`) may go on sending for ever.
            for _ in range(_MOST_PIECES):
                received = os.readv(fd, [self._buffer])
                if not received or not self.is_open:
                    break
                self.buffer_updated(received)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as asyncio's
        """Return the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Process whole lines."""
        *lines, rest = bytes(self._buffer[:nbytes]).split(b"\n")
        if lines:
            if self._pieces:
                lines[0] = b"".join((*self._pieces, lines[0]))
                self._pieces, self._length = [], 0
            if self._hello_timer is not None:
                self._hello_timer.cancel()
                self._hello_timer = None
            if self.handler is not None:
                self.handler.received(lines)
        if rest:
            self._pieces.append(rest)
            self._length += len(rest)
            if self._length >= self._server.longest and self.is_open:
                self.refuse(f"a line is longer than {self._server.longest:,} bytes")

    # The hub does not read from a client that does not read, so that the answers to what it sends
    # are bounded. If it hangs up meanwhile, the next write fails.

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self._unread = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from it again."""
        self._unread = False
        if not self._held:
            self._transport.resume_reading()

    # What the handler calls.

    @property
    def lacks_files(self) -> bool:
        """Whether another client waits for a file, so that an idle connection should be closed."""
        return self._server.lacks_files

    @property
    def unsent(self) -> int:
        """Number of bytes that wait for the client to read."""
        return self._transport.get_write_buffer_size()

    def hold(self) -> None:
        """Read nothing until `go_on`."""
        self._held = True
        self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        self._held = False
        if not self._unread:
            self._transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Send whole lines, unless the client has hung up."""
        if self._transport.is_closing():
            return
        # What was unsent before: a client may be reading a long message, such as a status.
        if self._unread and self.unsent > _UNREAD:
            self._transport.abort()  # its process is stopped
            return
        self._transport.write(data)

    def refuse(self, why: str) -> None:
        """Send the reason, and close the connection."""
        self.send(self._server.refusal_for(why))
        if self.unsent:
            self._transport.abort()  # `close` would wait until the client reads, perhaps for ever
        else:
            self._transport.close()
        self._end()

    def finish(self) -> None:
        """Close the connection, once everything is sent."""
        self._transport.close()
        self._end()

    def _end(self) -> None:
        self.is_open = False
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.lost()


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
