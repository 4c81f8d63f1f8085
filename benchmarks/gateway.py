"""What the gateway costs a call: beside a direct connection, in the same run, by the same client.

A client, the gateway, its hub and a server behind TLS are a process each, on loopback. The server
does as good as nothing, so that what is measured is the way.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import trustme
from _common import Report, interleave, main, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "ec2.us-east-1.amazonaws.com"
LEAST_CALLS = 500  # a second
MOST_ADDED = 3.0  # milliseconds
MOST_MEMORY = 350  # MiB
WAITING = 1_000

SERVER = """
import asyncio, ssl, sys
async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\\r\\n")[0])
            await reader.readexactly(length)
            writer.write(
                b"HTTP/1.1 200 OK\\r\\nContent-Type: text/xml\\r\\n"
                b"Content-Length: 4\\r\\n\\r\\n<a/>"
            )
    except (OSError, asyncio.IncompleteReadError):
        writer.close()
async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=2000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

HUB = """
import asyncio, sys
from pathlib import Path
from aioapiqueue import Registry
from aioapiqueue_run.hub import Hub
async def main():
    async with Hub(Registry({"ec2": sys.argv[1]}), directory=Path(sys.argv[2])) as hub:
        print(hub.path, flush=True)
        await asyncio.sleep(1e9)
asyncio.run(main())
"""

GATEWAY = """
import asyncio, json, os, sys
from aioapiqueue_run.gateway.main import GatewaySettings, serve
from aioapiqueue_run.gateway.upstream import connect_tcp
from aioapiqueue.schedules.spi import raise_file_limit
async def main():
    hub, folder, port = sys.argv[1:]
    settings = GatewaySettings(hub=hub, folder=folder, token="token", mark="mark")
    await serve(
        settings, os.environ, lambda **found: print(json.dumps(found), flush=True),
        asyncio.get_running_loop().create_future(),
        dial=lambda *_: connect_tcp("127.0.0.1", int(port)),
    )
raise_file_limit()
asyncio.run(main())
"""

# All workers of a round are connected before the clock starts.
CLIENT = """
import anyio, base64, json, ssl, sys, time
from anyio.streams.tls import TLSStream
from aioapiqueue.schedules.spi import raise_file_limit
HOST = "ec2.us-east-1.amazonaws.com"
BODY = b"Action=DescribeVolumes&Version=2016-11-15"
REQUEST = (f"POST / HTTP/1.1\\r\\nHost: {HOST}\\r\\n"
           f"Content-Type: application/x-www-form-urlencoded\\r\\n"
           f"Content-Length: {len(BODY)}\\r\\n\\r\\n").encode() + BODY
bundle, port, through, workers, calls = sys.argv[1], *map(int, sys.argv[2:])
context = ssl.create_default_context(cafile=bundle)
user = base64.b64encode(b"run:token").decode()
streams, taken = [], []
async def connect():
    stream = await anyio.connect_tcp("127.0.0.1", port)
    if through:
        head = (f"CONNECT {HOST}:443 HTTP/1.1\\r\\nHost: {HOST}\\r\\n"
                f"Proxy-Authorization: Basic {user}\\r\\n\\r\\n")
        await stream.send(head.encode())
        await stream.receive()
    streams.append(await TLSStream.wrap(
        stream, hostname=HOST, ssl_context=context, standard_compatible=False))
async def work(stream, number):
    for _ in range(number):
        begun = time.perf_counter()
        await stream.send(REQUEST)
        if not calls:
            return
        answer = await stream.receive()
        while not answer.endswith(b"<a/>"):
            answer += await stream.receive()
        taken.append(time.perf_counter() - begun)
async def main():
    for at in range(0, workers, 50):
        async with anyio.create_task_group() as group:
            for _ in range(min(50, workers - at)):
                group.start_soon(connect)
    begun = time.perf_counter()
    async with anyio.create_task_group() as group:
        for stream in streams:
            group.start_soon(work, stream, max(1, calls // workers))
    print(json.dumps([time.perf_counter() - begun, taken]), flush=True)
    if not calls:
        await anyio.sleep(1e9)
raise_file_limit()
anyio.run(main)
"""


class Way(NamedTuple):
    """How to get to the server.

    Attributes:
        bundle: the certificates to trust.
        port: where to connect to.
        through: whether that is the gateway.
    """

    bundle: Path
    port: int
    through: bool


