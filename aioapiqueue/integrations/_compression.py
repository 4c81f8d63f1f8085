"""Bodies that come compressed, decoded bit by bit, in bounded memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENCODINGS", "Inflate"]

ENCODINGS = ("gzip", "x-gzip", "deflate")

_OUTPUT = 65_536
"""Bytes that are decoded at once."""
_INPUT = 16_384
"""Bytes of input at once: what is left of them is copied each time that output has been made."""


class Inflate:
    """Decodes one body. What cannot be decoded ends it.

    Args:
        encoding: one of `ENCODINGS`. Servers call two forms "deflate": with a head of two bytes
            (RFC 1950), as HTTP says, and without.
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = None if encoding == "deflate" else zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._head = b""
        self._is_broken = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes are, in pieces."""
        if self._is_broken:
            return
        if self._decoder is None:
            data = self._head + data
            if len(data) < 2:  # noqa: PLR2004 - those of the head
                self._head = data
                return
            has_head = data[0] & 15 == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
        for start in range(0, len(data), _INPUT):
            rest, is_full = data[start : start + _INPUT], True
            while (rest or is_full) and not self._decoder.eof:
                try:
                    piece = self._decoder.decompress(rest, _OUTPUT)
                except zlib.error:
                    self._is_broken = True
                    return
                yield piece
                rest, is_full = self._decoder.unconsumed_tail, len(piece) == _OUTPUT
