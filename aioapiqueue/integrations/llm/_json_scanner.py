"""Finds objects in a JSON document as it arrives, without buffering the document.

Strings are skipped as a whole, so that text is never mistaken for a field. Only strings, brackets
and colons matter; all other tokens of JSON are ignored and not validated.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

Path: TypeAlias = tuple[str | None, ...]
"""The place of an object: the names of the fields that lead to it, None for elements of lists."""

_LEVELS = 3
_LONGEST_NAME = 40
_LARGEST = 16_384
"""Most bytes of a found object. Real usage objects have less than 1,000."""
_DEEPEST = 1000
"""Deepest nesting of objects and lists, as for the `json` module of CPython 3.11."""
_QUOTE = ord('"')
_MARK = re.compile(rb'["{}\[\]:]')
# Possessive quantifiers do not backtrack, so the time is linear in whatever the server sends.
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_INNER = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Data that can be skipped where names do not matter."""


class JsonScanner:
    """Calls functions with each object and each short text at one of several places.

    Args:
        paths: the places of objects, at most three levels deep.
        found: called with the path and the object.
        texts: the places of texts.
        found_text: called with the path and the text.
    """

    def __init__(
        self,
        paths: Collection[Path],
        found: Callable[[Path, dict[str, Any]], None],
        *,
        texts: Collection[Path],
        found_text: Callable[[Path, str], None],
    ) -> None:
        self._paths = paths
        self._found = found
        self._texts = texts
        self._found_text = found_text
        self._depth = 0
        self._names: list[str | None] = [None] * _LEVELS
        """By level: the name of the current field, or None in a list."""
        self._in_string = False
        self._is_escaped = False
        self._string: bytes | None = None
        """The last string. None: it cannot be the name of a wanted field."""
        self._path: Path = ()
        """The place of the object that is being collected."""
        self._collected: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """Read the next bytes. The only errors are those of `found`."""
        at, kept_from = 0, 0
        # At this depth, the rest of the document is ignored, as `_depth` no longer changes.
        while at < len(data) and self._depth < _DEEPEST:
            if self._in_string:
                at = self._skip_string(data, at)
                continue
            # No name matters here, so only brackets do: most of a document passes in one match.
            if self._collected is not None or self._depth > _LEVELS:
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
                self._collect(data[kept_from:at])
                self._report()
        # The part of an object that continues in the next data.
        self._collect(data[kept_from:])

    def _skip_string(self, data: bytes, at: int) -> int:
        """Return the position after the rest of a string."""
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        passed = _STRING.match(data, at)
        end = at if passed is None else passed.end()
        if self._string is not None:
            # No wanted name is longer or contains an escape. One more byte shows that it is longer.
            string = self._string + data[at : min(end, at + _LONGEST_NAME + 1)]
            self._string = None if len(string) > _LONGEST_NAME or b"\\" in string else string
        if end == len(data):
            return end
        if data[end] == _QUOTE:
            self._in_string = False
            # The name is None for most strings: those in lists, and names themselves.
            if self._texts and self._depth <= _LEVELS and self._names[self._depth - 1] is not None:
                self._report_text()
        else:
            # A backslash is the last byte here: what it escapes comes with the next data.
            self._is_escaped = True
            self._string = None
        return end + 1

    def _report_text(self) -> None:
        """Report the string that has ended, if it is the value of a wanted name."""
        path = tuple(self._names[: self._depth])
        if path in self._texts and self._string is not None and self._collected is None:
            self._found_text(path, self._string.decode("latin-1"))
            # The next string at this depth is a name, not another value of this one.
            self._names[self._depth - 1] = None

    def _name(self) -> None:
        if 0 < self._depth <= _LEVELS:
            string = self._string
            # Any bytes have a text in this encoding, and the wanted names are ASCII.
            self._names[self._depth - 1] = None if string is None else string.decode("latin-1")

    def _open(self, byte: bytes) -> bool:
        """Note the start of an object or a list; return whether it is wanted."""
        wanted = False
        if self._collected is None and byte == b"{" and self._depth <= _LEVELS:
            path = tuple(self._names[: self._depth])
            if path in self._paths:
                self._path, self._collected, wanted = path, bytearray(), True
        # In a list, this name stays None; in an object, the first colon replaces it.
        if self._depth < _LEVELS:
            self._names[self._depth] = None
        self._depth += 1
        return wanted

    def _close(self) -> bool:
        """Note the end of an object or a list; return whether it was wanted."""
        # A malformed document may have more ends than starts.
        self._depth = max(0, self._depth - 1)
        return self._collected is not None and self._depth == len(self._path)

    def _collect(self, data: bytes) -> None:
        if self._collected is not None:
            # Too large for a usage object, so it is skipped.
            if len(self._collected) + len(data) > _LARGEST:
                self._collected = None
            else:
                self._collected += data

    def _report(self) -> None:
        kept, self._collected = self._collected, None
        if kept is None:
            return
        try:
            found = json.loads(kept)
        except (ValueError, RecursionError):
            return
        if isinstance(found, dict):
            self._found(self._path, found)
