"""What one client may have, and what is left of it when it has gone."""

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import time
import tracemalloc

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import OTHERS, Hub, Process
from tests.helpers import introspect
from tests.helpers.garbage import leave_older_alone

pytestmark = pytest.mark.real

# Sends the lines that it reads, and prints what it hears: another process than the test's.
RELAY = """
import socket, sys, threading
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    def relay():
        for line in sys.stdin.buffer:
            client.sendall(line)
        client.shutdown(socket.SHUT_RDWR)
    threading.Thread(target=relay).start()
    for line in client.makefile("rb"):
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
"""

# Asks for so many operations, in rounds; prints what it has heard after each.
GREEDY = """
import json, os, socket, sys, threading, time
path, operations, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.socket(socket.AF_UNIX) as client:
    client.connect(path)
    heard = []
    def read():
        while heard.append(client.recv(65536)) or heard[-1]:
            pass
    threading.Thread(target=read, daemon=True).start()
    lines = [{"do": "hello", "version": 2, "pid": os.getpid()}]
    for number in range(operations * rounds):
        name = f"Operation{number % operations}"
        lines.append({"do": "ask", "id": number + 1, "service": "ec2", "operation": name})
        if not (number + 1) % operations:
            client.sendall(b"".join(json.dumps(line).encode() + b"\\n" for line in lines))
            lines = []
            time.sleep(0.1)
    print(b"".join(heard).count(b'"go"'), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def another(tools):
    """Give raw clients of processes of their own."""

    class Another(tools.Raw):
        async def __aenter__(self):
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-ISc", RELAY, self._path,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            self.reader, self.writer = self._process.stdout, self._process.stdin
            self.greet()
            assert await self.hear() == {"version": 2}
            return self

        async def __aexit__(self, *_):
            self.writer.close()
            async with asyncio.timeout(10):
                await self._process.wait()

    return Another


async def test_requests_of_one_process_are_bounded(bench, tools, another, monkeypatch):
    """The connections of a process share one bound; another process is served beside it."""
    monkeypatch.setattr("aioapiqueue_run.hub.protocol.MAX_REQUESTS_PER_PROCESS", 3)
    async with bench.hub({}) as hub, tools.Raw(hub) as one, tools.Raw(hub) as two:
        for client in (one, two):
            client.greet()
            assert await client.hear() == {"version": 2}
            client.ask(1)
            assert await client.hear() == {"id": 1, "go": True}
        one.ask(2)
        assert await one.hear() == {"id": 2, "go": True}
        two.ask(2)
        assert "too many" in (await two.hear())["error"]
        async with another(hub) as other:
            other.ask(1)
            assert await other.hear() == {"id": 1, "go": True}
        one.say(do="end", id=1, status=200)
        one.say(do="leave", id=2)
        await tools.until(lambda: introspect.requests_of(hub) == 1)
        for number in (2, 3, 4):
            two.ask(number)
        heard = [await two.hear() for _ in range(3)]
        assert [message.get("go", False) for message in heard] == [True, True, False]


async def test_one_process_leaves_room_for_others(bench, tools, another, monkeypatch):
    """Of the total, a process may have as much as it leaves: a new one always gets some."""
    monkeypatch.setattr("aioapiqueue_run.hub.protocol.MAX_REQUESTS", 8)
    async with bench.hub({}) as hub, tools.Raw(hub) as first, another(hub) as second:
        first.greet()
        assert await first.hear() == {"version": 2}
        let_go = []
        for client in (first, second):
            for number in range(1, 10):
                client.ask(number)
            heard = [await client.hear() for _ in range(9)]
            let_go.append(sum("go" in message for message in heard))
        assert let_go == [4, 2]


async def test_many_kinds_of_calls_are_summed(bench, tools, monkeypatch):
    """Beyond so many kinds, calls are paced by queue and lane, judged, and counted together."""
    introspect.replace(monkeypatch, "kinds of calls counted", 2)
    limits = {"ec2": {"rate": "1000/s", "lanes": {"RunInstances": "1/h"}}}
    async with bench.hub(limits) as hub, tools.Raw(hub) as client:
        client.greet()
        client.ask(1)
        client.ask(2, service="iam")
        client.ask(3, "RunInstances")
        client.ask(4, "RunInstances")
        client.ask(5, "StopInstances")
        client.ask(6, "ListUsers", service="iam")
        heard = [await client.hear() for _ in range(6)]
        assert sorted(message["id"] for message in heard[1:]) == [1, 2, 3, 5, 6]
        assert all(message.get("go") for message in heard[1:])
        client.say(do="end", id=5, status=503, code="RequestLimitExceeded")
        client.say(do="end", id=6, status=404)
        await tools.until(lambda: hub.figures[-1].errors == 1)
        found = [
            (one.service, one.operation, one.paced, one.calls, one.waiting, one.throttled)
            for one in hub.figures
        ]
        assert found == [
            ("ec2", "DescribeRegions", True, 1, 0, 0),
            ("iam", "DescribeRegions", False, 1, 0, 0),
            (OTHERS, OTHERS, True, 2, 1, 1),
            (OTHERS, OTHERS, False, 1, 0, 0),
        ]


@pytest.mark.parametrize(
    ("operations", "most"), [(40, 2000), pytest.param(400, None, marks=pytest.mark.slow)]
)
async def test_scan_of_everything_is_let_go(bench, tools, monkeypatch, operations, most):
    """Three accounts, 17 Regions and 400 operations are more than 20,000 kinds: none fails."""
    if most is not None:
        introspect.replace(monkeypatch, "kinds of calls counted", most)
    kinds = list(itertools.product(range(3), range(17), range(operations)))
    async with bench.hub({"ec2": "1000000/s"}) as hub, tools.Raw(hub) as client:
        client.greet()
        await client.hear()
        for number, (account, region, operation) in enumerate(kinds, start=1):
            client.ask(number, f"Op{operation}", account=f"{account:012}", region=f"r{region}")
            if not number % 10:
                assert all([(await client.hear()).get("go") for _ in range(10)])
        figures, known = hub.figures, most or 20_000
        assert (len(figures), sum(one.calls for one in figures)) == (known + 1, len(kinds))
        assert (figures[-1].service, figures[-1].calls) == (OTHERS, len(kinds) - known)


async def test_thousands_of_operations_delay_nobody(bench, tools, stalls):
    """While one client waits for 3,000 operations, another is let go at once."""
    longest = []
    async with bench.hub({"ec2": {"rate": "unlimited", "lanes": {"*": "1/s"}}}) as hub:
        bench.on_event = lambda _: None  # it notes each call
        greedy = await asyncio.create_subprocess_exec(
            sys.executable, "-ISc", GREEDY, str(hub.path), "3000", "2",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(20), tools.Raw(hub) as client:
                client.greet()
                await client.hear()
                ended = asyncio.ensure_future(greedy.stdout.readline())
                for number in itertools.count(1):
                    since, lost = time.monotonic(), stalls.seconds
                    client.ask(number, service="iam")
                    assert await client.hear() == {"id": number, "go": True}
                    longest.append(time.monotonic() - since - (stalls.seconds - lost))
                    client.say(do="end", id=number, status=200)
                    await asyncio.sleep(0.005)
                    if ended.done():
                        break
        finally:
            greedy.stdin.close()
            await greedy.wait()
    assert int(ended.result()) >= 3000
    assert max(longest) < 1


async def test_many_lines_are_taken_in_turn(bench, tools):
    """Of what one client has sent at once, the hub takes a little at a time."""
    async with bench.hub({"ec2": "1/h"}) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in range(1, 2001):
            client.ask(number)
        taken = [0]
        while taken[-1] < 2000:
            await asyncio.sleep(0)
            taken.append(introspect.requests_of(hub))
        assert max(later - before for before, later in itertools.pairwise(taken)) < 200


LIMITS = {"ec2": {"rate": "1000/s", "concurrency": 1}}


async def test_only_the_holder_goes_ahead(bench, tools, another):
    """A process that holds no permit, and claims that its call is nested, waits as any other."""
    async with bench.hub(LIMITS) as hub, tools.Raw(hub) as client, another(hub) as other:
        client.greet()
        client.ask(1)
        client.ask(2)
        assert [await client.hear() for _ in range(2)][1] == {"id": 1, "go": True}
        other.ask(1, nested=True)
        await tools.until(lambda: introspect.requests_of(hub) == 3)
        client.say(do="end", id=1, status=200)
        assert await client.hear() == {"id": 2, "go": True}
        client.say(do="end", id=2, status=200)
        assert await other.hear() == {"id": 1, "go": True}


async def test_one_place_lets_one_call_ahead(bench, tools, another):
    """Nested calls go ahead on any connection of the holder, one at a time for each permit."""
    async with bench.hub(LIMITS) as hub, tools.Raw(hub) as holder, tools.Raw(hub) as same:
        for client in (holder, same):
            client.greet()
            assert await client.hear() == {"version": 2}
        holder.ask(1)
        assert await holder.hear() == {"id": 1, "go": True}
        async with another(hub) as other:
            other.ask(1)
            await tools.until(lambda: introspect.requests_of(hub) == 2)
            for number in (1, 2):
                same.ask(number, nested=True)
            await tools.until(lambda: introspect.requests_of(hub) == 4)
            holder.say(do="free", id=1)
            assert await same.hear() == {"id": 1, "go": True}
            # What a nested call needs goes ahead, too.
            holder.ask(2, nested=True)
            await tools.until(lambda: introspect.requests_of(hub) == 5)
            same.say(do="free", id=1)
            assert await holder.hear() == {"id": 2, "go": True}
            holder.say(do="end", id=2, status=200)
            assert await other.hear() == {"id": 1, "go": True}
            other.say(do="end", id=1, status=200)
            assert await same.hear() == {"id": 2, "go": True}
        for number in (1, 2):
            same.say(do="end", id=number, status=200)
        holder.say(do="leave", id=1)
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        (client,) = introspect.clients_of(hub).values()
        assert (client.requests, client.calls, client.ahead) == (0, 0, 0)


async def test_memory_is_given_back(bench, tools):
    """What is kept does not grow with the requests and connections that have come and gone."""

    async def crowd(hub, connections, requests):
        for _ in range(connections):
            async with tools.Raw(hub) as client:
                client.greet()
                for number in range(1, requests + 1):
                    client.ask(number)
                assert all([(await client.hear()).get("go") for _ in range(requests + 1)][1:])
                for number in range(1, requests // 2):
                    client.say(do="end", id=number, status=200)
        await tools.until(lambda: not introspect.connections_of(hub))

    def kept():
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with bench.hub({"ec2": "1000000/s"}) as hub:
        bench.on_event = lambda _: None  # it notes each call
        leave_older_alone()
        tracemalloc.start()
        try:
            await crowd(hub, 1, 20)
            before = kept()
            await crowd(hub, 10, 20)
            await crowd(hub, 1, 1500)
            grown = kept() - before
        finally:
            tracemalloc.stop()
        assert sum(figure.calls for figure in hub.figures) == 1720
        assert (introspect.requests_of(hub), len(introspect.clients_of(hub))) == (0, 0)
        assert grown < 21_000


async def test_queues_at_rest_are_given_up(bench, tools, monkeypatch):
    """Of accounts that come one after the other, no queue is kept; what owes a wait is."""
    introspect.replace(monkeypatch, "kinds of calls until queues are dropped", 50)
    introspect.replace(monkeypatch, "kinds of calls counted", 100)
    limits = {
        "ec2": {
            "rate": "1000/s",
            "buckets": {"instances": {"operations": ["RunInstances"], "rate": "1/h"}},
        },
        "iam": "1/h",
    }
    async with bench.hub(limits) as hub, tools.Raw(hub) as client:
        registry = bench.registry
        client.greet()
        client.ask(1, "ListUsers", service="iam")
        for number in (2, 3):  # the second waits for its bucket
            client.ask(number, "RunInstances")
        client.ask(4, "RunInstances", key="AKIAI44QH8DHBEXAMPLE")
        assert [(await client.hear()).get("id") for _ in range(4)] == [None, 1, 2, 4]
        for number in (2, 4):
            client.say(do="end", id=number, status=200)
        waits_for, owes = (queue for key, queue in registry.queues.items() if key[0] == "ec2")
        most = 0
        for number in range(5, 305):
            client.ask(number, key=None, account=f"{number:012}")
            assert await client.hear() == {"id": number, "go": True}
            client.say(do="end", id=number, status=200)
            most = max(most, len(registry.queues))
        gc.collect()
        assert max(most, len(registry.queues)) < 200
        assert {waits_for, owes} <= set(registry.queues.values())
        client.ask(1000, "ListUsers", service="iam")
        (iam,) = [one for one in hub.figures if one.service == "iam"]
        await tools.until(lambda: iam.waiting == 1)
        assert introspect.requests_of(hub) == 3
        assert sum(one.calls for one in hub.figures) == 303
        assert [one.calls for one in hub.buckets] == [1, 1]


async def test_counts_outlive_their_queue(bench, tools, monkeypatch):
    """What was counted of a bucket stays when its queue is given up; so many are counted."""
    introspect.replace(monkeypatch, "kinds of calls until queues are dropped", 1)
    introspect.replace(monkeypatch, "kinds of calls counted", 40)
    some = {"operations": ["RunInstances"], "rate": "1000/s"}
    async with bench.hub({"ec2": {"buckets": {"some": some}}}) as hub, tools.Raw(hub) as client:
        client.greet()
        for number in range(1, 51):
            client.ask(number, "RunInstances", key=None, account=f"{number:012}")
            while (await client.hear()).get("id") != number:
                pass
            client.say(do="end", id=number, status=200)
            await asyncio.sleep(0.002)
        gc.collect()
        assert len(bench.registry.queues) < 10
        assert [(one.account, one.calls) for one in hub.buckets] == [
            (f"{number:012}", 1) for number in range(1, 41)
        ]


async def test_processes_that_ended_are_forgotten(directory, tools):
    """Of very many short processes, those that ended first are forgotten; who lives is not."""
    async with Hub(Registry({}), directory=directory / "hub") as hub, tools.Raw(hub) as client:
        client.greet(executable="/bin/python", python="3.11.7")
        await tools.until(lambda: os.getpid() in hub.processes)
        for pid in range(10_000_000, 10_100_000):
            hub.started(Process(pid, "/bin/python", "3.11.7", ended=1.0))
        assert len(hub.processes) == 10_000
        assert {os.getpid(), 10_099_999} <= hub.processes.keys()
