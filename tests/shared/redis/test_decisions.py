"""What users decide where a server keeps the quota: which holds, in any order of reconnection."""

from __future__ import annotations

import asyncio
import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.spi import statements
from tests.helpers import introspect
from tests.helpers.members import fleet
from tests.helpers.script import EPOCH, SECOND, Script
from tests.helpers.servers import keys_of
from tests.helpers.virtual_client import VirtualClient

decided = introspect.decisions()

RETRY = 2.1
"""Seconds after which a process has tried again to reach the server."""


def forget(server, name):
    """Let the server lose all that it knows of a quota."""
    if found := keys_of(server, name):
        server.sync().delete(*found)


class Outage:
    """Two processes that cannot reach the server for a while, and come back one by one."""

    def __init__(self, server, name, *, lost):
        self.server, self.name, self.lost = server, name, lost
        self.clients = [VirtualClient(server), VirtualClient(server)]
        self.queues = [ApiQueue("10/s", schedule=SharedSchedule(x, name)) for x in self.clients]

    async def __aenter__(self):
        """Begin it."""
        for queue, client in zip(self.queues, self.clients, strict=True):
            (await queue.enqueue()).release()
            client.down = True
        await asyncio.sleep(5)
        return self.queues

    async def end(self, order):
        """Let both come back in this order, three seconds apart; then both have talked again."""
        if self.lost:
            forget(self.server, self.name)
        for number in (*order, *order):
            self.clients[number].down = False
            waiting = self.queues[number].enqueue()
            await asyncio.sleep(3)
            waiting.cancel()

    async def __aexit__(self, *_):
        for queue in self.queues:
            await queue.aclose(drain=False)


@pytest.fixture(params=["data kept", "data lost"])
def outage(request, valkey, name):
    """An outage of two processes; meanwhile, the server loses its data, or does not."""
    return Outage(valkey, name, lost=request.param == "data lost")


ORDERS = pytest.mark.parametrize("order", [(0, 1), (1, 0)])


@ORDERS
async def test_limits_set_last_hold(outage, order):
    """Which process comes back first is no matter."""
    async with outage as (one, other):
        one.set_rate("5/s")
        await asyncio.sleep(20)
        other.set_rate("1/s")
        await outage.end(order)
        assert one.limits == other.limits == (Rate(1),)


@ORDERS
async def test_pause_after_a_resume_holds(outage, order):
    """The safety stop is not ended by what was said before."""
    async with outage as (one, other):
        other.resume()
        await asyncio.sleep(20)
        one.pause()
        await outage.end(order)
        assert introspect.held_by(one, None) == introspect.held_by(other, None) == math.inf


@ORDERS
async def test_resume_after_a_pause_holds(outage, order):
    """Nor does a pause come back that was ended."""
    async with outage as (one, other):
        one.pause()
        await asyncio.sleep(20)
        other.resume()
        await outage.end(order)
        now = asyncio.get_running_loop().time()
        assert max(introspect.held_by(one, None), introspect.held_by(other, None)) < now


async def test_decision_before_the_first_contact(valkey, name):
    """It has its true time, however wrong the machine's clock is: an earlier one loses to it."""
    clients = VirtualClient(valkey), VirtualClient(valkey)
    one, other = (ApiQueue("10/s", schedule=SharedSchedule(x, name)) for x in clients)
    async with one, other:
        introspect.set_clock_apart(other, EPOCH / SECOND - 30, 0)
        clients[1].down = True
        one.set_rate("5/s")
        await asyncio.sleep(10)
        other.set_rate("1/s")  # by its clock, twenty seconds before that
        other.pause(60)
        await asyncio.sleep(10)
        clients[1].down = False
        await asyncio.sleep(RETRY)
        waiting = [queue.enqueue() for queue in (one, other)]
        await asyncio.wait(waiting)
        assert one.limits == other.limits == (Rate(1),)
        assert asyncio.get_running_loop().time() == pytest.approx(70 + 1, abs=1e-5)


