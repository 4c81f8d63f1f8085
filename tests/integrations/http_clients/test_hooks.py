"""What users' hooks return, redirects of LLM requests, and sizes of 0."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from aioapiqueue.integrations.http import Advice, Quota

pytestmark = pytest.mark.real


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_redirected_llm_request(library, server, reply, blockbuster):
    """A request that follows a redirect, with its body, is read and charged as the first was."""
    blockbuster.deactivate()  # the client reads certificates
    there = [("Location", "/v2/chat/completions")]
    server.answer = lambda arrival: (
        reply.of(308, there) if arrival.path.startswith("/v1") else reply.of(200, body=b"{}")
    )
    queue = ApiQueue(lanes={"*": ()})
    async with llm.client(queue, llm.openai, library=library) as client:
        asked = {"model": "m", "messages": [], "max_tokens": 50}
        answer = await client.post(server.url("/v1/chat/completions"), json=asked)
    assert answer.status_code == 200
    assert queue.stats.costs == {"calls": 2, "tokens": 100}


@pytest.mark.parametrize(
    "advice",
    [
        Advice(hold=-1.0),
        Advice(throttled=True, hold=float("nan")),
        Advice(remaining=(Quota(remaining=-3.0),)),
        {"hold": 3},
        3,
    ],
)
async def test_wrong_advice_costs_nothing(client, server, advice):
    """What `advise` returns is checked; what is no advice is reported, and the fields count."""
    queue, errors = ApiQueue(lanes={"*": ()}), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    async with client(queue, advise=lambda _: advice) as paced:
        assert await paced.get(server.url()) == 200
    assert [type(error) for error in errors] in ([ValueError], [TypeError])
    assert queue.estimate(key="127.0.0.1") == 0


async def test_advised_hold_is_cut(client, server):
    """No hold is longer than `max_hold`, of users neither."""
    queue = ApiQueue(lanes={"*": ()})
    async with client(queue, advise=lambda _: Advice(hold=1e9), max_hold=5) as paced:
        assert await paced.get(server.url()) == 200
    assert 0 < queue.estimate(key="127.0.0.1") <= 5
    assert queue.stats.malformed == 1


async def test_advised_reset_is_cut(client, server):
    """Nor is what a quota of theirs has left believed for longer."""
    queue = ApiQueue(lanes={"*": ()})
    advice = Advice(remaining=(Quota(remaining=0.0, reset=86_400.0),))
    async with client(queue, advise=lambda _: advice, max_hold=5) as paced:
        assert await paced.get(server.url()) == 200
    assert 0 < queue.estimate(key="127.0.0.1") <= 5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("X-RateLimit-Remaining-Second", "0"), ("X-RateLimit-Limit-Second", "5")], 1),
        ([("RateLimit-Policy", '"d";q=5;w=7'), ("RateLimit", '"d";r=0')], 7),
        ([("RateLimit-Policy", '"d";q=5;w=86400'), ("RateLimit", '"d";r=0')], 60),
        ([("X-RateLimit-Remaining", "0")], 60),
    ],
)
@pytest.mark.parametrize("limits", [(), ("100/s",)])
async def test_period_is_the_reset(client, server, reply, headers, seconds, limits):
    """Where no reset is given, a quota is full again after its period, if that is short."""
    server.answer = lambda _: reply.of(200, headers)
    queue = ApiQueue(lanes={"*": limits})
    async with client(queue) as paced:
        assert await paced.get(server.url()) == 200
    # Of a limit that is configured, the period counts where the server says none.
    expected = 1 if limits and seconds == 60 else seconds
    assert expected - 1 < queue.estimate(key="127.0.0.1") <= expected


async def test_limit_of_years_is_not_learnt(client, server, reply):
    """It is malformed, as a hold would be that is longer than `max_hold`."""
    server.answer = lambda _: reply.of(200, [("RateLimit-Policy", '"d";q=1;w=100000000')])
    queue = ApiQueue(lanes={"*": ()})
    async with client(queue, learn=True, max_hold=60) as paced:
        for _ in range(2):
            assert await paced.get(server.url()) == 200
    assert queue.stats.learnt == {}
    assert queue.stats.malformed == 2


async def test_limit_below_what_was_served(client, server, reply):
    """A server that has served 500 tokens has no limit of 300; 500 may be all that it has."""
    server.answer = lambda _: reply.of(200, [("X-RateLimit-Limit-Tokens", "300")])
    queue = ApiQueue(lanes={"*": ()})
    async with client(queue, learn=True, cost={"tokens": 500}) as paced:
        assert await paced.get(server.url()) == 200
        assert (queue.stats.learnt, queue.stats.malformed) == ({}, 1)
        server.answer = lambda _: reply.of(200, [("X-RateLimit-Limit-Tokens", "500")])
        assert await paced.get(server.url()) == 200
    assert [str(one) for one in queue.stats.learnt["127.0.0.1"]] == ["500 tokens/min burst 500"]
    assert queue.stats.malformed == 1


async def test_limit_that_holds_too_long(client, server, reply):
    """One call a day would hold the lane for a day: it is learnt where `max_hold` allows it."""
    server.answer = lambda _: reply.of(200, [("RateLimit-Policy", '"d";q=1;w=86400')])
    for max_hold, learnt in ((3600, set()), (86_400, {"127.0.0.1"})):
        queue = ApiQueue(lanes={"*": ()})
        async with client(queue, learn=True, max_hold=max_hold) as paced:
            assert await paced.get(server.url()) == 200
        assert set(queue.stats.learnt) == learnt
        assert queue.stats.malformed == (not learnt)


async def test_settling_holds_an_hour(client, server):
    """A true cost that would hold a lane for longer than that is not charged, but counted."""
    usage = {"tokens": 400_000}
    queue = ApiQueue(lanes={"*": "6000 tokens/min burst 6000"})
    settle = lambda request, response, _: usage  # noqa: E731 - short
    async with client(queue, cost={"tokens": 10}, settle=settle) as paced:
        assert await paced.get(server.url()) == 200
        assert (queue.stats.costs["tokens"], queue.stats.malformed) == (10, 1)
        usage["tokens"] = 300_000
        assert await paced.get(server.url()) == 200
        assert (queue.stats.costs["tokens"], queue.stats.malformed) == (300_010, 1)


async def test_other_units_are_settled(every_client, server, caplog):
    """Of a cost that is malformed in one unit, the others count; the log says why, and of whom."""
    queue = ApiQueue(lanes={"*": ["6000 tokens/min burst 6000", "60 pages/min"]}, name="mine")
    settle = lambda *_: {"tokens": 400_000, "pages": 7}  # noqa: E731 - short
    async with every_client(queue, cost={"tokens": 10, "pages": 1}, settle=settle) as paced:
        assert await paced.get(server.url()) == 200
    async with asyncio.timeout(10):  # that of a thread is settled in the loop's, soon
        while not queue.stats.malformed:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    assert queue.stats.costs == {"calls": 1, "tokens": 10, "pages": 7}
    (record,) = caplog.records
    assert record.message.startswith(
        "queue mine: malformed usage in a response: 400000 tokens, far above the limit "
        '"6000 tokens/min burst 6000". This usage is ignored, and the call keeps its reserved cost.'
    )


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        ("10000 units/day", 10_417),  # an hour is 416.7 of them
        ("10000 units/day burst 500", 10_417),
        ("24 units/day burst 100", 101),
        ("10000 units in any 1day", 10_417),
    ],
)
async def test_slow_limits_settle_honest_costs(client, server, limit, most):
    """A limit lets its amount through in its period, however long that is, or at once."""
    for used, is_true in ((most - 1, True), (most + 1, False)):
        queue = ApiQueue(lanes={"*": limit})
        settle = lambda *_, used=used: {"units": used}  # noqa: E731 - short
        async with client(queue, cost={"units": 1}, settle=settle) as paced:
            assert await paced.get(server.url()) == 200
        assert queue.stats.costs["units"] == (used if is_true else 1)
        assert queue.stats.malformed == (not is_true)


async def test_slow_limit_is_learnt(client, server, reply):
    """20 a day is a limit, although one call in 72 minutes is slower than `max_hold`."""
    server.answer = lambda _: reply.of(200, [("RateLimit-Policy", '"d";q=20;w=86400')])
    queue = ApiQueue(lanes={"*": ()})
    async with client(queue, learn=True) as paced:
        assert await paced.get(server.url()) == 200
    assert [str(one) for one in queue.stats.learnt["127.0.0.1"]] == ["20/day burst 20"]
    assert queue.stats.malformed == 0


async def test_key_that_is_a_pattern(every_client, server, reply):
    """A key may be the same text as a pattern: its answers are heard all the same."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "20")])
    queue = ApiQueue(lanes={"things-*": "60/min burst 60", "*": ()})
    async with every_client(queue, key=lambda _: "things-*") as paced:
        assert await paced.get(server.url()) == 429
    async with asyncio.timeout(10):
        while not queue.stats.throttled:  # noqa: ASYNC110 - of clients in threads, soon
            await asyncio.sleep(0.01)
    assert queue.stats.lanes["things-*"].throttled == 1
    assert 10 < queue.estimate(key="things-*") <= 20
    assert queue.estimate(key="other") == 0


