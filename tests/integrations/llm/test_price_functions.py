"""Prices by a function of the user, and what calls cost that fail."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers.priced_calls import (
    BUDGET,
    QUESTION,
    PricedCalls,
    chat_answer,
    stream_answer,
)

pytestmark = pytest.mark.usefixtures("price_package")

OWN = llm.openai.with_(prices={"*": {"input": 1, "output": 10}})
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi!"}}]}


def priced_by(function):
    """Return a profile with this function."""
    return llm.openai.with_(prices=function)


async def test_function_gets_request_and_usage():
    """Before the call is sent and when it ends, then without the API key."""
    seen = []

    def price(request, usage):
        seen.append((request, usage))
        return 0.5 if usage is None else 0.25

    async with PricedCalls(priced_by(price), chat_answer(20, 5)) as calls:
        await calls.chat(model="mine", tools=[{"type": "web_search"}])  # neither is its concern
    assert (calls.reserved, calls.spent) == ([0.5], 0.25)
    (before, none), (after, usage) = seen
    assert none is None
    assert usage == {"input_tokens": 20, "output_tokens": 5}
    for request in (before, after):
        assert request.model == "mine"
        assert request.body["messages"] == QUESTION
        assert request.path == "/v1/chat/completions"
    assert before.headers["content-type"] == "application/json"
    assert after.headers == {}


@pytest.mark.parametrize("limits", [(BUDGET,), ("100/s",)])
async def test_text_is_not_kept(limits):
    """A pending response keeps neither the text of its prompt nor its API key in memory."""
    async with PricedCalls(OWN, limits=limits) as calls:
        await calls.chat(max_completion_tokens=9)
    kept = calls.requests[0].extensions["aioapiqueue.llm"]
    assert (kept.body, kept.headers) == ({}, {})


async def test_function_prices_other_endpoints():
    """Images by their number, for example: a call without usage keeps what it has reserved."""

    def price(request, usage):
        return 0.04 * request.body["n"] if usage is None else None

    async with PricedCalls(priced_by(price), {"data": []}) as calls:
        await calls.post("/images/generations", model="gpt-image", prompt="?", n=2)
    assert calls.spent == 0.08


async def test_function_returns_none():
    """First: the request has no price. At the end: it keeps what it has reserved."""
    async with PricedCalls(priced_by(lambda *_: None)) as calls:
        with pytest.raises(llm.NoPrice, match="the function prices= returned None for it"):
            await calls.chat()
    assert calls.requests == []
    async with PricedCalls(priced_by(lambda _, usage: 0.5 if usage is None else None)) as calls:
        await calls.chat()
        assert calls.queue.stats.budgets[BUDGET].spent == 0.5


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), "0.5"])
async def test_function_returns_no_amount(amount):
    """It is refused before the request is sent."""
    async with PricedCalls(priced_by(lambda *_: amount)) as calls:
        with pytest.raises((TypeError, ValueError), match="the result of prices="):
            await calls.chat()
        assert (calls.requests, calls.queue.running) == ([], 0)


async def test_function_raises_first():
    """Its error reaches the caller, and nothing is sent."""
    async with PricedCalls(priced_by(lambda *_: {}["mine"])) as calls:
        with pytest.raises(KeyError, match="mine"):
            await calls.chat()
        assert (calls.requests, calls.queue.running) == ([], 0)


@pytest.mark.parametrize("wrong", [lambda: {}["mine"], lambda: -1, lambda: "0.5"])
async def test_function_raises_at_the_end(wrong):
    """The caller has the response; the loop reports the error; the call keeps what it reserved."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    profile = priced_by(lambda _, usage: 0.5 if usage is None else wrong())
    async with PricedCalls(profile, chat_answer(20, 5)) as calls:
        response = await calls.chat()
        assert response.json()["usage"]["prompt_tokens"] == 20
        use = calls.queue.stats.budgets[BUDGET]
    assert (use.spent, use.reserved) == (0.5, 0)
    assert len(errors) == 1
    assert "settle" in errors[0]["message"]


