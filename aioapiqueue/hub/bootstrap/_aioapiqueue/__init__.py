"""Informs aioapiqueue's hub that this process exists, and which botocore it has.

Every Python of a run loads this module, and the rest of the package once botocore is imported. The
package's name is the only one that we add to what the program can import.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING would cost every program the import of typing
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

HUB = os.environ.get("AIOAPIQUEUE_HUB", "")
MARK, *_words = os.environ.get("AIOAPIQUEUE_MARK", "").split() or [""]
"""What the run's gateway knows requests by that have had their turn; "" without one."""
MARKED = tuple("." + word for word in _words if "." in word)
"""What the names of hosts end with, to which requests are marked."""
UNMARKED = frozenset(word for word in _words if "." not in word)
"""Labels of hosts in these domains that the gateway does not open: they would see the mark."""
VERSION = 2
"""Of the protocol."""
_CONNECT_SECONDS = 5.0
"""The hub takes a connection in at once, unless thousands come at the same time."""


class StrangerError(OSError):
    """Raised where another user's process listens at the hub's address; has both user ids."""


def _line(**fields: object) -> bytes:
    """Return a message of texts, numbers and what is true; json is slow to import."""
    try:
        from _json import encode_basestring_ascii as quote
    except ImportError:  # not CPython
        from json import dumps as quote
    parts = [
        f'"{key}":{quote(value) if isinstance(value, str) else str(value).lower()}'
        for key, value in fields.items()
        if value is not False
    ]
    return ("{" + ",".join(parts) + "}\n").encode()


def peer_of(sock: socket.socket) -> tuple[int | None, int | None]:
    """Return the user id and the process id of the other end, from the kernel.

    Each is None where the kernel does not know it; then only the socket's folder protects us, which
    only its owner may enter.
    """
    import _socket

    platform: str = sys.platform
    if platform == "linux":  # struct ucred: pid, uid, gid
        found = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        pid = int.from_bytes(found[:4], sys.byteorder)
        return int.from_bytes(found[4:8], sys.byteorder), pid or None  # 0: another PID namespace
    if platform == "darwin" or platform.startswith(("freebsd", "dragonfly")):
        found = sock.getsockopt(0, 1, 128)  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred
        return int.from_bytes(found[4:8], sys.byteorder), None
    return None, None


class HubWire:
    """A connection to the hub, and which socket it is.

    Programs that become daemons close every file number, and files of theirs get these numbers;
    nothing of ours may be written into one of those.

    Args:
        make: makes a socket.
        hello: fields of the first message.
    """

    def __init__(self, make: Any, **hello: object) -> None:
        import _socket  # what socket, which is slow to import, is made of

        self.greeting = _line(do="hello", version=VERSION, pid=os.getpid(), **hello)
        self.flags = getattr(_socket, "MSG_NOSIGNAL", 0)  # the program may have reset SIGPIPE
        with process.lock:  # no fork comes between, so children know of all that they inherit
            self.sock: socket.socket = make(_socket.AF_UNIX, _socket.SOCK_STREAM)
            status = os.fstat(self.sock.fileno())
            self._identity = (status.st_dev, status.st_ino)
            process.wires.add(self)
        try:
            if sys.platform == "darwin":
                self.sock.setsockopt(_socket.SOL_SOCKET, 0x1022, 1)  # SO_NOSIGPIPE
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        import time

        self.sock.settimeout(_CONNECT_SECONDS)  # whatever socket.setdefaulttimeout says
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                self.sock.connect(HUB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        listens, own = peer_of(self.sock)[0], os.geteuid()
        if listens not in {None, own}:
            raise StrangerError(listens, own)

    @property
    def whole(self) -> bool:
        """Whether the socket's file number still belongs to the socket."""
        try:
            status = os.fstat(self.sock.fileno())
        except (OSError, ValueError):
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def close(self) -> None:
        """Close the socket, unless its file number belongs to another file by now."""
        process.wires.discard(self)
        whole = self.whole
        number = self.sock.detach()  # before it is closed, so that nobody closes it twice
        if whole:
            os.close(number)

    def take_greeting(self) -> bytes:
        """Return the hello that is still to be sent, if it is."""
        greeting, self.greeting = self.greeting, b""
        return greeting

    def send(self, message: bytes) -> None:
        """Send a message, after hello if it is the first."""
        self.sock.sendall(self.take_greeting() + message, self.flags)


class _ThisProcess:
    """What belongs to this process, and not to the children that it forks."""

    def __init__(self) -> None:
        self.botocore = ""
        self.forked = False
        self.make_calls: Callable[[], Any] | None = None
        """Makes what is kept of the process's calls, once they are paced."""
        self._begin()

    def _begin(self) -> None:
        import _thread

        self.lock = _thread.RLock()  # a signal handler may call, too
        self.wires: set[HubWire] = set()
        self.unhooked: set[str] = set()
        """Modules that could not be hooked."""
        self.is_hooking = False
        """Whether modules are just being hooked late: that imports, and must not begin again."""
        self.calls: Any = None if self.make_calls is None else self.make_calls()
        self._presence: HubWire | None = None
        """The connection by which the hub knows that this process lives."""

    def begin_child(self) -> None:
        """Begin again in a forked child: the parent's connections are the parent's."""
        inherited, self.forked = self.wires, True
        self._begin()
        for wire in inherited:
            # The child's copy only. No loop is informed, as it shares the parent's selector.
            wire.close()
        self.announce()

    def announce(self) -> None:
        """Inform the hub that this process lives, unless it knows."""
        if self._presence is not None and self._presence.whole:
            return
        import _socket

        try:
            self._presence = HubWire(
                _socket.socket,
                executable=(sys.executable or "")[:1024],
                python=".".join(map(str, sys.version_info[:3])),
                forked=self.forked,
            )
        except OSError:
            self._presence = None  # calls will find out, and raise
        else:
            self._send(_line(do="hooked", botocore=self.botocore) if self.botocore else b"")

    def report(self, do: str, **fields: object) -> None:
        """Report something of this process to the hub, if that can be reached."""
        self._send(_line(do=do, **fields))

    def _send(self, message: bytes) -> None:
        if self._presence is not None and self._presence.whole:
            try:
                self._presence.send(message)
            except OSError:
                pass  # calls will find out, and raise

    def end(self) -> None:
        """Say goodbye, and close the connection, so that Python does not warn of it."""
        self.report("bye")
        if self._presence is not None:
            self._presence.close()


process = _ThisProcess()
