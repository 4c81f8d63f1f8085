"""Real processes and a real hub: who starts it, what it takes over, and who may die."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from aioapiqueue import ApiQueue, HostSchedule, SharedError, __version__
from aioapiqueue.schedules.spi import HUB_DIR, HubLocation
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.garbage import leave_older_alone
from tests.helpers.host_workers import Starts, Workers, most_in
from tests.helpers.hubs import ask_hub, hub_in_use, hubs_with, is_used, processes_of
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def hub():
    """A hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


def pid_of(directory):
    """The process of the hub there; it may just have been started."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(ConnectionError):
            if (answer := ask_hub(directory, command="status")) is not None:
                return answer["pid"]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting(directory):
    """How many calls wait at the hub there."""
    (quota,) = ask_hub(directory, command="status")["quotas"]
    return sum(client["waiting"] for client in quota["clients"])


def test_many_at_once_start_one_hub(hub):
    """The first starts it, and six come at once: they share one quota."""
    with Workers(6, "crm", "200/s", calls=0) as workers:
        workers.wait_for(100, each=1)
        assert len(processes_of(hub)) == 1
        starts = workers.all_starts
    for per in (0.1, 0.25, 0.5):
        assert most_in(starts, per) <= 1 + (per + 0.01) * 200


def test_hub_takes_nothing_over(hub, tmp_path):
    """No variable, terminal, pipe, directory, umask, ignored signal or limit of its starter."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # noqa: FBT003 - os has it so
    script = f"""
import asyncio, os, signal
from aioapiqueue import ApiQueue, HostSchedule
os.chdir({str(tmp_path)!r})
os.umask(0)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
async def main():
    async with ApiQueue("10/s", schedule=HostSchedule("crm")).slot():
        pass
asyncio.run(main())
"""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

    subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"AWS_SECRET_ACCESS_KEY": "hidden"},
        pass_fds=[writer],
        preexec_fn=limit,
        check=True,
    )
    os.close(writer)
    # The end of the pipe is here: nobody else has its other end.
    assert os.read(reader, 1) == b""
    os.close(reader)

    there = Path(f"/proc/{pid_of(hub)}")
    status = dict(line.split(":\t") for line in (there / "status").read_text().splitlines())
    assert (there / "environ").read_bytes() == b""
    assert (there / "cwd").readlink() == Path("/")
    assert status["Umask"] == "0077"
    assert status["SigBlk"] == "0" * 16
    ignored = int(status["SigIgn"], 16)
    assert not ignored & (1 << (signal.SIGTERM - 1))
    assert os.getsid(int(there.name)) != os.getsid(0)
    assert int(status["PPid"]) != os.getpid()
    files = set()
    for number in os.listdir(there / "fd"):  # noqa: PTH208 - as text
        with contextlib.suppress(FileNotFoundError):  # the starter's connection may just end
            files.add((there / "fd" / number).readlink())
    assert len(files) > 3
    named = {str(file) for file in files if str(file).startswith("/") and file != Path("/dev/null")}
    assert all(file.startswith(str(hub)) for file in named), named
    assert "Max open files            4096" in (there / "limits").read_text()
    assert (hub / "host.log").read_text() == ""


def test_hub_ends_when_idle_and_outlives_its_starter(hub):
    """The hub waits a while for another program, without being told to, and then it ends."""
    with hubs_with(_IDLE=1.0), Workers(1, "crm", "100/s", calls=2) as workers:
        workers.wait_for(2)
        pid = pid_of(hub)
        workers.processes[0].wait()
        assert processes_of(hub) == [pid]
    deadline = time.monotonic() + 30
    while processes_of(hub):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert time.monotonic() - workers.all_starts[-1] > 1.0
    assert not (hub / "host.sock").exists()


@pytest.mark.slow
def test_hub_stays_from_its_last_use_though_somebody_looks(hub):
    """Who looks while the last client leaves does not make it end by the time of one before."""
    with Workers(1, "crm", "20/s", calls=2) as workers:
        workers.processes[0].wait()
    pid = pid_of(hub)
    time.sleep(5)
    with contextlib.closing(_connect(hub)):
        with Workers(1, "crm", "20/s", calls=2) as workers:
            workers.processes[0].wait()
        left_at = time.monotonic()
    while time.monotonic() < left_at + 8:  # longer than the rest of the ten seconds from before
        assert processes_of(hub) == [pid]
        time.sleep(0.1)
    while processes_of(hub):
        assert time.monotonic() < left_at + 30
        time.sleep(0.1)


