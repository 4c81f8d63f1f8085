"""Calls to hosts that are not AWS's, and what clients read in the answers to them."""

from __future__ import annotations

import asyncio
import time

import pytest

from aioapiqueue.registry.spi import forget_idle
from aioapiqueue_run.hub import protocol as _protocol
from aioapiqueue_run.hub import request as _request
from aioapiqueue_run.hub.queue_records import QueueRecords

pytestmark = pytest.mark.real

HOST = "https://api.test"
EARLY = 0.012  # seconds: a queue catches up by 10 ms
CALL = {"service": HOST, "region": None, "key": None}


async def opened(bench, tools, limits):
    """Return a hub and a client of it, both entered."""
    hub = bench.hub({HOST: limits})
    await hub.__aenter__()
    client = tools.Raw(hub)
    await client.__aenter__()
    client.greet()
    assert await client.hear() == {"version": 2}
    return hub, client


@pytest.fixture
async def host(bench, tools, request):
    """Give a hub with a host, and a client."""
    hub, client = await opened(bench, tools, getattr(request, "param", "1000/s burst 1000"))
    yield hub, client
    await client.__aexit__()
    await hub.__aexit__(None, None, None)


async def goes(client, number, operation="GET"):
    """Return how long a call waits."""
    began = time.monotonic()
    client.ask(number, operation, **CALL)
    assert await client.hear() == {"id": number, "go": True}
    return time.monotonic() - began


async def hold(client, number, *, then, operation="GET", **said):
    """Return how long a call waits from a moment before advice, which holds it, was given."""
    began = time.monotonic()
    client.say(do="advice", id=number, **said)
    await goes(client, then, operation)
    return time.monotonic() - began


async def go_at_once(client, *numbers, operation="GET"):
    """See that calls do not wait: the answer to a later question comes after they may go."""
    for number in numbers:
        client.ask(number, operation, **CALL)
    client.say(do="ping")
    for number in numbers:
        assert await client.hear() == {"id": number, "go": True}
    assert await client.hear() == {"pong": True}


def figure_of(hub, operation="GET"):
    """Return the figures of an operation."""
    (found,) = [one for one in hub.figures if one.operation == operation]
    return found


async def test_hold_holds_the_host(host, stalls):
    """From the moment at which it is reported, though the call goes on."""
    hub, client = host
    await goes(client, 1)
    took = await hold(client, 1, then=2, operation="POST", throttled=True, hold=0.5)
    assert 0.5 - EARLY < took < 2 + stalls.seconds
    client.say(do="end", id=1, status=429)
    await go_at_once(client, 3)
    found = figure_of(hub)
    assert (found.calls, found.answers, found.throttled, found.errors) == (2, 1, 1, 0)


@pytest.mark.parametrize(
    "host", [{"rate": "1000/s burst 9", "lanes": {"/search/*": "500/s"}}], indirect=True
)
async def test_hold_of_a_lane_holds_it_alone(host, stalls):
    """As what is left of its quota does: all requests of the lane, whatever their method."""
    _, client = host
    await goes(client, 1, "POST /search/*")
    for said in ({"hold": 0.4}, {"remaining": [{"remaining": 0, "reset": 0.4}]}):
        began = time.monotonic()
        client.say(do="advice", id=1, **said)
        await go_at_once(client, 2)
        await goes(client, 3, "GET /search/*")
        assert 0.4 - EARLY < time.monotonic() - began < 2 + stalls.seconds
        for number in (1, 2, 3):
            client.say(do="end", id=number, status=200)
        await goes(client, 1, "POST /search/*")


async def test_what_remains_is_a_bound(host):
    """Less what is out without an answer."""
    _, client = host
    for number in (1, 2):
        await goes(client, number)
    began = time.monotonic()
    client.say(do="advice", id=1, remaining=[{"remaining": 3, "reset": 0.6, "limit": 10}])
    client.say(do="end", id=1, status=200)
    await go_at_once(client, 3, 4)
    await goes(client, 5)
    assert time.monotonic() - began > 0.6 - EARLY


async def test_advice_decides_what_is_push_back(host):
    """A status of 429 is none, where the client has read that the quota is gone for good."""
    hub, client = host
    await goes(client, 1)
    client.say(do="advice", id=1, refused=True)
    client.say(do="end", id=1, status=429)
    await go_at_once(client, 2)
    found = figure_of(hub)
    assert (found.throttled, found.errors) == (0, 1)


async def test_without_advice_the_hub_judges(host):
    """By the status, as ever."""
    hub, client = host
    await goes(client, 1)
    client.say(do="end", id=1, status=429, retry_after="0")
    await goes(client, 2)
    assert figure_of(hub).throttled == 1


async def test_hold_is_bounded(host, bench):
    """At an hour, whatever the client says; what is longer is counted as malformed."""
    _, client = host
    await goes(client, 1)
    client.say(do="advice", id=1, throttled=True, hold=1e8)
    client.ask(2, "GET", **CALL)
    client.say(do="ping")
    assert await client.hear() == {"pong": True}
    (queue,) = bench.registry.queues.values()
    assert 3500 < queue.eta <= 3600
    assert queue.stats.malformed == 1


