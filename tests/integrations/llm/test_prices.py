"""What priced calls reserve and spend: service tiers, streams, usage that is missing or wrong."""

from __future__ import annotations

import json

import httpx2
import pytest

from aioapiqueue import LimitExceeded
from aioapiqueue.integrations import llm
from tests.helpers.priced_calls import (
    BUDGET,
    QUESTION,
    PricedCalls,
    chat_answer,
    per_million,
    stream_answer,
)

pytestmark = pytest.mark.usefixtures("price_package")

OWN = llm.openai.with_(prices={"*": {"input": 1, "output": 10}})
"""Prices that make the reserved output stand out."""


async def reserved(profile, **body):
    """Return the USD that a call reserves."""
    async with PricedCalls(profile) as calls:
        await calls.chat(**{"max_completion_tokens": 100, **body})
    return calls.reserved[0]


async def spent(profile, answer, **body):
    """Return the USD that a call reserves, those that it has spent, and the queue's figures."""
    async with PricedCalls(profile, answer) as calls:
        await calls.chat(**{"max_completion_tokens": 100, **body})
        stats = calls.queue.stats
        assert stats.budgets[BUDGET].reserved == 0
    return calls.reserved[0], calls.spent, stats


async def test_cost_is_reserved_then_settled():
    """Between its start and its end, the budget has reserved the most; then it has spent less."""
    before, after, stats = await spent(llm.openai, chat_answer(20, 5))
    # At least as many tokens as the bytes of the question, and all of the maximum.
    assert before > (4 * 2.5 + 100 * 10) / 1e6
    assert after == per_million(20 * 2.5 + 5 * 10)
    assert stats.budgets[BUDGET].spent == after
    assert stats.overdrawn == stats.malformed == 0
    assert stats.prices.startswith("genai-prices 0.")


async def test_own_prices_have_no_source():
    """`stats.prices` names the package only where it priced a call."""
    _, _, stats = await spent(OWN, chat_answer())
    assert stats.prices == ""


async def test_cached_prompt_is_cheaper():
    """Tokens read from the cache have their price."""
    details = {"cached_tokens": 12}
    usage = {**chat_answer(20, 5)["usage"], "prompt_tokens_details": details}
    _, after, _ = await spent(llm.openai, chat_answer(usage=usage))
    assert after == per_million(8 * 2.5 + 12 * 1.25 + 5 * 10)


async def test_priority_is_reserved():
    """A request that asks for a tier reserves its price, which is 1.7 times as much."""
    usual = await reserved(llm.openai)
    assert await reserved(llm.openai, service_tier="priority") == pytest.approx(1.7 * usual)
    assert await reserved(llm.openai, service_tier="default") == usual
    assert await reserved(llm.openai, service_tier="auto") == usual


@pytest.mark.parametrize(
    ("asked", "served", "read", "made"),
    [
        ("priority", "priority", 4.25, 17),
        ("priority", "default", 2.5, 10),  # OpenAI serves what it has no room for so
        ("priority", None, 4.25, 17),
        ("auto", "default", 2.5, 10),
        (None, "default", 2.5, 10),
        (None, None, 2.5, 10),
    ],
)
async def test_tier_that_served_is_charged(asked, served, read, made):
    """The response states it; if not, the tier that was asked for is."""
    more = {} if served is None else {"service_tier": served}
    body = {} if asked is None else {"service_tier": asked}
    before, after, stats = await spent(llm.openai, chat_answer(20, 5, **more), **body)
    assert after == per_million(20 * read + 5 * made)
    assert after < before
    assert stats.overdrawn == 0


async def test_unexpected_tier_is_overdrawn():
    """A project may use another tier by default: it is charged, though it was not reserved."""
    answer = chat_answer(300, 100, service_tier="priority")
    before, after, stats = await spent(llm.openai, answer)
    assert after == per_million(300 * 4.25 + 100 * 17)
    assert after > before
    assert stats.overdrawn == 1


