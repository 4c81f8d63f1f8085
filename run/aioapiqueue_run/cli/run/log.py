"""Writes our messages to stderr, or to the file of `--log`."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from typing import TYPE_CHECKING

from aioapiqueue_run.cli.console import prefixed

if TYPE_CHECKING:
    from aioapiqueue_run.cli.run.output_file import OutputFile

__all__ = ["Log"]


class Log:
    """Writes messages, each line with our name before it, and in a file also with the time.

    Args:
        file: the file; None for stderr, which is also used if the file can no longer be written.
    """

    def __init__(self, file: OutputFile | None) -> None:
        self._file = file

    def say(self, text: str) -> None:
        """Write a message, in lines that fit `WIDTH` columns."""
        self.show(prefixed(text))

    def show(self, text: str) -> None:
        """Write a text without our name. A closed terminal is no error."""
        if self._file is not None:
            try:
                self._file.write(_with_time(text))
            except OSError as error:
                lost, self._file = self._file, None  # first, as `say` comes back here
                self.say(f"{lost} can no longer be written: {error.strerror}")
            else:
                return
        # The program must not end because its terminal was closed (OSError), nor because some
        # library has closed our stderr (ValueError).
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:  # None if it was closed before the start, as by `2>&-`
                sys.stderr.write(text)
                sys.stderr.flush()


def _with_time(text: str) -> str:
    """Return lines, each with the current time in UTC before it."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "".join(f"{now} {line}".rstrip() + "\n" for line in text.splitlines())
