"""A terminal with a program in it, and what is on its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

import pyte

__all__ = ["Terminal"]


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, command, environment, rows=24, columns=80):
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            os.execve(command[0], command, environment)  # noqa: S606 - ours
        self._resize(rows, columns)
        self.ended = False

    def _resize(self, rows, columns):
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, number):
        """Send a signal to the program."""
        os.kill(self._pid, number)

    def modes(self):
        """The local modes of the terminal, as the program has set them."""
        return termios.tcgetattr(self._file)[3]

    def resize(self, rows, columns):
        """Change the size, and signal it to the program's group."""
        self.screen.resize(rows, columns)
        self._resize(rows, columns)

    def type(self, text):
        """Type something."""
        os.write(self._file, text.encode())

    @property
    def rows(self):
        """The text of each row."""
        return [row.rstrip() for row in self.screen.display]

    @property
    def everything(self):
        """What scrolled away, and what is on the screen."""
        columns = self.screen.columns
        gone = ["".join(row[x].data for x in range(columns)) for row in self.screen.history.top]
        return [row.rstrip() for row in gone] + self.rows

    def until(self, condition, within=60):
        """Read what the program writes until something is so."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, "\n".join(self.rows)
            assert not self.ended, "\n".join(self.rows)
            self.read()

    def read(self):
        """Take in what has been written, if anything was within a twentieth of a second."""
        if select.select([self._file], [], [], 0.05)[0]:
            try:
                data = os.read(self._file, 65536)
            except OSError:
                data = b""
            self.ended = not data
            self.raw += data
            self._stream.feed(data)

    def end(self, within=60):
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + within
        while not self.ended:
            assert time.monotonic() < deadline, "\n".join(self.rows)
            self.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = None
        return code

    def close(self):
        """Kill what still runs."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._file)
