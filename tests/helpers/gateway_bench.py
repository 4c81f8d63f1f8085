"""A gateway with a real hub, and a server whose connections a test handles."""

from __future__ import annotations

import asyncio
import base64
import contextlib

from aioapiqueue import Registry
from aioapiqueue_run.gateway import main
from aioapiqueue_run.gateway.upstream import connect_tcp
from aioapiqueue_run.hub import Hub

__all__ = ["HOST", "OK", "USER", "Bench", "open_bench", "read"]

HOST = "ec2.us-east-1.amazonaws.com"
USER = base64.b64encode(b"run:token").decode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Bench:
    """A gateway, its hub, and a server whose connections a test handles."""

    def __init__(self, hub, server, ready):
        self.hub = hub
        self.server = server
        self.port = ready["port"]
        self.came = asyncio.Queue()
        self.dialled = []
        """Where the gateway has connected to, by address or name, and port."""
        self.counts = None
        """What it has counted, after its end."""
        self.end = None
        """Ends the run, and waits for the gateway's end."""
        self._writers = []

    async def connect(self, host=f"{HOST}:80", *, password=USER):
        """Return a connection through the gateway to a host."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        head = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {password}"
        writer.write(f"{head}\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def raw(self):
        """Return a connection to the gateway on which nothing has been said."""
        found = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(found[1])
        return found

    async def next(self):
        """Return the next connection that the server gets."""
        async with asyncio.timeout(5):
            return await self.came.get()

    async def until(self, condition):
        """Wait until something is so."""
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)

    @property
    def running(self):
        """How many calls the hub takes to be under way."""
        return sum(one.running for one in self.hub.figures)

    def close(self):
        """Hang up."""
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def open_bench(tmp_path, hosts, *, isolated=False):
    """Run all of it on the loop of the test.

    Args:
        tmp_path: a private folder.
        hosts: the limits of hosts that are not AWS's.
        isolated: whether it is for a program that is isolated.
    """
    bench = None

    async def take(reader, writer):
        bench._writers.append(writer)  # noqa: SLF001 - this is its own
        await bench.came.put((reader, writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    registry = Registry({"ec2": {"rate": "1000/s", "concurrency": 3}, "s3": "1000/s", **hosts})
    ready = asyncio.get_running_loop().create_future()
    ended = asyncio.get_running_loop().create_future()

    def report(**found):
        if "port" in found:
            ready.set_result(found)
        elif "counts" in found and bench is not None:
            bench.counts = found["counts"]

    async def dial(host, number):
        bench.dialled.append((host, number))
        return await connect_tcp("127.0.0.1", port)

    async with Hub(registry, directory=tmp_path / "hub") as hub:
        socket = str(hub.path.with_name("isolated.sock")) if isolated else ""
        settings = main.GatewaySettings(
            str(hub.path), str(tmp_path), "token", "mark", socket, registry.hosts
        )
        serving = asyncio.create_task(main.serve(settings, {}, report, ended, dial=dial))
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        bench = Bench(hub, server, await ready if ready.done() else serving.result())

        async def end():
            if not ended.done():
                ended.set_result(None)
            await serving

        bench.end = end
        try:
            yield bench
        finally:
            bench.close()
            await end()
            server.close()
            for _ in range(10):  # in which transports close
                await asyncio.sleep(0)
    await registry.aclose()


async def read(reader):
    """Return the status, the headers and the body of an answer with a length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    first, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split()[1]), headers, body
