"""Compressed bodies of responses, decoded in bounded memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ENCODINGS = ("gzip", "x-gzip", "deflate")
"""Values of `Content-Encoding` that can be decoded here."""

_OUTPUT = 65_536
"""Bytes that are decoded in one step."""
_INPUT = 16_384
"""Bytes of input in one step: zlib copies the input that is left after each step of output."""


class Inflate:
    """Decodes one body as it arrives. Data that cannot be decoded ends it.

    Args:
        encoding: one of `ENCODINGS`. Servers call two formats "deflate": with a header of two bytes
            (RFC 1950), which HTTP prescribes, and without.
    """

    def __init__(self, encoding: str) -> None:
        # 16 means: with the header of gzip.
        self._decoder = None if encoding == "deflate" else zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._head = b""
        self.is_broken = False
        """Whether data could not be decoded."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded data of the next bytes, in pieces of at most 64 KiB."""
        if self.is_broken:
            return
        if self._decoder is None:
            data = self._head + data
            if len(data) < 2:  # noqa: PLR2004 - its header
                # Both bytes are needed to recognise the format.
                self._head = data
                return
            # A header of RFC 1950 names method 8, "deflate", and is a multiple of 31.
            has_head = data[0] & 15 == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
            # A negative number means: without a header.
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
        for start in range(0, len(data), _INPUT):
            rest, is_full = data[start : start + _INPUT], True
            # A full piece may not be the last: zlib may hold more output after all input is
            # consumed. Input after the end of the compressed data is ignored.
            while (rest or is_full) and not self._decoder.eof:
                try:
                    piece = self._decoder.decompress(rest, _OUTPUT)
                except zlib.error:
                    self.is_broken = True
                    return
                yield piece
                rest, is_full = self._decoder.unconsumed_tail, len(piece) == _OUTPUT


def decoded(body: bytes, encoding: str, most: int) -> bytes | None:
    """Return a body without its compression.

    Return None if the encoding is unknown, or if the result has more than `most` bytes.

    Args:
        body: the body as received.
        encoding: value of `Content-Encoding`.
        most: most bytes of the result.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body if len(body) <= most else None
    if name not in ENCODINGS:
        return None
    inflate, content = Inflate(name), b""
    for piece in inflate.decode(body):
        # At most 64 KiB at a time, so a body that grows a thousandfold is noticed early.
        content += piece
        if len(content) > most:
            return None
    return None if inflate.is_broken else content
