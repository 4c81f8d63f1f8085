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
