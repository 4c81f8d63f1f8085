"""Hubs that may have few open files, and more clients than these are enough for."""

import asyncio
import json
import os
import sys
import textwrap
import time

import pytest

from tests.helpers import introspect

pytestmark = pytest.mark.real

# Serves until there is a file "stop"; says where, and then what it has let go.
HUB = """
import asyncio, json, os, resource, sys
from pathlib import Path
from aioapiqueue_run.hub import Hub
from aioapiqueue.registry import Registry

class Notes:
    def __init__(self):
        self.released = []

    def on_event(self, event):
        if event.kind == "released":
            self.released.append(event.at)

async def main():
    files, said, notes = int(sys.argv[2]), [], Notes()
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    registry = Registry({"sts": sys.argv[3]}, observers=[notes])
    async with Hub(registry, directory=Path(sys.argv[1])) as hub:
        print(hub.path, flush=True)
        while not Path("stop").exists():
            await asyncio.sleep(0.01)
            os.scandir("/").close()  # as `run` looks at processes: it needs a file itself
    calls = sum(figure.calls for figure in hub.figures)
    print(json.dumps([calls, notes.released, [one["message"] for one in said]]))

asyncio.run(main())
"""

# Has so many threads call, all at once; says what each call came to.
CALLS = """
import os, sys, threading, time
import botocore.session

def work(threads):
    config = botocore.config.Config(max_pool_connections=threads)
    sts = botocore.session.get_session().create_client("sts", config=config)
    lock = threading.Lock()

    def call():
        try:
            sts.get_caller_identity()
            outcome = "sent"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        with lock:
            print(outcome, flush=True)

    crew = [threading.Thread(target=call) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()

"""


class Crowded:
    """A hub in a process of its own, with so many files; knows at its end what it has let go."""

    def __init__(self, bench, tools, files, rate):
        self._bench, self._tools = bench, tools
        self._arguments = (str(bench.directory / "hub"), str(files), rate)

    async def __aenter__(self):
        path = os.pathsep.join(sys.path)
        self._program = await self._bench.start(HUB, None, *self._arguments, PYTHONPATH=path)
        self.pid, self._path = self._program.pid, await self._program.line()
        return self

    async def __aexit__(self, *_):
        (self._bench.directory / "stop").touch()
        out, err = await self._program.end()
        assert err == ""
        self.calls, self._bench.released, self.said = json.loads(out)

    async def start(self, source, *arguments):
        """Start a program below it, which has `work`."""
        return await self._bench.start(
            CALLS + textwrap.dedent(source),
            None,
            *arguments,
            PYTHONPATH=str(self._tools.BOOTSTRAP),
            AIOAPIQUEUE_HUB=self._path,
        )


@pytest.fixture
def crowded(bench, tools):
    """Give hubs that may have so many files."""
    return lambda files, rate: Crowded(bench, tools, files, rate)


async def test_four_times_fifty_threads_share_files(bench, crowded):
    """With 128 files each, the hub and 200 threads in four processes make all their calls.

    The hub's process keeps files for itself, which `asyncio.Server` would take.
    """
    source = """
        if __name__ == "__main__":
            import multiprocessing, resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
            with multiprocessing.Pool(4) as pool:
                pool.map(work, [50] * 4, chunksize=1)
    """
    async with crowded(128, "500/s") as hub:
        program = await hub.start(source)
        assert await program.end(within=30) == ("sent\n" * 200, "")
    assert (hub.calls, len(bench.loopback.times)) == (200, 200)
    bench.assert_paced(500)


async def test_idle_connections_make_room_for_others(bench, crowded):
    """What one process keeps for its next calls goes to another; the first then asks again."""
    source = """
        for again in sys.argv[1:]:
            work(30)
            while not os.path.exists(again):
                time.sleep(0.01)
        work(30)
    """
    async with crowded(60, "100/s") as hub:  # so slow that each thread has its own connection
        one = await hub.start(source, "again")
        assert [await one.line() for _ in range(30)] == ["sent"] * 30
        other = await hub.start(source, "stop")
        assert [await other.line() for _ in range(30)] == ["sent"] * 30
        (bench.directory / "again").touch()
        assert await one.end(within=20) == ("sent\n" * 30, "")
    assert (hub.calls, len(bench.loopback.times), hub.said) == (90, 90, [])
    bench.assert_paced(100)


async def test_calls_wait_while_no_file_is_free(bench, crowded):
    """Where no connection is idle, new calls wait for one to end: none is refused."""
    async with crowded(48, "1/h") as hub:
        program = await hub.start("work(50)")
        assert await program.line() == "sent"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await program.line()
        program.process.kill()
        assert await program.end() == ("", "")
        program = await hub.start('print("up", flush=True)\nwork(1)')
        assert await program.line() == "up"
        with pytest.raises(TimeoutError):
            await program.end(within=0.4)
    assert (hub.calls, len(bench.loopback.times), len(hub.said)) == (1, 1, 1)
    assert "(ulimit -n)" in hub.said[0]


