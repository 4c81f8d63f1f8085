"""How a refused call reaches the user of each SDK: before it is sent, once, and not retried."""

from __future__ import annotations

import httpx2
import pytest

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.integrations import llm
from tests.helpers.lazily import lazily
from tests.helpers.priced_calls import BUDGET, QUESTION, PricedCalls, chat_answer

pytestmark = pytest.mark.usefixtures("sdks", "price_package")

anthropic, openai, genai = lazily("anthropic"), lazily("openai"), lazily("google.genai")
types = lazily("google.genai.types")

TINY = "0.0001 usd in all"
RETRIES = 2


def openai_chat(client, model, most=1000, *, stream=False):
    """Ask a chat model."""
    return client.chat.completions.create(
        model=model, messages=QUESTION, max_completion_tokens=most, stream=stream
    )


def openai_responses(client, model, most=1000, *, stream=False):
    """Ask for a response."""
    return client.responses.create(model=model, input="?", max_output_tokens=most, stream=stream)


def anthropic_messages(client, model, most=1000, *, stream=False):
    """Ask Claude."""
    return client.messages.create(model=model, messages=QUESTION, max_tokens=most, stream=stream)


def gemini_content(client, model, most=1000, *, stream=False):
    """Ask Gemini; a stream begins with its first piece."""
    config = {"max_output_tokens": most}
    if stream:
        return client.models.generate_content_stream(model=model, contents="?", config=config)
    return client.models.generate_content(model=model, contents="?", config=config)


def genai_options(**clients):
    """Return options of google-genai that try again."""
    retry = types.HttpRetryOptions(attempts=1 + RETRIES, initial_delay=0.01, max_delay=0.01)
    return types.HttpOptions(retry_options=retry, **clients)


def openai_client(http_client, *, is_async):
    """Return a client of the package openai."""
    cls = openai.AsyncOpenAI if is_async else openai.OpenAI
    return cls(api_key="k", http_client=http_client, max_retries=RETRIES)


def anthropic_client(http_client, *, is_async):
    """Return a client of the package anthropic."""
    cls = anthropic.AsyncAnthropic if is_async else anthropic.Anthropic
    return cls(api_key="k", http_client=http_client, max_retries=RETRIES)


def gemini_client(http_client, *, is_async):
    """Return a client of the package google-genai."""
    name = "httpx_async_client" if is_async else "httpx_client"
    client = genai.Client(api_key="k", http_options=genai_options(**{name: http_client}))
    return client.aio if is_async else client


SDKS = {
    "openai": (llm.openai, openai_client, openai_chat, "gpt-4o"),
    "openai responses": (llm.openai, openai_client, openai_responses, "gpt-4o"),
    "anthropic": (llm.anthropic, anthropic_client, anthropic_messages, "claude-haiku-4-5"),
    "gemini": (llm.gemini, gemini_client, gemini_content, "gemini-2.0-flash"),
}
each_sdk = pytest.mark.parametrize("name", SDKS)
streams = pytest.mark.parametrize("stream", [False, True])


async def failure(name, *, stream, model=None, limit=TINY):
    """Return what a call raises whose SDK would try again, and its queue; nothing was sent."""
    profile, make, ask, known = SDKS[name]
    async with PricedCalls(profile, 200, limits=(limit,)) as calls:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is is what is tested
            found = await ask(make(calls.client, is_async=True), model or known, stream=stream)
            async for _ in found:
                pass
        assert calls.requests == []
    return caught.value, calls.queue


def failure_in_a_thread(name, *, stream, model=None, limit=TINY):
    """Return the same of the SDK's synchronous client."""
    profile, make, ask, known = SDKS[name]
    requests = []
    queue = ApiQueue(limit, lanes={"*": ()})

    def answer(request):
        requests.append(request)
        return httpx2.Response(200, json={})

    transport = httpx2.MockTransport(answer)
    with (
        llm.sync_client(queue, profile, transport=transport) as client,
        pytest.raises(Exception) as caught,  # noqa: PT011 - as above
    ):
        list(ask(make(client, is_async=False), model or known, stream=stream))
    assert requests == []
    return caught.value, queue


def check_limit(name, error, queue):
    """Check that a call was refused for the limit, once, in the form that the SDK needs."""
    found = llm.limit_exceeded(error)
    assert isinstance(found, LimitExceeded)
    assert TINY in str(found)
    assert queue.stats.refused == 1
    if name == "anthropic":
        assert isinstance(error, anthropic.APIStatusError)
        assert error.status_code == 402
        assert error.body["error"] == {"type": "billing_error", "message": str(found)}
        assert str(found) in str(error)
    else:
        assert error is found


