"""pydantic-ai's models with a paced HTTP client, under a limit in USD."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import LimitExceeded
from aioapiqueue.integrations import llm
from tests.helpers.lazily import lazily
from tests.helpers.priced_calls import PricedCalls, chat_answer, per_million

ai = lazily("pydantic_ai")
by_openai, by_anthropic = (lazily(f"pydantic_ai.models.{name}") for name in ("openai", "anthropic"))
of_openai, of_anthropic = (
    lazily(f"pydantic_ai.providers.{name}") for name in ("openai", "anthropic")
)
MESSAGE = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi!"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 20, "output_tokens": 5},
}


def chat_model(http_client):
    """Return a model of OpenAI's chat completions."""
    provider = of_openai.OpenAIProvider(api_key="k", http_client=http_client)
    return by_openai.OpenAIChatModel("gpt-4o", provider=provider)


def responses_model(http_client):
    """Return a model of OpenAI's responses."""
    provider = of_openai.OpenAIProvider(api_key="k", http_client=http_client)
    return by_openai.OpenAIResponsesModel("gpt-4o", provider=provider)


def claude(http_client):
    """Return a model of Anthropic's."""
    provider = of_anthropic.AnthropicProvider(api_key="k", http_client=http_client)
    return by_anthropic.AnthropicModel("claude-haiku-4-5", provider=provider)


MODELS = {
    "openai": (llm.openai, chat_model, chat_answer(20, 5), 20 * 2.5 + 5 * 10),
    "openai responses": (llm.openai, responses_model, {}, 0),
    "anthropic": (llm.anthropic, claude, MESSAGE, 20 * 1 + 5 * 5),
}


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Import the models, and the price package, before a loop would wait for them."""
    llm.openai.load_prices()

    async def warm_up():
        for profile, model, answer, _ in MODELS.values():
            async with PricedCalls(profile, answer, limits=()) as calls:
                agent = ai.Agent(model(calls.client))
                await asyncio.gather(agent.run("?"), return_exceptions=True)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(warm_up())


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_agents_are_charged(name):
    """A run costs what its responses state."""
    profile, model, answer, expected = MODELS[name]
    async with PricedCalls(profile, answer) as calls:
        agent = ai.Agent(model(calls.client), model_settings={"max_tokens": 100})
        assert (await agent.run("Why?")).output == "Hi!"
    assert calls.spent == per_million(expected)


@pytest.mark.parametrize("name", MODELS)
async def test_used_up_budget_is_found(name):
    """In the error of the agent, whatever pydantic-ai has made of it; and no call is sent."""
    profile, model, answer, _ = MODELS[name]
    async with PricedCalls(profile, answer, limits=("0.0001 usd in all",)) as calls:
        agent = ai.Agent(model(calls.client), model_settings={"max_tokens": 1000})
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is differs by model
            await agent.run("Why?")
        found = llm.limit_exceeded(caught.value)
        assert isinstance(found, LimitExceeded)
        assert "0.0001 usd in all" in str(found)
        assert calls.queue.stats.refused == 1
    assert calls.requests == []


@pytest.mark.parametrize("name", MODELS)
async def test_missing_maximum_is_told(name):
    """The advice reaches the user in the error of the agent."""
    profile, model, _, _ = MODELS[name]
    async with PricedCalls(profile) as calls:
        agent = ai.Agent(model(calls.client))
        if name == "anthropic":  # its model sets a maximum by itself
            agent = ai.Agent(model(calls.client), model_settings={"max_tokens": 0})
        with pytest.raises(Exception, match=r"profile.with_\(max_output=") as caught:
            await agent.run("Why?")
    assert llm.limit_exceeded(caught.value) is None
    assert calls.requests == []
