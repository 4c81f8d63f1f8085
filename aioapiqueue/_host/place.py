"""Where the hub is, and whether that place is this user's alone."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from pathlib import Path

__all__ = ["check_system", "make_private"]


def check_system() -> None:
    """Raise `RuntimeError` where there are no Unix domain sockets."""
    if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
        raise RuntimeError(
            f"the hub needs Unix domain sockets, which Python has not on {sys.platform}: run it "
            "on Linux or macOS (on Windows: in WSL)"
        )


def make_private(directory: Path) -> None:
    """Make a directory, or check that nobody else has access to the existing one."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    found = directory.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{directory} is no directory, or a link to one: choose another")
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{directory} belongs to the user with the id {found.st_uid}, and you have the id "
            f"{os.geteuid()}: choose another directory"
        )
    if mode & 0o077:
        raise PermissionError(
            f"{directory} is open to others (its mode is {mode:o}): chmod 700 {directory}"
        )
    _check_parents(directory)


def _check_parents(directory: Path) -> None:
    """Check that nobody else can move a directory away, and put one of theirs in its place.

    A user who may write to a directory may rename what is in it, unless it is sticky. So all its
    parents are checked.
    """
    for parent in Path(os.path.realpath(directory)).parents:
        found = parent.stat()
        mode = stat.S_IMODE(found.st_mode)
        ours = found.st_uid in {0, os.geteuid()} or _is_unmapped(found.st_uid)
        open_to_others = not mode & stat.S_ISVTX and (
            mode & stat.S_IWOTH
            or (mode & stat.S_IWGRP and not _is_private_group(parent, found.st_gid))
        )
        if ours and not open_to_others:
            continue
        why = "others may write to it" if ours else f"it belongs to the user {found.st_uid}"
        remedy = (
            ""
            if found.st_uid != os.geteuid()
            else f", or take the right from them: chmod go-w {parent}"
        )
        raise PermissionError(
            f"others could put a folder of theirs in the place of {directory}, as {parent} has "
            f"the mode {mode:o} and {why}. Choose a folder that only you can change, with all "
            f"that it lies in (TMPDIR){remedy}"
        )


def _is_unmapped(uid: int) -> bool:
    """Return whether a user's id stands for all users that this user namespace has no id for.

    In a sandbox, `/` belongs to that id. Its true owner cannot be known there.
    """
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text("ascii"))
        mapped = Path("/proc/self/uid_map").read_text("ascii").split()
    except (OSError, ValueError):  # not Linux
        return False
    return uid == overflow and mapped != ["0", "0", str(2**32 - 1)]


def _is_private_group(directory: Path, gid: int) -> bool:
    """Return whether this user is the only member of a group.

    Where each user has a group of the same name, as on Ubuntu, new files are group-writable.
    """
    import grp  # noqa: PLC0415 - POSIX only, where this module is imported everywhere
    import pwd  # noqa: PLC0415 - as above

    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            if "system.posix_acl_access" in os.listxattr(directory):
                return False  # the mode's bits are those of everyone on the list
    try:
        own, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == own and set(group.gr_mem) <= {own}
