"""A loopback endpoint that notes what arrives, hubs, and programs that run under them."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import Hub
from aioapiqueue_run.hub import server as _server

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import Event

BOOTSTRAP = Path(_server.__file__).parents[1] / "bootstrap"
CATCH_UP = 0.010  # seconds, a queue's default
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines


@dataclass(frozen=True)
class Arrival:
    """One request, complete with its body."""

    at: float  # time.monotonic()
    action: str
    signature_age: float  # seconds, from X-Amz-Date, which counts whole ones


class Loopback:
    """An AWS-like endpoint on loopback, in a thread of its own: for sync and async tests.

    `answer(arrival)` returns a status, headers and a body; or None: never.
    """

    THROTTLED = (
        503,
        "Retry-After: 0\r\n",
        "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>",
    )

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.answer: Callable[[Arrival], tuple[int, str, str] | None] = _empty

    def __enter__(self) -> Self:
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._main()])
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    @property
    def times(self) -> list[float]:
        """When each request arrived, as `time.monotonic()`."""
        return [arrival.at for arrival in self.arrivals]

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        action = parse_qs(body.decode()).get("Action", [head.split(maxsplit=1)[0]])[0]
        arrival = Arrival(time.monotonic(), action, _signature_age(head))
        self.arrivals.append(arrival)
        answer = self.answer(arrival)
        if answer is None:
            await reader.read()  # until the other side hangs up
            raise ConnectionResetError
        status, headers, text = answer
        writer.write(
            f"HTTP/1.1 {status} x\r\nContent-Type: text/xml\r\n{headers}".encode()
            + f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        await writer.drain()


def _empty(arrival: Arrival) -> tuple[int, str, str]:
    name = arrival.action
    return 200, "", f"<{name}Response><{name}Result/></{name}Response>"


def _signature_age(head: str) -> float:
    signed = re.search(r"(?im)^x-amz-date: *(\w+)", head)
    if signed is None:
        return 0.0
    stamp = time.strptime(signed[1] + " UTC", "%Y%m%dT%H%M%SZ %Z")
    return time.time() - calendar.timegm(stamp)


class Program:
    """A Python program under a hub."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid

    async def line(self) -> str:
        """Return the next line of its output."""
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def end(self, *, within: float = PATIENCE) -> tuple[str, str]:
        """Return what it has written to stdout and stderr, once it has ended."""
        async with asyncio.timeout(within):
            out, err = await self.process.communicate()
        return out.decode(), err.decode()


class Bench:
    """What a test works with: an endpoint, and programs that call it under a hub."""

    def __init__(self, loopback: Loopback, directory: Path) -> None:
        self.loopback = loopback
        self.directory = directory
        self.released: list[float] = []
        """When the queues of its hub let calls go, as `time.monotonic()`."""
        self._processes: list[asyncio.subprocess.Process] = []

    def hub(self, limits: dict[str, object], **options: object) -> Hub:
        """Return a hub, to be entered."""
        self.registry = Registry(limits, observers=[self])
        return Hub(self.registry, directory=self.directory / "hub", **options)

    def on_event(self, event: Event) -> None:
        """Hear from a queue."""
        if event.kind == "released":
            self.released.append(event.at)

    def assert_paced(self, rate: float) -> None:
        """Check that calls were let go at the rate, and that none arrived before it was let go.

        Gaps between arrivals say less: one that this machine has held up is close to the next.
        """
        latest = -math.inf  # of what the first slot would have been, by any call so far
        for number, at in enumerate(self.released):
            early = latest - CATCH_UP - (at - number / rate)
            assert early <= 1e-6, f"{number}: {early} s too early; {gaps(self.released)}"
            latest = max(latest, at - number / rate)
        for let_go, arrived in zip(self.released, sorted(self.loopback.times), strict=False):
            assert let_go <= arrived

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to call the endpoint."""
        plain = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "PYTHON", "AIOAPIQUEUE"))
        }
        return plain | {
            "AWS_ENDPOINT_URL": self.loopback.url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "ENDPOINT": self.loopback.url,
        }

    async def start(
        self,
        source: str,
        hub: Hub | None,
        *arguments: str,
        python: str = sys.executable,
        **environment: str,
    ) -> Program:
        """Start a Python program, given as its source."""
        path = self.directory / f"program{len(self._processes)}.py"
        path.write_text(textwrap.dedent(source))
        process = await asyncio.create_subprocess_exec(
            python,
            str(path),
            *arguments,
            env=self.environment | (hub.environment if hub else {}) | environment,
            cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.append(process)
        return Program(process)

    async def run(
        self, source: str, hub: Hub | None, *arguments: str, **options: str
    ) -> tuple[int, str, str]:
        """Run a program to its end; return its exit code, stdout and stderr."""
        program = await self.start(source, hub, *arguments, **options)
        out, err = await program.end()
        return program.process.returncode, out, err

    async def clear(self) -> None:
        """Kill every program, with its children, and wait for it."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.communicate()
            process._transport.close()  # noqa: SLF001 - asyncio has no public way


class Raw:
    """A client that says what it likes."""

    def __init__(self, hub: Hub) -> None:
        self._path = str(hub.path)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def say(self, **message: object) -> None:
        """Send a message."""
        self.writer.write(json.dumps(message).encode() + b"\n")

    def greet(self, **more: object) -> None:
        """Send hello."""
        self.say(do="hello", version=2, pid=os.getpid(), **more)

    def ask(self, number: int, operation: str = "DescribeRegions", **more: object) -> None:
        """Send ask."""
        fields = {"service": "ec2", "region": "eu-west-1", "key": "AKIAIOSFODNN7EXAMPLE"}
        self.say(**({"do": "ask", "id": number, "operation": operation} | fields | more))

    async def hear(self) -> dict[str, object] | None:
        """Return the next message; None at the end."""
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readline()
        return json.loads(line) if line else None


async def until(condition: Callable[[], bool], *, within: float = PATIENCE) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - other processes change it
            await asyncio.sleep(0.01)


def most_in(seconds: float, times: list[float]) -> int:
    """Return how many of the times fall into one stretch of so many seconds, at most."""
    return max(sum(start <= at < start + seconds for at in times) for start in times)


def gaps(times: list[float]) -> list[float]:
    """Return the seconds between one time and the next."""
    return [later - earlier for earlier, later in pairwise(sorted(times))]


@pytest.fixture
def loopback():
    """Serve on a free port of loopback."""
    with Loopback() as serving:
        yield serving


@pytest.fixture
def directory():
    """Give a directory whose path is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="aq-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def bench(loopback, directory):
    """Give a `Bench`."""
    bench = Bench(loopback, directory)
    yield bench
    await bench.clear()


@pytest.fixture(scope="session")
def tools():
    """Give what tests need besides, as importing a conftest is not to be relied on."""
    return Tools


class Tools:
    """What tests share."""

    Raw = Raw
    BOOTSTRAP = BOOTSTRAP
    until = staticmethod(until)
    most_in = staticmethod(most_in)
    gaps = staticmethod(gaps)
