"""Reads a limits.toml: its tables, and the line of each key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue.exceptions import LimitsError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from aioapiqueue.registry._report import Place

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\])*"'  # a quote inside is escaped
    r"|'''.*?'{3,5}|'[^']*'"
    r"|#[^\n]*|[][{}\n]",
    re.DOTALL,
)
"""The tokens of TOML that decide where a statement ends: strings, comments, brackets, newlines."""
_DEEPEST = 6  # keys: no valid table is nested more deeply
_UNQUOTED = re.compile(r"""=\s*([^\s"'\[{#=][^"',}\]#=]*)""")
_LONGEST_HINT = 60
_NOT_TEXT = re.compile(r"[+-]?[\d._]+|true|false")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a limits.toml.

    Raises:
        LimitsError: it cannot be read.
    """
    try:
        return Path(path).read_text("utf-8-sig")  # Windows editors may add a byte order mark
    except UnicodeDecodeError as error:
        raise LimitsError(f"{path}: cannot be read: save it as UTF-8 ({error})") from None
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        raise LimitsError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; "
            "give the path of a limits.toml"
        ) from None


def read_toml(text: str, source: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """Return the tables of a limits.toml, and the line of each key. Errors name `source`.

    Raises:
        LimitsError: it is not TOML.
    """
    try:
        return tomllib.loads(text), lines_of(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        hint = _unquoted(text, str(error))
        raise LimitsError(f"{source}: invalid TOML: {why}{hint}") from None


def _unquoted(text: str, why: str) -> str:
    """Return a hint if the line that an error names contains an unquoted text."""
    place = re.search(r"at line (\d+)", why)
    # Not `splitlines`, which also breaks at characters that tomllib does not count as newlines.
    line = text.split("\n")[int(place[1]) - 1] if place else ""
    values = (one.strip() for one in _UNQUOTED.findall(line))
    meant = next((one for one in values if not _NOT_TEXT.fullmatch(one)), "")
    is_shown = meant.isprintable() and 0 < len(meant) <= _LONGEST_HINT
    return f'; text needs quotes: write "{meant}"' if is_shown else ""


def lines_of(text: str) -> dict[Place, int]:
    r"""Return the line of each table, statement and key in a file.

    tomllib does not report lines, so the text is cut into statements and each is parsed alone.

    >>> lines_of('[ec2]\nlanes = {DescribeSnapshots = "5/s"}')
    {('ec2',): 1, ('ec2', 'lanes'): 2, ('ec2', 'lanes', 'DescribeSnapshots'): 2}

    Args:
        text: valid TOML.
    """
    found: dict[Place, int] = {}
    table: Place = ()
    for line, statement in _statements(text):
        # A statement of valid TOML is valid by itself. Each is parsed once, so the time is linear.
        is_head = statement.lstrip().startswith("[")
        for place in _places(tomllib.loads(statement), () if is_head else table):
            found.setdefault(place, line)  # the first line of a table
            if is_head:
                table = place  # the last one is the innermost
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the statements of a text, each with the number of its first line.

    A statement ends at the first newline that is in no string and in no brackets.
    """
    depth = start = 0
    first = line = 1
    for token in _TOKEN.finditer(text):
        depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))
        line += token[0].count("\n")
        if token[0] == "\n" and depth == 0:
            yield first, text[start : token.end()]
            first, start = line, token.end()
    yield first, text[start:]


def _places(data: object, above: Place) -> Iterator[Place]:
    if isinstance(data, dict) and len(above) < _DEEPEST:
        for key, value in data.items():
            yield (*above, key)
            yield from _places(value, (*above, key))
