"""What the hub costs the programs below it: a slot, an HTTP attempt, the start of Python."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import Report, interleave, main, spread

from aioapiqueue import Registry
from aioapiqueue_run.hub import Hub
from aioapiqueue_run.hub.spi import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

# A rate that is never reached: what is measured is the way to the hub's queue and back.
LIMITS = {"ec2": "1000000/s", "sts": "1000000/s"}

# In a program below the hub. Each slot is ended outside of the time that is measured, as it
# is while the program goes on: nothing waits for that.
SLOTS = """
import asyncio, json, sys, time
from _aioapiqueue.attempts import BotocoreCall
from _aioapiqueue.loops import TaskAttempt
from _aioapiqueue.threads import ThreadAttempt
calls = int(sys.argv[1])
fields = {"service": "ec2", "operation": "DescribeRegions", "region": "eu-west-1",
          "key": "AKIAIOSFODNN7EXAMPLE", "account": None}

def threads():
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        call = BotocoreCall(None)
        ThreadAttempt.drive(ThreadAttempt().start(fields, call))
        taken.append(time.perf_counter() - begun)
        call.end(status=200)
    return taken

async def loop():
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        call = BotocoreCall(None)
        await TaskAttempt().start(fields, call)
        taken.append(time.perf_counter() - begun)
        call.end(status=200)
    return taken

threads()
print(json.dumps([threads(), asyncio.run(loop())]))
"""

# botocore does all that it does but the HTTP exchange itself.
ATTEMPTS = """
import json, sys, time
import botocore.session
from botocore.awsrequest import AWSResponse

class Body:
    def stream(self):
        yield b"<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"

def answer(request, **_):
    return AWSResponse(request.url, 200, {}, Body())

sts = botocore.session.get_session().create_client("sts")
sts.meta.events.register("before-send.sts", answer)
taken = []
for _ in range(int(sys.argv[1])):
    begun = time.perf_counter()
    sts.get_caller_identity()
    taken.append(time.perf_counter() - begun)
print(json.dumps(taken))
"""

ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""),
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "eu-west-1",
}


@contextmanager
def serving(limits: dict[str, Any]) -> Iterator[Hub]:
    """Run a hub on a loop of its own, in a thread."""
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with hub:
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    with tempfile.TemporaryDirectory(prefix="aq-") as directory:
        hub = Hub(Registry(limits), directory=Path(directory) / "hub")
        thread = threading.Thread(target=asyncio.run, args=[serve()])
        thread.start()
        ready.wait()
        try:
            yield hub
        finally:
            loops[0].call_soon_threadsafe(stop.set)
            thread.join()


def program(source: str, hub: Hub | None, *arguments: str) -> Any:  # noqa: ANN401 - any JSON
    """Run a program below the hub; return what it prints."""
    environment = ENVIRONMENT | (hub.environment if hub else {})
    command = [sys.executable, "-c", source, *arguments]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603
    return json.loads(out or b"null")


def micro(values: list[float], share: float) -> float:
    """Return a quantile in microseconds."""
    return sorted(values)[int(share * len(values))] * 1e6


def slot(report: Report, /, *, quick: bool) -> None:
    """From a program's request to its slot, one after the other."""
    calls, rounds = ("1000", 3) if quick else ("5000", 7)
    with serving(LIMITS) as hub:
        runs = [program(SLOTS, hub, calls) for _ in range(rounds)]
    rows = []
    for place, name in enumerate(["a thread (sync botocore)", "a task (aiobotocore)"]):
        quantiles = [[micro(run[place], share) for run in runs] for share in (0.5, 0.95)]
        rows.append((name, *(spread(values, ".0f") for values in quantiles)))
        median = statistics.median(quantiles[0])
        report.target(f"a slot of {name}, median in microseconds", median, most=300)
    report.table("A slot through the hub, in microseconds", ["", "median", "95 %"], rows)


def attempt(report: Report, /, *, quick: bool) -> None:
    """One attempt of botocore without its HTTP exchange, paced and not."""
    calls, rounds = ("500", 3) if quick else ("2000", 5)
    with serving(LIMITS) as hub:
        runs = interleave(
            {
                "not paced": lambda: program(ATTEMPTS, None, calls),
                "paced": lambda: program(ATTEMPTS, hub, calls),
            },
            rounds,
        )
    medians = {name: [micro(run, 0.5) for run in own] for name, own in runs.items()}
    more = [b - a for a, b in zip(*medians.values(), strict=True)]
    rows = [(name, spread(values, ".0f")) for name, values in (medians | {"more": more}).items()]
    report.table("An attempt without HTTP, in microseconds", ["", "median"], rows)


def start(report: Report, /, *, quick: bool) -> None:
    """Python starts, joins the hub and ends."""
    rounds = 20 if quick else 60

    def timed(hub: Hub | None) -> float:
        begun = time.perf_counter()
        program("", hub)
        return (time.perf_counter() - begun) * 1000

    with serving(LIMITS) as hub:
        runs = interleave({"plain": lambda: timed(None), "below a hub": lambda: timed(hub)}, rounds)
    more = [b - a for a, b in zip(*runs.values(), strict=True)]
    rows = [(name, spread(values)) for name, values in (runs | {"more": more}).items()]
    report.table("The start and end of Python, in milliseconds", ["", "median"], rows)
    report.target("Python's start takes more, ms", statistics.median(more), most=5)


def waiters(report: Report, /, *, quick: bool) -> None:
    """Memory of the hub for each attempt that waits, all on one connection."""
    number = 2_000 if quick else 20_000
    with serving({"ec2": "1/h"}) as hub, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(hub.path))
        client.sendall(b'{"do":"hello","version":%d,"pid":1}\n' % VERSION)
        before = resident()
        for one in range(1, number + 1):
            client.sendall(
                b'{"do":"ask","id":%d,"service":"ec2","operation":"DescribeRegions"}\n' % one
            )
        client.sendall(b'{"do":"ping"}\n')
        while b"pong" not in client.recv(65536):  # by then, the hub has read all of them
            pass
        each = (resident() - before) / number
    report.table("Waiting attempts", ["", "bytes each"], [(f"{number:,} waiters", f"{each:,.0f}")])


def resident() -> int:
    """Return the memory that this process occupies, in bytes (Linux)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(__doc__ or "", slot, attempt, start, waiters)
