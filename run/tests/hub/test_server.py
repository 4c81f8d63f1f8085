import asyncio
import grp
import json
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import Hub
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.watcher import Watcher
from tests.helpers import introspect

pytestmark = pytest.mark.real


async def test_socket_is_for_this_user(bench):
    """The socket is 0600 in a directory of 0700, and is gone after the block."""
    async with bench.hub({}) as hub:
        assert stat.S_IMODE(hub.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(hub.path.parent.stat().st_mode) == 0o700
    assert not hub.path.exists()


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda directory: directory.mkdir(mode=0o755), "chmod 700"),
        (lambda directory: directory.symlink_to(directory.parent), "a symbolic link"),
        (lambda directory: directory.touch(), "not a directory"),
    ],
)
async def test_open_directory_is_refused(directory, spoil, word):
    """A directory that is open to others, a link or a file is refused with a remedy."""
    spoil(directory / "hub")
    with pytest.raises(PermissionError, match=word):
        async with Hub(Registry({}), directory=directory / "hub"):
            pass
    assert not (directory / "hub" / "hub.sock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_another_users_directory_is_refused(directory):
    """Somebody else's directory is refused, whatever its mode."""
    (directory / "hub").mkdir(mode=0o700)
    os.chown(directory / "hub", 65534, 65534)
    with pytest.raises(PermissionError, match="65534"):
        async with Hub(Registry({}), directory=directory / "hub"):
            pass


def acl(path):
    """Let the user 65534 write to a folder, by an access control list."""
    entries = [(1, 7, 2**32 - 1), (2, 7, 65534), (4, 0, 2**32 - 1), (16, 7, 2**32 - 1)]
    packed = [struct.pack("<HHI", *entry) for entry in [*entries, (32, 0, 2**32 - 1)]]
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(packed))
    except (AttributeError, OSError) as error:
        pytest.skip(f"no access control lists here: {error}")


def private_group():
    """Skip the test where users share their groups."""
    group, user = grp.getgrgid(os.getegid()), pwd.getpwuid(os.geteuid())
    if group.gr_name != user.pw_name or not set(group.gr_mem) <= {user.pw_name}:
        pytest.skip("this user has no group of the same name")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o777),
        lambda path: path.chmod(0o702),
        pytest.param(lambda path: (os.chown(path, -1, 65534), path.chmod(0o770)), marks=as_root),
        pytest.param(lambda path: os.chown(path, 65534, -1), marks=as_root),
        acl,
    ],
    ids=["all", "others", "group", "owner", "list"],
)
async def test_movable_folder_is_refused(directory, spoil):
    """A directory is refused if others may write to a folder that it lies in."""
    inner = directory / "above" / "between"
    inner.mkdir(parents=True)
    spoil(directory / "above")
    with pytest.raises(PermissionError, match=r"above has mode .* Choose a directory .*TMPDIR"):
        async with Hub(Registry({}), directory=inner / "hub"):
            pass


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o770])
async def test_unmovable_folder_is_accepted(directory, mode):
    """A directory may lie in a sticky folder, a readable one, or one of this user's own group."""
    if mode == 0o770:
        private_group()
    (directory / "above").mkdir()
    (directory / "above").chmod(mode)
    async with Hub(Registry({}), directory=directory / "above" / "hub") as hub:
        assert hub.path.exists()


async def test_too_long_path_is_refused(directory):
    """A path that no socket can have is refused before anything is made."""
    with pytest.raises(ValueError, match="TMPDIR"):
        async with Hub(Registry({}), directory=directory / ("x" * 100)):
            pass
    assert list(directory.iterdir()) == []


async def test_stale_socket_is_replaced(bench, tools):
    """A hub starts where another has left its socket behind."""
    (bench.directory / "hub").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(bench.directory / "hub" / "hub.sock"))
    async with bench.hub({}) as hub, tools.Raw(hub) as client:
        client.greet()
        assert await client.hear() == {"version": 2}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused(bench):
    """A peer of another user id is refused, although the file modes let it in."""
    async with bench.hub({}) as hub:
        for path in (hub.path, hub.path.parent, bench.directory):
            path.chmod(0o777)
        code = f"""
            import os, socket
            os.setgid(65534)
            os.setuid(65534)
            client = socket.socket(socket.AF_UNIX)
            client.connect({str(hub.path)!r})
            print(client.makefile().read())
        """
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(code), stdout=subprocess.PIPE
        )
        out, _ = await stranger.communicate()
    assert "not 65534" in json.loads(out)["error"]