async def test_flex_may_cost_the_usual():
    """It is reserved at the usual price, and charged as the response says."""
    usual = await reserved(llm.openai, model="gpt-5")
    ask = {"model": "gpt-5", "service_tier": "flex"}
    for served, factor in (("flex", 0.5), ("default", 1)):
        before, after, _ = await spent(llm.openai, chat_answer(20, 5, service_tier=served), **ask)
        assert before == usual
        assert after == per_million(factor * (20 * 1.25 + 5 * 10))


async def test_tier_of_a_stream():
    """Each event of a stream states it."""
    delta = {"choices": [{"index": 0, "delta": {"content": "Hi!"}}], "service_tier": "default"}
    answer = stream_answer(delta, chat_answer(20, 5, choices=[], service_tier="default"))
    _, after, _ = await spent(llm.openai, answer, stream=True, service_tier="priority")
    assert after == per_million(20 * 2.5 + 5 * 10)


async def test_fast_claude_is_reserved():
    """Anthropic's fast mode costs twice as much, and the usage says whether it served."""
    found = []
    for asked, served in (("fast", "fast"), ("fast", "standard"), (None, None)):
        more = {} if asked is None else {"speed": asked}
        usage = {"input_tokens": 20, "output_tokens": 5, **({"speed": served} if served else {})}
        async with PricedCalls(llm.anthropic, {"type": "message", "usage": usage}) as calls:
            await calls.claude(model="claude-opus-4-8", **more)
        found.append((calls.reserved[0], calls.spent))
    (fast, as_fast), (fast_too, as_usual), (usual, plain) = found
    assert fast == fast_too == pytest.approx(2 * usual, abs=2e-9)
    assert as_fast == per_million(20 * 10 + 5 * 50)
    assert as_usual == plain == per_million(20 * 5 + 5 * 25)


@pytest.mark.parametrize(
    ("base", "factor"),
    [
        ("https://api.openai.com/v1", 1),
        ("https://eu.api.openai.com/v1", 1.1),
        ("https://us.api.openai.com/v1", 1.1),
    ],
)
async def test_regional_hosts_cost_more(base, factor):
    """OpenAI charges a tenth more there."""
    async with PricedCalls(llm.openai, chat_answer(20, 5)) as calls:
        await calls.chat(max_completion_tokens=100)
        usual = calls.reserved[0]
        before = calls.spent
        await calls.chat(base=base, max_completion_tokens=100)
    assert calls.reserved[1] == pytest.approx(factor * usual, abs=2e-9)
    assert calls.spent - before == per_million(factor * (20 * 2.5 + 5 * 10))


@pytest.mark.parametrize(("place", "factor"), [("us", 1.1), ("global", 1)])
async def test_regional_claude_costs_more(place, factor):
    """Anthropic charges a tenth more for inference in one country."""
    usage = {"input_tokens": 20, "output_tokens": 5}
    async with PricedCalls(llm.anthropic, {"type": "message", "usage": usage}) as calls:
        await calls.claude(inference_geo=place)
    assert calls.spent == per_million(factor * (20 * 1 + 5 * 5))


async def test_own_prices_have_no_surcharge():
    """The user's prices are what is charged, at any host."""
    async with PricedCalls(OWN, chat_answer(20, 5)) as calls:
        await calls.chat(base="https://eu.api.openai.com/v1", max_completion_tokens=100)
    assert calls.spent == per_million(20 * 1 + 5 * 10)