async def test_function_sees_no_estimates():
    """A stream without stated usage, or impossible usage, keeps what it has reserved."""
    seen = []

    def price(_, usage):
        seen.append(usage)
        return 0.5

    for answer in (stream_answer(CHUNK), chat_answer(10**8, 20)):
        async with PricedCalls(priced_by(price), answer) as calls:
            await calls.chat(max_completion_tokens=100)
        assert calls.spent == 0.5
    assert seen == [None, None]


@pytest.mark.parametrize(("made", "billed"), [(1000, 1000), (10**6, 200_000)])
async def test_function_sees_output_above_the_maximum(made, billed):
    """The provider charges what it has generated; no model generates more than 200,000 tokens."""
    profile = priced_by(lambda _, usage: 0.5 if usage is None else usage["output_tokens"] / 1e5)
    async with PricedCalls(profile, chat_answer(20, made)) as calls:
        await calls.chat(max_completion_tokens=100)
    assert calls.spent == billed / 1e5


@pytest.mark.parametrize(
    ("status", "is_free"),
    [
        (400, True),
        (401, True),
        (403, True),
        (404, True),
        (408, False),
        (422, True),
        (429, True),
        (500, False),
        (502, False),
        (503, False),
        (504, False),
        (529, True),
    ],
)
@pytest.mark.parametrize("profile", [llm.openai, llm.anthropic])
async def test_failed_calls(profile, status, is_free):
    """A refused call is free; after an error of the server, the provider may have served it."""
    async with PricedCalls(profile, status) as calls:
        ask = calls.claude() if profile is llm.anthropic else calls.chat(max_completion_tokens=100)
        assert (await ask).status_code == status
        use = calls.queue.stats.budgets[BUDGET]
    assert (use.spent, use.reserved) == (0 if is_free else calls.reserved[0], 0)
    assert calls.spent == use.spent


async def test_rejected_calls_at_azure():
    """Its content filter answers 400 and may charge the prompt."""
    for status, is_free in ((400, False), (404, True)):
        profile = llm.azure.with_(prices={"mine": "gpt-4o"})
        async with PricedCalls(profile, status) as calls:
            path = "/openai/deployments/mine/chat/completions"
            base = "https://me.openai.azure.com"
            await calls.post(path, base=base, messages=QUESTION, max_tokens=100)
        assert calls.spent == (0 if is_free else calls.reserved[0])


@pytest.mark.parametrize(
    ("error", "is_free"),
    [
        (httpx2.ConnectError("refused"), True),
        (httpx2.ConnectTimeout("late"), True),
        (httpx2.PoolTimeout("late"), True),
        (httpx2.ReadTimeout("late"), False),
        (httpx2.RemoteProtocolError("cut"), False),
    ],
)
async def test_lost_connections(error, is_free):
    """A call that never got a connection is free; one that lost it may have been served."""
    async with PricedCalls(llm.openai, error) as calls:
        with pytest.raises(type(error)):
            await calls.chat(max_completion_tokens=100)
        use = calls.queue.stats.budgets[BUDGET]
    assert (use.spent, use.reserved) == (0 if is_free else calls.reserved[0], 0)


async def test_cancelled_in_flight():
    """The provider may go on: the call keeps what it has reserved."""

    class Slow(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, _):
            await asyncio.sleep(10)

    queue = ApiQueue(BUDGET)
    async with llm.client(queue, llm.openai, transport=Slow()) as client:
        body = {"model": "gpt-4o", "messages": QUESTION, "max_tokens": 100}
        url = "https://api.openai.com/v1/chat/completions"
        task = asyncio.create_task(client.post(url, json=body))
        await asyncio.sleep(1)
        reserved = queue.stats.budgets[BUDGET].reserved
        task.cancel()
        await asyncio.wait([task])
        assert queue.stats.budgets[BUDGET].spent == reserved > 0.001
    assert queue.stats.budgets[BUDGET].reserved == 0


async def test_cancelled_while_it_waits():
    """It has spent nothing."""
    async with PricedCalls(llm.openai, limits=(BUDGET, "1/h")) as calls:
        await calls.chat(max_completion_tokens=100)
        before = calls.queue.stats.budgets[BUDGET]
        task = asyncio.create_task(calls.chat(max_completion_tokens=100))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert calls.queue.stats.budgets[BUDGET] == before
    assert len(calls.requests) == 1