async def test_calls_keep_to_the_rate(bench, tools, stalls):
    """Of four calls at 20 per second, the last is let go after 150 ms; others at once."""
    async with bench.hub({"ec2": "20/s"}) as hub, tools.Raw(hub) as client:
        client.greet()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(1, 5):
            client.ask(number)
        client.ask(5, service="iam")
        assert await client.hear() == {"version": 2}
        times = {}
        while len(times) < 5:
            message = await client.hear()
            assert message["go"] is True
            times[message["id"]] = loop.time() - begun
        # The hub has read all before it lets the second go: the last is let go with the first.
        assert list(times) == [1, 5, 2, 3, 4]
        assert 0.15 <= times[4] < 0.5 + stalls.seconds
        ec2, iam = hub.figures
        assert (ec2.calls, ec2.running, ec2.paced, ec2.queue) == (
            4,
            4,
            True,
            "ec2 eu-west-1 AKIAIOSFODNN7EXAMPLE",
        )
        # By when the hub has read the call, which is a moment later than it was sent.
        assert ec2.longest_wait + stalls.seconds >= 0.1
        assert ec2.longest_wait <= times[4]
        assert (iam.calls, iam.paced, iam.queue, iam.waited) == (1, False, None, 0)


async def test_unpaced_records_let_everything_go(bench, tools):
    """Such a hub releases every call at once, and knows the peak of one second."""
    async with (
        bench.hub({"ec2": "1/s"}, queues=QueueRecords(paced=False)) as hub,
        tools.Raw(hub) as client,
    ):
        client.greet()
        for number in range(1, 51):
            client.ask(number)
            client.say(do="end", id=number, status=200)
        for _ in range(51):
            assert (await client.hear()) is not None
        await tools.until(lambda: hub.figures[0].running == 0)
        figure = hub.figures[0]
        assert (figure.calls, figure.peak, figure.waited, figure.paced) == (50, 50, 0, True)


async def test_push_back_holds_the_queue(bench, tools, stalls):
    """A throttled answer's Retry-After holds the next call; other errors are only counted."""
    async with bench.hub({"ec2": "1000/s"}) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1)
        client.ask(2)
        for _ in range(3):
            await client.hear()
        client.say(do="end", id=1, status=400, code="InvalidSnapshot.NotFound")
        asked = {"retry_after": "soon", "amz_retry_after": "300"}
        client.say(do="end", id=2, status=503, code="RequestLimitExceeded", **asked)
        client.ask(3)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await client.hear() == {"id": 3, "go": True}
        assert 0.29 <= loop.time() - begun < 1 + stalls.seconds
        client.say(do="end", id=3, failed="ReadTimeoutError")
        await tools.until(lambda: hub.figures[0].running == 0)
        assert (hub.figures[0].throttled, hub.figures[0].errors) == (1, 2)
        assert [queue.stats.malformed for queue in bench.registry.queues.values()] == [1]


async def test_dead_client_gives_everything_back(bench, tools):
    """A permit of a client that hangs up goes to the next waiter, and what it waits for is left."""
    limits = {"ec2": {"rate": "1000/s", "concurrency": 1}}
    async with bench.hub(limits) as hub, tools.Raw(hub) as survivor:
        async with tools.Raw(hub) as victim:
            victim.greet()
            for number in range(1, 4):
                victim.ask(number)
            assert [await victim.hear(), await victim.hear()][1] == {"id": 1, "go": True}
            survivor.greet()
            survivor.ask(1)
            await survivor.hear()
            await tools.until(lambda: hub.figures[0].waiting == 3)
        assert await survivor.hear() == {"id": 1, "go": True}
        assert (hub.figures[0].waiting, hub.figures[0].running) == (0, 1)
        assert introspect.requests_of(hub) == 1


