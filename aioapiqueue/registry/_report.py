"""What is wrong with a file of limits: all of it at once, each problem with its place."""

from __future__ import annotations

import re
import reprlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aioapiqueue.exceptions import LimitsError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

Place: TypeAlias = tuple[str | int, ...]
"""Where in a file: the keys that lead there, and positions in lists."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\])*"'  # a quote within it is escaped
    r"|'''.*?'{3,5}|'[^']*'"
    r"|#[^\n]*|[][{}\n]",
    re.DOTALL,
)
"""What of TOML matters for where a statement ends: strings, comments, brackets, ends of lines."""
_DEEPEST = 6  # keys; nothing that has a meaning is deeper
_MOST_SUGGESTED = 10  # names; comparing one with all that are known takes up to 30 ms

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2


def quoted(value: object) -> str:
    """Return `value` as a message shows it: on one line, and not at any length."""
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a value of type {type(value).__name__} with too many digits"


class Report:
    """Collects what is wrong.

    Args:
        source: the file, the option, or what else the limits come from.
        lines: on which line of it things begin, as far as that is known.
        in_code: whether the limits come from a program, not from a file or an option.
    """

    def __init__(
        self, source: str, lines: Mapping[Place, int] | None = None, *, in_code: bool = False
    ) -> None:
        self.source = source
        self.in_code = in_code
        self._lines = lines or {}
        self._problems: list[tuple[int, str]] = []
        self._at: set[Place] = set()
        self._suggested = 0

    def _line(self, place: Place) -> int:
        while place not in self._lines and place:
            place = place[:-1]
        return self._lines.get(place, 0)

    def where(self, place: Place) -> str:
        """Return the source, and the line of the statement that `place` is in."""
        line = self._line(place)
        return f"{self.source}, line {line}" if line else self.source

    def source_of(self, place: Place) -> str:
        """Return the same for people who read where limits come from."""
        return "code" if self.in_code else self.where(place)

    def add(self, place: Place, problem: str | None) -> None:
        """Note a problem, if there is one."""
        if problem is None:
            return
        keys = "".join(_key(one) for one in place).removeprefix(".")
        text = ": ".join(filter(None, (self.where(place), keys, problem)))
        self._problems.append((self._line(place), text))
        self._at.update(place[:end] for end in range(len(place) + 1))

    def has(self, place: Place) -> bool:
        """Return whether there is a problem at `place` or below."""
        return place in self._at

    def suggest(self) -> bool:
        """Return whether one more unknown name may be compared with all known ones."""
        self._suggested += 1
        return self._suggested <= _MOST_SUGGESTED

    @property
    def problems(self) -> list[str]:
        """What has been noted, in the order of the file."""
        return [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]

    def finish(self) -> None:
        """Raise what has been noted.

        Raises:
            LimitsError: anything has.
        """
        if self._problems:
            raise LimitsError(*self.problems)


def _key(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if re.fullmatch(r"[\w-]{1,60}", key, re.ASCII) else f".{quoted(key)}"


def lines_of(text: str) -> dict[Place, int]:
    r"""Return the line on which each table begins, and each statement, with the keys in it.

    tomllib does not return them, so each statement is parsed on its own.

    >>> lines_of('[ec2]\nlanes = {DescribeSnapshots = "5/s"}')
    {('ec2',): 1, ('ec2', 'lanes'): 2, ('ec2', 'lanes', 'DescribeSnapshots'): 2}

    Args:
        text: TOML that has been parsed.
    """
    found: dict[Place, int] = {}
    table: Place = ()
    for line, statement in _statements(text):
        is_head = statement.lstrip().startswith("[")
        for place in _places(tomllib.loads(statement), () if is_head else table):
            found.setdefault(place, line)
            if is_head:
                table = place
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement, with the number of its first line: it ends with a line that is whole.

    A line is not whole within a string or brackets.
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


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a limits.toml.

    Raises:
        LimitsError: it cannot be read.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LimitsError(f"{path}: cannot be read: save it as UTF-8 ({error})") from None
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
        raise LimitsError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; "
            "give the path of a limits.toml"
        ) from None


def read_toml(text: str, source: str) -> dict[str, Any]:
    """Read the text of a limits.toml, whose name is `source`.

    Raises:
        LimitsError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        hint = _unquoted(text, str(error))
        raise LimitsError(f"{source}: invalid TOML: {why}{hint}") from None


def _unquoted(text: str, why: str) -> str:
    """Return what to write where a text without quotes is in the line that an error names."""
    place = re.search(r"at line (\d+)", why)
    line = text.split("\n")[int(place[1]) - 1] if place else ""
    values = (one.strip() for one in _UNQUOTED.findall(line))
    meant = next((one for one in values if not _NOT_TEXT.fullmatch(one)), "")
    is_shown = meant.isprintable() and 0 < len(meant) <= _LONGEST_HINT
    return f'; text needs quotes: write "{meant}"' if is_shown else ""


_UNQUOTED = re.compile(r"""=\s*([^\s"'\[{#=][^"',}\]#=]*)""")
_LONGEST_HINT = 60
_NOT_TEXT = re.compile(r"[+-]?[\d._]+|true|false")
