"""Informs aioapiqueue's hub that this process exists, and which botocore it uses.

Every Python of a run loads this module, and the rest of the package once botocore is imported. So
it imports as little as possible. This package is the only name that we add to those that the
program can import.
"""

from __future__ import annotations

import _socket  # the part of `socket` that is fast to import
import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING would cost every program the import of typing
if TYPE_CHECKING:
    import socket
    from typing import Any

HUB = os.environ.get("AIOAPIQUEUE_HUB", "")
MARK = os.environ.get("AIOAPIQUEUE_MARK", "")
"""The mark by which the run's gateway recognizes requests that have had their turn; "" without a
gateway."""
VERSION = 2
"""Version of the protocol."""
_CONNECT_SECONDS = 5.0
"""Seconds in which the hub must accept a connection: it does so at once unless thousands arrive."""


class StrangerError(OSError):
    """Raised if another user's process listens at the hub's address; has both user ids."""


def _line(**fields: object) -> bytes:
    """Return a message of texts, numbers and true values."""
    try:  # `json` is slow to import
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

    Each is None if the kernel does not know it: outside of Linux, macOS, FreeBSD and DragonFly BSD,
    both are. Then only the socket's directory protects us, which only its owner may enter.

    Raises:
        OSError: the other end has closed the connection (not on Linux).
    """
    platform: str = sys.platform
    if platform in {"linux", "android"}:  # struct ucred: pid, uid, gid
        found = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        pid = int.from_bytes(found[:4], sys.byteorder)
        return int.from_bytes(found[4:8], sys.byteorder), pid or None  # 0: another PID namespace
    if platform == "darwin" or platform.startswith(("freebsd", "dragonfly")):
        found = sock.getsockopt(0, 1, 128)  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred
        return int.from_bytes(found[4:8], sys.byteorder), None
    return None, None


class HubWire:
    """A connection to the hub, and the identity of its socket.

    Args:
        make: makes a socket.
        hello: fields of the first message.
    """

    # Programs that become daemons close every file number, and their own files get these numbers
    # later. Nothing of ours may be written into such a file: hence the identity.

    def __init__(self, make: Any, **hello: object) -> None:
        self.greeting = _line(do="hello", version=VERSION, pid=os.getpid(), **hello)
        # The program may have reset SIGPIPE, which would then end it.
        self.flags = getattr(_socket, "MSG_NOSIGNAL", 0)
        with process.lock:  # without a fork in between, so that a child closes what it inherits
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

        self.sock.settimeout(_CONNECT_SECONDS)  # not the program's `socket.setdefaulttimeout`
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                self.sock.connect(HUB)
                break
            except BlockingIOError:  # the backlog is full: Linux does not wait then
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        # A program may outlive its run, and another user may put a socket into the hub's place. So
        # nothing is sent before this check: a question contains the id of the access key.
        listens, own = peer_of(self.sock)[0], os.geteuid()
        if listens not in {None, own}:
            raise StrangerError(listens, own)

    @property
    def is_intact(self) -> bool:
        """Whether the socket's file number still belongs to the socket."""
        try:
            status = os.fstat(self.sock.fileno())
        except (OSError, ValueError):
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def close(self) -> None:
        """Close the socket, unless its file number belongs to another file by now."""
        process.wires.discard(self)
        is_intact = self.is_intact
        # Detached in any case: garbage collection would close the number, perhaps another file's.
        number = self.sock.detach()
        if is_intact:
            os.close(number)

    def take_greeting(self) -> bytes:
        """Return the hello if it has not been sent yet, and forget it."""
        greeting, self.greeting = self.greeting, b""
        return greeting

    def send(self, message: bytes) -> bool:
        """Send a message, after hello if it is the first; return whether it was sent."""
        if not self.is_intact:
            return False
        try:
            self.sock.sendall(self.take_greeting() + message, self.flags)
        except OSError:  # closed by the hub, or the hub has ended
            return False
        return True


def _image() -> str:
    """Return the addresses of code and stack: new ones after each `exec`, but not after a fork."""
    try:
        with open("/proc/self/stat", "rb", buffering=0) as file:
            return b" ".join(file.read().rpartition(b")")[2].split()[23:26]).decode()
    except OSError:  # only Linux has it
        return ""


class _ThisProcess:
    """The state of this process, which children that it forks do not share."""

    def __init__(self) -> None:
        self.botocore = ""
        self.forked = False
        self._image = _image()
        self._begin()

    def _begin(self) -> None:
        import _thread

        self.lock = _thread.RLock()  # reentrant, as a signal handler may make a call, too
        self.wires: set[HubWire] = set()
        self.is_hooking = False
        """Whether modules are being hooked late, which imports others and must not begin again."""
        self._presence: HubWire | None = None
        """The connection that shows the hub that this process is alive."""

    def begin_child(self) -> None:
        """Begin again in a forked child: the parent's connections are the parent's."""
        inherited, self.forked = self.wires, True
        self._begin()
        for wire in inherited:
            # The child's copy only. No loop is informed, as its selector is shared with the parent.
            wire.close()
        self.announce()

    def announce(self) -> None:
        """Inform the hub that this process is alive, unless it knows."""
        if self._presence is not None and self._presence.is_intact:
            return
        try:
            self._presence = HubWire(
                _socket.socket,
                executable=(sys.executable or "")[:1024],  # the protocol's longest
                python=".".join(map(str, sys.version_info[:3])),
                forked=self.forked,
                image=self._image,
            )
        except OSError:
            self._presence = None  # not raised here: only calls may fail, and they will
        else:
            self._presence.send(
                _line(do="hooked", botocore=self.botocore) if self.botocore else b""
            )

    def report(self, do: str, **fields: object) -> None:
        """Report something about this process to the hub, if the hub can be reached."""
        if self._presence is not None:  # if it is lost, calls will find out, and raise
            self._presence.send(_line(do=do, **fields))

    def end(self) -> None:
        """Send `bye`, and close the connection, so that Python does not warn about it."""
        self.report("bye")
        if self._presence is not None:
            self._presence.close()


process = _ThisProcess()