async def test_first_decision_is_sent_once(valkey, name):
    """Also if others have decided something before: nothing else is lacking there."""
    async with fleet(2, valkey, name, "10/s") as (one, other):
        for member in (one, other):
            (await member.queue.enqueue()).release()
        one.queue.set_rate("5/s", key="a")
        await asyncio.sleep(1)
        other.queue.set_rate("6/s", key="b")
        await asyncio.sleep(1)
        for member in (other, one):
            (await member.queue.enqueue()).release()
            known, *_ = introspect.decided_by(member.queue)
            assert known == {"a": (Rate(5),), "b": (Rate(6),)}
        ops = [op for _, op in other.client.log]
        assert ops.count("decide") == 2  # the first reply was what the other has decided


async def test_resume_that_ends_nothing_is_heard(valkey, name):
    """Else a pause from before it would come back, once the server has lost its data."""
    async with fleet(3, valkey, name, "10/s") as (one, other, listener):
        one.queue.resume()
        for member in (one, other, listener):
            (await member.queue.enqueue()).release()
        other.client.down = True
        other.queue.pause()
        await asyncio.sleep(1)
        one.queue.resume()
        for member in (one, listener):
            await asyncio.sleep(1)
            (await member.queue.enqueue()).release()
        await one.queue.aclose()
        forget(valkey, name)
        other.client.down = False
        for member in (listener, other, listener):
            waiting = member.queue.enqueue()
            await asyncio.sleep(RETRY)
            assert waiting.done()
            waiting.cancel()


async def test_same_limits_set_again_hold(valkey, name):
    """Others who have set other ones meanwhile, and come back later, do not replace them."""
    clients = [VirtualClient(valkey) for _ in range(3)]
    queues = [ApiQueue("10/s", schedule=SharedSchedule(x, name)) for x in clients]
    async with queues[0] as one, queues[1] as two, queues[2] as three:
        one.set_rate("9/s")
        for queue in queues:
            (await queue.enqueue()).release()
        for client in clients[1:]:
            client.down = True
        one.set_rate("5/s")
        await asyncio.sleep(1)
        three.set_rate("1/s")
        await asyncio.sleep(1)
        two.set_rate("5/s")
        for client in clients[1:]:
            client.down = False
            await asyncio.sleep(RETRY)
        for queue in (*queues, *queues):
            (await queue.enqueue()).release()
            await asyncio.sleep(1)
        assert one.limits == two.limits == three.limits == (Rate(5),)


async def test_decision_by_a_late_clock(valkey, name):
    """If another one was later, unheard because nothing changed by it, that one holds for all."""
    one, other = (
        ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name)) for _ in range(2)
    )
    async with one, other:
        introspect.set_clock_apart(other, EPOCH / SECOND, -0.5)
        one.set_rate("5/s")
        for queue in (one, other):
            (await queue.enqueue()).release()
        await asyncio.sleep(4)
        one.set_rate("5/s")
        await asyncio.sleep(1)
        other.set_rate("6/s")  # by its clock, a second and a half before
        for queue in (other, one, other):
            (await queue.enqueue()).release()
        assert one.limits == other.limits == (Rate(5),)


async def test_holds_survive_a_loss_of_data(valkey, name):
    """A process that knows of one tells the server, and uses no slot before its end."""
    async with fleet(2, valkey, name, "10/s", lanes={"a": "10/s"}) as (one, other):
        for member in (one, other):
            (await member.queue.enqueue(key="a")).release()
        one.queue.hold(20)
        one.queue.hold(40, key="a")
        waiting = other.queue.enqueue(key="a")  # so that it knows of both
        await asyncio.sleep(1)
        waiting.cancel()
        await one.queue.aclose(drain=False)
        forget(valkey, name)
        (await other.queue.enqueue()).release()
        assert asyncio.get_running_loop().time() == pytest.approx(0.1 + 20, abs=1e-5)
        (await other.queue.enqueue(key="a")).release()
        assert asyncio.get_running_loop().time() == pytest.approx(0.1 + 40, abs=1e-5)