WAITS = """
def idle():
    print("idle", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.005)
    open("asked", "w").close()
"""

THREAD = """
sts = botocore.session.get_session().create_client("sts")
sts.get_caller_identity()
idle()
sts.get_caller_identity()
"""

TASK = """
import asyncio
from aiobotocore.session import get_session

async def main():
    async with get_session().create_client("sts") as sts:
        await sts.get_caller_identity()
        idle()                                  # blocks the loop: what it is sent waits
        await sts.get_caller_identity()

asyncio.run(main())
"""


@pytest.mark.parametrize("unread", [True, False])
async def test_idle_close_races_the_next_call(bench, tools, unread):
    """A call that meets the hub's close is asked again, and counted once."""
    async with bench.hub({"sts": "1000/s"}) as hub:
        program = await bench.start(f"{CALLS}{WAITS}{THREAD}", hub)
        assert await program.line() == "idle"
        await tools.until(lambda: any(one.is_idle for one in introspect.connections_of(hub)))
        # Not the one by which the process is known to be there.
        (idle,) = [one for one in introspect.connections_of(hub) if one.is_idle]
        if unread:
            (bench.directory / "go").touch()
            hold_up(bench.directory / "asked")
        idle.close_idle()
        (bench.directory / "go").touch()
        assert await program.end(within=10) == ("", "")
        assert (introspect.requests_of(hub), [figure.calls for figure in hub.figures]) == (0, [2])
    assert len(bench.loopback.times) == 2


async def test_connection_of_a_loop_is_kept(bench, tools):
    """The hub does not close it: a loop has one, however many tasks it has."""
    async with bench.hub({"sts": "1000/s"}) as hub:
        program = await bench.start(f"{CALLS}{WAITS}{TASK}", hub)
        assert await program.line() == "idle"
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        assert not any(one.close_idle() for one in introspect.connections_of(hub))
        (bench.directory / "go").touch()
        assert await program.end(within=10) == ("", "")
        assert [figure.calls for figure in hub.figures] == [2]


def hold_up(path):
    """Block the loop until there is a file, and what was sent just after that has come."""
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.3)


LATE_PING = """
from _aioapiqueue import wires
wires.SILENCE, must_ask = 0.1, wires.CallWire.must_ask
def late(self):
    open("pings", "w").close()
    while not os.path.exists("closed"):
        time.sleep(0.005)
    return must_ask(self)
wires.CallWire.must_ask = late
"""


async def test_idle_close_races_a_ping(bench, tools):
    """A call that asks whether the hub is there, as that closes its connection, asks again."""
    async with bench.hub({"sts": "1000/s"}) as hub:
        program = await bench.start(f"{CALLS}{WAITS}{LATE_PING}{THREAD}", hub)
        assert await program.line() == "idle"
        await tools.until(lambda: any(one.is_idle for one in introspect.connections_of(hub)))
        [idle] = [one for one in introspect.connections_of(hub) if one.is_idle]
        (bench.directory / "go").touch()
        hold_up(bench.directory / "pings")  # the question is there, and has not been read
        idle.close_idle()
        await tools.until(lambda: idle not in introspect.connections_of(hub))
        (bench.directory / "closed").touch()
        assert await program.end(within=10) == ("", "")
        assert hub.figures[0].calls == len(bench.loopback.times) == 2


DAEMON = """
from _aioapiqueue.wires import CallWire
close, receive, asked = CallWire.close, CallWire.receive, threading.Event()
def slow(self):
    asked.set()
    time.sleep(0.2)
    return receive(self)
def meanwhile(self):
    CallWire.close, CallWire.receive = close, slow
    threading.Thread(target=work, args=[1], daemon=True).start()
    asked.wait()
    close(self)
work(2)                                         # so slow that each has its own connection
CallWire.close = meanwhile
"""


async def test_daemon_thread_keeps_its_connection(bench):
    """At the program's end, no connection is closed that a daemon thread has taken meanwhile."""
    linger = "import atexit, time\natexit.register(time.sleep, 0.5)\n"
    async with bench.hub({"sts": "10/s"}) as hub:
        program = await bench.start(f"{linger}{CALLS}{DAEMON}", hub)
        assert await program.end(within=10) == ("sent\n" * 3, "")


async def test_refusal_races_the_question(bench, monkeypatch):
    """A call whose connection is refused before it has asked says why."""
    monkeypatch.setattr("aioapiqueue_run.hub.protocol.MAX_CONNECTIONS_PER_PROCESS", 1)
    source = """
        from _aioapiqueue import HubWire
        connect = HubWire.__init__
        def slow(*arguments, **options):
            connect(*arguments, **options)
            time.sleep(0.2)
        HubWire.__init__ = slow
        work(1)
    """
    async with bench.hub({}) as hub:
        program = await bench.start(CALLS + textwrap.dedent(source), hub)
        out, err = await program.end()
    assert out.startswith("PacingError: the call was not sent: process ")
    assert "has reached the maximum of 1 connections" in out
    assert (err, bench.loopback.times) == ("", [])
