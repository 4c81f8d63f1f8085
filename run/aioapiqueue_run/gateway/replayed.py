"""A byte stream whose first bytes have been read already, and are read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio.abc import ByteStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Replayed"]


class Replayed(ByteStream):
    """Yields some bytes, then those of another stream.

    Args:
        stream: the other stream.
        first: the bytes that have been read from it.
    """

    def __init__(self, stream: ByteStream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return some bytes."""
        if self._first:
            found, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return found
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """Send bytes."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """Announce that nothing follows."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the other stream."""
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the other stream."""
        return self._stream.extra_attributes
