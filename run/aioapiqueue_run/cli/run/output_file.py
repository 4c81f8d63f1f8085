"""The files of --json, --log and --report, opened before the program starts.

A program may run for hours: a file that cannot be written should be known before it starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from itertools import combinations
from typing import TYPE_CHECKING

from aioapiqueue_run.cli.run.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["OutputFile", "discard", "open_files"]


class OutputFile:
    """A file that is open from the start of a run to its end.

    "-" and the files of our stdout and stderr are our own, to which the program writes, too.

    Args:
        option: the option that names the file, for messages.
        path: the path of the file, which is made if it does not exist.
        append: whether to append. Default: `write` replaces the contents of a regular file.

    Raises:
        NotStarted: the file cannot be written.
    """

    def __init__(self, option: str, path: Path, *, append: bool = False) -> None:
        self.option, self.path = option, path
        own = 1 if str(path) == "-" else _own_stream(path)
        self._made = own is None and not os.path.lexists(path)
        try:
            # Our own stream is appended to through a copy of its descriptor: opened again, it would
            # have a position of its own, and overwrite what the program has written.
            flags = os.O_APPEND if append else 0
            self._descriptor = _open(path, flags) if own is None else os.dup(own)
        except OSError as error:
            why = _why(path, error)
            raise NotStarted(f"{self} cannot be written: {why}; nothing was started") from None
        self._replaced = own is None and not append and self._identity() is not None

    def __str__(self) -> str:
        return f"{self.option}: {self.path}"

    def _identity(self) -> tuple[int, int] | None:
        """Return what tells a regular file from others; None for a pipe, terminal or device."""
        found = os.fstat(self._descriptor)
        return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None

    def overwrites(self, other: OutputFile) -> bool:
        """Return whether one of two files would erase what was written to the other."""
        same = self._identity() is not None and self._identity() == other._identity()
        return same and (self._replaced or other._replaced)

    def write(self, text: str) -> None:
        """Write a text. It replaces the contents of a file, unless that is appended to.

        Raises:
            OSError: the file can no longer be written.
        """
        if self._replaced:
            # Only now, so that an earlier report survives a run that is killed. By the path,
            # because the program may have removed or replaced the file.
            descriptor = _open(self.path, os.O_TRUNC)
            os.close(self._descriptor)
            self._descriptor = descriptor
        # A program that shares this pipe or terminal may have made it non-blocking for all
        # processes, as asyncio does. A write would then fail, or be cut off.
        os.set_blocking(self._descriptor, True)
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]

    def discard(self) -> None:
        """Close the file, and remove it if we have made it and nothing was written."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
            if self._made and not self.path.stat().st_size:
                self.path.unlink()


def open_files(paths: Mapping[str, Path | None]) -> dict[str, OutputFile]:
    """Open the files that options name; return them by option. That of --log is appended to.

    Raises:
        NotStarted: a file cannot be written, or two options would overwrite each other's.
    """
    files: dict[str, OutputFile] = {}
    with contextlib.ExitStack() as unless_refused:
        unless_refused.callback(discard, files.values())
        for option, path in paths.items():
            if path is not None:
                files[option] = OutputFile(option, path, append=option == "--log")
        for first, file in combinations(files.values(), 2):
            if file.overwrites(first):
                what = f"{file} is also the file of {first.option}"
                raise NotStarted(f"{what}: choose another; nothing was started")
        unless_refused.pop_all()
    return files


def discard(files: Iterable[OutputFile]) -> None:
    """Close files, and remove those that we have made and not written to."""
    for file in files:
        file.discard()


def _own_stream(path: Path) -> int | None:
    """Return which of our streams goes to a file; None if neither does."""
    with contextlib.suppress(OSError):
        there = path.stat()
        for number in (1, 2):
            with contextlib.suppress(OSError):  # it is closed
                if os.path.samestat(there, os.fstat(number)):
                    return number
    return None


def _open(path: Path, flags: int) -> int:
    # With O_NONBLOCK, to open a pipe without a reader fails (ENXIO) instead of waiting for one,
    # which might never come.
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def _why(path: Path, error: OSError) -> str:
    """Return why a path could not be opened, and a remedy if there is one."""
    if error.errno == errno.ENXIO and path.is_fifo():
        return "no process reads this pipe; start the reader first"
    if error.errno == errno.ENOENT:
        return f"there is no directory {path.resolve().parent}"
    return error.strerror or type(error).__name__