def check_no_price(name, error):
    """Check that the error says what to do, in the form that the SDK needs."""
    assert llm.limit_exceeded(error) is None
    assert "has no known price: in the profile, name the model" in str(error)
    if name == "anthropic":
        assert isinstance(error, anthropic.BadRequestError)
        assert error.body["error"]["type"] == "invalid_request_error"
    else:
        assert type(error) is llm.NoPrice


@each_sdk
@streams
async def test_used_up_budget(name, stream):
    """Each SDK fails at once with the limit; its own retries would be refused as well."""
    error, queue = await failure(name, stream=stream)
    check_limit(name, error, queue)


@each_sdk
@streams
async def test_model_without_price(name, stream):
    """The same for a call without a price."""
    error, queue = await failure(name, stream=stream, model="unknown-model", limit=BUDGET)
    check_no_price(name, error)
    assert not any(queue.stats.costs.values())


@pytest.mark.real
@each_sdk
@streams
def test_used_up_budget_in_threads(name, stream):
    """Synchronous clients do the same."""
    error, queue = failure_in_a_thread(name, stream=stream)
    check_limit(name, error, queue)


@pytest.mark.real
@each_sdk
@streams
def test_no_price_in_threads(name, stream):
    """Synchronous clients do the same."""
    error, _ = failure_in_a_thread(name, stream=stream, model="unknown-model", limit=BUDGET)
    check_no_price(name, error)


async def test_anthropic_retries_other_errors():
    """Its SDK tries again after a server error: `x-should-retry` is what stops it above."""
    async with PricedCalls(llm.anthropic, 529) as calls:
        client = anthropic_client(calls.client, is_async=True)
        with pytest.raises(anthropic.APIStatusError) as caught:
            await anthropic_messages(client, "claude-haiku-4-5")
    assert len(calls.requests) == 1 + RETRIES
    assert llm.limit_exceeded(caught.value) is None


async def test_plain_limits_reach_anthropic():
    """Limits with `or raise` in other units are answered in the same way."""
    limit = "1/day or raise"
    async with PricedCalls(llm.anthropic, {"type": "message"}, limits=(limit,)) as calls:
        client = anthropic_client(calls.client, is_async=True)
        await anthropic_messages(client, "claude-unknown")
        with pytest.raises(anthropic.APIStatusError, match=limit) as caught:
            await anthropic_messages(client, "claude-unknown")
    assert caught.value.status_code == 402
    assert isinstance(llm.limit_exceeded(caught.value), LimitExceeded)
    assert len(calls.requests) == 1


async def test_others_get_the_error_of_httpx():
    """A profile that answers refusals can be told not to."""
    profile = llm.anthropic.with_(answers_refusals=False)
    async with PricedCalls(profile, limits=(TINY,)) as calls:
        with pytest.raises(LimitExceeded):
            await calls.claude()
    async with PricedCalls(llm.openai.with_(answers_refusals=True), limits=(TINY,)) as calls:
        response = await calls.chat(max_completion_tokens=9)
        assert (response.status_code, response.headers["x-should-retry"]) == (402, "false")


async def test_calls_go_on_with_room():
    """After a refusal, a cheaper call still has its response through the SDK."""
    limit = "0.0021 usd in all"
    async with PricedCalls(llm.openai, chat_answer(20, 5), limits=(limit,)) as calls:
        client = openai_client(calls.client, is_async=True)
        with pytest.raises(LimitExceeded):
            await openai_chat(client, "gpt-4o", 1000)
        found = await openai_chat(client, "gpt-4o", 100)
    assert found.usage.completion_tokens == 5


def test_limit_exceeded_of_other_errors():
    """None of these has one."""
    loop = ValueError("a")
    loop.__cause__ = KeyError("b")
    loop.__cause__.__context__ = loop
    response = httpx2.Response(402, request=httpx2.Request("GET", "http://x"))
    status = httpx2.HTTPStatusError("402", request=response.request, response=response)
    for error in (None, ValueError("x"), llm.NoPrice("x"), loop, status):
        assert llm.limit_exceeded(error) is None


@pytest.mark.parametrize("way", ["__cause__", "__context__"])
async def test_limit_exceeded_in_a_chain(way):
    """It is found behind the errors of frameworks, however many there are."""
    queue = ApiQueue("1 in all")
    await queue.enqueue()
    with pytest.raises(LimitExceeded) as caught:
        await queue.enqueue()
    error = caught.value
    for number in range(20):
        outer = RuntimeError(number)
        setattr(outer, way, error)
        error = outer
    assert llm.limit_exceeded(error) is caught.value
    circle = ValueError("circle")
    circle.__context__ = RuntimeError("other")
    circle.__context__.__context__ = circle
    circle.__cause__ = error
    assert llm.limit_exceeded(circle) is caught.value
