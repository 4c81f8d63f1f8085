"""The exit codes of `run` itself, and the error if COMMAND is not started."""

from __future__ import annotations

import enum

__all__ = ["ExitCode", "NotStarted"]


class ExitCode(enum.IntEnum):
    """Exit codes with a meaning, as docs/run.md lists them; the last two are a shell's."""

    REFUSED = 2
    INACTIVE = 3
    NO_HUB = 4
    GATE = 5
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127


class NotStarted(Exception):  # noqa: N818 - what became of COMMAND
    """Raised if COMMAND cannot be started, or could not be paced.

    Attributes:
        code: the exit code for it.
    """

    def __init__(self, message: str, *, code: int = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.code = code
