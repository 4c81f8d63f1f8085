"""Structured fields (RFC 9651), as far as rate limits use them: lists and dictionaries of items.

Inner lists are refused: no field that is read here may have one. Byte sequences, dates and display
strings are taken over as they are written, for nobody looks into them.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

__all__ = ["Item", "parse_dictionary", "parse_list"]

Bare: TypeAlias = int | float | str | bool

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_GAP = re.compile(r"[ \t]*")
_SPACES = re.compile(r" *")
_BARE = re.compile(
    r"""
    (?P<decimal> -?[0-9]{1,12}\.[0-9]{1,3} (?![0-9.]) )
  | (?P<integer> -?[0-9]{1,15} (?![0-9.]) )
  | "(?P<string> (?: [\x20\x21\x23-\x5b\x5d-\x7e] | \\["\\] )* )"
  | (?P<token> [A-Za-z*][A-Za-z0-9!\#$%&'*+.^_`|~:/-]* )
  | \?(?P<boolean> [01] )
  | (?P<opaque> :[A-Za-z0-9+/=]*: | @-?[0-9]{1,15} (?![0-9.])
      | %"(?: [\x20\x21\x23\x24\x26-\x7e] | %[0-9a-f]{2} )*" )
    """,
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")


class Item(NamedTuple):
    """A value and its parameters."""

    value: Bare
    parameters: dict[str, Bare]


class _Reader:
    """A text, and how far it has been read."""

    def __init__(self, text: str) -> None:
        if not text.isascii():
            raise ValueError("a structured field is ASCII")
        self._text = text.strip(" ")
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at == len(self._text)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not a structured field, at character {self._at}")
        self._at = match.end()
        return match

    def skip(self, character: str) -> bool:
        """Read on if `character` comes next; return whether it did."""
        found = self._text.startswith(character, self._at)
        self._at += found
        return found

    def bare(self) -> Bare:
        match = self.take(_BARE)
        text = match[match.lastgroup or 0]
        match match.lastgroup:
            case "integer":
                return int(text)
            case "decimal":
                return float(text)
            case "boolean":
                return text == "1"
            case "string":
                return _ESCAPED.sub(r"\1", text)
        return text

    def parameters(self) -> dict[str, Bare]:
        found: dict[str, Bare] = {}
        while self.skip(";"):
            self.take(_SPACES)
            key = self.take(_KEY)[0]
            found[key] = self.bare() if self.skip("=") else True
        return found

    def another(self) -> bool:
        """Read up to the next member; return whether there is one."""
        self.take(_GAP)
        if self.ended:
            return False
        if not self.skip(","):
            raise ValueError(f"a comma is missing at character {self._at}")
        self.take(_GAP)
        if self.ended:
            raise ValueError("nothing follows the last comma")
        return True


def parse_list(text: str) -> list[Item]:
    """Parse a list of items; of several field lines, those joined by a comma.

    >>> parse_list('"default";r=0;t=30, hourly')
    [Item(value='default', parameters={'r': 0, 't': 30}), Item(value='hourly', parameters={})]

    Raises:
        ValueError: it is none.
    """
    reader = _Reader(text)
    found: list[Item] = []
    more = not reader.ended
    while more:
        value = reader.bare()
        found.append(Item(value, reader.parameters()))
        more = reader.another()
    return found


def parse_dictionary(text: str) -> dict[str, Item]:
    """Parse a dictionary of items.

    >>> parse_dictionary("limit=100, remaining=0")["remaining"]
    Item(value=0, parameters={})

    Raises:
        ValueError: it is none.
    """
    reader = _Reader(text)
    found: dict[str, Item] = {}
    more = not reader.ended
    while more:
        key = reader.take(_KEY)[0]
        value = reader.bare() if reader.skip("=") else True
        found[key] = Item(value, reader.parameters())
        more = reader.another()
    return found
