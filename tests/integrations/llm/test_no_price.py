"""Requests without a known highest price: refused before they are sent, with what to do."""

from __future__ import annotations

import pytest

from aioapiqueue import ApiQueueError
from aioapiqueue.integrations import llm
from tests.helpers.priced_calls import QUESTION, PricedCalls, chat_answer, per_million

pytestmark = pytest.mark.usefixtures("price_package")

CHAT = "/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
SPOKEN = ["text", "audio"]
AUDIO = {"type": "input_audio", "input_audio": {"format": "mp3", "data": "A" * 4000}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def said(*content):
    """Return messages with this content."""
    return [{"role": "user", "content": list(content)}]


async def refusal(profile, path, body, **more):
    """Return the text of the error that a request raises; nothing was sent or spent."""
    async with PricedCalls(profile, **more) as calls:
        with pytest.raises(llm.NoPrice) as caught:
            await calls.post(path, **body)
        stats = calls.queue.stats
        assert calls.requests == []
        assert not stats.costs.get("usd")
        assert (stats.waiting, stats.running, stats.released) == (0, 0, 0)
    assert isinstance(caught.value, ApiQueueError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


async def test_unknown_model_names_three_ways():
    """A name, a table, a function; and where the known models are listed."""
    body = {"model": "llama-9", "messages": QUESTION, "max_tokens": 9}
    text = await refusal(llm.openai, CHAT, body)
    assert "a request to the model 'llama-9' at api.openai.com/v1/chat/completions" in text
    assert 'profile.with_(prices={"llama-9": "known-model"})' in text
    assert 'prices={"llama-9": {"input": 2.5, "output": 10}}' in text
    assert "a function of request and usage" in text
    assert "aioapiqueue limits --prices" in text


async def test_prices_of_other_models():
    """They do not make this one known; nor does a name that the package does not have."""
    body = {"model": "llama-9", "messages": QUESTION, "max_tokens": 9}
    for prices in ({"llama-8*": "gpt-4o"}, {"llama-9": "gpt-4o-gigantic-unknown"}):
        profile = llm.compatible.with_(prices=prices)
        assert "no known price" in await refusal(profile, CHAT, body)


@pytest.mark.parametrize(
    ("profile", "path", "body", "field"),
    [
        (llm.openai, CHAT, {"messages": QUESTION}, "max_completion_tokens"),
        (llm.compatible, CHAT, {"messages": QUESTION}, "max_tokens"),
        (llm.openai, "/responses", {"input": "Why?"}, "max_output_tokens"),
        (llm.openai, CHAT, {"messages": QUESTION, "max_tokens": 0}, "max_completion_tokens"),
        (llm.openai, CHAT, {"messages": QUESTION, "max_tokens": None}, "max_completion_tokens"),
    ],
)
async def test_missing_maximum_is_named(profile, path, body, field):
    """The field that the endpoint has, or `max_output=`."""
    text = await refusal(profile, path, {"model": "gpt-4o", **body})
    assert f"set {field} in the request, or for all requests: profile.with_(max_output=" in text


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (CHAT, {"web_search_options": {"search_context_size": "low"}}, "it uses web search"),
        (CHAT, {"plugins": [{"id": "web"}]}, "it uses plugins"),
        (CHAT, {"models": ["gpt-4o", "gpt-5"]}, "it uses fallback models"),
        ("/responses", {"input": "?", "tools": [{"type": "web_search"}]}, "the tool 'web_search'"),
        ("/responses", {"input": "?", "tools": [{"type": "file_search"}]}, "'file_search'"),
        (CHAT, {"service_tier": "scale"}, "does not know service_tier='scale'"),
        (CHAT, {"messages": said(AUDIO)}, "no price for audio of this model"),
        (CHAT, {"modalities": ["text", "audio"]}, "no price for audio of this model"),
        ("/images/generations", {"prompt": "?"}, "not priced by the tokens of a prompt"),
        ("/audio/speech", {"input": "?"}, "not priced by the tokens of a prompt"),
        ("/batches", {"input_file_id": "f"}, "not priced by the tokens of a prompt"),
        ("/fine_tuning/jobs", {}, "not priced by the tokens of a prompt"),
    ],
)
async def test_unbounded_requests(path, body, words):
    """The price package does not know what they cost at most."""
    most = {"max_output_tokens": 9} if path == "/responses" else {"max_completion_tokens": 9}
    asked = {"model": "gpt-4o", **most, **({"messages": QUESTION} if path == CHAT else {}), **body}
    text = await refusal(llm.openai, path, asked)
    assert words in text
    assert "profile.with_(prices=lambda request, usage: ...)" in text


