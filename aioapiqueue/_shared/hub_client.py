"""A client's connection to either hub: the host hub of `HostSchedule`, or the run hub.

A socket without an asyncio transport, read and written on the client's loop. So it can be closed
without a running loop: when its owner is garbage collected, when its loop has been closed, or in a
child made by `fork`. An idle connection costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.local_sockets import peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

ANSWER_SECONDS = 5.0
"""Seconds in which a hub answers, unless its process is stopped."""
_LONGEST = 1 << 26
"""Most bytes of a line: the status of 100,000 lanes has fewer."""
_TOO_LONG = (
    f"the hub's response is longer than {_LONGEST >> 20} MiB: stop the hub (aioapiqueue hub stop)"
)
_CHUNK = 1 << 14
"""Bytes to read at once: each read allocates as many."""
_CLOSING = 1.0
"""Seconds in which the last messages have to be sent."""


def connect_to_hub(sock: socket.socket, path: str) -> None:
    """Connect to a hub of this user. This blocks.

    Args:
        sock: a new socket. The caller closes it, also after an error.
        path: of the hub's socket.

    Raises:
        PermissionError: it belongs to another user.
        OSError: it cannot be connected to.
    """
    sock.settimeout(ANSWER_SECONDS)
    sock.connect(path)
    # Before a byte is sent: a hello names limits and lanes, and later messages name access keys.
    try:
        uid, _ = peer_of(sock)
    except OSError:  # the hub has exited
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the hub closed the connection") from None
    if uid not in {None, os.geteuid()}:  # None: the system does not know it
        raise PermissionError(
            f"{path} belongs to a process of user {uid}, and you are user {os.geteuid()}"
        )


def send_hello(sock: socket.socket, hello: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Send the first message; return the answer, and what was sent after it. This blocks.

    Raises:
        OSError: the connection broke, or no answer arrived.
        ValueError: the answer is not JSON, or too long.
    """
    sock.sendall(json.dumps(hello).encode("ascii") + b"\n")
    received = bytearray()
    part = b""
    while b"\n" not in part:
        part = sock.recv(65536)
        if not part:
            raise ConnectionResetError("the hub exited before it responded")
        received += part
        if len(received) > _LONGEST:
            raise ValueError(_TOO_LONG)
    line, _, rest = bytes(received).partition(b"\n")
    return json.loads(line), rest


class HubSocket:
    """A connection after its hello, used on the running loop.

    Args:
        sock: of the connection. From now on, it is closed with this object.
        encode: joins all messages of a pass of the loop.
        received: processes whole lines.
        lost: notes why the connection has ended; None: the hub has closed it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        encode: Callable[[list[str]], bytes],
        received: Callable[[list[bytes]], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = sock
        self._encode = encode
        self._on_lines = received
        self._on_loss = lost
        self._rest = b""
        """The beginning of a line whose end has not arrived."""
        self._unsent = b""
        self._outbox: list[str] = []
        self._in_pass = False
        """Whether something was sent in this pass of the loop."""
        self._has_asked = False
        """Whether a message was sent at once in this pass."""
        sock.settimeout(0)
        # Weakly, so that an owner which is no longer referenced is collected together with this.
        self._close_late = weakref.finalize(self, _close, sock, loop)
        self._close_late.atexit = False  # the kernel closes it then, and the loop may be gone
        loop.add_reader(sock.fileno(), _call, weakref.ref(self), HubSocket.read)

    def send(self, text: str, *, at_once: bool = False) -> None:
        """Send a message with all others of this pass of the loop: sending is expensive.

        Args:
            text: of the message.
            at_once: whether a caller waits for the answer: the first such message of a pass is
                sent now, with all messages before it. Default: False.
        """
        # A queue may be used between two event loops. The next one makes another connection.
        if self._sock is None or self._loop.is_closed():
            return
        self._outbox.append(text)
        if not self._in_pass:
            self._in_pass = True
            self._loop.call_soon(self._end_pass)
        if at_once and not self._has_asked:
            self._has_asked = True
            self._flush()

    def _end_pass(self) -> None:
        self._in_pass = self._has_asked = False
        self._flush()

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._sock is None or not outbox:
            return
        data = self._encode(outbox)
        if self._unsent:  # `write_more` sends it, in order
            self._unsent += data
        else:
            self._write(self._sock, data)

    def _write(self, sock: socket.socket, data: bytes) -> None:
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            # Not now: callers of `send` rely on the connection until they return.
            last = partial(HubSocket.read_last, error=error)
            self._loop.call_soon(_call, weakref.ref(self), last)
            return
        if sent < len(data):
            if not self._unsent:
                self._loop.add_writer(sock.fileno(), _call, weakref.ref(self), HubSocket.write_more)
            self._unsent = data[sent:]
        elif self._unsent:
            self._loop.remove_writer(sock.fileno())
            self._unsent = b""

    def write_more(self) -> None:
        """Send the rest, as the socket has room again."""
        if self._sock is not None:
            self._write(self._sock, self._unsent)

    def read(self) -> None:
        """Process what has arrived."""
        if self._sock is None:
            return
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self.process(data)
        else:
            self._lose(None)

    def read_last(self, error: OSError) -> None:
        """Process what the hub sent before it hung up, such as its reason."""
        while self._sock is not None:
            try:
                data = self._sock.recv(_CHUNK)
            except OSError:
                data = b""
            if data:
                self.process(data)
            else:
                self._lose(error)

    def process(self, data: bytes) -> None:
        """Process data that has arrived: `send_hello` has read some."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            try:
                self._on_lines(lines)
            except Exception as error:  # the loop reports it
                # The other lines are lost: without them, callers could wait for ever.
                if self._sock is not None:
                    self._lose(error)
                raise
        elif len(self._rest) > _LONGEST:
            self._lose(ValueError(_TOO_LONG))

    def _lose(self, error: Exception | None) -> None:
        self.close()
        self._on_loss(error)

    def close(self) -> None:
        """Close the connection. What is unsent is dropped."""
        if (sock := self._take()) is not None:
            sock.close()

    def _take(self) -> socket.socket | None:
        """Detach the socket from this object and its loop, and return it."""
        sock, self._sock = self._sock, None
        self._close_late.detach()
        if sock is not None and not self._loop.is_closed():  # closed, it has none
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        return sock

    def drop(self) -> None:
        """Close the socket, but leave its loop alone: it is another process's, or it is closed."""
        # A child made by `fork` shares the loop's selector with the parent, which must go on
        # reading.
        self._close_late.detach()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def aclose(self) -> None:
        """Send what is unsent, within a second, and close the connection."""
        self._flush()
        sock = self._take()
        if sock is None:
            return
        try:
            with contextlib.suppress(OSError):
                # Cancelled here: the rest is dropped, and the socket closed.
                async with asyncio.timeout(_CLOSING):
                    await self._loop.sock_sendall(sock, self._unsent)
        finally:
            sock.close()


def _call(ref: weakref.ref[HubSocket], method: Callable[[HubSocket], None]) -> None:
    """Call a method, unless its object was garbage collected."""
    found = ref()
    if found is not None:
        method(found)


def _close(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    """Close the socket of an object that was garbage collected."""

    def close() -> None:
        loop.remove_reader(sock.fileno())
        loop.remove_writer(sock.fileno())
        sock.close()

    try:
        # The collector runs in any thread, and a selector may only be changed by its loop's own.
        loop.call_soon_threadsafe(close)
    except RuntimeError:  # the loop is closed
        sock.close()