async def test_leaving_the_queue_costs_nothing(bench, tools, stalls):
    """Of three, the one that leaves uses no slot; a turn that was not used is not counted."""
    async with bench.hub({"ec2": "10/s"}) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in (1, 2, 3):
            client.ask(number)
        client.say(do="leave", id=2)
        assert [await client.hear() for _ in range(3)][1:] == [
            {"id": 1, "go": True},
            {"id": 3, "go": True},
        ]
        assert hub.figures[0].longest_wait < 0.19 + stalls.seconds
        client.say(do="leave", id=3)
        client.say(do="leave", id=99)
        await tools.until(lambda: hub.figures[0].running == 1)
        assert hub.figures[0].calls == 1


async def test_nested_call_goes_ahead(bench, tools):
    """With one permit, a call that its holder needs goes ahead on it, before all waiters."""
    limits = {"ec2": {"rate": "1000/s", "concurrency": 1}}
    async with bench.hub(limits) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1)
        client.ask(2)
        client.ask(3, nested=True)
        client.say(do="free", id=1)
        assert [await client.hear() for _ in range(3)][1:] == [
            {"id": 1, "go": True},
            {"id": 3, "go": True},
        ]
        client.say(do="end", id=3, status=200)
        assert await client.hear() == {"id": 2, "go": True}


async def test_call_that_had_its_turn_goes_ahead(bench, tools):
    """It gave its turn back, as it could not use it: it is the next, but for nested calls."""
    limits = {"ec2": {"rate": "1000/s", "concurrency": 1}}
    async with bench.hub(limits) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in (1, 2, 3):
            client.ask(number, again=number == 3)
        client.ask(4, nested=True)
        await tools.until(lambda: introspect.requests_of(hub) == 4)
        client.say(do="end", id=1, status=200)
        expected = [1, 4, 3, 2]
        assert await client.hear() == {"version": 2}
        for number in expected:
            assert await client.hear() == {"id": number, "go": True}
            client.say(do="end", id=number, status=200)


def sharing(**own):
    """Return limits by which two operations share units of instances, beside the queue of all."""
    instances = {
        "operations": ["RunInstances", "StartInstances"],
        "cost": {"RunInstances": "MaxCount"},
        "rate": {"window": "10/500ms"},
    }
    return {"ec2": {"rate": "1000/s", "buckets": {"instances": instances}} | own}


def left(bench, number):
    """Return how many seconds so many units of instances would take."""
    (queue,) = bench.registry.queues.values()
    return queue.estimate(keys=["bucket: instances"], cost={"instances": number})


async def test_ping_is_answered_while_calls_wait(bench, tools):
    """A client whose turn is an hour away learns that the hub is there."""
    async with bench.hub({"ec2": "1/h"}) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1)
        client.ask(2)
        client.say(do="ping")
        heard = [await client.hear() for _ in range(3)]
        assert heard == [{"version": 2}, {"id": 1, "go": True}, {"pong": True}]


async def test_call_waits_for_every_bucket(bench, tools, stalls):
    """Units that the parameters say are waited for; other operations go by meanwhile."""
    async with bench.hub(sharing()) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1, "RunInstances", parameters={"MaxCount": 10})
        client.ask(2, "StartInstances")
        client.ask(3)
        heard = [await client.hear() for _ in range(4)]
        assert [message.get("id") for message in heard] == [None, 1, 3, 2]
        figures = {figure.operation: figure for figure in hub.figures}
        assert 0.45 <= figures["StartInstances"].waited < 1 + stalls.seconds
        (queue,) = bench.registry.queues.values()
        (bucket,) = hub.buckets
        assert (queue.running, bucket.calls) == (3, 2)
        client.say(do="leave", id=2)
        client.say(do="end", id=1, status=503, code="RequestLimitExceeded")
        client.say(do="end", id=3, status=200)
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        assert (queue.running, figures["StartInstances"].calls) == (0, 0)
        (bucket,) = hub.buckets
        assert (bucket.calls, bucket.waits, bucket.throttled) == (1, 0, 1)
        assert (bucket.operation, bucket.region, bucket.queue) == (
            "instances", "eu-west-1", queue.name,
        )  # fmt: skip