@pytest.mark.parametrize(
    ("path", "body", "usage", "expected"),
    [
        (
            "/embeddings",
            {"model": "text-embedding-3-small", "input": ["Why?", "How?"]},
            {"prompt_tokens": 20, "total_tokens": 20},
            20 * 0.02,
        ),
        (
            "/completions",
            {"model": "gpt-3.5-turbo-instruct", "prompt": "Why?", "max_tokens": 100},
            {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
            20 * 1.5 + 5 * 2,
        ),
        (
            "/responses",
            {"model": "gpt-4o", "input": "Why?", "max_output_tokens": 100},
            {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25},
            20 * 2.5 + 5 * 10,
        ),
    ],
)
async def test_other_endpoints_of_openai(path, body, usage, expected):
    """Embeddings have no output, so that they need no maximum."""
    async with PricedCalls(llm.openai, {"usage": usage}) as calls:
        await calls.post(path, **body)
        assert calls.queue.stats.malformed == 0
    assert calls.spent == per_million(expected)
    assert calls.spent < calls.reserved[0]


@pytest.mark.parametrize("path", ["/messages/count_tokens", "/moderations", "/files"])
async def test_free_requests_cost_nothing(path):
    """They need no price of their model."""
    async with PricedCalls(llm.anthropic, {"input_tokens": 20}) as calls:
        await calls.post(path, model="unknown", messages=[])
        await calls.client.get("https://api.anthropic.com/v1/models")
    assert len(calls.requests) == 2
    assert calls.spent == 0


CLAUDE = "https://api.anthropic.com/v1/messages"
ASKED = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": QUESTION, "stream": True}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi!"}}]}
CANDIDATE = {"candidates": [{"content": {"parts": [{"text": "Hi!"}]}}]}


def gemini_usage(made, **more):
    """Return an event of Gemini's with the usage so far."""
    usage = {"promptTokenCount": 20, "candidatesTokenCount": made}
    return {**CANDIDATE, "usageMetadata": usage, **more}


async def test_stream_without_usage_keeps_all():
    """OpenAI states it only with `include_usage`; what has arrived may be less than is billed."""
    before, after, stats = await spent(OWN, stream_answer(CHUNK), stream=True)
    assert after == before == stats.budgets[BUDGET].spent
    assert stats.malformed == 0


async def test_start_of_message_settles_input():
    """Anthropic states the input at the start; if the stream is cut, the output stays reserved."""
    usage = {"input_tokens": 20, "output_tokens": 1}
    start = {"type": "message_start", "message": {"type": "message", "usage": usage}}
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi!"}}
    end = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5}}
    for events, made in (((start, delta), 100), ((start, delta, end), 5)):
        async with PricedCalls(llm.anthropic, stream_answer(*events)) as calls:
            await calls.claude(stream=True)
        assert calls.spent == per_million(20 * 1 + made * 5)


async def test_usage_so_far_settles_nothing():
    """Gemini states it in each event; only the one with a reason to finish has the whole."""
    whole = gemini_usage(5)
    whole["candidates"] = [{**whole["candidates"][0], "finishReason": "STOP"}]
    config = {"maxOutputTokens": 100}
    for events, made in (((gemini_usage(3),), 100), ((gemini_usage(3), whole), 5)):
        async with PricedCalls(llm.gemini, stream_answer(*events)) as calls:
            await calls.gemini("streamGenerateContent", generationConfig=config)
        assert calls.spent == per_million(20 * 0.1 + made * 0.4)


async def test_stream_left_early_keeps_output():
    """The provider may bill what it had generated when the client went away."""

    async def pieces():
        usage = {"input_tokens": 20, "output_tokens": 1}
        start = {"type": "message_start", "message": {"type": "message", "usage": usage}}
        for one in (start, {"type": "message_delta", "usage": {"output_tokens": 5}}):
            yield stream_answer(one).content

    events = {"content-type": "text/event-stream"}
    found = []
    for read in (0, 1, 2):
        answer = httpx2.Response(200, content=pieces(), headers=events)
        async with PricedCalls(llm.anthropic, answer) as calls:
            request = calls.client.build_request("POST", CLAUDE, json=ASKED)
            response = await calls.client.send(request, stream=True)
            body = response.aiter_raw()
            for _ in range(read):
                await anext(body)
            await response.aclose()
            await body.aclose()
            assert calls.queue.stats.budgets[BUDGET].reserved == 0
        found.append(calls.spent)
    assert found == [calls.reserved[0], per_million(20 + 100 * 5), per_million(20 + 5 * 5)]


