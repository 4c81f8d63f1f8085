"""The line in the last row of the terminal, below a program that writes to the same terminal.

The program's output goes to the terminal directly. So the last row is excluded from the scrolling
region, as package managers do for their progress, and the cursor is saved before we write there and
restored afterwards. Each update is a single `write`, so that the program's output cannot come in
between. The row is given back before we are suspended, and at the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StatusLine"]

_LEAST_ROWS = 4
_LEAST_COLUMNS = 20

_SAVE, _RESTORE = "\x1b7", "\x1b8"  # the cursor
_WHOLE = "\x1b[r"  # scroll the whole screen
_DOWN, _UP = "\x1bD", "\x1b[1A"


class StatusLine:
    """The last row of a terminal.

    Nothing is written while another process group has the terminal, or after the terminal was
    closed. No method raises an error in these cases.

    Args:
        descriptor: the file descriptor of the terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size: os.terminal_size | None = None

    @staticmethod
    def possible(descriptor: int) -> bool:
        """Return whether a descriptor is a terminal with scrolling regions."""
        return os.isatty(descriptor) and os.environ.get("TERM", "dumb") not in {"", "dumb"}

    def show(self, render: Callable[[int], str]) -> None:
        """Write into the last row, which is excluded from scrolling first.

        Args:
            render: returns a text for a number of columns.
        """
        # A write to a terminal that is stopped (Ctrl-S) would block the event loop, and the hub.
        if not self._in_foreground() or not self._writable():
            return
        try:
            size = os.get_terminal_size(self._descriptor)
        except OSError:
            return
        if size.lines < _LEAST_ROWS or size.columns < _LEAST_COLUMNS:
            self.leave()
            return
        reserve = "" if size == self._size else self._reserve(size)
        self._size = size
        columns = size.columns - 1  # with the last column, some terminals would wrap
        text = render(columns)[:columns]
        self._write(f"{reserve}{_SAVE}\x1b[{size.lines};1H\x1b[0m\x1b[2K{text}{_RESTORE}")

    def leave(self) -> None:
        """Give the last row back, empty. The cursor stays where the program left it."""
        size, self._size = self._size, None
        if size is None:
            return
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._descriptor)
        # The program may have given the terminal to a process group that no longer exists. Then a
        # write from the background would suspend us (SIGTTOU), and the row must be given back.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        self._write(f"{_SAVE}{_WHOLE}\x1b[{size.lines};1H\x1b[0m\x1b[2K{_RESTORE}")
        signal.signal(signal.SIGTTOU, before)

    def _reserve(self, size: os.terminal_size) -> str:
        """Return the codes that exclude the last row from the scrolling region."""
        # A cursor in the last row would be below the region, where a line feed does not scroll. So
        # the cursor first moves down and then up: that scrolls if needed, and keeps its column.
        codes = f"{_SAVE}{_WHOLE}{_RESTORE}{_DOWN}{_SAVE}\x1b[1;{size.lines - 1}r{_RESTORE}{_UP}"
        if self._size is not None and size.lines > self._size.lines:
            # The terminal has grown: erase our text in the row that was the last one.
            codes += f"{_SAVE}\x1b[1E\x1b[J{_RESTORE}"
        return codes

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            # It is not our controlling terminal, so there is no job control.
            return os.isatty(self._descriptor)

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _write(self, text: str) -> None:
        # A closed terminal (EIO) must not end the run.
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode("utf-8", "replace"))