async def test_resume_during_a_request_leaves_nothing(valkey, name):
    """The reply says that everything is held, by a pause that is over: that is no hold."""
    async with fleet(2, valkey, name, "10/s", client={"latency": (0.05, 0.05)}) as (one, other):
        for member in (one, other):
            (await member.queue.enqueue()).release()
        one.queue.pause(60)
        await asyncio.sleep(0.07)  # the server has heard of it, its reply is under way
        one.queue.resume()
        await asyncio.sleep(1)
        now = asyncio.get_running_loop().time()
        assert introspect.held_by(one.queue, None) <= now
        forget(valkey, name)
        begun = asyncio.get_running_loop().time()
        for member in (one, other):  # the first tells the server what holds
            (await member.queue.enqueue(timeout=5)).release()
        assert asyncio.get_running_loop().time() < begun + 1


async def test_clock_set_back_does_not_stop_decisions(valkey, name):
    """The server has lost its data, too: what is decided next is later than all before."""
    client = VirtualClient(valkey)
    one = ApiQueue("10/s", schedule=SharedSchedule(client, name))
    other = ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey, skew=-3600), name))
    async with one, other:
        one.set_rate("5/s")
        (await one.enqueue()).release()
        forget(valkey, name)
        client.skew = -3600
        await asyncio.sleep(5)
        (await one.enqueue()).release()
        await asyncio.sleep(5)
        other.set_rate("3/s")
        (await other.enqueue()).release()
        (await one.enqueue()).release()
        assert one.limits == other.limits == (Rate(3),)


@pytest.mark.parametrize("kind", ["hold", "hold of a lane", "pause"])
async def test_clock_set_back_extends_no_hold(valkey, name, kind):
    """The server has lost its data, too: what is restored ends when it would have."""
    client = VirtualClient(valkey)
    queue = ApiQueue("10/s", lanes={"a": "10/s"}, schedule=SharedSchedule(client, name))
    async with queue:
        (await queue.enqueue(key="a")).release()
        if kind == "pause":
            queue.pause(20)
        else:
            queue.hold(20, key="a" if "lane" in kind else None)
        await asyncio.sleep(1)
        forget(valkey, name)
        client.skew = -3600
        (await queue.enqueue(key="a")).release()
        assert asyncio.get_running_loop().time() == pytest.approx(20, abs=1e-5)


async def test_decisions_are_not_in_asks(valkey, name):
    """Where 500 keys have limits of their own, a request for a slot is no longer than before."""
    sizes = []

    class Measured(VirtualClient):
        async def evalsha(self, sha, numkeys, *rest):
            if rest[numkeys] == "ask":
                sizes.append(len(rest[numkeys + 2]))
            return await super().evalsha(sha, numkeys, *rest)

    client = Measured(valkey)
    async with ApiQueue("1000/s", schedule=SharedSchedule(client, name)) as queue:
        (await queue.enqueue()).release()
        for number in range(500):
            queue.set_rate("5/s", key=f"key {number}")
        await asyncio.sleep(1)
        assert [op for _, op in client.log].count("decide") == 1
        (await queue.enqueue()).release()
        assert sizes[-1] - sizes[0] <= 20  # the revision


async def test_change_is_all_that_others_hear(valkey, name):
    """Of 500 keys that have limits of their own, a process that knows them is told of one."""
    heard = []

    class Listening(VirtualClient):
        async def evalsha(self, *arguments):
            reply = await super().evalsha(*arguments)
            if reply[0] == b"differing":
                heard.append(len(json.loads(reply[4] or "[[], []]")[1]))
            return reply

    one = ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name))
    other = ApiQueue("10/s", schedule=SharedSchedule(Listening(valkey), name))
    async with one, other:
        for number in range(500):
            one.set_rate("5/s", key=f"key {number}")
        (await one.enqueue()).release()
        (await other.enqueue()).release()
        one.set_rate("6/s", key="key 7")
        (await one.enqueue()).release()
        (await other.enqueue()).release()
        assert heard == [500, 1]
        assert introspect.lane_limits_of(other)["key 7"] == (Rate(6),)


# The script by itself.


