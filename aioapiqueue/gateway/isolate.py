"""Starts a program where nothing but the gateway can be reached, so that nobody goes past it.

`aioapiqueue run --isolate` starts this file by its path, with the standard library alone. Linux: a
network namespace has a loopback of its own and nothing else; whatever has a name is 127.0.0.1
there. The sockets that are listened on are made in the namespace and sent to the gateway, which
stays outside. Then this process becomes the program, with its own process id.

A user who is not root needs a user namespace for that, in which he is who he is. Root has none, as
a program of root's may become another user.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BUNDLE", "SYSTEM_BUNDLES"]

BUNDLE = "ca-bundle.pem"
"""The name of the file in the private folder that has what programs of the run trust."""
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, the BSDs
)
"""Where systems have the certificates of authorities, in one file."""

_NEW_MOUNTS, _NEW_NETWORK, _NEW_USERS = 0x20000, 0x40000000, 0x10000000  # <sched.h>
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000  # <sys/mount.h>
_SET_ADDRESS, _SET_FLAGS, _UP = 0x8916, 0x8914, 0x1 | 0x40  # <linux/sockios.h>, <net/if.h>
_BACKLOG = 1024
_PORTS = (443, 80)
_PATIENCE = 30.0

# Where credentials of instances, tasks and pods come from. The gateway passes these on.
_METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23")
# Daemons that answer for names by their own sockets; without them, /etc/resolv.conf counts.
_RESOLVERS = (Path("/run/systemd/resolve"), Path("/run/nscd"), Path("/var/run/nscd"))
_RESOLV_CONF = Path("/etc/resolv.conf")

_libc = ctypes.CDLL(None, use_errno=True)


class _NotIsolatedError(Exception):
    """Raised where this system does not allow it; has the reason."""


def main(arguments: list[str]) -> None:
    """Isolate this process, and become a program.

    Args:
        arguments: "--check"; or the gateway's socket, a private folder, the port that the program's
            environment names, the ports of servers that it may connect to, their addresses that are
            to be reached without a name, the file to execute, and its whole command line. Of ports
            and addresses, there are commas between them.
    """
    try:
        if arguments == ["--check"]:
            _enter()
            with tempfile.TemporaryDirectory() as folder:
                _set_up_names(Path(folder))
                (Path(folder) / BUNDLE).touch()
                _set_up_trust(Path(folder))
            _listeners(0, _PORTS, _METADATA)
            _environment()
            return
        gateway, folder, port, ports, addresses, file, *command = arguments
        _enter()
        _set_up_names(Path(folder))
        _set_up_trust(Path(folder))
        reached = (*_METADATA, *filter(None, addresses.split(",")))
        _hand_over(gateway, _listeners(int(port), map(int, ports.split(",")), reached))
    except (OSError, _NotIsolatedError) as error:
        sys.exit(str(error))
    # What Python ignores, the program is not to ignore.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(file, command, _environment())  # noqa: S606 - the program that the user has named
    except OSError as error:
        sys.stderr.write(f"{file}: cannot be started: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _environment() -> dict[bytes, bytes]:
    """Return the environment as it was given: Python adds LC_CTYPE where there is no locale."""
    words = Path("/proc/self/environ").read_bytes().split(b"\0")
    return dict(word.partition(b"=")[::2] for word in words if b"=" in word)


def _enter() -> None:
    """Enter new namespaces."""
    user, group = os.geteuid(), os.getegid()
    kinds = _NEW_NETWORK | _NEW_MOUNTS
    if user == 0 and _libc.unshare(kinds) == 0:
        return
    if _libc.unshare(kinds | _NEW_USERS):
        raise _NotIsolatedError(
            f"this system does not allow namespaces ({os.strerror(ctypes.get_errno())}). If "
            "AppArmor blocks them: sysctl kernel.apparmor_restrict_unprivileged_userns=0; in a "
            "container: start it with --cap-add SYS_ADMIN"
        )
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def _set_up_names(folder: Path) -> None:
    """Have all names be asked for at 127.0.0.1, and mounts not be seen outside."""
    _mount("none", "/", _REC | _PRIVATE)
    place = _RESOLV_CONF.resolve()
    mine = folder / "names"
    mine.mkdir(exist_ok=True)
    for name in ("resolv.conf", "stub-resolv.conf"):
        (mine / name).write_text("nameserver 127.0.0.1\n")
    hidden = [resolver for resolver in _RESOLVERS if resolver.is_dir()]
    for resolver in hidden:
        _mount(mine, resolver, _BIND)
    # In one of these, it is a file of ours by now.
    if place.exists() and not any(place.is_relative_to(one) for one in hidden):
        _mount(mine / "resolv.conf", place, _BIND)


def _set_up_trust(folder: Path) -> None:
    """Have the run's certificates in place of the system's, for what reads no variable: GnuTLS."""
    for place in {Path(one).resolve() for one in SYSTEM_BUNDLES}:
        if place.is_file():
            _mount(folder / BUNDLE, place, _BIND)


def _mount(source: str | Path, target: str | Path, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None):
        raise _NotIsolatedError(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")


def _listeners(port: int, ports: Iterable[int], addresses: Iterable[str]) -> list[socket.socket]:
    """Return the sockets of the proxy, of names, and of these ports, in this order.

    Args:
        port: of the proxy.
        ports: at any address.
        addresses: which lead here, as loopback does.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh", b"lo", _UP))
        for number, address in enumerate(addresses):
            name = f"lo:{number}".encode()
            packed = struct.pack("16sH2s4s8x", name, socket.AF_INET, b"", socket.inet_aton(address))
            fcntl.ioctl(control, _SET_ADDRESS, packed)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    proxy, *others = (socket.create_server(("", one), backlog=_BACKLOG) for one in (port, *ports))
    return [proxy, names, *others]


def _hand_over(gateway: str, sockets: list[socket.socket]) -> None:
    """Send sockets to the gateway, and wait until it listens on them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_PATIENCE)
        link.connect(gateway)
        numbers = array.array("i", [one.fileno() for one in sockets])
        link.sendmsg([b"sockets"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        if link.recv(16) != b"listening":
            raise _NotIsolatedError("the gateway did not accept the sockets")


if __name__ == "__main__":
    main(sys.argv[1:])