async def test_parameters_choose_the_counted_lane(bench, tools):
    """Lanes of one operation have counts of their own; one that nobody uses has none."""
    unfiltered = {"operations": ["DescribeRegions"], "unless": ["Filters"], "each": True}
    limits = {"rate": "1000/s", "buckets": {"unfiltered": {"rate": "100/s", **unfiltered}}}
    async with bench.hub({"ec2": limits}) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1)
        client.ask(2)
        assert [await client.hear() for _ in range(3)][-1] == {"id": 2, "go": True}
        (figure,) = hub.figures
        assert (figure.lane, figure.operation, figure.calls) == (
            "DescribeRegions unfiltered", "DescribeRegions", 2,
        )  # fmt: skip
        client.ask(3, parameters={"Filters": 1})
        assert await client.hear() == {"id": 3, "go": True}
        found = sorted((one.lane, one.calls) for one in hub.figures)
        assert found == [("", 1), (figure.lane, 2)]


async def test_waiting_call_uses_no_bucket(bench, tools):
    """Until all of its limits have room, a call is charged to none; nor is one that leaves."""
    limits = sharing(lanes={"RunInstances": "1/h"})
    async with bench.hub(limits) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in (1, 2):
            client.ask(number, "RunInstances", parameters={"MaxCount": 3})
        heard = [await client.hear() for _ in range(2)]
        assert heard[1] == {"id": 1, "go": True}
        (queue,) = bench.registry.queues.values()
        await tools.until(lambda: queue.waiting == 1)
        client.say(do="leave", id=2)
        await tools.until(lambda: introspect.requests_of(hub) == 1)
        assert (queue.running, queue.waiting) == (1, 0)
        assert left(bench, 7) == pytest.approx(0, abs=0.002)  # of ten units, three were used
        assert [bucket.calls for bucket in hub.buckets] == [1]


async def test_call_not_sent_uses_no_bucket(bench, tools):
    """What is let go and then not sent is given back, in each unit."""
    async with bench.hub(sharing()) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1, "RunInstances", parameters={"MaxCount": 10})
        assert [await client.hear() for _ in range(2)][1] == {"id": 1, "go": True}
        client.say(do="leave", id=1)
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        assert left(bench, 10) == 0


async def test_refused_call_fails_alone(bench, tools):
    """What the registry raises reaches the one call as an error, and that is not let go."""
    async with bench.hub({"ec2": "1000/s"}) as hub, tools.Raw(hub) as client:
        await bench.registry.aclose()
        client.greet()
        client.ask(1)
        client.say(do="end", id=1)
        client.ask(2, service="no\x1bname")
        await client.hear()
        heard = await client.hear()
        assert (heard["id"], "closed" in heard["error"]) == (1, True)
        assert await client.hear() == {"id": 2, "error": '"service" is not a name'}
        assert introspect.requests_of(hub) == 0


class Noted(Watcher):
    """Notes what it is informed of."""

    def __init__(self):
        self.seen = []

    def started(self, request, now):
        """Note a start, and how long ago it was."""
        self.seen.append(("started", request.stats, time.monotonic() - now))

    def ended(self, request, now, outcome):
        """Note an end."""
        self.seen.append((outcome.value, request.stats, time.monotonic() - now))


async def test_watcher_is_informed_of_attempts(directory, tools):
    """The watcher sees each attempt that is released, throttled or failed: counts and instants."""
    watcher = Noted()
    registry = Registry({"ec2": "1/h", "sts": "100/s"})
    hub = Hub(registry, directory=directory / "hub", watcher=watcher)
    async with hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1)
        client.ask(2)
        client.ask(3, service="iam")
        assert [(await client.hear()).get("id") for _ in range(3)] == [None, 1, 3]
        client.say(do="end", id=1, status=503, code="RequestLimitExceeded")
        client.say(do="end", id=3, failed="ReadTimeoutError")
        ends = ({"do": "end", "status": 200}, {"do": "end", "status": 404}, {"do": "end"})
        for number, end in enumerate((*ends, {"do": "leave"}), start=4):
            client.ask(number, service="sts")
            assert (await client.hear())["id"] == number
            client.say(id=number, **end)
        await tools.until(lambda: introspect.requests_of(hub) == 1)
        await registry.aclose(drain=False)
        assert "closed" in (await client.hear())["error"]
        client.ask(8)
        assert "closed" in (await client.hear())["error"]
        client.ask(9, operation="DescribeImages")  # a kind that was never let go
        client.ask(10, service="no\x1bname")
        for _ in range(2):
            assert "error" in await client.hear()
    assert [(what, stats.service) for what, stats, _ in watcher.seen] == [
        ("started", "ec2"),
        ("started", "iam"),
        ("throttled", "ec2"),
        ("failed", "iam"),
        ("started", "sts"),
        ("answered", "sts"),
        ("started", "sts"),
        ("failed", "sts"),
        ("started", "sts"),
        ("unknown", "sts"),
        ("started", "sts"),
        ("not sent", "sts"),
    ]
    assert all(stats in hub.figures and 0 <= ago < 30 for _, stats, ago in watcher.seen)
    counted = {
        one.service: (one.calls, one.answers, one.throttled, one.errors, one.refused)
        for one in hub.figures
    }
    assert counted == {
        "ec2": (1, 1, 1, 0, 2),
        "iam": (1, 1, 0, 1, 0),
        "sts": (3, 2, 0, 1, 0),  # one was cancelled, and had no answer; one was not sent
    }