def kept(valkey, name):
    """Return the stamps of what the server keeps."""
    _, decisions = json.loads(valkey.sync().hget(f"{{aioapiqueue:{name}}}", "conf"))
    return {(int(at), maker) for _, _, at, maker, _, _ in decisions}


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_script_keeps_what_python_keeps(valkey, seed):
    """Of the same decisions, in any order, some of them twice, and with stamps that are alike."""
    rng = random.Random(seed)
    script, python = Script(valkey, (Rate(10),)), decided.Decisions(lambda: EPOCH / SECOND)
    texts, said = [], []
    for _ in range(rng.randint(1, 12)):
        stamp = decided.Stamp(EPOCH + rng.randint(0, 9), rng.choice(["1-0-a", "1-0-b", "10", "z"]))
        kind = rng.choice(["set", "pause", "pause", "resume"])
        if any(one.stamp == stamp for one in said):
            continue  # nobody makes two of one stamp
        if kind == "set":
            key, calls = rng.choice([None, "a"]), rng.randint(1, 3)
            statement, words = (
                statements.SetLimits(key, (Rate(calls),)),
                [json.dumps(key), str(calls)],
            )
        elif kind == "pause":
            until = EPOCH + rng.choice([1, 2, 5]) * SECOND if rng.random() < 0.7 else None
            ends = math.inf if until is None else until / SECOND
            statement, words = statements.Pause(ends), ["", "inf" if until is None else str(until)]
        else:
            statement, words = statements.Resume(), ["", ""]
        said.append(decided.Decision(stamp, statement))
        texts.append([kind, words[0], str(stamp.at), stamp.maker, words[1]])
    order = [*range(len(said)), *rng.choices(range(len(said)), k=3)]
    rng.shuffle(order)
    for number in order:
        python.merge([said[number]])
        token = rng.getrandbits(50) + 1
        script.revision, _ = script.send(
            "decide", 0, decisions=[texts[number]], holds=[], token=token
        )
    assert kept(valkey, script.name) == set(map(tuple, (one.stamp for one in python)))
    forget(valkey, script.name)


def test_stamp_far_ahead_counts_as_now(valkey):
    """One that is at most a minute ahead counts as it is; the order of those beyond stays."""
    script = Script(valkey, (Rate(10),))
    for ahead, is_too_far in ((60 * SECOND - 1, False), (60 * SECOND + 1, True)):
        decisions = [
            [kind, "", str(EPOCH + ahead + number), "maker", end]
            for number, (kind, end) in enumerate([("resume", ""), ("pause", "inf")])
        ]
        *_, outdated = script.send("decide", 0, decisions=decisions, holds=[], token=ahead)
        assert bool(outdated) == is_too_far
        stamps = (1, 2) if is_too_far else (ahead, ahead + 1)
        assert kept(valkey, script.name) == {(EPOCH + at, "maker") for at in stamps}
        forget(valkey, script.name)


def test_earlier_decision_is_refused(valkey):
    """Its sender hears that there is a later one."""
    script = Script(valkey, (Rate(10),))
    now, later = str(EPOCH), str(EPOCH + 1)
    for at, expected in ((later, 0), (later, 0), (now, 1)):
        decision = ["set", "null", at, "maker", f"[{at}]"]
        fields = {"decisions": [decision], "holds": [], "token": 7}
        script.revision, outdated = script.send("decide", 0, **fields)
        assert outdated == expected
    assert kept(valkey, script.name) == {(EPOCH + 1, "maker")}


def test_earliest_limits_are_forgotten(valkey):
    """Of more than 10,000 keys, those whose limits were set first."""
    script = Script(valkey, (Rate(10),))
    for begin in (0, 9_999):
        decisions = [
            ["set", json.dumps(f"{key}"), str(EPOCH + key), "maker", "[]"]
            for key in range(begin, begin + 9_999)
        ][: 5 if begin else None]
        script.revision, _ = script.send(
            "decide", 0, decisions=decisions, holds=[], token=begin + 1
        )
    stamps = kept(valkey, script.name)
    assert len(stamps) == 10_000
    assert min(stamps) == (EPOCH + 4, "maker")