async def test_never_sent_costs_no_tokens(every_client, server):
    """Without a connection, the server has counted nothing; the attempt is paced all the same."""
    queue = ApiQueue("1000 tokens/min burst 1000")
    url = server.url()
    await server.aclose()
    async with every_client(queue, cost={"tokens": 900}) as paced:
        for _ in range(3):
            with pytest.raises(paced.errors):
                await paced.get(url)
    async with asyncio.timeout(10):
        while queue.stats.costs["tokens"]:  # noqa: ASYNC110 - of clients in threads, soon
            await asyncio.sleep(0.01)
    assert queue.stats.costs == {"calls": 3, "tokens": 0}
    assert queue.estimate(cost={"tokens": 1000}) == 0


async def test_broken_connection_keeps_its_tokens(every_client, server):
    """Of one that was sent, nobody knows what the server has made of it."""
    server.answer = lambda _: b""  # hangs up
    queue = ApiQueue("1000 tokens/min burst 1000")
    async with every_client(queue, cost={"tokens": 400}) as paced:
        with pytest.raises(paced.errors):
            await paced.get(server.url())
    assert queue.stats.costs["tokens"] >= 400


async def test_size_of_zero_is_none(client, server, reply):
    """A quota of size 0 that has just served a call is none: nothing waits for it."""
    zero = [("x-ratelimit-limit-requests", "0"), ("x-ratelimit-remaining-requests", "0")]
    server.answer = lambda _: reply.of(200, zero)
    queue = ApiQueue(lanes={"*": ()})
    async with client(queue, learn=True) as paced:
        for _ in range(2):
            assert await paced.get(server.url()) == 200
    assert queue.estimate(key="127.0.0.1") == 0


async def test_reservation_is_asked_once(server, reply, blockbuster):
    """`reserve=` sees the request as it starts; at its end that figure is known."""
    blockbuster.deactivate()  # the client reads certificates
    used = b'{"usage": {"prompt_tokens": 4, "completion_tokens": 9}}'
    server.answer = lambda _: reply.of(200, [("Content-Type", "application/json")], used)
    for profile, tokens in ((llm.compatible, 13), (llm.openai, 54)):
        queue = ApiQueue(lanes={"*": ()})
        own = profile.with_(reserve=lambda request: request.body["max_tokens"])
        async with llm.client(queue, own) as client:
            asked = {"model": "m", "messages": [], "max_tokens": 50}
            await client.post(server.url("/v1/chat/completions"), json=asked)
        assert queue.stats.costs["tokens"] == tokens
