"""What may cost more than the tokens of a request: it is refused, or priced by what is known."""

from __future__ import annotations

import json

import pytest

from aioapiqueue.integrations import llm
from tests.helpers.priced_calls import PricedCalls, chat_answer, per_million

pytestmark = pytest.mark.usefixtures("price_package")
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/models"
OPUS = {"model": "claude-opus-4-6", "max_tokens": 10}


def said(content):
    """Return a message with this content."""
    return [{"role": "user", "content": content if isinstance(content, str) else [content]}]


async def reserved(profile, ask):
    """Return the USD that a call reserves, which is made by this function of the calls."""
    async with PricedCalls(profile, chat_answer()) as calls:
        await ask(calls)
    return calls.reserved[0]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"web_search_options": {}}, "web search"),
        ({"model": "gpt-4o-search-preview"}, "may search the web"),
        ({"prompt": {"id": "p"}}, "a stored prompt"),
    ],
)
async def test_searches_are_refused(body, why):
    """Their fee is not a price of tokens; `web_search_options: {}` asks for one, too."""
    with pytest.raises(llm.NoPrice, match=why):
        await reserved(llm.openai, lambda calls: calls.chat(max_completion_tokens=9, **body))


async def test_unset_fields_ask_for_nothing():
    """Some programs send all fields, most of them as null."""
    plain = await reserved(llm.openai, lambda calls: calls.chat(max_completion_tokens=9))
    unset = {"web_search_options": None, "container": None}
    assert plain == await reserved(
        llm.openai, lambda calls: calls.chat(max_completion_tokens=9, **unset)
    )


async def test_images_as_output_are_refused():
    """No maximum of a response includes its images."""
    config = {"maxOutputTokens": 100}
    with pytest.raises(llm.NoPrice, match="does not include its images"):
        await reserved(
            llm.gemini,
            lambda calls: calls.gemini(model="gemini-2.5-flash-image", generationConfig=config),
        )


async def test_region_of_the_workspace_is_charged():
    """Anthropic's response states it; the price package does not know the surcharge."""
    usage = {"input_tokens": 20, "output_tokens": 5, "inference_geo": "us"}
    async with PricedCalls(llm.anthropic, {"usage": usage}) as calls:
        await calls.claude(**OPUS)
    assert calls.spent == per_million(1.1 * (20 * 5 + 5 * 25))


async def test_described_tools_count_each():
    """The provider adds its description of Claude's own tools to the prompt."""
    tools = [{"type": "bash_20250124", "name": "bash"}]
    one = await reserved(llm.anthropic, lambda calls: calls.claude(**OPUS, tools=tools))
    two = await reserved(llm.anthropic, lambda calls: calls.claude(**OPUS, tools=tools * 2))
    assert two - one > 1000 * 5 / 1e6


async def test_usage_above_the_window_is_settled():
    """A model may have a larger window than the package knows."""
    part = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    usage = {"input_tokens": 1_200_000, "output_tokens": 5}
    async with PricedCalls(llm.anthropic, {"usage": usage}) as calls:
        await calls.claude(**OPUS, messages=said(part))
    assert calls.spent == per_million(1_200_000 * 5 + 5 * 25)


@pytest.mark.parametrize("method", ["embedContent", "batchEmbedContents"])
async def test_embeddings_of_gemini_have_prices(method):
    """In the form in which its SDK sends them."""
    content = {"parts": [{"text": "Hi"}]}
    one = {"model": "models/gemini-embedding-001", "content": content, "taskType": "X"}
    body = {"requests": [one]} if method.startswith("batch") else one

    async def ask(calls):
        url = f"{GOOGLE}/gemini-embedding-001:{method}"
        await calls.client.post(url, json=body)

    assert 0 < await reserved(llm.gemini, ask) < 1000 * 0.15 / 1e6


async def test_reasoning_is_bounded_by_its_text():
    """Items that are sent back encrypted; those that OpenAI has stored may be of any size."""
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    body = {"model": "gpt-5.1", "max_output_tokens": 10}
    stored = await reserved(
        llm.openai, lambda calls: calls.post("/responses", **body, input=[item])
    )
    sent = {**item, "encrypted_content": "x" * 1000}
    some = await reserved(llm.openai, lambda calls: calls.post("/responses", **body, input=[sent]))
    assert some < stored / 50


async def test_one_spelling_of_the_maximum_is_set():
    """Gemini's fields have two; and half of a surrogate pair is valid JSON."""
    profile = llm.gemini.with_(max_output=7)
    contents = [{"parts": [{"text": "\ud83d"}]}]
    body = json.dumps({"contents": contents, "generation_config": {"temperature": 0}})
    async with PricedCalls(profile, chat_answer()) as calls:
        await calls.client.post(
            f"{GOOGLE}/gemini-2.5-flash:generateContent",
            content=body,
            headers={"content-type": "application/json"},
        )
    sent = json.loads(calls.requests[0].content)
    assert sent["generation_config"] == {"temperature": 0, "max_output_tokens": 7}
    assert "generationConfig" not in sent


INVOKED = json.dumps(
    {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
    }
)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"serviceTier": "priority"}, "service_tier='priority'"),
        ({"performanceConfigLatency": "optimized"}, "optimized latency"),
        ({"guardrailIdentifier": "g"}, "a guardrail"),
    ],
)
def test_settings_beside_a_body_are_read(more, why):
    """Of `InvokeModel`, whose parameters have them beside the JSON of the model."""
    model = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
    parameters = {"modelId": model, "body": INVOKED}

    def price(**more):
        asked = llm.bedrock.asked_for(
            "bedrock-runtime", "InvokeModel", "eu-west-1", {**parameters, **more}
        )
        return llm.bedrock.priced(asked[2], asked[1], 0)[1]["usd"]

    assert price() > 0
    with pytest.raises(llm.NoPrice, match=why):
        price(**more)


def test_other_operations_of_bedrock_are_refused():
    """But for those that cost nothing, and those of other services."""
    assert llm.bedrock.cost_outside("bedrock-runtime", "CountTokens", "eu-west-1") == 0
    assert llm.bedrock.cost_outside("s3", "GetObject", "eu-west-1") == 0
    with pytest.raises(llm.NoPrice, match="eu-west-1 ApplyGuardrail has no price"):
        llm.bedrock.cost_outside("bedrock-runtime", "ApplyGuardrail", "eu-west-1")
