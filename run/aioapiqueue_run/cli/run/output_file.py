"""The files of --json, --log and --report, opened before the program starts.

A program may run for hours: a file that cannot be written should be known before it starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OutputFile", "OutputFiles", "Unwritable"]


class Unwritable(Exception):  # noqa: N818 - a property of the path, not an error of ours
    """Raised if a file cannot be written; contains the reason and a remedy."""


class OutputFile:
    """A file that is open from the start of a run to its end.

    A path to the file that is our own stdout or stderr, such as /dev/stdout, is appended to.

    Args:
        path: the path of the file, which is made if it does not exist.
        append: whether to append. Default: `write` replaces the contents.
        stdout: whether the path "-" means our stdout. Default: a file of that name.

    Raises:
        Unwritable: the file cannot be written.
    """

    def __init__(self, path: Path, *, append: bool = False, stdout: bool = False) -> None:
        self.path = path
        # Our own stream is appended to through a copy of its descriptor: opened again, it would
        # have a position of its own, and overwrite what the program has written.
        own = 1 if stdout and str(path) == "-" else _own(path)
        self._made = own is None and not os.path.lexists(path)
        self._replaced = False
        """Whether `write` replaces the contents: a regular file, not one that is appended to."""
        try:
            self._descriptor = os.dup(own) if own is not None else _open(path, append=append)
        except OSError as error:
            raise Unwritable(f"{path} cannot be written: {_why(path, error)}") from None
        try:
            self._replaced = own is None and not append and _is_file(self._descriptor)
            _probe(self._descriptor, append=append)
        except OSError as error:
            self.discard()
            raise Unwritable(f"{path} cannot be written: {error.strerror}") from None

    def replaces(self, other: OutputFile) -> bool:
        """Return whether writing to this file would erase what was written to `other`."""
        there = os.fstat(other._descriptor)
        return self._replaced and os.path.samestat(os.fstat(self._descriptor), there)

    def write(self, text: str) -> None:
        """Write a text. It replaces the contents of a file, unless that is appended to.

        Raises:
            OSError: the file can no longer be written.
        """
        if self._replaced:
            self._reopen()
            # Only now, so that an earlier report survives a run that is killed.
            os.ftruncate(self._descriptor, 0)
        # A program that shares this pipe or terminal may have made it non-blocking for all
        # processes, as asyncio does. A write would then fail, or be cut off.
        os.set_blocking(self._descriptor, True)
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _reopen(self) -> None:
        """Open the path again if the program has removed or replaced our file."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self._descriptor)):
                return
        descriptor = _open(self.path, append=False)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def discard(self) -> None:
        """Close the file, and remove it if we have made it and nothing was written."""
        with contextlib.suppress(OSError):
            if self._made and _is_file(self._descriptor) and not os.fstat(self._descriptor).st_size:
                self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


@dataclass
class OutputFiles:
    """The files of a run.

    Attributes:
        figures: the file of --json.
        log: the file of --log.
        report: the file of --report.
    """

    figures: OutputFile | None = None
    log: OutputFile | None = None
    report: OutputFile | None = None

    @classmethod
    def open(cls, figures: Path | None, log: Path | None, report: Path | None) -> OutputFiles:
        """Open the files.

        Raises:
            Unwritable: a file cannot be written, or two options would overwrite each other's.
        """
        files = cls()
        option = "--json"
        try:
            if figures is not None:
                files.figures = OutputFile(figures, stdout=True)
            option = "--log"
            if log is not None:
                files.log = OutputFile(log, append=True)
            option = "--report"
            if report is not None:
                files.report = OutputFile(report)
        except Unwritable as error:
            files.discard()
            raise Unwritable(f"{option}: {error}") from None
        try:
            files._check_different()
        except Unwritable:
            files.discard()
            raise
        return files

    def _check_different(self) -> None:
        named = {"--json": self.figures, "--report": self.report, "--log": self.log}
        found = [(option, file) for option, file in named.items() if file is not None]
        for (option, file), (other_option, other) in permutations(found, 2):
            if file.replaces(other):
                raise Unwritable(
                    f"{option}: {file.path} is also the file of {other_option}: choose another"
                )

    def discard(self) -> None:
        """Close the files of --json and --report, and remove those that we have made.

        The log keeps its messages.
        """
        for one in (self.figures, self.report):
            if one is not None:
                one.discard()


def _own(path: Path) -> int | None:
    """Return the descriptor of our own stream that is the same file or socket; None if neither."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            there = path.stat()
            shared = stat.S_ISREG(there.st_mode) or stat.S_ISSOCK(there.st_mode)
            if shared and os.path.samestat(there, os.fstat(descriptor)):
                return descriptor
    return None


def _open(path: Path, *, append: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | (os.O_APPEND if append else 0)
    # With O_NONBLOCK, to open a pipe without a reader fails (ENXIO) instead of waiting for one,
    # which might never come.
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _probe(descriptor: int, *, append: bool) -> None:
    """Raise the error that writing would raise, if it is known already: mostly a full disk."""
    if not _is_file(descriptor):
        os.write(descriptor, b"")  # /dev/full refuses even an empty write
        return
    if append:
        return  # the truncation below could cut off what another process appends at this moment
    size = os.fstat(descriptor).st_size
    # Only an allocation shows that the disk is full. It is undone below.
    try:
        os.posix_fallocate(descriptor, size, 1)
    except AttributeError:  # macOS
        return
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        return  # the file system cannot allocate ahead
    os.ftruncate(descriptor, size)


def _why(path: Path, error: OSError) -> str:
    """Return why a path could not be opened, and a remedy if there is one."""
    if error.errno == errno.ENXIO and path.is_fifo():
        return "no process reads this pipe; start the reader first"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"it is a broken link to {path.readlink()}"
    if error.errno == errno.ENOENT:
        return f"there is no directory {path.parent}"
    return error.strerror or type(error).__name__
