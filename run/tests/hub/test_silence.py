"""A hub that does not answer: its clients say so, once, and wait."""

import asyncio
import os
import signal
import sys

import pytest

from aioapiqueue_run.hub import protocol as _protocol

pytestmark = pytest.mark.real

# The same times as in the program, but for their length.
QUICK = """
import sys
from _aioapiqueue import wires
wires.SILENCE = float(sys.argv[1])

import os, time
def until_go():
    print("up", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
THREADS = (
    QUICK
    + """
import concurrent.futures, botocore.session
sts = botocore.session.get_session().create_client("sts")
until_go()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: sts.get_caller_identity(), range(4)))
"""
)
TASKS = (
    QUICK
    + """
import asyncio
from aiobotocore.session import get_session
async def main():
    async with get_session().create_client("sts") as sts:
        await sts.get_caller_identity()
        until_go()
        await asyncio.gather(*(sts.get_caller_identity() for _ in range(4)))
        timers = [one for one in asyncio.get_running_loop()._scheduled if not one.cancelled()]
        assert not [one for one in timers if "aioapiqueue" in str(one)], timers
        assert len(asyncio.all_tasks()) == 1
asyncio.run(main())
"""
)
HUB = """
import asyncio, sys
from pathlib import Path
from aioapiqueue_run.hub import Hub
from aioapiqueue.registry import Registry
async def main():
    async with Hub(Registry({"sts": "1000/s"}), directory=Path(sys.argv[1])) as hub:
        print(hub.path, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def stopped(bench, tools, *sources):
    """Return a hub's process that is stopped, and programs that are about to call under it."""
    folder = str(bench.directory / "hub")
    hub = await bench.start(HUB, None, folder, PYTHONPATH=os.pathsep.join(sys.path))
    environment = {"PYTHONPATH": str(tools.BOOTSTRAP), "AIOAPIQUEUE_HUB": await hub.line()}
    programs = [await bench.start(one, None, "0.25", **environment) for one in sources]
    for program in programs:
        assert await program.line() == "up"
    os.kill(hub.pid, signal.SIGSTOP)
    (bench.directory / "go").touch()
    return hub, *programs


@pytest.mark.parametrize(("source", "before"), [(THREADS, 0), (TASKS, 1)], ids=["threads", "tasks"])
async def test_stopped_hub_is_reported_once(bench, tools, source, before):
    """Four calls under a stopped hub wait until it goes on; it is reported once, on stderr.

    Where it has not taken in the connection yet, it may be for lack of files.
    """
    hub, program = await stopped(bench, tools, source)
    async with asyncio.timeout(30):
        line = await program.process.stderr.readline()
    who = f"the hub (process {hub.pid})" if sys.platform == "linux" else "the hub"
    assert line.decode() == f"aioapiqueue: {who} has not answered for 0 s.\n"
    await asyncio.sleep(0.4)
    assert len(bench.loopback.arrivals) == before
    os.kill(hub.pid, signal.SIGCONT)
    out, err = await program.end()
    assert (program.process.returncode, out, err.count("\n")) == (0, "", 3 - before)
    assert f"The calls of process {program.pid} wait until it does." in err
    assert err.endswith("have too many open files (raise ulimit -n).\n") is not bool(before)
    assert len(bench.loopback.arrivals) == before + 4


async def test_hub_is_waited_for_without_stderr(bench, tools):
    """Where there is no stderr, or a closed one, calls wait as well."""
    without = ["sys.stderr = None", "sys.stderr.close()"]
    hub, *programs = await stopped(
        bench, tools, *(f"import sys; {one}\n{THREADS}" for one in without)
    )
    await asyncio.sleep(0.7)
    assert not bench.loopback.arrivals
    os.kill(hub.pid, signal.SIGCONT)
    for program in programs:
        await program.end()
        assert program.process.returncode == 0
    assert len(bench.loopback.arrivals) == 8


# Tasks ask again only when the time for an answer is over. It is real time, and as short as a test
# can wait for: a machine that stands still for as long makes a program report the hub.
@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize(
    "case",
    [(THREADS, 8, "0.5"), (TASKS, 2, "0.5")],
    ids=["threads", "tasks"],
)
async def test_long_line_is_no_silence(bench, tools, monkeypatch, case):
    """A hub whose queue lets nobody go answers a ping, and nothing is reported."""
    source, pings, answer = case
    asked = []
    parse = _protocol.parse
    monkeypatch.setattr(_protocol, "parse", lambda line: asked.append(line) or parse(line))
    async with bench.hub({"sts": "1/h"}) as hub:
        program = await bench.start(source, hub, answer)
        (bench.directory / "go").touch()
        await tools.until(lambda: sum(b"ping" in line for line in asked) >= pings)
        [queue] = bench.registry.queues.values()
        queue.set_rate("1000/s")
        assert await program.end() == ("up\n", "")
        assert hub.figures[0].calls == len(bench.loopback.arrivals) == 4 + (source == TASKS)
