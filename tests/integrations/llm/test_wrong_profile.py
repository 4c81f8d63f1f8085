"""A client that was given the profile of another provider: it says so once, and which one fits."""

from __future__ import annotations

import asyncio
import warnings

import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers.lazily import lazily
from tests.integrations.llm.test_usage import (
    CANDIDATE,
    CHAT,
    CHAT_STREAM,
    MESSAGE,
    MESSAGES_STREAM,
    RESPONSE,
    chunk,
    events,
)

anthropic = lazily("anthropic")

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 9}
CHAT_PATH, MESSAGES, EMBEDDINGS = "/v1/chat/completions", "/v1/messages", "/v1/embeddings"
GEMINI = "/v1beta/models/g:generateContent"
SSE = {"content-type": "text/event-stream"}


async def words_of(profile, url, *answers, method="POST"):
    """Return what a client warns of, that gets these answers one after the other."""
    left = iter(answers)
    transport = httpx2.MockTransport(lambda _: next(left))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        async with (
            ApiQueue(lanes={"*": ()}) as queue,
            llm.client(queue, profile, transport=transport) as client,
        ):
            for _ in answers:
                await client.request(method, url, json=ASKED)
            assert queue.running == 0
    return [str(one.message) for one in found]


def answer(body, status=200, **more):
    """Return an answer: JSON, or a stream of events."""
    if isinstance(body, bytes):
        return httpx2.Response(status, content=body, headers=SSE, **more)
    return httpx2.Response(status, json=body, **more)


@pytest.mark.parametrize(
    ("profile", "url", "body", "fitting"),
    [
        (llm.openai, f"https://api.anthropic.com{MESSAGES}", MESSAGE, "anthropic"),
        (llm.openai, f"https://api.anthropic.com{MESSAGES}", MESSAGES_STREAM, "anthropic"),
        (llm.groq, f"https://generativelanguage.googleapis.com{GEMINI}", CANDIDATE, "gemini"),
        (llm.anthropic, f"https://api.openai.com{CHAT_PATH}", CHAT, "openai"),
        (llm.anthropic, f"https://api.openai.com{CHAT_PATH}", CHAT_STREAM, "openai"),
        (llm.gemini, "https://api.openai.com/v1/responses", RESPONSE, "openai"),
        (llm.gemini, "https://api.groq.com/openai/v1/chat/completions", CHAT, "groq"),
        (
            llm.anthropic,
            f"https://me.openai.azure.com/openai/deployments/d{CHAT_PATH}",
            CHAT,
            "azure",
        ),
        (llm.anthropic, f"http://127.0.0.1:8000{CHAT_PATH}", CHAT, "compatible"),
        (llm.anthropic, f"https://notopenai.com{CHAT_PATH}", CHAT, "compatible"),
    ],
)
def test_the_fitting_profile_is_named(profile, url, body, fitting, run_virtual):
    """Once for a client, at the first answer that states a usage."""
    answers = [answer({"error": {}}, 500), *(answer(body) for _ in range(3))]
    (word,) = run_virtual(lambda: words_of(profile, url, *answers))
    where = httpx2.URL(url)
    assert word == (
        f"the profile {profile.name!r} does not cover POST {where.host}{where.path}, so the "
        f"tokens of such requests are not counted: use llm.{fitting} for this client"
    )


@pytest.mark.parametrize(
    ("profile", "path", "made", "method"),
    [
        # What the profile knows.
        (llm.anthropic, MESSAGES, answer(MESSAGE), "POST"),
        (llm.compatible, CHAT_PATH, answer(CHAT), "POST"),
        # Answers of the other's that state no usage.
        (llm.openai, MESSAGES, answer({"error": {}}, 400), "POST"),
        (llm.openai, MESSAGES, answer({"usage": MESSAGE["usage"]}, 500), "POST"),
        (llm.anthropic, CHAT_PATH, answer(events(chunk("Hello"), chunk("!"))), "POST"),
        (llm.anthropic, CHAT_PATH, answer({"choices": []}), "POST"),
        # Answers that are not made of tokens, or are not of a model.
        (llm.anthropic, EMBEDDINGS, answer({"usage": {"prompt_tokens": 9}}), "POST"),
        (llm.anthropic, "/v1/images/generations", answer({"usage": {"input_tokens": 9}}), "POST"),
        (llm.openai, "/v1/audio/transcriptions", answer({"usage": {"input_tokens": 9}}), "POST"),
        (llm.openai, "/v1/files", answer({"usage": {"input_tokens": 9}}), "POST"),
        (llm.openai, "/v1/models", answer({"data": [{}]}), "GET"),
        (llm.openai, "/v1/chat/completions", answer({"data": [CHAT]}), "GET"),
        (llm.openai, "/v1/messages/count_tokens", answer({"input_tokens": 9}), "POST"),
        (llm.anthropic, "/v1/messages/batches", answer({"usage": {"input_tokens": 9}}), "POST"),
    ],
)
def test_other_answers_say_nothing(profile, path, made, method, run_virtual):
    """No error, list, file, embedding or stream without a usage is taken for a wrong profile."""
    assert run_virtual(lambda: words_of(profile, f"http://x{path}", made, method=method)) == []


def test_a_profile_without_an_endpoint(run_virtual):
    """Nobody is told to use the profile that the client has, where its user has changed that."""
    chat = tuple(one for one in llm.openai.endpoints if "chat" in one.path)
    profile = llm.openai.with_(endpoints=chat)
    url = "https://api.openai.com/v1/responses"
    assert run_virtual(lambda: words_of(profile, url, answer(RESPONSE))) == []


def test_a_body_that_is_left_says_nothing(run_virtual):
    """One that is left before its usage, or cancelled, states none."""

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self):
            yield events(chunk("Hello"))
            await asyncio.sleep(10)
            yield CHAT_STREAM

    async def main():
        transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=SSE, stream=Body()))
        async with (
            ApiQueue(lanes={"*": ()}) as queue,
            llm.client(queue, llm.anthropic, transport=transport) as client,
        ):
            async with client.stream("POST", f"http://x{CHAT_PATH}", json=ASKED) as response:
                async for _ in response.aiter_raw():
                    break
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.post(f"http://x{CHAT_PATH}", json=ASKED), 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_virtual(main)


def test_the_sdk_of_another_provider(run_virtual):
    """As it happens: Anthropic's SDK with the profile of OpenAI. The answer is not changed."""
    message = {**MESSAGE, "id": "1", "role": "assistant", "model": "m", "content": []}

    async def main():
        transport = httpx2.MockTransport(lambda _: answer(message))
        queue = ApiQueue(lanes={"*": ()})
        http_client = llm.client(queue, llm.openai, transport=transport)
        async with queue, anthropic.AsyncAnthropic(api_key="k", http_client=http_client) as client:
            with pytest.warns(UserWarning, match=r"use llm\.anthropic for this client$"):
                found = await client.messages.create(**ASKED)
            assert found.usage.output_tokens == 25
            assert queue.stats.costs == {"calls": 1, "tokens": 0}

    run_virtual(main)