class Broken(Watcher):
    """Fails whatever it is informed of."""

    def started(self, *_):
        """Fail."""
        raise ZeroDivisionError

    ended = started


async def test_broken_watcher_costs_no_call(directory, tools):
    """What it raises is reported; calls start, end and are refused as ever."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, one: reported.append(one))
    registry = Registry({"ec2": "100/s"})
    hub = Hub(registry, directory=directory / "hub", watcher=Broken())
    async with hub, tools.Raw(hub) as client:
        client.greet()
        await client.hear()
        for number in (1, 2):
            client.ask(number)
            assert await client.hear() == {"id": number, "go": True}
            client.say(do="end", id=number, status=200)
        await tools.until(lambda: not introspect.requests_of(hub))
        await registry.aclose()
        client.ask(3)
        assert "closed" in (await client.hear())["error"]
        (figure,) = hub.figures
        assert (figure.calls, figure.answers, figure.refused, figure.running) == (2, 2, 1, 0)
    assert [type(one["exception"]) for one in reported] == [ZeroDivisionError] * 4


@pytest.fixture
def published():
    """Give half of what AWS publishes, which it reads from files."""
    return Registry.parse('preset = "aws"')


async def test_dry_run_counts_lanes_and_buckets(directory, tools, published):
    """Nothing waits, and each attempt is counted where it would have waited."""
    hub = Hub(published, directory=directory / "hub", queues=QueueRecords(paced=False))
    async with hub, tools.Raw(hub) as client:
        client.greet()
        for number in range(1, 201):
            client.ask(number, operation="DescribeVolumes")
        client.ask(201, operation="RunInstances", parameters={"MaxCount": 5})
        for number in range(202):
            assert (await client.hear()).get("id", 0) == number
        assert sorted((one.lane, one.calls, one.waits) for one in hub.figures) == [
            ("", 1, 0),
            ("DescribeVolumes unfiltered", 200, 0),
        ]
        assert [(one.operation, one.calls) for one in hub.buckets] == [
            ("RunInstances resources", 1)
        ]


async def test_waiters_learn_why_the_hub_closes(bench, tools):
    """At the hub's end a client that waits is sent the reason, and its connection is closed."""
    async with bench.hub({"ec2": "1/h"}) as hub:
        client = await tools.Raw(hub).__aenter__()
        client.greet()
        client.ask(1)
        client.ask(2)
        await client.hear()
        await client.hear()
    assert "the run has ended" in (await client.hear())["error"]
    assert await client.hear() is None
    await client.__aexit__()
    assert introspect.requests_of(hub) == 0
    assert hub.figures[0].waiting == 0


async def test_process_is_known_until_its_end(bench, tools):
    """Hello, hooked and bye are kept of each process; its end is when the connection closes."""
    async with bench.hub({}) as hub:
        async with tools.Raw(hub) as client:
            client.greet(executable="/x/\x1b[1mpython", python="3.9.18")
            await tools.until(lambda: os.getpid() in hub.processes)
            process = hub.processes[os.getpid()]
            assert (process.executable, process.python) == ("/x/\\x1b[1mpython", "3.9.18")
            assert (process.botocore, process.ended, process.exited) == (None, None, False)
            client.say(do="hooked", botocore="1.31.0")
            client.say(do="bye")
            await tools.until(lambda: process.exited)
            assert (process.botocore, process.ended) == ("1.31.0", None)
        await tools.until(lambda: process.ended is not None)


