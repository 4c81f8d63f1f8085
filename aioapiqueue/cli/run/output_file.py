"""The files of --json, --log and --report: known to be writable before the program starts."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import stat
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OutputFile", "OutputFiles", "Unwritable"]


class Unwritable(Exception):  # noqa: N818 - what it is, as a path goes
    """Raised where a file cannot be written; the message has the reason, and what to do."""


class OutputFile:
    """A file that is open from the start of a run to its end.

    A pipe needs a reader already, as waiting for one might never end. Where the path leads to a
    file that our own stdout or stderr goes to, as /dev/stdout may, it is appended to.

    Args:
        path: of the file; it is made if it is not there.
        append: keep what is in it; default: `write` replaces it.
        stdout: whether the path "-" is our stdout; default: a file of that name.

    Raises:
        Unwritable: it cannot be written.
    """

    def __init__(self, path: Path, *, append: bool = False, stdout: bool = False) -> None:
        self.path = path
        own = 1 if stdout and str(path) == "-" else _own(path)
        self._made = own is None and not os.path.lexists(path)
        self._whole = False
        try:
            self._descriptor = os.dup(own) if own is not None else _open(path, append=append)
        except OSError as error:
            raise Unwritable(f"{path} cannot be written: {_why(path, error)}") from None
        try:
            self._whole = own is None and not append and _is_file(self._descriptor)
            _probe(self._descriptor, append=append)
        except OSError as error:
            self.discard()
            raise Unwritable(f"{path} cannot be written: {error.strerror}") from None

    def replaces(self, other: OutputFile) -> bool:
        """Return whether to write here takes away what is written to `other`."""
        there = os.fstat(other._descriptor)
        return self._whole and os.path.samestat(os.fstat(self._descriptor), there)

    def write(self, text: str) -> None:
        """Write a text; in the place of what is in a file, unless that is appended to.

        Raises:
            OSError: it cannot be written, or no longer.
        """
        if self._whole:
            self._find_again()
            os.ftruncate(self._descriptor, 0)
        # The program may have changed it for all who have the same file open, as asyncio does.
        os.set_blocking(self._descriptor, True)
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _find_again(self) -> None:
        """Open the path again where the program has removed our file, or put another there."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self._descriptor)):
                return
        descriptor = _open(self.path, append=False)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def discard(self) -> None:
        """Close it; take it away if it was not there before and nothing was written."""
        with contextlib.suppress(OSError):
            if self._made and _is_file(self._descriptor) and not os.fstat(self._descriptor).st_size:
                self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


@dataclass
class OutputFiles:
    """The files of three options.

    Attributes:
        figures: of --json.
        log: of --log.
        report: of --report.
    """

    figures: OutputFile | None = None
    log: OutputFile | None = None
    report: OutputFile | None = None

    @classmethod
    def open(cls, figures: Path | None, log: Path | None, report: Path | None) -> OutputFiles:
        """Open them.

        Raises:
            Unwritable: one of them cannot be written, or takes away what another one gets.
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
                if importlib.util.find_spec("jinja2") is None:
                    raise Unwritable(_NO_JINJA)  # noqa: TRY301 - as all others
                files.report = OutputFile(report)
        except Unwritable as error:
            files.discard()
            raise Unwritable(f"{option}: {error}") from None
        try:
            files._check_apart()
        except Unwritable:
            files.discard()
            raise
        return files

    def _check_apart(self) -> None:
        named = {"--json": self.figures, "--report": self.report, "--log": self.log}
        found = [(option, file) for option, file in named.items() if file is not None]
        for (option, file), (other_option, other) in permutations(found, 2):
            if file.replaces(other):
                raise Unwritable(
                    f"{option}: {file.path} is also the file of {other_option}: choose another"
                )

    def discard(self) -> None:
        """Close those that nothing was written to, and take them away if they were not there."""
        for one in (self.figures, self.report):
            if one is not None:
                one.discard()


_NO_JINJA = (
    "needs Jinja, which is not installed: pip install 'aioapiqueue[cli]' (with pipx: pipx "
    "inject aioapiqueue jinja2)"
)


def _own(path: Path) -> int | None:
    """Return our own stream that goes to the same file, or socket, which cannot be opened."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            there = path.stat()
            shared = stat.S_ISREG(there.st_mode) or stat.S_ISSOCK(there.st_mode)
            if shared and os.path.samestat(there, os.fstat(descriptor)):
                return descriptor
    return None


def _open(path: Path, *, append: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | (os.O_APPEND if append else 0)
    # Without O_NONBLOCK, a pipe without a reader would block here.
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _probe(descriptor: int, *, append: bool) -> None:
    """Raise the error that writing would, where it is known before: mostly a full disk."""
    if not _is_file(descriptor):
        os.write(descriptor, b"")  # /dev/full refuses even an empty write
        return
    if append:  # the truncation below would cut off what another process appends just now
        return
    size = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, size, 1)
    except AttributeError:  # macOS
        return
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        return  # a file system that has no such thing
    os.ftruncate(descriptor, size)


def _why(path: Path, error: OSError) -> str:
    """Return why a path could not be opened, and what to do about it."""
    if error.errno == errno.ENXIO and path.is_fifo():
        return "no process reads this pipe; start the reader first"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"it is a broken link to {path.readlink()}"
    if error.errno == errno.ENOENT:
        return f"there is no directory {path.parent}"
    return error.strerror or type(error).__name__
