"""Sockets that only this user's processes can reach: their directory, their file and their peer."""

from __future__ import annotations

import contextlib
import os
import socket
import socket as _socket  # `peer_of` has this name for it
import stat
import sys
from pathlib import Path

_LONGEST = 100
"""Bytes of a path: `sun_path` holds 104 on macOS and the BSDs, 108 on Linux."""
_BACKLOG = 4096
"""Clients that wait to be accepted: the default of `net.core.somaxconn` since Linux 5.4."""


def check_system() -> None:
    """Raise `RuntimeError` on a system without Unix domain sockets."""
    if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
        raise RuntimeError(
            "the hub needs Unix domain sockets, which Python does not support on "
            f"{sys.platform}: use Linux, macOS, or WSL on Windows"
        )


def listen(listener: socket.socket, path: Path, *, variable: str = "TMPDIR") -> None:
    """Listen at `path`, for this user only.

    The directory is made if it does not exist. This blocks, so call it in a worker thread.

    Args:
        listener: a new socket.
        path: of its file.
        variable: the environment variable that names another directory, for errors.

    Raises:
        ValueError: the path is too long.
        PermissionError: other users have access to the directory, own it, or could replace it; or
            it is a link.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise ValueError(
            f"{path}: a socket's path can have at most {_LONGEST} bytes, and this one has "
            f"{len(os.fsencode(path))}: choose a shorter directory ({variable})"
        )
    make_private(path.parent, variable=variable)
    path.unlink(missing_ok=True)  # a hub that was killed leaves its file, and `bind` would fail
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(_BACKLOG)
    listener.settimeout(0)


def remove(path: Path) -> None:
    """Remove the socket's file, if it still exists. This blocks."""
    with contextlib.suppress(OSError):
        path.unlink()


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


def make_private(directory: Path, *, variable: str) -> None:
    """Make a private directory, or check that an existing one is private.

    Args:
        directory: its path.
        variable: the environment variable that names another directory, for errors.

    Raises:
        PermissionError: other users have access to the directory, own it, or could replace it; or
            it is a link.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    found = directory.lstat()  # not `stat`: another user may have put a link into /tmp
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(
            f"{directory} is a symbolic link or not a directory: choose another directory "
            f"({variable})"
        )
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{directory} belongs to user {found.st_uid}, and you are user {os.geteuid()}: choose "
            f"another directory ({variable})"
        )
    if mode & 0o077:
        raise PermissionError(
            f"other users have access to {directory} (its mode is {mode:o}): chmod 700 {directory}"
        )
    _check_parents(directory, variable)


def _check_parents(directory: Path, variable: str) -> None:
    """Check that no other user can replace a directory by another one."""
    # A user who may write to a directory may rename what is in it, unless the directory is sticky.
    # So a private directory is only as safe as each of its parents.
    for parent in Path(os.path.realpath(directory)).parents:
        found = parent.stat()
        mode = stat.S_IMODE(found.st_mode)
        # An owner may change the mode at any time; root could read everything anyway.
        ours = found.st_uid in {0, os.geteuid()} or _is_unmapped(found.st_uid)
        open_to_others = not mode & stat.S_ISVTX and (
            mode & stat.S_IWOTH
            or (mode & stat.S_IWGRP and not _is_private_group(parent, found.st_gid))
        )
        if ours and not open_to_others:
            continue
        why = "other users may write to it" if ours else f"it belongs to user {found.st_uid}"
        remedy = (
            ""
            if found.st_uid != os.geteuid()
            else f", or remove their permission: chmod go-w {parent}"
        )
        raise PermissionError(
            f"other users could replace {directory}: {parent} has mode {mode:o}, and {why}. "
            "Choose a directory that only you can change, including its parents "
            f"({variable}){remedy}"
        )


def _is_unmapped(uid: int) -> bool:
    """Return whether an id stands for all users who have no id in this user namespace."""
    # In a sandbox, `/` belongs to that id, and its true owner cannot be known.
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text("ascii"))
        mapped = Path("/proc/self/uid_map").read_text("ascii").split()
    except (OSError, ValueError):  # not Linux
        return False
    return uid == overflow and mapped != ["0", "0", str(2**32 - 1)]


def _is_private_group(directory: Path, gid: int) -> bool:
    """Return whether this user is the only member of a group."""
    # Systems that give each user such a group often make new directories group-writable.
    import grp  # noqa: PLC0415 - POSIX only, where this module is imported everywhere
    import pwd  # noqa: PLC0415 - as above

    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            if "system.posix_acl_access" in os.listxattr(directory):
                return False  # the group's bits are then the most that anyone on the list may do
    try:
        own, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    # `gr_mem` lacks those whose primary group this is: by convention, only the user of that name.
    return group.gr_name == own and set(group.gr_mem) <= {own}
