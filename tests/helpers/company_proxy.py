"""A company's proxy: whatever host it is asked for, it connects to servers of the test."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from typing import Self
from urllib.parse import unquote

__all__ = ["CompanyProxy"]


class CompanyProxy:
    """Takes CONNECT, and requests with whole URLs, in a thread; a context manager.

    Args:
        tls_port: where tunnels to port 443 lead.
        plain_port: where tunnels to other ports and requests without TLS lead.
        user: `"name:password"`, which it wants, as URLs have it; None: nothing.
    """

    def __init__(self, tls_port: int, plain_port: int, *, user: str | None = None) -> None:
        self._ports = {"443": tls_port}
        self._plain_port = plain_port
        self._wanted = user and "Basic " + base64.b64encode(unquote(user).encode()).decode()
        self.asked: list[str] = []
        """The first lines of all requests."""
        self.user = user

    def lead(self, port: int, to: int) -> None:
        """Have tunnels to a port lead to another one of this host."""
        self._ports[str(port)] = to

    @property
    def url(self) -> str:
        """What the variables of programs name."""
        return f"http://{f'{self.user}@' if self.user else ''}127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy")
        self.thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self.thread.join()

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listener.getsockname()[1]
        server = await asyncio.start_server(self._take, sock=listener)
        self._ready.set()
        await self._done.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, reader, writer) -> None:
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader, writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first = head.split(b"\r\n")[0].decode()
            self.asked.append(first)
            if (
                self._wanted
                and f"authorization: {self._wanted}".lower() not in head.decode().lower()
            ):
                writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            method, target, _ = first.split()
            tunnel = method == "CONNECT"
            port = self._ports.get(target.rpartition(":")[2], self._plain_port)
            theirs, to_them = await asyncio.open_connection(
                "127.0.0.1", port if tunnel else self._plain_port
            )
            if tunnel:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                to_them.write(head.replace(target.encode(), path.encode(), 1))
            await asyncio.gather(_pump(reader, to_them), _pump(theirs, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


async def _pump(reader, writer) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
