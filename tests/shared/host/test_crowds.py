"""Many clients that come and leave: what that costs the hub, and how long others wait."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time

import pytest

from aioapiqueue import ApiQueue
from tests.helpers import introspect
from tests.helpers.hubs import ask_hub, hub_in_use
from tests.helpers.modules import command_of
from tests.helpers.virtual_hub import VirtualHub

wire = introspect.hub_messages()


class Quota:
    """A quota in this process, and its clients."""

    def __init__(self):
        self.quotas = introspect.hub_quotas()

    def join(self, *names):
        """Let a client come that gives limits to these lanes."""
        terms = wire.Terms((), {}, None, 0.05, None, ("calls",)).as_json()
        terms["lanes"] = [[name, ["5/s"]] for name in names]
        hello = {"kind": "name", "quota": "crm", "terms": terms}
        return self.quotas.welcome(hello, lambda client: client.outbox.clear())


def work_of(step):
    """Return how many functions a step calls, and what it returns."""
    count = 0

    def note(_, event, __):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        returned = step()
    finally:
        sys.setprofile(None)
    return count, returned


async def work_with(clients, *, of, lanes=20):
    """Return the work of one more client that comes and leaves, beside so many that stay.

    Args:
        clients: how many there are, each with the same lanes.
        of: the lanes of the one more; None: the same.
        lanes: how many lanes the others have.
    """
    quota, names = Quota(), [f"tenant:{number}" for number in range(lanes)]
    for _ in range(clients):
        quota.join(*names)
    quota.join(*(names if of is None else of)).leave()  # the first time, limits are made
    await asyncio.sleep(1)
    comes, client = work_of(lambda: quota.join(*(names if of is None else of)))
    await asyncio.sleep(1)
    leaves, _ = work_of(client.leave)
    await asyncio.sleep(1)
    return comes, leaves


@pytest.mark.usefixtures("no_collector")  # what it frees may call functions, which would count
@pytest.mark.parametrize("of", [None, ["crm:1", "crm:2"]], ids=["same", "others"])
async def test_clients_cost_no_newcomer_work(of):
    """One that comes or leaves costs the same, however many clients there are."""
    await work_with(5, of=of)  # caches are filled: which they are depends on earlier tests
    few, many = await work_with(5, of=of), await work_with(100, of=of)
    assert many == pytest.approx(few, abs=10)


@pytest.mark.usefixtures("no_collector")
async def test_lanes_cost_no_newcomer_work():
    """One that comes or leaves costs the same, but for a list, however many lanes others have."""
    of = ["crm:1", "crm:2"]
    few, many = await work_with(5, of=of, lanes=5), await work_with(5, of=of, lanes=500)
    assert many == pytest.approx(few, abs=10)


def lanes_reported(client, messages):
    """Return the changes of each message that has told a client of lanes of others."""
    return [parts[0] for kind, *parts in messages[client] if kind == "lanes"]


def known_from(messages):
    """Return the names that a client knows of after such messages."""
    known = set()
    for added, removed in (change for changes in messages for change in changes):
        known = set() if removed is None else known - set(removed)
        known |= set(added)
    return known


async def test_names_reported_once_in_a_pass():
    """Fifty programs that come at once, each with lanes of its own: all know of all, soon."""
    hub, received = VirtualHub(), {}
    queues = [
        ApiQueue(lanes={f"lane:{number}": "5/s"}, schedule=hub.schedule("crm"))
        for number in range(50)
    ]
    for queue, link in zip(queues, hub.links, strict=True):
        received[queue] = []
        link.owner.receive = _noting(link.owner.receive, received[queue])

    async def call(queue):
        async with queue.slot():
            await asyncio.sleep(1)

    await asyncio.gather(*map(call, queues))
    for queue in queues:
        reported = lanes_reported(queue, received)
        assert len(reported) <= 2
        assert known_from(reported) == {f"lane:{n}" for n in range(50)}
        named = [name for changes in reported for added, _ in changes for name in added]
        assert len(named) == 50  # each once


def _noting(receive, messages):
    def noting(received):
        messages.extend(received)
        receive(received)

    return noting


async def test_clients_know_of_lanes_that_matter():
    """A lane of others is known while a client has it; who has all lanes is told nothing."""
    hub, received = VirtualHub(), {}
    lanes = {"one": {"a": "5/s"}, "two": {"b": "5/s"}, "three": {}, "all": {"a": "5/s", "b": "5/s"}}
    queues = {
        name: ApiQueue(lanes=its, schedule=hub.schedule("crm")) for name, its in lanes.items()
    }
    for (name, queue), link in zip(queues.items(), hub.links, strict=True):
        received[name] = []
        link.owner.receive = _noting(link.owner.receive, received[name])
        async with queue.slot():
            await asyncio.sleep(1)
    for name in ("one", "two", "three"):
        assert known_from(lanes_reported(name, received)) == {"a", "b"}
    assert lanes_reported("all", received) == []
    await queues["all"].aclose()
    await queues["two"].aclose()
    await asyncio.sleep(1)
    assert lanes_reported("one", received)[-1] == [[[], None]]
    assert lanes_reported("three", received)[-1] == [[[], ["b"]]]


async def test_steps_leave_room_for_others():
    """What comes while many steps are to be done waits for a few milliseconds of them."""
    loop, steps, done = asyncio.get_running_loop(), introspect.hub_steps(), []

    def step(number):
        done.append(number)
        loop.stall(0.002)

    for number in range(10):
        steps.add(lambda number=number: step(number))
    loop.call_soon(done.append, "another")
    await asyncio.sleep(1)
    assert done.index("another") == 3
    assert [one for one in done if one != "another"] == list(range(10))


async def test_a_failed_step_stops_no_other():
    """What a step raises is reported, and the next ones are done."""
    loop, steps, done, errors = asyncio.get_running_loop(), introspect.hub_steps(), [], []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    steps.add(lambda: 1 / 0)
    steps.add(lambda: done.append(1))
    await asyncio.sleep(1)
    assert (done, [type(one) for one in errors]) == ([1], [ZeroDivisionError])


@contextlib.contextmanager
def process(module, *arguments):
    """Run a module of the tests, and end it."""
    command = command_of(f"tests.helpers.{module}", *arguments)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def ask(started):
    """Write a line to a process; return the one that it answers."""
    started.stdin.write("\n")
    started.stdin.flush()
    return started.stdout.readline().strip()


def longest_waits(number, lanes, how):
    """Return another client's longest waits while so many come, and while all leave at once."""
    with hub_in_use() as hub, process("host_prober") as prober:
        assert prober.stdout.readline() == "ready\n"
        with process("host_crowd", hub, number, lanes, how) as crowd:
            ask(prober)
            assert ask(crowd) == "there"
            time.sleep(0.5)
            comes = float(ask(prober))
            ask(crowd)
            deadline = time.monotonic() + 120
            while len(ask_hub(hub, command="status", lanes=False)["quotas"][0]["clients"]) > 1:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            time.sleep(0.5)
            return comes, float(ask(prober))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in-turn", "at-once"])
@pytest.mark.parametrize(("number", "lanes"), [(2000, 0), (300, 500)])
def test_crowds_keep_nobody_waiting(number, lanes, how):
    """Another client waits for a tenth of a second at most, while they come and as they leave.

    In one of three attempts: what else a machine does makes waits longer, and never shorter.
    """
    waits = []
    for _ in range(3):
        waits.append(max(longest_waits(number, lanes, how)))
        if waits[-1] <= 0.1:
            return
    pytest.fail(f"another client has waited for {waits} s")