async def test_hellos_of_the_past_are_read(bench):
    """Those of processes that have ended before the hub's loop could run, more than it accepts."""
    async with bench.hub({}) as hub:
        for number in range(100):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(hub.path))
                hello = {"version": 2, "pid": os.getpid(), "executable": str(number), "python": "3"}
                client.send(json.dumps({"do": "hello", **hello}).encode() + b"\n")
        assert not hub.processes
        await hub.read_hellos()
        assert hub.processes[os.getpid()].executable == "99"


@pytest.mark.parametrize("passes", range(6))
async def test_reading_hellos_is_cancelled(bench, passes):
    """However far it has come, nothing is left open (a warning would fail this test)."""
    async with bench.hub({}) as hub:
        task = asyncio.create_task(hub.read_hellos())
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await hub.read_hellos()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"GET / HTTP/1.1\r\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 5000 + b"\n", "not JSON"),
        (b'{"do":"ask","id":1}\n', "must be hello"),
        (
            b'{"do":"hello","version":1,"pid":1}\n',
            "version 2 of its protocol, but the client speaks version 1",
        ),
        (b'{"do":"hello","pid":1}\n', '"version"'),
        (b'{"do":"hello","version":2,"pid":"1"}\n', '"pid"'),
        (b'{"do":"hello","version":2,"pid":1}\n{"do":"sing"}\n', '"do"'),
        (b'{"do":"hello","version":2,"pid":1}\n{"do":"end","id":-1}\n', '"id"'),
        (b"x" * 9000, "longer than 8,192 bytes"),
    ],
)
async def test_malformed_line_ends_its_connection(bench, tools, line, word):
    """A malformed line is answered by one error and the end of its connection; others go on."""
    async with bench.hub({"ec2": "1000/s"}) as hub, tools.Raw(hub) as other:
        other.greet()
        await other.hear()
        async with tools.Raw(hub) as client:
            client.writer.write(line)
            while "error" not in (message := await client.hear()):
                pass
            assert word in message["error"]
            assert await client.hear() is None
        other.ask(1)
        assert await other.hear() == {"id": 1, "go": True}


async def test_connections_of_a_process_are_bounded(bench, tools, monkeypatch):
    """One connection more than allowed is refused; those that are there go on."""
    monkeypatch.setattr("aioapiqueue_run.hub.protocol.MAX_CONNECTIONS_PER_PROCESS", 2)
    async with bench.hub({}) as hub, tools.Raw(hub) as one, tools.Raw(hub) as two:
        for client in (one, two):
            client.greet()
            assert await client.hear() == {"version": 2}
        async with tools.Raw(hub) as three:
            three.greet()
            assert "has reached the maximum of 2 connections" in (await three.hear())["error"]
        await tools.until(lambda: len(introspect.connections_of(hub)) == 2)
        one.ask(1)
        assert await one.hear() == {"id": 1, "go": True}
        two.writer.close()
        await tools.until(lambda: len(introspect.connections_of(hub)) == 1)
        async with tools.Raw(hub) as three:
            three.greet()
            assert await three.hear() == {"version": 2}


async def test_requests_of_a_connection_are_bounded(bench, tools, monkeypatch):
    """A request too many is refused alone; when one has ended, the next is taken."""
    monkeypatch.setattr("aioapiqueue_run.hub.protocol.MAX_REQUESTS_PER_PROCESS", 2)
    async with bench.hub({}) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in (1, 2, 3):
            client.ask(number)
        assert "too many" in [await client.hear() for _ in range(4)][-1]["error"]
        client.say(do="end", id=1, status=200)
        client.ask(4)
        assert await client.hear() == {"id": 4, "go": True}