def test_half_of_the_clients_are_killed(hub, stalls):
    """The others take over: no slot goes to those that died, as the hub counts them."""
    with Workers(4, "crm", "100/s", tasks=10) as workers:
        workers.wait_for(30, each=2)
        dying, others = ({one.pid for one in workers.processes[first::2]} for first in (0, 1))
        began = time.monotonic()
        before = started(hub)
        for process in workers.processes[::2]:
            process.kill()
        for process in workers.processes[::2]:
            process.wait()
        took = time.monotonic() - began
        wait_until(lambda: not dying & started(hub).keys())
        wait_until(lambda: sum_of(others, started(hub)) >= sum_of(others, before) + 40)
        after = started(hub)
    others_had = sum_of(others, after) - sum_of(others, before)
    # They had some before they died, and one each while the hub heard of it.
    assert after[None] - before[None] - others_had <= 2 + (took + 0.01) * 100
    assert most_in(workers.all_starts, 0.25) <= 1 + 0.26 * 100
    # At first, every other turn is of one that is about to die.
    theirs = sorted(at for starts in workers.starts[1::2] for at in starts if at >= began)
    longest = max(later - sooner for sooner, later in pairwise(theirs))
    assert longest <= 2 / 100 + 0.05 + took + stalls.seconds


def started(directory):
    """How many calls the hub there has let go, by process; None: in all."""
    (quota,) = ask_hub(directory, command="status")["quotas"]
    return {one["pid"]: one["started"] for one in quota["clients"]} | {None: quota["started"]}


def sum_of(pids, numbers):
    """The numbers of these together."""
    return sum(numbers[pid] for pid in pids)


def test_permits_of_the_killed_come_back(hub, stalls):
    """At once, as the kernel closes their connections."""
    with Workers(1, "crm", "2 at once", tasks=2, body=60) as first:
        first.wait_for(2)
        with Workers(1, "crm", "2 at once", tasks=2, body=60) as second:
            wait_until(lambda: waiting(hub) == 2)
            assert second.all_starts == []
            killed_at, stood_still = time.monotonic(), stalls.seconds
            first.processes[0].kill()
            second.wait_for(2)
            late = 0.5 + stalls.seconds - stood_still
            assert killed_at < max(second.all_starts) < killed_at + late


def test_hub_dies_and_another_is_started(hub, stalls):
    """Calls wait for that moment; nothing is over the limit on either side of it.

    How long they wait is bounded by how long it takes until the other hub is there, and by the
    second of the rate that the first one may have written ahead.
    """
    with Workers(3, "crm", "100/s burst 10 and 60 in any 1h", tasks=10) as workers:
        longest = 0.0
        for times, number in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
            workers.wait_for(20 * times)
            pid = pid_of(hub)
            killed_at = time.monotonic()
            os.kill(pid, number)
            wait_until(lambda: pid not in processes_of(hub))  # noqa: B023 - at once
            wait_until(lambda: pid_of(hub) != pid)  # noqa: B023 - as above
            longest = max(longest, time.monotonic() - killed_at)
        seen, deadline = 0, time.monotonic() + 60
        while seen < 50 or len(workers.all_starts) > seen:  # a few are lost with a hub
            assert time.monotonic() < deadline, f"{seen} calls"
            seen = len(workers.all_starts)
            time.sleep(0.2)
        starts = workers.all_starts
        assert len(processes_of(hub)) == 1
    assert len(starts) <= 60
    for per in (0.1, 0.2, 0.4):
        assert most_in(starts, per) <= 10 + (per + 0.01) * 100
    assert max(b - a for a, b in pairwise(starts)) < 1 + 0.5 + longest + stalls.seconds


