"""TLS in front of a server that was built without it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading

import trustme


@functools.cache
def _authority() -> trustme.CA:
    return trustme.CA()


class TlsFront:
    """Takes TLS connections and passes on what they carry, in a thread of its own.

    What clients see is real: handshake, certificate, encryption. While the server behind is down,
    connections are closed right after the handshake; after `stop()` they are refused.

    Args:
        host: where to listen, and where the server behind it does; the certificate is for it.
        port: where to listen.
        behind: port of the server behind.
    """

    def __init__(self, host: str, port: int, behind: int) -> None:
        self.host, self.port, self.behind = host, port, behind
        self.authority = _authority().cert_pem.bytes()  # what clients must trust
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        _authority().issue_cert(host).configure_cert(self._context)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        listener = socket.create_server((self.host, self.port))
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="tls-front")
        self._thread.start()

    def stop(self) -> None:
        """Close everything; nothing happens if it does not listen."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join()
            self._thread = None

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            task.add_done_callback(connections.discard)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._pass_on(reader, writer)

        server = await asyncio.start_server(connected, sock=listener, ssl=self._context)
        await self._done.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            behind, to_behind = await asyncio.open_connection(self.host, self.behind)
            async with _closing(to_behind), asyncio.TaskGroup() as both:
                ways = [
                    both.create_task(_pump(reader, to_behind)),
                    both.create_task(_pump(behind, writer)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter):
    try:
        yield
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
