"""The exit codes of `run` itself, and the error with which COMMAND is not started."""

from __future__ import annotations

import enum

__all__ = ["ExitCode", "NotStarted"]


class ExitCode(enum.IntEnum):
    """The exit codes of `run`, as docs/run.md lists them. The last two are a shell's."""

    REFUSED = 2
    INACTIVE = 3
    NO_HUB = 4
    GATE = 5
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127


class NotStarted(Exception):  # noqa: N818 - an outcome of a run, not an error of ours
    """Raised if COMMAND is not started: it would not be paced, or an option cannot be followed.

    Attributes:
        code: the exit code of `run`.
    """

    def __init__(self, message: str, *, code: int = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.code = code