class Ways(NamedTuple):
    """The ways to the server.

    Attributes:
        direct: without the gateway.
        gateway: by it.
        pid: the process id of the gateway.
    """

    direct: Way
    gateway: Way
    pid: int


@contextmanager
def running(source: str, *arguments: object, **more: str) -> Iterator[tuple[str, int]]:
    """Run a program; return its first line, and its process id."""
    command = [sys.executable, "-c", source, *map(str, arguments)]
    environment = os.environ | more
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:  # noqa: S603
        try:
            yield cast("IO[bytes]", process.stdout).readline().decode(), process.pid
        finally:
            process.kill()


@contextmanager
def ways(limit: str) -> Iterator[Ways]:
    """Run a server and a gateway, whose hub has a limit."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aq-")))
        authority = trustme.CA()
        trusted, own = folder / "trusted.pem", folder / "own.pem"
        authority.cert_pem.write_to_path(str(trusted))
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(own))
        port, _ = stack.enter_context(running(SERVER, own))
        hub, _ = stack.enter_context(running(HUB, limit, folder / "hub"))
        words = hub.strip(), folder, int(port)
        found, pid = stack.enter_context(
            running(GATEWAY, *words, SSL_CERT_FILE=str(trusted), HTTPS_PROXY="", https_proxy="")
        )
        ready = json.loads(found)
        yield Ways(
            Way(trusted, int(port), through=False),
            Way(Path(ready["bundle"]), ready["port"], through=True),
            pid,
        )


def calls(way: Way, workers: int, number: int) -> tuple[float, list[float]]:
    """Make calls; return the seconds that all took, and each one's."""
    arguments = (way.bundle, way.port, int(way.through), workers, number)
    with running(CLIENT, *arguments) as (found, _):
        seconds, taken = json.loads(found)
    return seconds, taken


def speed(report: Report, /, *, quick: bool) -> None:
    """20 workers at once, and one alone, on connections that are kept."""
    many, alone, rounds = (1_000, 200, 3) if quick else (3_000, 500, 7)
    with ways("1000000/s") as found:
        for way in (found.direct, found.gateway):
            calls(way, 20, 200)
        contenders = {"direct": found.direct, "gateway": found.gateway}
        at_once = interleave(
            {name: partial(calls, way, 20, many) for name, way in contenders.items()}, rounds
        )
        one = interleave(
            {name: partial(calls, way, 1, alone) for name, way in contenders.items()}, rounds
        )
    rates = {name: [many / seconds for seconds, _ in runs] for name, runs in at_once.items()}
    times = {
        name: [statistics.median(taken) * 1000 for _, taken in runs] for name, runs in one.items()
    }
    report.table(
        "Calls by 20 workers a second, and milliseconds of one alone (medians of rounds)",
        ["way", "calls/s", "ms"],
        [[name, spread(rates[name], ".0f"), spread(times[name], ".2f")] for name in contenders],
    )
    added = [through - direct for direct, through in zip(*times.values(), strict=True)]
    report.target(
        "calls a second", statistics.median(rates["gateway"]), least=LEAST_CALLS,
        rounds=rates["gateway"],
    )  # fmt: skip
    report.target("ms added to a call", statistics.median(added), most=MOST_ADDED, rounds=added)


def memory(report: Report, /, *, quick: bool) -> None:
    """1,000 calls that wait, each on a connection of its own."""
    del quick
    with ways("1/h") as found:
        idle = _memory_of(found.pid)
        way = found.gateway
        arguments = (way.bundle, way.port, 1, WAITING, 0)
        with running(CLIENT, *arguments) as (_, _):
            time.sleep(3)
            waiting = _memory_of(found.pid)
    report.table(
        "Memory of the gateway, in MiB",
        ["idle", f"{WAITING:,} calls wait", "each, in kB"],
        [[f"{idle:.0f}", f"{waiting:.0f}", f"{(waiting - idle) * 1024 / WAITING:.0f}"]],
    )
    report.target(f"MiB while {WAITING:,} calls wait", waiting, most=MOST_MEMORY)


def _memory_of(pid: int) -> float:
    words: list[Any] = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main(__doc__ or "", speed, memory)
