"""Where the packages that a run uses come from: wheels, unless files of tests are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers.modules import command_of

if TYPE_CHECKING:
    import pytest

__all__ = ["SOURCES", "names_files", "places"]

ROOT = Path(__file__).parents[2]
SOURCES = {"aioapiqueue": ROOT / "aioapiqueue", "aioapiqueue_run": ROOT / "run/aioapiqueue_run"}
"""The folder of each package in the checkout."""


def names_files(config: pytest.Config) -> bool:
    """Return whether pytest was given files of tests: then the checkout is tested, see noxfile.py.

    A worker of pytest-xdist has the arguments of the process that started it.
    """
    return any(argument.partition("::")[0].endswith(".py") for argument in config.args)


def places(package: str) -> dict[str, Path]:
    """Return the folder of a package in this process and in those that a test starts."""
    code = f"import {package}; print({package}.__file__)"
    found = {
        "this process": __import__(package).__file__,
        "a process that a test starts": output([sys.executable, "-c", code]),
        "a helper that a test starts": output(command_of("tests.helpers.whole_run", package)),
    }
    return {where: Path(file).parent for where, file in found.items()}


def output(command: list[str]) -> str:
    """Return the line that a command writes."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.stdout.write(str(__import__(sys.argv[1]).__file__))
