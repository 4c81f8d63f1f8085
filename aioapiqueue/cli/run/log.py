"""Where our messages go: stderr, or the file of `--log`."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from typing import TYPE_CHECKING

from aioapiqueue.cli.console import prefixed

if TYPE_CHECKING:
    from aioapiqueue.cli.run.output_file import OutputFile

__all__ = ["Log"]


class Log:
    """Writes messages to stderr, each line after our name, or to a file, each after the time, too.

    Args:
        file: the file; once it cannot be written any more, stderr takes its place.
    """

    def __init__(self, file: OutputFile | None) -> None:
        self._file = file

    def say(self, text: str) -> None:
        """Write the lines of a message."""
        self.show(prefixed(text))

    def show(self, text: str) -> None:
        """Write a text as it is. A terminal that is gone is no reason to end a scan."""
        if self._file is not None:
            try:
                self._file.write(_with_time(text))
            except OSError as error:
                lost, self._file = self._file, None
                self.say(f"--log: {lost.path} can no longer be written: {error.strerror}")
            else:
                return
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:  # Python has none where it was closed, as by `2>&-`
                sys.stderr.write(text)
                sys.stderr.flush()


def _with_time(text: str) -> str:
    """Return lines, each after the present time in UTC."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "".join(f"{now} {line}".rstrip() + "\n" for line in text.splitlines())