async def test_unreadable_bodies():
    """Such as a file that is read as it is sent."""

    async def pieces():
        yield b"{}"

    async with PricedCalls(llm.openai) as calls:
        for content in (b"no JSON", b"[1]", pieces()):
            with pytest.raises(llm.NoPrice, match="its body is not a JSON object in memory"):
                await calls.client.post(f"https://api.openai.com/v1{CHAT}", content=content)
    assert calls.requests == []


async def test_deployments_need_a_name():
    """Azure's deployments have names of the user, even if that of a model."""
    url = "https://me.openai.azure.com/openai"
    path = "/deployments/gpt-4o/chat/completions"
    body = {"messages": QUESTION, "max_tokens": 9}
    async with PricedCalls(llm.azure) as calls:
        with pytest.raises(llm.NoPrice, match=r'prices=\{"gpt-4o": "known-model"\}'):
            await calls.post(path, base=url, **body)
    named = llm.azure.with_(prices={"gpt-4o": "gpt-4o"})
    async with PricedCalls(named, chat_answer(20, 5)) as calls:
        await calls.post(path, base=url, **body)
    assert calls.spent == per_million(20 * 2.5 + 5 * 10)


async def test_unknown_window_needs_a_table():
    """Content of unknown size may fill a window that the package does not know."""
    body = {"model": "llama-3.3-70b-versatile", "messages": said(IMAGE), "max_tokens": 9}
    file = {"type": "file", "file": {"file_id": "f"}}
    async with PricedCalls(llm.groq, chat_answer(20, 5)) as calls:
        await calls.post(CHAT, **body)  # an image has a maximum
        with pytest.raises(llm.NoPrice, match=r"has a document, .* whose size is unknown, and the"):
            await calls.post(CHAT, **{**body, "messages": said(file)})
    assert len(calls.requests) == 1
    table = {"input": 1, "output": 10, "context_window": 1000}
    own = llm.groq.with_(prices={"llama*": table})
    async with PricedCalls(own, chat_answer(20, 5)) as calls:
        await calls.post(CHAT, **{**body, "messages": said(file)})
    assert calls.reserved[0] == per_million(1000 * 1 + 9 * 10)


async def test_own_tools_are_no_reason():
    """Tools that the user's program runs add only their text."""
    async with PricedCalls(llm.openai, chat_answer(20, 5)) as calls:
        await calls.chat(max_completion_tokens=9, tools=[TOOL])
    assert calls.spent == per_million(20 * 2.5 + 5 * 10)


@pytest.mark.parametrize(
    ("asked", "most"), [({}, 10), ({"modalities": ["text"]}, 10), ({"modalities": SPOKEN}, 64)]
)
async def test_audio_with_a_price(asked, most):
    """Its tokens are reserved and charged at the price of audio; in responses if asked for."""
    details = {"prompt_tokens_details": {"audio_tokens": 15}}
    usage = {**chat_answer(20, 5)["usage"], **details}
    async with PricedCalls(llm.openai, chat_answer(usage=usage)) as calls:
        for maximum in (9, 1009):
            ask = {"messages": said(AUDIO), "max_completion_tokens": maximum, **asked}
            await calls.chat(model="gpt-audio", **ask)
    assert calls.reserved[0] >= 4000 / 16 * 32 / 1e6
    assert calls.reserved[1] - calls.reserved[0] == pytest.approx(1000 * most / 1e6)
    assert calls.spent == per_million(2 * (5 * 2.5 + 15 * 32 + 5 * 10))


@pytest.mark.parametrize(
    "body",
    [{"service_tier": "scale"}, {"messages": said(AUDIO)}, {"modalities": ["text", "audio"]}],
)
async def test_own_prices_are_taken(body):
    """A table of the user is right for all requests of the model."""
    profile = llm.openai.with_(prices={"gpt-4o": {"input": 3, "output": 7}})
    async with PricedCalls(profile, chat_answer(20, 5)) as calls:
        await calls.chat(max_completion_tokens=100, **body)
    assert calls.spent == per_million(20 * 3 + 5 * 7)


async def test_own_context_window():
    """A table may have it: then it bounds content of unknown size, and tools of the provider."""
    table = {"input": 3, "output": 7, "context_window": 5000}
    profile = llm.openai.with_(prices={"gpt-4o": table})
    web = {"web_search_options": {"search_context_size": "low"}}
    async with PricedCalls(profile, chat_answer(20, 5)) as calls:
        await calls.chat(max_completion_tokens=100, **web)
    assert calls.reserved == [per_million(5000 * 3 + 100 * 7)]
    assert calls.spent == per_million(20 * 3 + 5 * 7)
