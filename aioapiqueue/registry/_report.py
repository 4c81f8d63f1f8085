"""Collects the problems of a limits.toml, each with its line: `Report`."""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING, TypeAlias

from aioapiqueue.exceptions import LimitsError

if TYPE_CHECKING:
    from collections.abc import Mapping

Place: TypeAlias = tuple[str | int, ...]
"""The path to a value in a file: keys, and positions in lists."""

_MOST_SUGGESTED = 10  # names: to compare one with all known names takes up to 30 ms

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2


def quoted(value: object) -> str:
    """Return the `repr` of a value, shortened, for a message."""
    try:
        return _short.repr(value)
    except ValueError:  # Python refuses to print a number of more than 4,300 digits
        return f"a value of type {type(value).__name__} with too many digits"


class Report:
    """Collects problems.

    Args:
        source: the name of the file, with which each problem begins.
        lines: the lines of places in the file, or the options that stand for them. Default: not
            known.
        in_code: whether the limits come from a program, not from a file or an option.
    """

    def __init__(
        self, source: str, lines: Mapping[Place, int | str] | None = None, *, in_code: bool = False
    ) -> None:
        self.source = source
        self.in_code = in_code
        self._lines = lines or {}
        self._problems: list[tuple[int, str]] = []
        self._at: set[Place] = set()
        self._suggested = 0

    def _line(self, place: Place) -> int | str:
        # A value has the line of the nearest table or statement around it.
        while place not in self._lines and place:
            place = place[:-1]
        return self._lines.get(place, 0)

    def where(self, place: Place) -> str:
        """Return the source and line of a place, or its option, for a problem."""
        line = self._line(place)
        if isinstance(line, str):
            return line
        return f"{self.source}, line {line}" if line else self.source

    def source_of(self, place: Place) -> str:
        """Return the source and line of a place, for a list of limits."""
        return "code" if self.in_code else self.where(place)

    def add(self, place: Place, problem: str | None) -> None:
        """Add a problem. None, the result of a check that passed, is ignored."""
        if problem is None:
            return
        line, keys = self._line(place), "".join(_key(one) for one in place).removeprefix(".")
        if isinstance(line, str):  # an option, which names the calls itself
            line, keys = 0, ""
        text = ": ".join(filter(None, (self.where(place), keys, problem)))
        self._problems.append((line, text))
        # Also noted for the tables around it, because `has` includes problems inside a place.
        self._at.update(place[:end] for end in range(len(place) + 1))

    def has(self, place: Place) -> bool:
        """Return whether there is a problem at a place, or inside it."""
        return place in self._at

    def suggest(self) -> bool:
        """Return whether to look for the known name nearest to an unknown one, which is slow."""
        self._suggested += 1
        return self._suggested <= _MOST_SUGGESTED

    @property
    def problems(self) -> list[str]:
        """The problems, in the order of the file."""
        return [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]

    def finish(self) -> None:
        """Raise all problems in one error.

        Raises:
            LimitsError: there are problems.
        """
        if self._problems:
            raise LimitsError(*self.problems)


def _key(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if re.fullmatch(r"[\w-]{1,60}", key, re.ASCII) else f".{quoted(key)}"