def test_fork_and_threads_share(hub):
    """A queue that is used before `fork` works in the child, and threads wait on it, too."""
    starts = Starts()
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"), observers=[starts])

    def take(number):
        for _ in range(number):
            with blocking(queue).slot():
                starts.begin()

    take(2)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - in the child
        code = 1
        try:
            starts.instants.clear()
            take(10)
            os.write(writer, json.dumps(starts.instants).encode())
            code = 0
        finally:
            os._exit(code)
    threads = [threading.Thread(target=take, args=(5,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    theirs = json.loads(os.read(reader, 65536))
    os.close(reader)
    os.close(writer)
    everything = sorted(starts.instants + theirs)
    assert len(everything) == 22
    for per in (0.05, 0.1):
        assert most_in(everything, per) <= 1 + (per + 0.01) * 100
    clients = ask_hub(hub, command="status")["quotas"][0]["clients"]
    assert [one["pid"] for one in clients] == [os.getpid()]


def test_unclosed_queue_leaves_nothing(hub):
    """One that nobody has any more ends its connection; so does one whose loop was closed."""

    async def use():
        queue = ApiQueue("1000/s", schedule=HostSchedule("crm"))
        async with queue.slot():
            pass

    async def use_and_wait():
        await use()
        deadline = time.monotonic() + 20
        while await asyncio.to_thread(is_used, hub):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            gc.collect()

    gc.collect()
    leave_older_alone()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - they come and go
    asyncio.run(use_and_wait())
    asyncio.run(use())
    asyncio.run(use_and_wait())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - as above


def test_socket_that_is_removed_is_made_again(hub):
    """As that of a runtime directory, when its user logs out: the same hub goes on."""
    with hubs_with(_LOOK=0.2), Workers(1, "crm", "50/s") as workers:
        workers.wait_for(2)
        pid = pid_of(hub)
        (hub / "host.sock").unlink()
        wait_until((hub / "host.sock").exists)
        assert pid_of(hub) == pid
        seen = len(workers.all_starts)
        workers.wait_for(seen + 5)


def hello(**more):
    """What a queue sends first."""
    terms = {"limits": ["1/s"], "lanes": [], "catch_up": 0.01, "adaptive": None, "units": ["calls"]}
    return {
        "protocol": 1,
        "version": __version__,
        "pid": 1,
        "program": "x",
        "kind": "name",
        "quota": "crm",
        "terms": terms,
        **more,
    }


def test_other_versions_are_refused_while_it_is_used(hub):
    """Two versions never keep one quota each; an idle hub makes room for a newer one."""
    with Workers(1, "crm", "10/s") as workers:
        workers.wait_for(2)
        pid = pid_of(hub)
        for other in (hello(version="99.0.0"), hello(protocol=0), hello(protocol=3)):
            assert "aioapiqueue hub stop" in ask_hub(hub, **other)["refused"]
        assert pid_of(hub) == pid
    deadline = time.monotonic() + 20
    while is_used(hub):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    major, minor, patch = map(int, re.match(r"(\d+)\.(\d+)\.(\d+)", __version__).groups())
    assert "refused" in ask_hub(hub, **hello(version=f"{major}.{minor}.{patch}a1"))
    newer = f"{major}.{minor}.{patch + 1}rc1"
    assert ask_hub(hub, **hello(version=newer)) == {"ends": True}
    while pid in processes_of(hub):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_garbage_is_refused(hub):
    """Whatever somebody sends, others are served."""
    with Workers(1, "crm", "20/s") as workers:
        workers.wait_for(2)
        for line in (b"\n", b"[]\n", b"{}\n", b'{"quota": 1}\n', b"\xff\n"):
            with contextlib.closing(_connect(hub)) as sock:
                sock.sendall(line)
                assert b"refused" in sock.recv(65536)
        for line in (b'["join"]\n', b'[["join"]]\n', b'[["nothing", 1]]\n', b"[[]]\n", b"7\n"):
            with contextlib.closing(_connect(hub)) as sock:
                sock.sendall(json.dumps(hello()).encode() + b"\n" + line)
                received = b""
                while part := sock.recv(65536):
                    received += part
                assert b"refused" in received
        assert ask_hub(hub, command="fly") == {"refused": "this hub has no command 'fly'"}
        seen = len(workers.all_starts)
        workers.wait_for(seen + 3)
        assert len(processes_of(hub)) == 1


def test_hub_of_another_place_is_named(hub):
    """One that has the same quotas, and cannot be reached: a second one would keep them twice."""
    with (hub / "quotas.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        why = introspect.start_hub(HubLocation(str(hub)))
        assert why.startswith("another hub of this user runs where this process cannot reach it")
        assert HUB_DIR in why
        assert not processes_of(hub)
    assert introspect.start_hub(HubLocation(str(hub))) is None


def test_place_whose_path_is_too_long_is_named(hub):
    """The hub's process says what to change before it goes on by itself."""
    deep = hub / ("x" * 100)
    why = introspect.start_hub(HubLocation(str(deep)))
    assert "a socket's path can have at most 100 bytes, and this one has " in why
    assert "choose a shorter directory" in why
    assert HUB_DIR in why
    assert not processes_of(deep)


def test_file_of_quotas_that_cannot_be_used_is_logged(hub):
    """The hub goes on without, says so to those who look, and has the instant in its log."""
    (hub / "quotas.db").mkdir()
    assert introspect.start_hub(HubLocation(str(hub))) is None
    problem = ask_hub(hub, command="status")["problem"]
    assert "quotas.db cannot be used" in problem
    (line,) = (hub / "host.log").read_text().splitlines()
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d {re.escape(problem)}", line)


def _connect(directory):

    return introspect.connect_to_hub(HubLocation(str(directory)))


async def test_directory_open_to_others_is_refused(tmp_path, monkeypatch, blockbuster):
    """Nobody else may read or change what is there; the message says what to do."""
    blockbuster.deactivate()
    directory = tmp_path / "open"
    directory.mkdir(mode=0o755)
    monkeypatch.setenv(HUB_DIR, str(directory))
    queue = ApiQueue("10/s", schedule=HostSchedule("crm"))
    with pytest.raises(SharedError, match="chmod 700"):
        async with queue.slot():
            pass
    assert "chmod 700" in queue.stats.fault


async def test_relative_directory_is_refused(monkeypatch):
    """Processes have other working directories."""
    monkeypatch.setenv(HUB_DIR, "here")
    queue = ApiQueue("10/s", schedule=HostSchedule("crm"))
    with pytest.raises(SharedError, match="absolute path"):
        async with queue.slot():
            pass


async def test_hub_that_cannot_start_says_why(hub, monkeypatch):
    """The reason, as the process that failed has given it."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    queue = ApiQueue("10/s", schedule=HostSchedule("crm"))
    with pytest.raises(SharedError, match="aioapiqueue hub start"):
        async with queue.slot():
            pass


@pytest.mark.parametrize("what", ["file", "links", "datagrams", "full"])
def test_what_others_put_into_tmp_does_no_harm(what):
    """Anybody may have made the folder of that name there: one's own place is used all the same."""
    with (
        tempfile.TemporaryDirectory(prefix="h-", dir="/tmp") as folder,
        contextlib.ExitStack() as used,
    ):
        own, theirs = Path(folder) / "own", Path(folder) / "theirs"
        own.mkdir(mode=0o700)
        if what == "file":
            theirs.touch()
        else:
            theirs.mkdir()
        socket_there = theirs / "host.sock"
        if what == "links":
            socket_there.symlink_to("host.sock")
        elif what == "datagrams":
            there = used.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            there.bind(os.fspath(socket_there))
        elif what == "full":
            there = used.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            there.bind(os.fspath(socket_there))
            there.listen(0)
            first = used.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            first.connect(os.fspath(socket_there))

        class TwoPlaces(HubLocation):
            def directories(self):
                return [own, theirs]

        assert (
            introspect.connect_to_hub(TwoPlaces()) is None
        )  # so that a hub is started, in the first


def test_place_goes_by_the_user_alone(monkeypatch):
    """No variable changes it, and the lock is where it is whether its user is logged in or not."""
    before = HubLocation().directories()
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "HOME", "XDG_STATE_HOME", "USER"):
        monkeypatch.setenv(name, "/elsewhere")
    assert HubLocation().directories() == before
    assert before[-1] == Path("/", "tmp", f"aioapiqueue-{os.geteuid()}")
    assert HubLocation().lock() == before[-1] / "host.lock"
    assert str(HubLocation().state()).startswith(os.path.expanduser(f"~{_name()}"))  # noqa: PTH111 - not by HOME


def _name():
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
def test_others_have_no_access(hub):
    """Another user reaches neither the directory nor, through a file that leaked, the hub."""
    with Workers(1, "crm", "20/s") as workers:
        workers.wait_for(2)
        connected = _connect(hub)
        child = os.fork()
        if not child:  # pragma: no cover - in the child
            code = 1
            try:
                os.setuid(65534)
                for forbidden in (lambda: _connect(hub), lambda: introspect.make_private(hub)):
                    try:
                        forbidden()
                    except PermissionError:
                        code -= 1
                code += 1
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        connected.close()
        seen = len(workers.all_starts)
        workers.wait_for(seen + 2)
