"""Where the hub's files are, and whether only this user has access to them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from pathlib import Path


def check_system() -> None:
    """Raise `RuntimeError` on a system without Unix domain sockets."""
    if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
        raise RuntimeError(
            "the hub needs Unix domain sockets, which Python does not support on "
            f"{sys.platform}: use Linux, macOS, or WSL on Windows"
        )


def make_private(directory: Path, *, variable: str = "AIOAPIQUEUE_HUB_DIR") -> None:
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


HUB_DIR = "AIOAPIQUEUE_HUB_DIR"
"""The environment variable that names the hub's directory, instead of the user's own one."""
_SOCKET, _LOCK = "host.sock", "host.lock"


class HubLocation:
    """Where this user's hub listens. Nothing here depends on the environment.

    A login shell, a cron job and a web server's worker must find the same hub. So XDG_RUNTIME_DIR,
    TMPDIR and HOME are ignored: the hub listens in the runtime directory of the user's id, which
    exists while the user is logged in, or else in `/tmp`. Clients look in both.

    Args:
        override: another directory, as in `AIOAPIQUEUE_HUB_DIR`; None: the user's own.

    Raises:
        ValueError: `override` is relative: processes have different working directories.
    """

    def __init__(self, override: str | None = None) -> None:
        if override and not Path(override).is_absolute():
            raise ValueError(f"{HUB_DIR} must be an absolute path, not {override!r}")
        self._override = Path(override) if override else None

    @property
    def override(self) -> str:
        """The directory that was given; "": the user's own."""
        return str(self._override or "")

    def directories(self) -> list[Path]:
        """Return the directories in which the hub may be; it is started in the first."""
        if self._override is not None:
            return [self._override]
        uid = os.geteuid()
        runtime, found = Path(f"/run/user/{uid}"), [Path(f"/tmp/aioapiqueue-{uid}")]  # noqa: S108 - checked by `make_private`
        with contextlib.suppress(OSError):
            status = runtime.lstat()
            private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
            if private and status.st_uid == uid:
                found.insert(0, runtime / "aioapiqueue")
        return found

    def sockets(self) -> list[Path]:
        """Return the sockets on which the hub may listen; it is started on the first."""
        return [directory / _SOCKET for directory in self.directories()]

    def lock(self) -> Path:
        """Return the file that the hub locks while it runs, in whichever directory it listens."""
        # In the last one, which is the same after the user has logged in or out: so a hub that
        # cron has started keeps a login shell from starting another.
        *others, last = self.directories()
        with contextlib.suppress(OSError):
            if others and last.lstat().st_uid != os.geteuid():  # another user has made it
                last = others[0]
        return last / _LOCK

    def state(self) -> Path:
        """Return the directory of the journal, which outlasts restarts of the machine."""
        if self._override is not None:
            return self._override
        import pwd  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

        # Not `Path.home()`, which is HOME if that is set.
        home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
        return home / ".local" / "state" / "aioapiqueue" / _machine()


def _machine() -> str:
    """Return a name of this machine, as several may share one home directory."""
    with contextlib.suppress(OSError):
        if text := Path("/etc/machine-id").read_text("ascii").strip():
            return text
    return socket.gethostname()
