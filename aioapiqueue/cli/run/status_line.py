"""The line at the foot of the terminal, below a program that writes to the same terminal.

The program's output goes straight to the terminal, without us. So the last row is
taken out of the region that scrolls, as package managers do for their progress, and is written
to with the cursor saved before and restored after. Each of our writes is one `write`, and the
region is given back before we are suspended and at the end.
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

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_WHOLE = "\x1b[r"
_DOWN, _UP = "\x1bD", "\x1b[1A"


class StatusLine:
    """The last row of a terminal, as long as it is ours.

    Nothing is written in the background, while another process group has the terminal.

    Args:
        descriptor: of the terminal. One that is gone is left alone; nothing here raises for it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size: os.terminal_size | None = None

    @staticmethod
    def possible(descriptor: int) -> bool:
        """Return whether a descriptor is a terminal that knows about regions."""
        return os.isatty(descriptor) and os.environ.get("TERM", "dumb") not in {"", "dumb"}

    def show(self, render: Callable[[int], str]) -> None:
        """Write into the last row, which is taken first if it is not ours yet.

        Args:
            render: returns a text for a number of columns.
        """
        # A terminal that is stopped (Ctrl-S) would hold up more than this line.
        if not self._in_foreground() or not self._writable():
            return
        try:
            size = os.get_terminal_size(self._descriptor)
        except OSError:
            return
        if size.lines < _LEAST_ROWS or size.columns < _LEAST_COLUMNS:
            self.leave()
            return
        taken = "" if size == self._size else self._take(size)
        self._size = size
        columns = size.columns - 1  # the last one stays free: some terminals would wrap
        text = render(columns)[:columns]
        self._write(f"{taken}{_SAVE}\x1b[{size.lines};1H\x1b[0m\x1b[2K{text}{_RESTORE}")

    def leave(self) -> None:
        """Give the last row back, empty. The cursor stays where the program left it."""
        size, self._size = self._size, None
        if size is None:
            return
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._descriptor)
        # The program may have left the terminal to a group that is gone: what we have taken is
        # given back even so, and does not get us stopped for it.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        self._write(f"{_SAVE}{_WHOLE}\x1b[{size.lines};1H\x1b[0m\x1b[2K{_RESTORE}")
        signal.signal(signal.SIGTTOU, before)

    def _take(self, size: os.terminal_size) -> str:
        """Return what takes the last row out of the scrolling region.

        A cursor in the last row would be below the region, where a line feed scrolls nothing: it
        is moved down and up again, which scrolls first if need be, and keeps its column.
        """
        taken = f"{_SAVE}{_WHOLE}{_RESTORE}{_DOWN}{_SAVE}\x1b[1;{size.lines - 1}r{_RESTORE}{_UP}"
        if self._size is not None and size.lines > self._size.lines:
            # What we wrote into the row that was the last is below the cursor now.
            taken += f"{_SAVE}\x1b[1E\x1b[J{_RESTORE}"
        return taken

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            # Not our controlling terminal: there is no job control.
            return os.isatty(self._descriptor)

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _write(self, text: str) -> None:
        # A terminal that is gone (EIO) is no reason to end a scan.
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode("utf-8", "replace"))
