import asyncio
import os
import signal
import sys
import time

import pytest

from tests.helpers import introspect

pytestmark = pytest.mark.real

# Forks workers of so many threads each, which call until they are killed or find a file "stop".
FLEET = """
import botocore.session, os, sys, threading
processes, threads = int(sys.argv[1]), int(sys.argv[2])
session = botocore.session.get_session()

def work(sts):
    while not os.path.exists("stop"):
        sts.get_caller_identity()

def main():
    sts = session.create_client("sts", config=botocore.config.Config(max_pool_connections=50))
    crew = [threading.Thread(target=work, args=[sts]) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()

session.create_client("sts")                    # models are read once, not in every child
children = []
for _ in range(processes):
    pid = os.fork()
    if not pid:
        try:
            main()
        finally:
            os._exit(0)
    children.append(pid)
print(*children, flush=True)
for pid in children:
    os.waitpid(pid, 0)
"""


async def test_processes_share_one_rate(bench, tools, stalls):
    """Four processes of eight threads make 100 calls in each second together, and leave nothing.

    What arrives in any second is the slow test's: here it is what is let go that is counted.
    """
    async with bench.hub({"sts": "100/s"}) as hub:
        fleet = await bench.start(FLEET, hub, "4", "8")
        await tools.until(lambda: len(bench.loopback.arrivals) > 10)
        await tools.until(lambda: hub.figures[0].waiting > 20)
        stood_still, before, begun = stalls.seconds, len(bench.released), time.monotonic()
        await asyncio.sleep(0.5)
        count, took = len(bench.released) - before, time.monotonic() - begun
        assert count >= 0.95 * 100 * (took - (stalls.seconds - stood_still)) - 1
        assert hub.figures[0].peak <= 102
        assert hub.figures[0].waiting > 20
        (bench.directory / "stop").touch()
        assert (await fleet.end())[1] == ""
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        assert hub.figures[0].calls == len(bench.loopback.arrivals)
        await tools.until(lambda: len(hub.processes) == 5)
        assert all(process.botocore for process in hub.processes.values())
    bench.assert_paced(100)


async def test_survivors_get_the_whole_rate(bench, tools, stalls):
    """When half of the processes are killed, the rest has the whole rate at once.

    No slot goes to the dead, except to calls that were under way as they died.

    How long the gap around their death is, is the slow test's.
    """
    async with bench.hub({"sts": "50/s"}) as hub:
        fleet = await bench.start(FLEET, hub, "4", "6")
        children = list(map(int, (await fleet.line()).split()))
        await tools.until(lambda: hub.figures and hub.figures[0].waiting > 20)
        # Not what the hub counts as running: it does so a pass of the loop after a release.
        sent_before = len(bench.loopback.arrivals)
        for pid in children[::2]:
            os.kill(pid, signal.SIGKILL)
        dead = [hub.processes[pid] for pid in children[::2]]
        await tools.until(lambda: all(process.ended for process in dead))
        stood_still, known, begun = stalls.seconds, len(bench.released), time.monotonic()
        await asyncio.sleep(0.5)
        count, took = len(bench.released) - known, time.monotonic() - begun
        assert count >= 0.95 * 50 * (took - (stalls.seconds - stood_still)) - 1
        assert sum(process.ended is not None for process in hub.processes.values()) == 2
        (bench.directory / "stop").touch()
        assert (await fleet.end())[1] == ""
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        lost = len(bench.released) - len(bench.loopback.arrivals)
        assert lost <= known - sent_before
    # A slot that the dead gave back is let go twice: so it is those that arrive that are counted.
    for number, arrived in enumerate(sorted(bench.loopback.times)):
        assert arrived >= bench.released[0] + number / 50 - 0.010  # catch_up