@pytest.mark.parametrize(
    ("read", "made", "kept"),
    [
        (20, 100 + 10 + 16, ""),
        (20, 100 + 10 + 17, "output"),
        (20, 1000, "output"),
        (20, 10**6, "output"),
        (20, 10**10, "output"),
        (40_000, 5, "input"),
        (40_000, 200, "both"),
    ],
)
async def test_impossible_usage_keeps_its_part(read, made, kept):
    """Input stays reserved, so that a faulty server neither frees nor uses up the budget.

    Output above the maximum of the request is charged, as the provider charges it: up to the most
    that any model generates.
    """
    before, after, stats = await spent(OWN, chat_answer(read, made))
    assert stats.malformed == (1 if kept else 0)
    output = min(made, 200_000)
    expected = before - (100 - output) * 10 / 1e6
    if kept not in ("input", "both"):
        expected = (read * 1 + output * 10) / 1e6
    assert after == pytest.approx(expected, abs=2e-9)
    assert stats.overdrawn == (1 if after > before else 0)


async def test_model_generates_no_more_than_its_context():
    """For all responses together, if a request asks for several."""
    profile = llm.openai.with_(
        prices={"gpt-4o": {"input": 1, "output": 10, "context_window": 8000}}
    )
    async with PricedCalls(profile, chat_answer(20, 10**6)) as calls:
        await calls.chat(max_completion_tokens=100, n=3)
        assert calls.spent == per_million(20 + 3 * 8000 * 10)


@pytest.mark.parametrize("value", [-5, 1.5, "many", True, float("inf")])
@pytest.mark.parametrize("streams", [False, True])
async def test_usage_that_is_no_number_is_counted(value, streams):
    """The call keeps what it has reserved, and `stats.malformed` shows why it has spent so much."""
    usage = {"prompt_tokens": value, "completion_tokens": value}
    data = json.dumps({"usage": usage}).encode()
    kind, content = (
        ("text/event-stream", b"data: %b\n\n") if streams else ("application/json", b"%b")
    )
    answer = httpx2.Response(200, headers={"content-type": kind}, content=content % data)
    before, after, stats = await spent(OWN, answer)
    assert (after, stats.malformed) == (before, 1)


async def test_budget_is_used_up():
    """The calls that have no room are not sent; the others spend at most the budget."""
    limit = "0.004 usd in all"
    async with PricedCalls(OWN, chat_answer(20, 100), limits=(limit,)) as calls:
        with pytest.raises(LimitExceeded, match=limit):
            for _ in range(10):
                await calls.chat(max_completion_tokens=100)
        sent = len(calls.requests)
        assert calls.queue.stats.refused == 1
    assert calls.spent == per_million(sent * (20 + 1000))
    assert calls.spent <= 0.004 < calls.spent + calls.reserved[0]


async def test_lane_prices_only_its_calls():
    """A limit in USD of one model: the others need neither a price nor a maximum."""
    lanes = {"gpt-4o": "1 usd in all", "*": ()}
    async with PricedCalls(llm.openai, chat_answer(20, 5), limits=(), lanes=lanes) as calls:
        await calls.chat(model="unknown")
        assert calls.queue.stats.prices == ""
        await calls.chat(max_completion_tokens=100)
        with pytest.raises(llm.NoPrice):
            await calls.chat()
        stats = calls.queue.stats
        assert stats.lanes["gpt-4o"].budgets["1 usd in all"].spent == per_million(100)
    assert calls.spent == per_million(100)
    assert len(calls.requests) == 2


async def test_limit_that_is_added_later():
    """Calls are priced from then on, and no more once it is taken away."""
    async with PricedCalls(llm.openai, chat_answer(20, 5), limits=("100/s",)) as calls:
        await calls.chat()
        assert calls.spent is None
        calls.queue.set_rate("100/s", "1 usd in all")
        with pytest.raises(llm.NoPrice):
            await calls.chat()
        await calls.chat(max_completion_tokens=100)
        assert calls.queue.stats.budgets["1 usd in all"].spent == per_million(100)
        calls.queue.set_rate("100/s")
        await calls.chat()
    assert len(calls.requests) == 3
