"""Listening sockets of hubs, and the limit of open files."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from aioapiqueue._shared.host.directory import make_private

if TYPE_CHECKING:
    import socket
    from pathlib import Path

_LONGEST = 100
"""Bytes of a path: `sun_path` holds 104 on macOS and the BSDs, 108 on Linux."""
BACKLOG = 4096
_MACOS_FILES = 10_240


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
    path.unlink(missing_ok=True)  # of a hub that was killed
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    listener.settimeout(0)


def remove(path: Path) -> None:
    """Remove the socket's file, if it still exists. This blocks."""
    with contextlib.suppress(OSError):
        path.unlink()


def raise_file_limit() -> bool:
    """Raise the limit of open files to the hard limit; return whether it changed."""
    import resource  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    for most in (hard, _MACOS_FILES):
        if most == _MACOS_FILES and most <= soft:
            break
        with contextlib.suppress(ValueError, OSError):  # macOS refuses infinity
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return True
    return False