HUB = """
import asyncio, sys
from pathlib import Path
from aioapiqueue_run.hub import Hub
from aioapiqueue.registry import Registry
async def main():
    async with Hub(Registry({"sts": "1/h"}), directory=Path(sys.argv[1])) as hub:
        print(hub.path, flush=True)
        while not hub.figures or hub.figures[0].waiting < 8:
            await asyncio.sleep(0.01)
        print("all wait", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_killed_hub_fails_waiting_calls(bench, tools, stalls):
    """Threads and tasks that wait get an error that says so within 5 s; later calls at once."""
    hub = await bench.start(
        HUB, None, str(bench.directory / "hub"), PYTHONPATH=os.pathsep.join(sys.path)
    )
    path = await hub.line()
    source = """
        import asyncio, concurrent.futures, time
        import botocore.session
        from aiobotocore.session import get_session

        def call(_=None):
            try:
                sts.get_caller_identity()
            except Exception as error:
                return f"{type(error).__module__}.{type(error).__name__}: {error}"

        async def main():
            async with get_session().create_client("sts") as sts:
                return await asyncio.gather(
                    *(sts.get_caller_identity() for _ in range(4)), return_exceptions=True)

        sts = botocore.session.get_session().create_client("sts")
        call()
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            tasks = pool.submit(asyncio.run, main())
            print("up", flush=True)
            errors = list(pool.map(call, range(4)))
            print(time.monotonic())
            assert all(isinstance(error, RuntimeError) for error in tasks.result())
            errors += [f"{type(e).__module__}.{type(e).__name__}: {e}" for e in tasks.result()]
        print(time.monotonic())
        print(call())
        print(*errors, sep="\\n")
    """
    environment = {"PYTHONPATH": str(tools.BOOTSTRAP), "AIOAPIQUEUE_HUB": path}
    program = await bench.start(source, None, **environment)
    assert await program.line() == "up"
    assert len(bench.loopback.arrivals) == 1
    assert await hub.line() == "all wait"
    killed = time.monotonic()
    hub.process.kill()
    out, err = await program.end()
    assert err == ""
    threads, tasks, *errors = out.splitlines()
    assert killed < float(threads) < killed + 5 + stalls.seconds
    assert float(tasks) < killed + 5 + stalls.seconds
    assert len(errors) == 9
    for error in errors:
        beginning = "aioapiqueue.PacingError: the call was not sent: aioapiqueue's hub at "
        assert error.startswith(beginning)
        assert " is unreachable (" in error
    assert len(bench.loopback.arrivals) == 1


async def test_missing_hub_fails_every_call(bench, tools):
    """A program whose hub does not exist starts, and its first call raises; nothing is sent."""
    source = """
        import asyncio, pickle
        import botocore.session
        from aiobotocore.session import get_session
        async def main():
            async with get_session().create_client("sts") as sts:
                await sts.get_caller_identity()
        for call in (botocore.session.get_session().create_client("sts").get_caller_identity,
                     lambda: asyncio.run(main())):
            try:
                call()
            except Exception as error:
                print(type(error).__name__, "unset AIOAPIQUEUE_HUB" in str(error),
                      type(pickle.loads(pickle.dumps(error))).__name__)
    """
    path = str(bench.directory / "none.sock")
    environment = {"PYTHONPATH": str(tools.BOOTSTRAP), "AIOAPIQUEUE_HUB": path}
    assert await bench.run(source, None, **environment) == (
        0,
        "PacingError True RuntimeError\n" * 2,
        "",
    )
    assert not bench.loopback.arrivals


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_children_of_multiprocessing_are_paced(bench, tools, method):
    """Parent and children, however they are started, share one rate over their own connections."""
    source = """
        import multiprocessing, sys
        import botocore.session

        def meet(barrier):
            global both
            both = barrier                          # so that neither child has all the work

        def work(_):
            both.wait(60)
            call()

        def call():
            sts = botocore.session.get_session().create_client("sts")
            for _ in range(3):
                sts.get_caller_identity()

        if __name__ == "__main__":
            call()
            context = multiprocessing.get_context(sys.argv[1])
            with context.Pool(2, meet, [context.Barrier(2)]) as pool:
                pool.map(work, range(2), chunksize=1)
            call()
    """
    async with bench.hub({"sts": "40/s"}) as hub:
        assert await bench.run(source, hub, method) == (0, "", "")
        assert hub.figures[0].calls == len(bench.loopback.arrivals) == 12
        bench.assert_paced(40)
        await tools.until(lambda: all(process.ended for process in hub.processes.values()))
        paced = [process for process in hub.processes.values() if process.botocore]
        assert len(paced) >= 3
        assert introspect.requests_of(hub) == 0


async def test_grandchildren_are_paced(bench, tools):
    """Python programs started by the program's children are paced, too."""
    source = """
        import subprocess, sys
        code = "import botocore.session as s; s.get_session().create_client('sts')"
        code += ".get_caller_identity()"
        nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
        subprocess.run([sys.executable, "-c", nested, code], check=True)
    """
    async with bench.hub({"sts": "10/s"}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        assert hub.figures[0].calls == 1
        await tools.until(lambda: len(hub.processes) == 3)


async def test_daemon_keeps_its_own_files(bench, tools):
    """A daemon that closes every file is paced; nothing of ours is written into its new files."""
    source = """
        import os, botocore.session
        sts = botocore.session.get_session().create_client("sts")
        sts.get_caller_identity()
        os.closerange(3, 100)
        files = [os.open(f"file{n}", os.O_RDWR | os.O_CREAT) for n in range(20)]
        sts = botocore.session.get_session().create_client("sts")
        sts.get_caller_identity()
        assert all(os.fstat(file).st_size == 0 for file in files)
        for file in files:
            os.close(file)                          # raises if somebody else has closed it
    """
    async with bench.hub({"sts": "10/s"}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        assert hub.figures[0].calls == 2
        [process] = hub.processes.values()
        assert process.botocore


async def test_forked_child_releases_its_parent(bench, tools):
    """A parent's slot is given back when it is killed, although its child lives on."""
    bench.loopback.answer = lambda _: None
    source = """
        import os, threading, time, botocore.session
        sts = botocore.session.get_session().create_client("sts")
        threading.Thread(target=sts.get_caller_identity, daemon=True).start()
        while not os.path.exists("asked"):
            time.sleep(0.01)
        if not os.fork():
            time.sleep(30)
            os._exit(0)
        print("forked", flush=True)
        time.sleep(30)
    """
    async with bench.hub({"sts": {"rate": "100/s", "concurrency": 1}}) as hub:
        program = await bench.start(source, hub)
        await tools.until(lambda: hub.figures and hub.figures[0].running == 1)
        (bench.directory / "asked").touch()
        assert await program.line() == "forked"
        os.kill(program.pid, signal.SIGKILL)
        await tools.until(lambda: hub.figures[0].running == 0)
        # The parent's other connection may be seen to end a moment later; its child lives on.
        await tools.until(lambda: sum(one.ended is None for one in hub.processes.values()) == 1)


async def test_refresh_holds_up_nobody(bench, tools):
    """With two permits, two threads at botocore's lock let the refresh go ahead of them."""
    source = """
        import threading, botocore.session
        from botocore.credentials import DeferredRefreshableCredentials
        other = botocore.session.get_session().create_client("sts")
        gate = threading.Barrier(3)
        def refresh():
            other.get_caller_identity()
            return dict(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="s", token="t",
                        expiry_time="2099-01-01T00:00:00Z")
        session = botocore.session.get_session()
        session._credentials = DeferredRefreshableCredentials(refresh, "test")
        sts = session.create_client("sts")
        def call():
            gate.wait()
            sts.get_caller_identity()
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    limits = {"rate": "1000/s", "concurrency": 2, "lanes": {"GetCallerIdentity": "20/s"}}
    async with bench.hub({"sts": limits | {"scope": []}}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        assert sum(figure.calls for figure in hub.figures) == 4


@pytest.mark.slow
async def test_interpreters_share_one_rate_for_long(bench, tools, stalls):
    """Eight interpreters of eight threads make 0.98 to 1.00 of 50 calls per second for 20 s.

    There are at most 52 in any second; then half of the interpreters are killed.

    Arrivals come later than their release by what the machine takes for both: what it kept from
    this process meanwhile is told by `stalls`, and allowed for where arrivals are counted.
    """
    source = FLEET.replace("int(sys.argv[1])", "1", 1)
    async with bench.hub({"sts": "50/s"}) as hub:
        crews = [await bench.start(source, hub, "1", "8") for _ in range(8)]
        children = [int(await crew.line()) for crew in crews]
        await tools.until(lambda: hub.figures and hub.figures[0].waiting >= 62)
        stood_still, begun = stalls.seconds, time.monotonic()
        await asyncio.sleep(20)
        lost = stalls.seconds - stood_still
        released = [at for at in bench.released if begun <= at < begun + 20]
        arrived = [at for at in bench.loopback.times if begun <= at < begun + 20]
        for count in (len(released), len(arrived)):
            assert 0.98 * 50 * (20 - lost) <= count <= 50 * 20 + 2  # who comes at either end
        assert hub.figures[0].peak <= 52
        assert tools.most_in(1, bench.released) <= 52
        assert tools.most_in(1, arrived) <= 52 + 50 * lost
        stood_still, killed = stalls.seconds, time.monotonic()
        for pid in children[::2]:
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(5)
        lost = stalls.seconds - stood_still
        after = [at for at in bench.released if killed <= at < killed + 5]
        assert len(after) >= 0.98 * 50 * (5 - lost) - 1
        # What was let go as it died is given back; the next release goes to the living.
        assert max(tools.gaps([killed, *after])) <= 2 / 50 + lost


# Each connection is a waiter; when it may go, it ends its call and asks again.
CROWD = """
import os, select, socket, sys
ask = b'{"do":"ask","id":1,"service":"ec2","operation":"DescribeRegions"}\\n'
hello = b'{"do":"hello","version":2,"pid":%d}\\n' % os.getpid()
poll, crowd = select.poll(), {}
for _ in range(int(sys.argv[1])):
    one = socket.socket(socket.AF_UNIX)
    one.connect(os.environ["AIOAPIQUEUE_HUB"])
    one.sendall(hello + ask)
    poll.register(one, select.POLLIN)
    crowd[one.fileno()] = one
while True:
    for number, _ in poll.poll():
        heard = crowd[number].recv(65536)
        if not heard:
            sys.exit()
        if b'"go"' in heard:
            crowd[number].sendall(b'{"do":"end","id":1,"status":200}\\n' + ask)
"""


@pytest.mark.slow
async def test_thousands_wait_from_dozens_of_processes(bench, tools, stalls):
    """4,000 waiters of 40 processes share 500 per second; of the killed nothing stays."""
    async with bench.hub({"ec2": "500/s"}) as hub:
        crowds = [await bench.start(CROWD, hub, "100", PYTHONPATH="") for _ in range(40)]
        await tools.until(lambda: hub.figures and hub.figures[0].waiting >= 3900)
        [figure] = hub.figures
        for waiting, connections in ((3900, 4000), (1900, 2000)):
            await tools.until(lambda: len(introspect.connections_of(hub)) == connections)  # noqa: B023 - at once
            stood_still, before, begun = stalls.seconds, len(bench.released), time.monotonic()
            await asyncio.sleep(4)
            count, took = len(bench.released) - before, time.monotonic() - begun
            # 41 busy processes on few cores: each wake-up that is late by more than catch_up costs.
            assert count >= 0.8 * 500 * (took - (stalls.seconds - stood_still))
            assert waiting <= figure.waiting <= connections
            if connections == 4000:  # what the dead give back is let go twice
                assert figure.peak <= 500 * 1.010 + 1  # catch_up
            for crowd in crowds[::2]:
                crowd.process.kill()
            del crowds[::2]
        for crowd in crowds:
            crowd.process.kill()
        await tools.until(lambda: not introspect.connections_of(hub))
        assert (introspect.requests_of(hub), figure.waiting, figure.running) == (0, 0, 0)
        assert not introspect.clients_of(hub)
