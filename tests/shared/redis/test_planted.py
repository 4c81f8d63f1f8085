"""What somebody else writes into our keys: said in words, and never asked about without end.

Also a server that disagrees with us for ever about the limits, whatever the cause.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import time

import pytest

from aioapiqueue import Adaptive, ApiQueue, QueueClosed, Rate, SharedError, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.script import EPOCH, Script
from tests.helpers.virtual_client import VirtualClient

LIMITS = Rate(50, burst=5), Window(100, 5)
OPTIONS = {
    "lanes": {"lane": [Rate(10, burst=2), Window(20, 10)]},
    "concurrency": 5,
    "adaptive": Adaptive(concurrency=2),
}
TEXTS = ["1e300", "-1e300", "nan", "inf", "9007199254740994", "\r\n\xff"]
MISSING = None
PATIENCE = 5.0  # virtual seconds: far more than anything here takes


def base(name):
    """Return the key of a quota."""
    return f"{{aioapiqueue:{name}}}"


def queue_of(client, name):
    """Make a queue that uses everything that is kept on the server."""
    return ApiQueue(*LIMITS, schedule=SharedSchedule(client, name), **OPTIONS)


async def call(queue):
    """Make one call; return what became of it: a start, an error, or nothing."""
    try:
        async with asyncio.timeout(PATIENCE), queue.slot(key="lane"):
            return "started"
    except SharedError as error:
        return error
    except TimeoutError:
        return None


async def fill(valkey, name):
    """Let a queue write all that there is; return what its keys hold, and for whom."""
    queue = queue_of(VirtualClient(valkey), name)
    for _ in range(3):
        async with queue.slot(key="lane") as slot:
            await asyncio.sleep(0.3)
    queue.pause(1)
    queue.set_rate(*LIMITS, key="lane")
    queue.set_rate(*LIMITS)
    slot.throttled(0.1)
    queue.throttled(0.1)
    slot.settle(0.5)
    slot.sync(1000, reset=100)
    queue.sync(1000, reset=100)
    await asyncio.sleep(0.2)
    queue.resume()
    await asyncio.sleep(0.2)
    held = await queue.enqueue(key="lane")
    await asyncio.sleep(0.2)
    valkey.sync().hset(f"{base(name)}:places", "somebody", f"1:{VirtualClient(valkey).now()}:0")
    dumps = {key: valkey.sync().dump(key) for key in valkey.sync().scan_iter(f"{base(name)}*")}
    return queue, held, dumps


def fields_of(valkey, key):
    """Return the fields of a hash, each with what it is called here."""
    fields = set(valkey.sync().hkeys(key))
    if b"last" not in fields:  # those are processes
        return dict.fromkeys(fields, "*")
    fields |= {b"held", b"paused", b"turn", b"fixed"}  # which come and go
    return {field: field.decode() for field in sorted(fields)}


def some_of(texts, number, every):
    """Return one of every so many texts: for the next number, other ones."""
    return texts[number % every :: every]


def parts_of(text, every):
    """Yield a text of several figures again and again, each time with another one wrong."""
    figures = re.split(r"([ |=])", (text or b"").decode())
    if len(figures) > 1:
        for place in range(0, len(figures), 2):
            for wrong in some_of(TEXTS, place // 2, every):
                yield "".join([*figures[:place], wrong, *figures[place + 1 :]])


def plants(valkey, dumps, every):
    """Yield what is planted, in words; its key, and its field, or place; and the text."""
    for key in dumps:
        kind, short = valkey.sync().type(key), key.decode().partition("}")[2]
        if kind == b"hash":
            for number, (field, of) in enumerate(fields_of(valkey, key).items()):
                wrong = some_of(TEXTS, number, every)
                for text in [MISSING, *wrong, *parts_of(valkey.sync().hget(key, field), every)]:
                    if (of, text) != ("paused", "inf"):  # that is a pause without end
                        yield f"{short} {of}", key, field, text
        elif kind == b"list":
            for number, form in enumerate(["{}", "{}:1:2", "1:{}:2", "1:1:{}"]):
                for entry in map(form.format, some_of(TEXTS, number, every)):
                    yield f"{short} entry", key, 0, entry
        else:
            assert kind == b"zset"
            for score in (1e300, float("inf")):
                yield f"{short} score", key, "somebody", score


def plant(client, key, field, value):
    """Write one."""
    if isinstance(value, float):
        client.zadd(key, {field: value})
    elif field == 0:
        client.lset(key, 0, value)
    elif value is MISSING:
        client.hdel(key, field)
    else:
        client.hset(key, field, value)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
async def test_no_figure_stops_anybody_silently(valkey, name, every):
    """Whatever figure it is: calls go on, or an error says where it is and what to do.

    And nobody asks without a pause, or cannot be closed.
    """
    loop, server = asyncio.get_running_loop(), valkey.sync()
    first, held, dumps = await fill(valkey, name)
    filled_at, seen, wrong = loop.time(), set(), []
    for what, key, field, value in list(plants(valkey, dumps, every)):
        seen.add(what)
        for one, dump in dumps.items():
            server.restore(one, 0, dump, replace=True)
        plant(server, key, field, value)
        client = VirtualClient(valkey, latency=(0.001, 0.001), skew=filled_at - loop.time())
        queue = queue_of(client, name)
        outcome = await call(queue)
        if outcome is None and not queue.stats.fault:
            wrong.append(f"{what} = {value!r}: waits and says nothing")
        words = "which aioapiqueue never writes"
        if (field, value) == (b"layout", MISSING):  # as the first edition, which has none
            words = "an earlier version of aioapiqueue"
        if isinstance(outcome, SharedError) and words not in str(outcome):
            wrong.append(f"{what} = {value!r}: {outcome}")
        if client.calls > 60:
            wrong.append(f"{what} = {value!r}: {client.calls} requests")
        begun = loop.time()
        await asyncio.wait_for(queue.aclose(drain=False), 60)
        if loop.time() - begun > 2.001:
            wrong.append(f"{what} = {value!r}: closed after {loop.time() - begun:g} s")
    assert not wrong, "\n".join(wrong)
    for field in (
        "rev",
        "conf",
        "epoch",
        "clock",
        "last",
        "turn",
        "r1:u",
        "w1:n",
        "g1:pace:v",
        "bounds",
    ):
        assert f" {field}" in seen, f"the test does not plant {field}"
    assert {":who score", ":places *", ':lane:"lane" r1:a', ":window:0 entry"} <= seen
    assert {":out *", ':lane:"lane":out *', ':lane:"lane" bounds'} <= seen
    held.release()
    await first.aclose(drain=False)


async def test_no_figure_of_a_ramp_stops_calls(valkey, name):
    """The same for what only a rate with a ramp has."""
    loop, key, wrong = asyncio.get_running_loop(), base(name), []

    def ramped():
        client = VirtualClient(valkey, latency=(0.001, 0.001), skew=filled_at - loop.time())
        return ApiQueue("50/s burst 5 ramp 2x per 1s", schedule=SharedSchedule(client, name))

    filled_at = loop.time()
    async with ramped() as queue:
        for _ in range(40):
            async with queue.slot():
                pass
    filled_at, dump = loop.time(), valkey.sync().dump(key)
    fields = {field for field in valkey.sync().hkeys(key) if field.startswith(b"p1:")}
    fields.remove(b"p1:p")  # the peaks, as of any rate
    for field in sorted(fields):
        for value in [MISSING, *TEXTS, "0", *parts_of(valkey.sync().hget(key, field), 3)]:
            valkey.sync().restore(key, 0, dump, replace=True)
            plant(valkey.sync(), key, field, value)
            queue = ramped()
            outcome = await call(queue)
            if outcome is None and not queue.stats.fault:
                wrong.append(f"{field} = {value!r}: waits and says nothing")
            if isinstance(outcome, SharedError) and "which aioapiqueue never" not in str(outcome):
                wrong.append(f"{field} = {value!r}: {outcome}")
            await asyncio.wait_for(queue.aclose(drain=False), 60)
    assert not wrong, "\n".join(wrong)
    assert {b"p1:step:u", b"p1:step:v", b"p1:o", b"p1:ramp:g"} <= fields


@pytest.mark.parametrize("rev", ["1e300", "-1", "abc", "nan", "inf", "9007199254740994", "1.5"])
async def test_a_planted_revision_is_named(valkey, name, rev):
    """The error says which key it is, and what to do; a deleted key is a quota like a new one."""
    valkey.sync().hset(base(name), mapping={"rev": rev, "conf": "[]"})
    client = VirtualClient(valkey)
    async with ApiQueue("10/s", schedule=SharedSchedule(client, name)) as queue:
        with pytest.raises(SharedError) as caught:
            await queue.enqueue()
        assert str(caught.value) == (
            f'SharedSchedule({name!r}): the key {base(name)} has rev "{rev}", which aioapiqueue '
            "never writes. Find out what else writes to this key, then delete the key (DEL)"
        )
        assert queue.stats.fault == str(caught.value)
        valkey.sync().delete(base(name))
        (await queue.enqueue()).release()
        assert not queue.stats.fault
        assert client.calls < 10


def decided(value, *, kind="set", key="null", at="1"):
    """Return what the server keeps of one decision."""
    return json.dumps([["5"], [[kind, key, at, "maker", value, "5"]]])


CONFS = {
    "no JSON": "{",
    "no list": "7",
    "no pair": '[["5"]]',
    "no decisions": '[["5"], ["ab"]]',
    "no revision": "[[NaN], []]",
    "another kind": decided("{}", kind="stop"),
    "no key": decided("[]", key="ab"),
    "a key that cannot be one": decided("[]", key="{}"),
    "no instant": decided("[]", at="soon"),
    "no end": decided("later", kind="pause"),
    "no limit": decided('["fast"]'),
    "no text": decided('[["rate", 10, 1, 1]]'),
    "a number": decided("[5]"),
    "a learnt limit that is no rate": decided('["~5 at once"]'),
    "a limit of nothing": decided('["0/s"]'),
    "a huge limit": decided(f'["1{"0" * 400} in any 1s"]'),
    "deep": "[" * 100_000,
    "bytes": b"\xff\xfe",
}


@pytest.mark.parametrize("kind", CONFS)
async def test_planted_limits_are_refused(valkey, name, kind):
    """They come with a revision that is newer than what anybody knows."""
    async with ApiQueue(schedule=SharedSchedule(VirtualClient(valkey), name)) as first:
        await first.enqueue()  # the server has the script: the next request is one call
    valkey.sync().hset(base(name), mapping={"rev": 5, "conf": CONFS[kind]})
    client = VirtualClient(valkey)
    async with ApiQueue("10/s", schedule=SharedSchedule(client, name)) as queue:
        with pytest.raises(SharedError, match=r"has unreadable limits \(conf\): .* \(DEL\)"):
            await queue.enqueue()
        assert queue.limits == (Rate(10),)
        assert client.calls == 1


ANSWERS = [
    "{'differing', 1, 7, 1, ''}",
    "{'differing', 1, -7, 0, ''}",
    "{'differing', 1, 0, 1, ''}",
]
FIRST_CANCELLED = [pytest.param(ANSWERS[0], True)]  # no other is closed in another way
OTHERS_CANCELLED = [pytest.param(answer, True, marks=pytest.mark.slow) for answer in ANSWERS[1:]]


@pytest.mark.real
@pytest.mark.parametrize(
    ("answer", "cancelled"),
    [*((answer, False) for answer in ANSWERS), *FIRST_CANCELLED, *OTHERS_CANCELLED],
)
async def test_endless_disagreement_is_an_error(  # noqa: PLR0917 - fixtures
    valkey, name, monkeypatch, stalls, answer, cancelled
):
    """A server that always knows other limits is asked now and then, and closed at once."""
    script = f"return {answer}"
    sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    introspect.replace_script(monkeypatch, script, sha)
    others = asyncio.all_tasks()
    async with valkey.client() as client:
        queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))
        failed = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            waiting = queue.enqueue()
            await asyncio.wait([waiting], timeout=end - time.monotonic())
            if waiting.done():
                with pytest.raises(
                    SharedError, match="differ from the limits that this process just sent"
                ):
                    await waiting
                failed += 1
        assert failed
        assert queue.stats.asks <= 20
        assert "differ from the limits that this process just sent" in queue.stats.fault
        begun, closing = time.monotonic(), asyncio.create_task(queue.aclose(drain=False))
        if cancelled:
            await asyncio.sleep(0)
            closing.cancel()
        await asyncio.wait([closing], timeout=60)
        assert time.monotonic() - begun < 2 + stalls.seconds
        if cancelled:
            await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == others


class Deaf(VirtualClient):
    """Answers late, with limits that are always new, and goes on when it is cancelled.

    So does redis-py on Python 3.11, where `wait_for` swallows a cancellation that comes late.
    """

    rev = 0

    async def _call(self, *_):
        self.rev += 1
        end = asyncio.get_running_loop().time() + 0.4
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        return ["differing", 1, self.rev, 1, ""]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_aclose_outlives_a_swallowed_cancellation(valkey, name, cancelled):
    """It returns at the end of the request that is under way; no other one follows."""
    loop, client = asyncio.get_running_loop(), Deaf(valkey)
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))
    waiting = queue.enqueue()
    await asyncio.sleep(0.5)
    assert client.rev == 2
    begun, closing = loop.time(), asyncio.create_task(queue.aclose(drain=False))
    await asyncio.sleep(0.1)
    if cancelled:
        closing.cancel()
    await asyncio.wait([closing])
    assert loop.time() - begun == pytest.approx(0.1 if cancelled else 0.3, abs=0.001)
    await asyncio.sleep(0.3)
    assert client.rev == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert isinstance(waiting.exception(), QueueClosed)


async def test_endless_changes_of_limits_are_awaited(valkey, name):
    """Limits set without end are waited for.

    By others, more often than a reply takes: callers wait, `stats.fault` says for what.
    """

    class Busy(VirtualClient):
        rev, busy = 0, True

        async def _call(self, method, script, numkeys, *rest):
            self.rev += self.busy
            conf = f'[["{self.rev}"], []]'
            self._run("hset", base(name), None, None, {"rev": self.rev, "conf": conf})
            return await super()._call(method, script, numkeys, *rest)

    client = Busy(valkey, outlive=False)
    async with ApiQueue("10/s", schedule=SharedSchedule(client, name)) as queue:
        waiting = queue.enqueue()
        await asyncio.sleep(10)
        assert not waiting.done()
        assert (
            queue.stats.fault == "other processes change the limits faster than the server responds"
        )
        assert client.calls <= 10 * 20
        client.busy = False
        async with asyncio.timeout(5):
            (await waiting).release()
        assert not queue.stats.fault


def limits_of(chance):
    """Make up to three limits, of very different sizes."""
    rates = [
        Rate(calls, per, burst) for calls in (1, 1e6) for per in (1, 3600) for burst in (1, 50)
    ]
    windows = [Window(calls, per) for calls in (1, 5, 100) for per in (0.5, 60)]
    return tuple(chance.sample(rates + windows, chance.randint(0, 3)))


@pytest.mark.parametrize("seed", [1, 2, 3, 19, 61])
def test_no_figure_of_ours_is_refused(valkey, seed):
    """Whatever two processes say of costs, refusals and limits, in whatever order.

    The costs go up to what no float counts exactly any more.
    """
    chance = random.Random(seed)
    how = {
        "lane": chance.choice([None, limits_of(chance)]),
        "catch_up": chance.choice([0, 10_000]),
        "ahead": chance.choice([0, 200_000]),
        "adaptive": chance.choice([None, Adaptive(), Adaptive(concurrency=2)]),
        "concurrency": chance.choice([None, 5]),
    }
    one = Script(valkey, limits_of(chance), **how)
    now, had, both = 0, [], (one, Script(valkey, one.limits, of=one, **how))
    for _ in range(120):
        script = chance.choice(both)
        now += chance.choice([0, 1, 1000, 50_000, 1_000_000, 5_000_000])
        what = chance.choice(["ask", "ask", "ask", "adjust", "return", "push", "pause", "limits"])
        if what == "ask":
            cost = chance.choice([0, 0.1, 1, 1, chance.random() * 4])
            had += [(at, cost) for at in script.ask(now, cost, chance.randint(1, 4))]
        elif what in ("adjust", "return"):
            changes = []
            for at, cost in had[-3:]:
                more = -cost if what == "return" else chance.choice([-cost / 2, -cost, 1, 1e17])
                changes.append([script.lanes, EPOCH + at, [more], [cost], [cost], 0])
            script.send(what, now, changes=changes)
            del had[-3:]
        elif what == "push":
            hold = chance.choice([None, 0, 100_000, 10**18])
            fields = {} if hold is None else {"hold": hold}
            script.send("slowdown", now, released_at=EPOCH + now, **fields)
        elif what == "pause":
            until = chance.choice(["inf", f"{EPOCH + now + 1000}", f"{10**25}"])
            script.decide(now, "pause", until)
            script.decide(now, "resume")
        else:
            limits = limits_of(chance)
            for each in both:
                each.limits = limits
