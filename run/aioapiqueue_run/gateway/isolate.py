"""Starts a program in a Linux namespace where the gateway is its only network connection.

`aioapiqueue run --isolate` executes this file by its path, with the standard library alone. The
network namespace contains a loopback interface and nothing else, and every host name resolves to
127.0.0.1 there. This process makes the listening sockets inside the namespace and sends them to the
gateway, which stays outside. Then it executes the program, which keeps the process id.
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
"""Name of the file, in the private folder, with all certificates that the run's programs trust."""
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, the BSDs
)
"""Files in which systems keep the certificates of all authorities."""

_NEW_MOUNTS, _NEW_NETWORK, _NEW_USERS = 0x20000, 0x40000000, 0x10000000  # <sched.h>
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000  # <sys/mount.h>
_SET_ADDRESS, _SET_FLAGS, _UP = 0x8916, 0x8914, 0x1 | 0x40  # <linux/sockios.h>, <net/if.h>
_BACKLOG = 1024
_PORTS = (443, 80)
_ACCEPT_SECONDS = 30.0  # the gateway accepts within milliseconds, unless the machine is busy

# The sources of credentials for instances, tasks and pods. The gateway forwards requests to them.
_METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23")
# Folders with sockets of name services. Without these, the C library uses /etc/resolv.conf.
_RESOLVERS = (Path("/run/systemd/resolve"), Path("/run/nscd"), Path("/var/run/nscd"))
_RESOLV_CONF = Path("/etc/resolv.conf")

_libc = ctypes.CDLL(None, use_errno=True)


class _NotIsolatedError(Exception):
    """Raised if this system does not allow isolation; contains the reason."""


def main(arguments: list[str]) -> None:
    """Isolate this process, then execute a program in it.

    Args:
        arguments: "--check", to only try whether isolation works. Otherwise: the path of the
            gateway's socket, a private folder, the port of the proxy in the program's environment,
            the ports of servers that the program may reach, the addresses that it may reach without
            a name, the file to execute, and its command line. Ports and addresses are separated by
            commas.
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
        reachable = (*_METADATA, *filter(None, addresses.split(",")))
        # By a Unix socket with a path, which does not belong to a network namespace.
        _send_sockets(gateway, _listeners(int(port), map(int, ports.split(",")), reachable))
    except (OSError, _NotIsolatedError) as error:
        sys.exit(str(error))
    # Python ignores these two signals, and an ignored signal stays ignored after `exec`.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(file, command, _environment())  # noqa: S606 - the program that the user has named
    except OSError as error:
        sys.stderr.write(f"{file}: cannot be started: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _environment() -> dict[bytes, bytes]:
    """Return the environment that this process was started with."""
    # `os.environ` differs: without a locale, Python adds LC_CTYPE to it (PEP 538).
    words = Path("/proc/self/environ").read_bytes().split(b"\0")
    return dict(word.partition(b"=")[::2] for word in words if b"=" in word)


def _enter() -> None:
    """Enter a new network and a new mount namespace."""
    user, group = os.geteuid(), os.getegid()
    kinds = _NEW_NETWORK | _NEW_MOUNTS
    # Root needs no user namespace, and in one with a single user, a program of root's could not
    # change to another user.
    if user == 0 and _libc.unshare(kinds) == 0:
        return
    if _libc.unshare(kinds | _NEW_USERS):
        raise _NotIsolatedError(
            f"this system does not allow namespaces ({os.strerror(ctypes.get_errno())}). If "
            "AppArmor blocks them: sysctl kernel.apparmor_restrict_unprivileged_userns=0; in a "
            "container: start it with --cap-add SYS_ADMIN"
        )
    # The program keeps its user and group. Linux refuses `gid_map` until `setgroups` is denied.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def _set_up_names(folder: Path) -> None:
    """Make 127.0.0.1 the only name server, in this mount namespace."""
    # First, mounts become private: otherwise they would appear in the host's mount namespace.
    _mount("none", "/", _REC | _PRIVATE)
    resolv_conf = _RESOLV_CONF.resolve()  # often a link into a folder of `_RESOLVERS`
    ours = folder / "names"
    ours.mkdir(exist_ok=True)
    for name in ("resolv.conf", "stub-resolv.conf"):
        (ours / name).write_text("nameserver 127.0.0.1\n")
    hidden = [resolver for resolver in _RESOLVERS if resolver.is_dir()]
    for resolver in hidden:
        _mount(ours, resolver, _BIND)
    # If it is in a hidden folder, our file is there already.
    if resolv_conf.exists() and not any(resolv_conf.is_relative_to(one) for one in hidden):
        _mount(ours / "resolv.conf", resolv_conf, _BIND)


def _set_up_trust(folder: Path) -> None:
    """Replace the system's certificates by the run's, in this mount namespace."""
    # For programs that no variable reaches, such as those on GnuTLS (wget and git of Debian).
    for place in {Path(one).resolve() for one in SYSTEM_BUNDLES}:
        if place.is_file():
            _mount(folder / BUNDLE, place, _BIND)


def _mount(source: str | Path, target: str | Path, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None):
        raise _NotIsolatedError(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")


def _listeners(port: int, ports: Iterable[int], addresses: Iterable[str]) -> list[socket.socket]:
    """Return the listening sockets: of the proxy, of the name server, then of each port.

    Args:
        port: the port of the proxy.
        ports: the ports of servers; each listens at all addresses.
        addresses: the addresses to add to the loopback interface.
    """
    # By ioctl: `ip` may not be installed, and the standard library has no function for this.
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


def _send_sockets(gateway: str, sockets: list[socket.socket]) -> None:
    """Send sockets to the gateway, and wait until it accepts connections on them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_ACCEPT_SECONDS)
        link.connect(gateway)
        numbers = array.array("i", [one.fileno() for one in sockets])
        link.sendmsg([b"sockets"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        if link.recv(16) != b"listening":
            raise _NotIsolatedError("the gateway did not accept the sockets")


if __name__ == "__main__":
    main(sys.argv[1:])
