"""Counts the code of both distributions by room: lines without blanks, comments and docstrings.

Run from the project's root: `python -m tests.helpers.count_code`. A folder given as an argument is
counted instead of the two packages here.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Room", "code_lines", "count", "function_lengths"]

PACKAGES = {"the library": Path("aioapiqueue"), "the programs": Path("run/aioapiqueue_run")}
"""Both distributions."""

_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}


@dataclass
class Room:
    """The size of a room of a package."""

    lines: int = 0
    code: int = 0
    comments: int = 0
    lengths: list[int] = field(default_factory=list)
    """Lines of code of each function."""


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code; strings that stand alone are none."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            found.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return found


def comment_lines(source: str) -> int:
    """Return how many lines have a comment that is no directive to a tool."""
    return sum(
        token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
    )


def function_lengths(source: str) -> list[int]:
    """Return the lines of code of each function, with those of functions in it."""
    code = code_lines(source)
    return [
        len(code.intersection(range(node.lineno, (node.end_lineno or 0) + 1)))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def count(package: Path) -> dict[str, Room]:
    """Return each room of a package: its first folder, or `(root)`; Lua is a room by itself."""
    rooms: dict[str, Room] = defaultdict(Room)
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.lua")]):
        place = file.relative_to(package)
        text = file.read_text("utf-8")
        if file.suffix == ".lua":
            room = rooms["(Lua)"]
            room.code += sum(
                bool(line.strip()) and not line.strip().startswith("--")
                for line in text.splitlines()
            )
        else:
            room = rooms["(root)" if len(place.parts) == 1 else place.parts[0]]
            room.code += len(code_lines(text))
            room.comments += comment_lines(text)
            room.lengths += function_lengths(text)
        room.lines += text.count("\n")
    return rooms


def main(packages: Mapping[str, Path]) -> None:
    """Print the rooms of each package, and their sum without Lua."""
    print(f"{'room':<18}{'lines':>8}{'code':>8}{'comments':>10}{'median':>8}{'90 %':>6}")
    for title, package in packages.items():
        rooms = count(package)
        for name, room in sorted(rooms.items()):
            _print(name, room)
        _print(title, total(rooms))


def total(rooms: Mapping[str, Room]) -> Room:
    """Return the sum of all rooms except Lua."""
    found = Room()
    for name, room in rooms.items():
        if name != "(Lua)":
            found.lines += room.lines
            found.code += room.code
            found.comments += room.comments
            found.lengths += room.lengths
    return found


def _print(name: str, room: Room) -> None:
    text = f"{name:<18}{room.lines:>8,}{room.code:>8,}"
    if room.lengths:
        share = room.comments / room.lines
        tenth = statistics.quantiles(room.lengths, n=10)[-1] if len(room.lengths) > 1 else 0
        text += f"{share:>10.1%}{statistics.median(room.lengths):>8g}{tenth:>6g}"
    print(text)


if __name__ == "__main__":
    main({"sum": Path(sys.argv[1])} if sys.argv[1:] else PACKAGES)
