"""How a test starts a module of `tests` as a program that uses the installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["ROOT", "command_of"]

ROOT = Path(__file__).parents[2]
"""The checkout."""
# With `-m` in the checkout, Python takes the packages from there. Here its folder comes last.
START = (
    f"import runpy, sys; sys.path.append({str(ROOT)!r}); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command_of(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module, as `python -m` does, in any folder."""
    return [sys.executable, "-P", "-c", START, module, *map(str, arguments)]