@pytest.mark.parametrize("backlog", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_wait_on_one_connection(bench, tools, backlog):
    """A backlog of thousands on one connection is let go in order, and leaves nothing behind."""
    async with bench.hub({"ec2": "5000/s"}) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in range(1, backlog + 1):
            client.ask(number)
        await client.hear()
        heard = [(await client.hear())["id"] for _ in range(backlog)]
        assert heard == sorted(heard)
        for number in heard:
            client.say(do="end", id=number, status=200)
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        assert hub.figures[0].calls == backlog


async def test_environment_keeps_other_python_paths(bench, tools, monkeypatch):
    """PYTHONPATH keeps its other entries, and gets no empty one: that is the working directory."""
    async with bench.hub({}) as hub:
        monkeypatch.delenv("PYTHONPATH", raising=False)
        assert hub.environment == {
            "PYTHONPATH": str(tools.BOOTSTRAP),
            "AIOAPIQUEUE_HUB": str(hub.path),
        }
        monkeypatch.setenv("PYTHONPATH", f"/a{os.pathsep}{tools.BOOTSTRAP}{os.pathsep}/b")
        assert hub.environment["PYTHONPATH"].split(os.pathsep) == [
            str(tools.BOOTSTRAP),
            "/a",
            "/b",
        ]


async def test_cancelled_start_leaves_nothing_open(bench):
    """A hub whose start is cancelled closes its socket (a warning would fail this test)."""
    hub = bench.hub({})
    task = asyncio.create_task(hub.__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with bench.hub({}) as again:
        assert again.path.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux shows what is inherited")
async def test_programs_inherit_no_socket_or_limit(bench):
    """With many clients the hub raises its own limit of files; a program has the caller's."""
    child = """
import os, resource, socket, sys
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if int(n) > 2
         and os.path.exists(f"/proc/self/fd/{n}")]
assert not any(link.startswith("socket:") for link in links), links
clients = []
for _ in range(200):
    clients.append(socket.socket(socket.AF_UNIX))
    clients[-1].connect(sys.argv[1])
    clients[-1].sendall(b'{"do":"hello","version":2,"pid":1}\\n')
    assert clients[-1].recv(100)
print(limit[0])
"""
    source = f"""
import asyncio, resource, sys
from pathlib import Path
from aioapiqueue_run.hub import Hub
from aioapiqueue.registry import Registry
async def main():
    limit = resource.RLIMIT_NOFILE
    resource.setrlimit(limit, (150, resource.getrlimit(limit)[1]))
    async with Hub(Registry({{}}), directory=Path(sys.argv[1])) as hub:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", {child!r}, str(hub.path), close_fds=False,
            stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        soft, hard = resource.getrlimit(limit)
        print(out.decode().strip(), soft == hard)
asyncio.run(main())
"""
    arguments = {"PYTHONPATH": os.pathsep.join(sys.path)}
    path = str(bench.directory / "hub")
    assert await bench.run(source, None, path, **arguments) == (0, "150 True\n", "")


@pytest.mark.parametrize("limits", [(60, 60), (60, 90)])
async def test_clients_wait_for_files(bench, limits):
    """A hub that may have 60 files serves hundreds of clients in turn, and reports it once.

    Where its limit can be raised, to 90, it raises it first.
    """
    child = """
import socket, sys
clients = []
for _ in range(200):
    clients.append(socket.socket(socket.AF_UNIX))
    clients[-1].settimeout(60)
    clients[-1].connect(sys.argv[1])
    clients[-1].sendall(b'{"do":"hello","version":2,"pid":1}\\n')
sys.stdin.read()
for client in clients:                          # those that wait come in as others go
    assert client.recv(100)
    client.close()
"""
    source = f"""
import asyncio, resource, sys
from pathlib import Path
from aioapiqueue_run.hub import Hub
from aioapiqueue.registry import Registry
from tests.helpers import introspect
async def main():
    limit, told = resource.RLIMIT_NOFILE, []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with Hub(Registry({{}}), directory=Path(sys.argv[1])) as hub:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", {child!r}, str(hub.path), stdin=asyncio.subprocess.PIPE)
        resource.setrlimit(limit, {limits})
        while not told:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)                # tries again
        most = len(introspect.connections_of(hub))
        child.stdin.close()
        await child.wait()
    print(child.returncode, len(told), "ulimit -n" in told[0]["message"], most)
asyncio.run(main())
"""
    arguments = {"PYTHONPATH": os.pathsep.join(sys.path)}
    path = str(bench.directory / "hub")
    code, out, err = await bench.run(source, None, path, **arguments)
    assert (code, err) == (0, "")
    ended, told, helpful, most = out.split()
    assert (ended, told, helpful) == ("0", "1", "True")
    assert limits[1] - 40 < int(most) < limits[1] - limits[1] // 8
