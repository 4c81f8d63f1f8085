"""Reads the server's name in the first message of TLS, the ClientHello (RFC 6066, 3)."""

from __future__ import annotations

import contextlib
import ssl
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import ByteStream

__all__ = ["read_hello"]


async def read_hello(stream: ByteStream) -> tuple[bytes, str | None]:
    """Read the first message of TLS; return the bytes, and the server's name in lower case.

    The name is None if the client sends none, or if it speaks another protocol. Either way, the
    bytes that were read come back.

    Raises:
        anyio.EndOfStream: the client has hung up.
    """
    names: list[str | None] = []

    def note_name(_side: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        names.append(name)
        return ssl.ALERT_DESCRIPTION_USER_CANCELLED

    # OpenSSL begins a handshake, which it ends when it has the name. Nothing is answered: the bytes
    # are for the server, or for a second handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # as old clients still use: nothing is encrypted by it
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.sni_callback = note_name
    arrived = ssl.MemoryBIO()
    side = context.wrap_bio(arrived, ssl.MemoryBIO(), server_side=True)
    data = b""
    while True:
        part = await stream.receive()
        data += part
        arrived.write(part)
        try:
            with _quiet():
                side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:  # it has the name, or this is no such message
            name = next(filter(None, names), "")
            return data, name.lower().removesuffix(".") or None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Python print no error about a name that is not ASCII, for which it ends the handshake."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