@pytest.mark.parametrize("host", [{"rate": "1000/s", "concurrency": 1}], indirect=True)
async def test_advice_of_what_does_not_run(host):
    """Of a call that has ended, still waits, or was given back, it means nothing."""
    hub, client = host
    await goes(client, 1)
    client.ask(2, "GET", **CALL)
    client.say(do="advice", id=2, throttled=True, hold=60)
    client.say(do="end", id=1, status=200)
    client.say(do="advice", id=1, throttled=True, hold=60)
    assert await client.hear() == {"id": 2, "go": True}
    client.say(do="leave", id=2)
    client.say(do="advice", id=2, throttled=True, hold=60)
    await go_at_once(client, 3)
    assert figure_of(hub).throttled == 0


@pytest.mark.parametrize("end", [{"advice": {}}, {"status": 200}, {"status": 304}])
async def test_answers_that_say_nothing_are_answers(host, end):
    """What a later one says is left has counted them: they are not taken off it once more."""
    _, client = host
    await goes(client, 1)
    for number in range(2, 12):
        await goes(client, number)
        if "status" in end:
            client.say(do="end", id=number, **end)
        else:  # its body goes on, as that of a stream
            client.say(do="advice", id=number)
    began = time.monotonic()
    client.say(do="advice", id=1, remaining=[{"remaining": 3, "reset": 0.4, "limit": 20}])
    await go_at_once(client, 20, 21, 22)
    await goes(client, 23)
    assert time.monotonic() - began > 0.4 - EARLY


async def test_free_call_may_be_advised(host, stalls):
    """Its client has given the permit back, not the call."""
    _, client = host
    await goes(client, 1)
    client.say(do="free", id=1)
    assert 0.5 - EARLY < await hold(client, 1, then=2, hold=0.5) < 2 + stalls.seconds


@pytest.mark.parametrize("host", ["unlimited"], indirect=True)
async def test_host_without_a_limit_is_held(host, stalls):
    """As what its server says is kept all the same."""
    _, client = host
    await goes(client, 1)
    took = await hold(client, 1, then=2, throttled=True, hold=0.5)
    assert 0.5 - EARLY < took < 2 + stalls.seconds


async def test_host_that_is_held_is_not_at_rest(host, bench):
    """Its queue is not given up: a new one would know nothing of what its server said."""
    _, client = host
    await goes(client, 1)
    client.say(do="advice", id=1, remaining=[{"remaining": 0, "reset": 60}])
    client.say(do="end", id=1, status=200)
    client.say(do="ping")
    assert await client.hear() == {"pong": True}
    assert forget_idle(bench.registry) == []


async def test_nobody_waits_in_a_dry_run(bench, tools):
    """What an answer says is counted, and holds nobody."""
    async with (
        bench.hub({HOST: "1000/s"}, queues=QueueRecords(paced=False)) as hub,
        tools.Raw(hub) as client,
    ):
        client.greet()
        await client.hear()
        await goes(client, 1)
        client.say(do="advice", id=1, throttled=True, hold=60)
        client.say(do="end", id=1, status=429)
        await go_at_once(client, 2)
        assert figure_of(hub).throttled == 1


async def test_fault_in_advice_ends_no_connection(host, monkeypatch):
    """It is reported; the calls of all programs go on."""

    def fail(*_, **__):
        raise RuntimeError("a fault")

    reported = []
    monkeypatch.setattr(_request, "apply_advice", fail)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    _, client = host
    await goes(client, 1)
    client.say(do="advice", id=1, hold=0.5)
    await go_at_once(client, 2)
    assert "https://api.test" in reported[0]["message"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"hold": -1},
        {"hold": "1"},
        {"hold": True},
        {"hold": 1e10},
        {"hold": float("nan")},
        {"remaining": 7},
        {"remaining": [7]},
        {"remaining": [{"remaining": -1}]},
        {"remaining": [{}] * 17},
    ],
    ids=str,
)
async def test_malformed_advice_ends_its_connection(host, wrong):
    """As any line that is not of the protocol."""
    _, client = host
    await goes(client, 1)
    client.say(do="advice", id=1, **wrong)
    assert "error" in await client.hear()
    assert await client.hear() is None


@pytest.mark.parametrize(
    "name",
    ["a b", "GET search", "get /x", "bucket: x", "/ä", "/a b", "/\x1b", "GET /" + "x" * 128, "x\n"],
)
async def test_names_that_are_none(host, name):
    """Nothing reaches a terminal that is no method and path, and no name can be a bucket's."""
    _, client = host
    client.ask(1, name, **CALL)
    assert '"operation" is not a name' in (await client.hear())["error"]


@pytest.mark.parametrize(
    "it", [HOST, "http://a-b_c.test:8080", "GET /*", "/" + "~" * 127, "PROPFIND", "OTHER", "POST"]
)
def test_names_of_hosts_and_lanes(it):
    """Whatever limits.toml takes, the protocol does, the longest too."""
    assert _protocol.name({"it": it}, "it") == it
