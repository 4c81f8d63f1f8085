"""Finds an object in a JSON document as it passes, without keeping the document.

Strings are skipped whole, so that nothing in a text is taken for a field. Only strings, brackets
and colons are looked at: the rest of what JSON is made of does not matter here, and is not checked.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["JsonScanner", "Path"]

Path: TypeAlias = tuple[str | None, ...]
"""Where an object is: the name of each field on the way to it; None: an element of a list."""

_LEVELS = 3
_LONGEST_NAME = 40
_LARGEST = 16_384
"""Bytes of an object that is found. Those wanted here have less than 1,000."""
_DEEPEST = 1000
"""Objects and lists within each other, of which json reads no more either: the rest is not looked
at."""
_QUOTE = ord('"')
_MARK = re.compile(rb'["{}\[\]:]')
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_INNER = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""What can be passed over where no name matters."""


class JsonScanner:
    """Calls a function with each object that stands in a certain place.

    Args:
        paths: where, at most three levels deep.
        found: called with the path and the object.
    """

    def __init__(
        self, paths: Collection[Path], found: Callable[[Path, dict[str, Any]], None]
    ) -> None:
        self._paths = paths
        self._found = found
        self._depth = 0
        self._names: list[str | None] = [None] * _LEVELS
        """The name of the field that is read, in each object that is open."""
        self._in_string = False
        self._is_escaped = False
        self._string: bytes | None = None
        """The last one, as far as it could be a field's name; None: it could not."""
        self._path: Path = ()
        """Of the object that is being kept."""
        self._kept: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """Look at the next bytes. Whatever they are, this raises nothing but what `found` does."""
        at, kept_from = 0, 0
        while at < len(data) and self._depth < _DEEPEST:
            if self._in_string:
                at = self._skip_string(data, at)
                continue
            if self._kept is not None or self._depth > _LEVELS:
                passed = _INNER.match(data, at)
                at = at if passed is None else passed.end()
            mark = _MARK.search(data, at)
            if mark is None:
                break
            at = mark.end()
            byte = mark[0]
            if byte == b'"':
                self._in_string, self._string = True, b""
            elif byte == b":":
                self._name()
            elif byte in b"{[":
                if self._open(byte):
                    kept_from = mark.start()
            elif self._close():
                self._keep(data[kept_from:at])
                self._report()
        self._keep(data[kept_from:])

    def _skip_string(self, data: bytes, at: int) -> int:
        """Return where to go on after some of a string."""
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        passed = _STRING.match(data, at)
        end = at if passed is None else passed.end()
        if self._string is not None:
            # No name that is looked for is longer, or has an escape.
            string = self._string + data[at : min(end, at + _LONGEST_NAME + 1)]
            self._string = None if len(string) > _LONGEST_NAME or b"\\" in string else string
        if end == len(data):
            return end
        if data[end] == _QUOTE:
            self._in_string = False
        else:
            self._is_escaped = True
            self._string = None
        return end + 1

    def _name(self) -> None:
        if 0 < self._depth <= _LEVELS:
            string = self._string
            self._names[self._depth - 1] = None if string is None else string.decode("latin-1")

    def _open(self, byte: bytes) -> bool:
        """Note that an object or a list begins; return whether it is to be kept."""
        wanted = False
        if self._kept is None and byte == b"{" and self._depth <= _LEVELS:
            path = tuple(self._names[: self._depth])
            if path in self._paths:
                self._path, self._kept, wanted = path, bytearray(), True
        if self._depth < _LEVELS:
            self._names[self._depth] = None
        self._depth += 1
        return wanted

    def _close(self) -> bool:
        """Note that an object or a list ends; return whether it was kept."""
        self._depth = max(0, self._depth - 1)
        return self._kept is not None and self._depth == len(self._path)

    def _keep(self, data: bytes) -> None:
        if self._kept is not None:
            if len(self._kept) + len(data) > _LARGEST:
                self._kept = None
            else:
                self._kept += data

    def _report(self) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        try:
            found = json.loads(kept)
        except (ValueError, RecursionError):
            return
        if isinstance(found, dict):
            self._found(self._path, found)
