"""A network namespace of their own for servers, so that they are not on this host.

What is isolated reaches nothing of this host. So the server that a test calls is put behind a pair
of virtual interfaces, at an address of 198.18.0.0/15 (RFC 2544, for benchmarks), and a name server
there answers for the names that the test wants.

    with OwnNetwork() as network:
        network.names[".amazonaws.com"] = network.address
        listener = network.bind(443)           # for a server in this process, or in a thread of it
        subprocess.run(network.command("socat", ...))                   # for one that is a program
        subprocess.run(network.seen_by(["curl", "https://ec2.us-east-1.amazonaws.com/"]))
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["OwnNetwork"]

T = TypeVar("T")

_NEW_NETWORK = 0x40000000  # <sched.h>
_NAME_PORT = 53
_HEAD = 12
_IPV4 = 1
_NO_SUCH_NAME = 3
_QUESTION = struct.Struct("!HH")
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
# In a mount namespace: the program sees this name server, and nothing else on this host does.
_SEES = """
for name in resolv.conf nsswitch.conf; do
  mount --bind "$1/$name" "$(readlink -f /etc/$name)" || exit 99
done
shift
exec "$@"
"""


class OwnNetwork:
    """The namespace; a context manager. The test is skipped where it cannot be made.

    Attributes:
        address: of its servers.
        host_address: of this host, as they see it.
        names: addresses by name, which a test sets. A name that begins with a dot stands for all
            that end so. In place of an address: what returns one, each time that it is asked for.
        asked: the names that were asked for.
    """

    def __init__(self) -> None:
        number = secrets.randbelow(1 << 15)  # which /30 of the network
        (first,) = struct.unpack("!I", socket.inet_aton("198.18.0.0"))
        self.host_address, self.address = (
            socket.inet_ntoa(struct.pack("!I", first + 4 * number + one)) for one in (1, 2)
        )
        self.names: dict[str, str | Callable[[], str]] = {}
        self.asked: list[str] = []
        self._name = f"aioapiqueue-{number}"
        self._links = (f"aq{number}h", f"aq{number}s")

    def __enter__(self) -> Self:
        if sys.platform != "linux":
            pytest.skip("needs Linux's namespaces")
        if os.geteuid() != 0 or None in map(shutil.which, ("ip", "unshare", "mount")):
            pytest.skip("a network of its own needs root, and iproute2, unshare and mount")
        self._folder = Path(tempfile.mkdtemp(prefix="own-network-"))
        try:
            self._make()
            self._name_server = self.bind(_NAME_PORT, kind=socket.SOCK_DGRAM)
        except (subprocess.CalledProcessError, OSError) as error:
            self._remove()
            why = getattr(error, "stderr", None) or error
            pytest.skip(f"a network of its own cannot be made: {why}")
        self._thread = threading.Thread(target=self._answer_names, name="names")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.sendto(b"", self._name_server.getsockname())  # which is no question: the end
        self._thread.join()
        self._name_server.close()
        self._remove()

    def bind(self, port: int = 0, *, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Return a socket at a port of the address, which listens if it is of TCP.

        It stays in the namespace, whichever thread of this process uses it.
        """

        def bound() -> socket.socket:
            if kind == socket.SOCK_STREAM:
                return socket.create_server((self.address, port), backlog=1024)
            sock = socket.socket(socket.AF_INET, kind)
            sock.bind((self.address, port))
            return sock

        return self.inside(bound)

    def inside(self, work: Callable[[], T]) -> T:
        """Return what a function returns in the namespace: in a thread of its own."""
        found: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                self._enter()
                found.append(work())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return found[0]

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self._name}").open("rb") as namespace:
            if libc.setns(namespace.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def command(self, *command: object) -> list[str]:
        """Return the command line that runs a program in the namespace."""
        return ["ip", "netns", "exec", self._name, *map(str, command)]

    def seen_by(self, command: Sequence[object]) -> list[str]:
        """Return the command line that runs a program on this host, which knows these names."""
        words = [str(one) for one in (self._folder, *command)]
        return ["unshare", "--mount", "sh", "-c", _SEES, "sh", *words]

    def _make(self) -> None:
        (self._folder / "resolv.conf").write_text(f"nameserver {self.address}\n")
        (self._folder / "nsswitch.conf").write_text(_NSSWITCH)
        ours, theirs = self._links
        inside = ["-n", self._name]
        for words in (
            ["netns", "add", self._name],
            ["link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self._name],
            ["addr", "add", f"{self.host_address}/30", "dev", ours],
            ["link", "set", ours, "up"],
            [*inside, "addr", "add", f"{self.address}/30", "dev", theirs],
            [*inside, "link", "set", theirs, "up"],
            [*inside, "link", "set", "lo", "up"],
        ):
            _ip(*words)
        # May this host make mounts that others do not see? Else, nothing knows the names.
        subprocess.run(self.seen_by(["true"]), check=True, capture_output=True, text=True)

    def _remove(self) -> None:
        # The pair of interfaces goes with the namespace; sockets that are still open keep both.
        for words in (["link", "del", self._links[0]], ["netns", "del", self._name]):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)
        shutil.rmtree(self._folder)

    def _answer_names(self) -> None:
        while True:
            question, sender = self._name_server.recvfrom(4096)
            if len(question) <= _HEAD:
                return
            self._name_server.sendto(self._answer_to(question), sender)

    def _answer_to(self, question: bytes) -> bytes:
        """Answer a question (RFC 1035, 4): an address, nothing of that kind, or no such name."""
        at, labels = _HEAD, []
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode("ascii").lower())
            at += 1 + size
        kind, _ = _QUESTION.unpack_from(question, at + 1)
        asked = question[_HEAD : at + 1 + _QUESTION.size]
        name = ".".join(labels)
        self.asked.append(name)
        fits = [one for one in self.names if name == one or (one[:1] == "." and name.endswith(one))]
        code, found = (0, b"") if fits else (_NO_SUCH_NAME, b"")
        if fits and kind == _IPV4:
            address = self.names[max(fits, key=len)]
            packed = socket.inet_aton(address if isinstance(address, str) else address())
            found = b"\xc0\x0c" + struct.pack("!HHIH", _IPV4, 1, 0, len(packed)) + packed
        flags = 0x8180 | code
        head = struct.pack("!HHHHH", flags, 1, bool(found), 0, 0)
        return question[:2] + head + asked + found


def _ip(*words: str) -> None:
    command = [shutil.which("ip") or "ip", *words]
    subprocess.run(command, check=True, capture_output=True, text=True)
