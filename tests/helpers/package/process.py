"""Commands that the checks run."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FailedError", "run"]


class FailedError(Exception):
    """The release has a fault, which the message names."""


def run(
    *command: str, code: int = 0, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a command and return its output.

    Raises:
        FailedError: its exit code is another one.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, cwd=cwd, env=env
    )
    if done.returncode != code:
        shown = " ".join(command).partition("\n")[0]
        raise FailedError(f"`{shown}` exits with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
