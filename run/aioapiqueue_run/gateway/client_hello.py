"""Reads the server's name in the first message of TLS, the ClientHello.

RFC 8446, 4.1.2 (ClientHello) and RFC 6066, 3 (server_name). `ssl` reports the name only during a
handshake, but a connection that is not intercepted must be forwarded without one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["is_hello", "name_in", "read_hello"]

_RECORD = struct.Struct("!BHH")  # type, version, length
_HANDSHAKE = 22
_LONGEST = 1 << 14  # of a record (RFC 8446, 5.1), so that a client cannot fill our memory
_SERVER_NAME = 0
_RANDOM_AND_VERSION = 2 + 32


async def read_hello(stream: ByteStream) -> bytes:
    """Return the first record of TLS, or the first bytes of another protocol.

    Raises:
        anyio.EndOfStream: the client has hung up.
    """
    data = b""
    # Five bytes of any protocol: a request line of HTTP is longer.
    while len(data) < _RECORD.size:
        data += await stream.receive()
    kind, _, length = _RECORD.unpack_from(data)
    if kind != _HANDSHAKE or length > _LONGEST:
        return data
    while len(data) < _RECORD.size + length:
        data += await stream.receive()
    return data


def is_hello(data: bytes) -> bool:
    """Return whether the first bytes begin TLS."""
    return data[0] == _HANDSHAKE


def name_in(hello: bytes) -> str | None:
    """Return the server's name in lower case; None if there is none, or no ClientHello."""
    try:
        at = _RECORD.size + 4 + _RANDOM_AND_VERSION
        at += 1 + hello[at]  # the session's id
        at += 2 + int.from_bytes(hello[at : at + 2])  # ciphers
        at += 1 + hello[at]  # compression
        end = at + 2 + int.from_bytes(hello[at : at + 2])
        at += 2
        while at < end:
            kind, size = struct.unpack_from("!HH", hello, at)
            if kind == _SERVER_NAME:
                # The extension is a list of one name: length, type, length of the name, name.
                name = hello[at + 9 : at + 4 + size].decode("ascii")
                return name.lower().removesuffix(".") or None
            at += 4 + size
    except (IndexError, struct.error, UnicodeDecodeError):
        pass  # malformed, or a ClientHello in several records, whose name may be in a later one
    return None
