"""What one quota for all processes of a host costs: a slot, the hub's CPU, eight at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Report, main, ratios, spread

from aioapiqueue import ApiQueue, HostSchedule
from aioapiqueue.schedules.spi import HUB_DIR, HubLocation, command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ECHO = """
import asyncio, sys
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        if sys.argv[2] == "now":
            self.transport.write(data)
        else:
            asyncio.get_running_loop().call_later(0.001, self.transport.write, data)
async def main():
    server = await asyncio.get_running_loop().create_unix_server(Echo, sys.argv[1])
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
WORKER = """
import asyncio, sys, time
from aioapiqueue import ApiQueue, HostSchedule
async def main():
    queue = ApiQueue("1000000/s", schedule=HostSchedule("many"))
    async with queue.slot():
        print("ready", flush=True)
    sys.stdin.readline()
    left = int(sys.argv[1])
    async def work():
        nonlocal left
        while left > 0:
            left -= 1
            async with queue.slot():
                pass
    await asyncio.gather(*(work() for _ in range(200)))
    print(time.monotonic(), flush=True)
    await queue.aclose()
asyncio.run(main())
"""
PROCESSES = 8
MOST_CPU = {500: 150, 2_000: 80, 5_000: 50, 10_000: 50}
"""Microseconds of the hub's CPU for a slot that waited, by calls per second."""


@contextlib.contextmanager
def hub() -> Iterator[Path]:
    """Have a hub of its own."""
    with tempfile.TemporaryDirectory(prefix="host-", dir="/tmp") as directory:  # a short path
        os.environ[HUB_DIR] = directory
        try:
            yield Path(directory)
        finally:
            command(HubLocation(directory), {"command": "stop"})
            del os.environ[HUB_DIR]


@contextlib.contextmanager
def echo(directory: Path, when: str) -> Iterator[tuple[str, int]]:
    """Have a server that sends back what it gets, `now` or a millisecond `later`: path and pid."""
    path = str(directory / "echo.sock")
    server = subprocess.Popen([sys.executable, "-c", ECHO, path, when], stdout=subprocess.PIPE)  # noqa: S603 - our own words
    try:
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        server.stdout.readline()
        yield path, server.pid
    finally:
        server.kill()
        server.communicate()


def slot(report: Report, /, *, quick: bool) -> None:
    """A slot that nobody else waits for, beside an empty round trip over such a socket."""
    rounds, calls = (10, 100) if quick else (40, 300)
    with hub() as directory, echo(directory, "now") as (path, _):
        slots, trips = asyncio.run(_side_by_side(path, rounds, calls))
    rows = [("a slot", spread(slots, ".0f")), ("an empty round trip", spread(trips, ".0f"))]
    report.table("Uncontended, in microseconds", ["", "median"], rows)
    each = ratios(slots, trips)
    what = "a slot, of an empty round trip over the same kind of socket"
    report.target(what, statistics.median(each), most=2, rounds=each)


async def _side_by_side(path: str, rounds: int, calls: int) -> tuple[list[float], list[float]]:
    reader, writer = await asyncio.open_unix_connection(path)
    queue = ApiQueue("1000000/s", schedule=HostSchedule("slot"))

    async def take() -> None:
        async with queue.slot():
            pass

    async def trip() -> None:
        writer.write(b"x" * 40 + b"\n")
        await reader.readline()

    async def timed(function: Callable[[], Awaitable[None]]) -> float:
        taken = []
        for _ in range(calls):
            begun = time.perf_counter()
            await function()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken) * 1e6

    await take()
    slots, trips = [], []
    for _ in range(rounds):
        slots.append(await timed(take))
        trips.append(await timed(trip))
    writer.close()
    await queue.aclose()
    return slots, trips


def waiting(report: Report, /, *, quick: bool) -> None:
    """The hub's CPU for each slot that waited, with others waiting.

    Beside it, the CPU of a server that only wakes up twice, for a message and for a timer: where
    slots are due further apart than the hub's groups of calls, that is most of what a slot costs.
    """
    seconds = 2.0 if quick else 10.0
    with tempfile.TemporaryDirectory(prefix="host-", dir="/tmp") as directory:
        empty = asyncio.run(_wake_up(Path(directory), seconds))
    rows = [("an empty server, each message", "", f"{empty:.0f}")]
    for rate, most in MOST_CPU.items():
        with hub():
            rounds = [asyncio.run(_wait(rate, seconds / 5)) for _ in range(5)]
        used = [cpu / started * 1e6 for started, cpu in rounds]
        pace = sum(started for started, _ in rounds) / seconds
        rows.append((f"{rate:,}/s", f"{pace:,.0f}", spread(used, ".0f")))
        what = f"the hub's CPU for a slot that waited, at {rate:,}/s"
        report.target(what, statistics.median(used), most=most, rounds=used)
    report.table("Where calls wait", ["limit", "slots a second", "CPU, microseconds"], rows)


async def _wake_up(directory: Path, seconds: float) -> float:
    with echo(directory, "later") as (path, pid):
        reader, writer = await asyncio.open_unix_connection(path)
        cpu, end, trips = _cpu_of(pid), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            writer.write(b"x" * 40 + b"\n")
            await reader.readline()
            trips += 1
        cpu = _cpu_of(pid) - cpu
        writer.close()
    return cpu / trips * 1e6


async def _wait(rate: int, seconds: float) -> tuple[int, float]:
    queue = ApiQueue(f"{rate}/s", schedule=HostSchedule("waiting"))

    async def work() -> None:
        while True:
            async with queue.slot():
                pass

    async with queue.slot():
        pass
    answer = await asyncio.to_thread(
        command, HubLocation(os.environ[HUB_DIR]), {"command": "status"}
    )
    assert answer is not None  # noqa: S101 - the slot came from it
    tasks = [asyncio.create_task(work()) for _ in range(100)]
    await asyncio.sleep(0.5)
    before, cpu = queue.stats.released, _cpu_of(answer["pid"])
    await asyncio.sleep(seconds)
    cpu = _cpu_of(answer["pid"]) - cpu
    started = queue.stats.released - before
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await queue.aclose()
    return started, cpu


def _cpu_of(pid: int) -> float:
    """Return the CPU seconds that a process of one thread has used, to the nanosecond (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) / 1e9


def many(report: Report, /, *, quick: bool) -> None:
    """Eight processes that take slots as fast as they get them."""
    calls = 1_000 if quick else 5_000
    with hub():
        workers = [
            subprocess.Popen(  # noqa: S603 - our own words
                [sys.executable, "-c", WORKER, str(calls)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.stdout is not None  # noqa: S101 - it is a pipe
            worker.stdout.readline()
        begun = time.monotonic()
        threads = [threading.Thread(target=one.communicate, args=("\n",)) for one in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begun
    rate = PROCESSES * calls / seconds
    report.table("Many processes", ["", ""], [("slots a second", f"{rate:,.0f}")])
    report.target(f"{PROCESSES} processes, slots a second", rate, least=10_000)


if __name__ == "__main__":
    main(__doc__ or "", slot, waiting, many)
