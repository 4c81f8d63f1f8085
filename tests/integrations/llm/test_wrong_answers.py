"""Answers that are wrong: nothing that one says closes a model for longer than an hour."""

from __future__ import annotations

import json

import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers import introspect
from tests.helpers.instants import now

MalformedUsageError = introspect.malformed_usage()

TEXT = "x" * 400  # 100 tokens
MESSAGES = [{"role": "user", "content": TEXT}]  # and 4 for the message
CHAT, MESSAGE, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
GEMINI = "/v1/models/g:generateContent"
HOUR = 3600
COMPLETIONS = "/v1/completions"
PROFILES = {
    COMPLETIONS: llm.compatible,
    CHAT: llm.compatible,
    MESSAGE: llm.anthropic,
    RESPONSES: llm.openai,
    GEMINI: llm.gemini,
}


def answering(usage, headers=()):
    """Return a transport that answers every request so."""
    return httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers=list(headers), json={"usage": usage})
    )


def limit(unit, most, left, reset, *, anthropic=False):
    """Return the headers of a quota."""
    words = "anthropic-ratelimit-{}-{}" if anthropic else "x-ratelimit-{1}-{0}"
    return [
        (words.format(unit, kind), str(value))
        for kind, value in (("limit", most), ("remaining", left), ("reset", reset))
    ]


async def starts(profile, path, transport, *, lanes, calls=2, **more):
    """Make calls one after the other; return when they started, and the queue."""
    asked = {"model": "m", "messages": MESSAGES, "max_tokens": 100, **more}
    found = []
    queue = ApiQueue(lanes=lanes)
    async with queue, llm.client(queue, profile, transport=transport) as client:
        for _ in range(calls):
            await client.post(f"http://x{path}", json=asked)
            found.append(now())
    return found, queue


HEADERS = {
    MESSAGE: limit("output-tokens", 8000, 7900, "30s", anthropic=True)
    + limit("input-tokens", 50_000, 49_000, "30s", anthropic=True),
    CHAT: limit("tokens", 30_000, 29_000, "30s"),
}


@pytest.mark.parametrize(
    ("path", "usage", "tokens"),
    [
        (MESSAGE, {"output_tokens": 10**9, "input_tokens": 9}, 9 + 100),
        (MESSAGE, {"input_tokens": 10**9, "output_tokens": 9}, 104 + 9),
        (CHAT, {"prompt_tokens": 9, "completion_tokens": 10**9}, 9 + 100),
        (CHAT, {"prompt_tokens": 10**9, "completion_tokens": 10**9}, 104 + 100),
    ],
)
@pytest.mark.parametrize("lanes", ["learnt", "configured"])
def test_a_wrong_usage_stops_nothing(path, usage, tokens, lanes, run_virtual):
    """1e9 tokens are counted as malformed: of them a call costs what it was charged."""
    profile = PROFILES[path]
    units = [f"8000 {unit}/min burst 8000" for unit in profile.units]
    given = {"*": () if lanes == "learnt" else units}

    async def main():
        found, queue = await starts(profile, path, answering(usage, HEADERS[path]), lanes=given)
        assert found == [0, 0]
        assert queue.stats.malformed == 2
        assert sum(queue.stats.costs.values()) == 2 * (1 + tokens)

    run_virtual(main)


def test_why_a_usage_is_malformed(run_virtual, caplog):
    """The first of a client is logged as a warning, and the next ones for debugging."""
    caplog.set_level("DEBUG", "aioapiqueue")
    usage = {"prompt_tokens": 10**9, "completion_tokens": 10**8}
    run_virtual(lambda: starts(llm.compatible, CHAT, answering(usage), lanes={"*": ()}, calls=3))
    assert [one.levelname for one in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    for record in caplog.records:
        assert (
            "100000000 output tokens, but the request allows 100 and "
            "1000000000 input tokens, but the estimate is 104"
        ) in record.message
        assert TEXT not in record.message


def settled(path, body, usage):
    """Return what a call costs in tokens, by its usage."""
    profile = PROFILES[path]
    request = profile.read(host="h", path=path, content=json.dumps(body).encode())
    return profile.settled(request, usage)


def chat(**more):
    """Return the body of a request for a chat completion."""
    return {"model": "m", "messages": MESSAGES, **more}


@pytest.mark.parametrize(
    ("path", "body", "most"),
    [
        (CHAT, chat(max_tokens=100), 100),
        (CHAT, chat(max_tokens=100, n=3), 300),
        (CHAT, chat(max_completion_tokens=100), 100),
        (COMPLETIONS, {"prompt": TEXT, "max_tokens": 100, "n": 2}, 200),
        (COMPLETIONS, {"prompt": [TEXT] * 20, "max_tokens": 16}, 320),
        (COMPLETIONS, {"prompt": [TEXT] * 20, "max_tokens": 16, "n": 3}, 960),
        (COMPLETIONS, {"prompt": [[1, 2, 3]] * 8, "max_tokens": 256}, 2048),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 256}, 256),
        (COMPLETIONS, {"prompt": [], "max_tokens": 256}, 256),
        (RESPONSES, {"model": "m", "input": TEXT, "max_output_tokens": 100}, 100),
        (MESSAGE, chat(max_tokens=100), 100),
        (
            GEMINI,
            {
                "contents": [{"parts": [{"text": TEXT}]}],
                "generationConfig": {"maxOutputTokens": 100, "candidateCount": 2},
            },
            200,
        ),
    ],
)
def test_output_above_what_was_allowed(path, body, most):
    """As much as the request allows is believed, a tenth and 16 tokens more, and no more."""
    believed = most + most // 10 + 16
    settled(path, body, {"input_tokens": 100, "output_tokens": believed})
    with pytest.raises(MalformedUsageError, match=f"but the request allows {most}$"):
        settled(path, body, {"input_tokens": 100, "output_tokens": believed + 1})


@pytest.mark.parametrize("body", [chat(), chat(max_tokens=0), chat(max_tokens=-1)])
def test_output_without_a_maximum(body):
    """Where the request names no maximum, any output is believed."""
    assert settled(CHAT, body, {"input_tokens": 100, "output_tokens": 200_000})


def test_reasoning_beside_the_maximum():
    """Some servers count only what is shown: what is said to be reasoning is left out."""
    usage = {"input_tokens": 100, "output_tokens": 5100, "reasoning_tokens": 5000}
    assert settled(CHAT, chat(max_tokens=100), usage) == {"tokens": 5200}
    with pytest.raises(MalformedUsageError):
        settled(CHAT, chat(max_tokens=75), usage)


@pytest.mark.parametrize("field", ["input_tokens", "cache_read_tokens", "cache_write_tokens"])
def test_input_far_above_its_estimate(field):
    """Ten times the estimate and 30,000 tokens of which the request shows nothing are believed."""
    body = chat(system=TEXT, max_tokens=9)
    most = 10 * 204 + 30_000
    settled(MESSAGE, body, {"output_tokens": 9, "input_tokens": 0, field: most})
    with pytest.raises(MalformedUsageError, match="but the estimate is 204"):
        settled(MESSAGE, body, {"output_tokens": 9, "input_tokens": 0, field: most + 1})


@pytest.mark.parametrize(("tokens", "most"), [(0, 1000), (9000, 90_000)])
def test_input_by_a_users_count(tokens, most):
    """A function of the user's may count less than there is; what it counts more is believed."""
    profile = llm.compatible.with_(count=lambda _: tokens)
    content = json.dumps({"input": TEXT, "max_output_tokens": 9}).encode()
    request = profile.read(host="h", path=RESPONSES, content=content)
    assert request.input_tokens == tokens
    assert request.most_input_tokens == most + 30_000
    usage = {"input_tokens": most + 30_000, "output_tokens": 9}
    assert profile.settled(request, usage) == {"tokens": most + 30_009}


TOOL = {
    "name": "f",
    "description": "Fetches.",
    "input_schema": {"type": "object", "properties": {"url": {"type": "string"}}},
}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": TOOL["input_schema"]}}
PLAIN = [
    (CHAT, chat(temperature=1, stream=True, stream_options={"include_usage": True})),
    (CHAT, chat(tools=[FUNCTION], tool_choice="auto")),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]}),
    (
        CHAT,
        {
            "messages": [
                *MESSAGES,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"url": "https://a"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": TEXT},
            ]
        },
    ),
    (RESPONSES, {"input": [{"type": "message", "role": "user", "content": TEXT}]}),
    (RESPONSES, {"input": TEXT, "max_output_tokens": 9}),
    (RESPONSES, {"input": TEXT, "instructions": TEXT, "reasoning": {"effort": "low"}}),
    (MESSAGE, {**chat(max_tokens=9, tools=[TOOL]), "thinking": {"type": "enabled"}}),
    (
        MESSAGE,
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "1", "name": "f", "input": {"url": "https://a"}}
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "1", "content": TEXT}],
                },
            ]
        },
    ),
    (
        GEMINI,
        {
            "contents": [{"role": "user", "parts": [{"text": TEXT}]}],
            "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
        },
    ),
]
ELSEWHERE = [
    (CHAT, {"messages": [{"role": "user", "content": [part]}]})
    for part in (
        {"type": "image_url", "image_url": {"url": "https://a.example/cat.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "video_url", "video_url": {"url": "https://a.example/film.mp4"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    )
]
ELSEWHERE += [
    (CHAT, chat(web_search_options={})),
    (CHAT, chat(plugins=[{"id": "web"}])),
    (RESPONSES, {"input": "and now?", "previous_response_id": "resp_1"}),
    (RESPONSES, {"input": "and now?", "conversation": "conv_1"}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, {"input": TEXT, "tools": [{"type": "web_search"}]}),
    (RESPONSES, {"input": TEXT, "tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "i"}]}),
    (RESPONSES, {"input": [{"id": "rs_1"}, {"role": "user", "content": TEXT}]}),
    (
        RESPONSES,
        {
            "input": [
                {"role": "user", "content": TEXT},
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": TEXT},
            ]
        },
    ),
    (MESSAGE, chat(tools=[{"type": "web_search_20250305", "name": "web_search"}])),
    (MESSAGE, chat(mcp_servers=[{"type": "url", "url": "https://a.example", "name": "a"}])),
    (
        MESSAGE,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}}
                    ],
                }
            ]
        },
    ),
    (GEMINI, {"contents": [{"parts": [{"text": "?"}]}], "cachedContent": "cachedContents/1"}),
    (GEMINI, {"contents": [{"parts": [{"fileData": {"fileUri": "https://a/film"}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"text": "?"}]}], "tools": [{"googleSearch": {}}]}),
    (CHAT, {}),
]


@pytest.mark.parametrize(("path", "body"), PLAIN)
def test_input_of_plain_requests_is_bounded(path, body):
    """Text, functions of the user's, and what they were called with, stand in the request."""
    with pytest.raises(MalformedUsageError, match="input"):
        settled(path, body, {"input_tokens": 1_000_000, "output_tokens": 1})


@pytest.mark.parametrize(("path", "body"), ELSEWHERE)
def test_input_from_elsewhere_is_believed(path, body):
    """What is referred to may be of any size, and so may what a provider's tool finds."""
    assert settled(path, body, {"input_tokens": 1_000_000, "output_tokens": 1})


@pytest.mark.parametrize("lanes", ["learnt", "rate", "window"])
def test_input_from_elsewhere_holds_an_hour(lanes, run_virtual):
    """It is believed as far as it closes the model for no longer than an hour."""
    quota = {
        "rate": "50000 input_tokens/min burst 50000",
        "window": "50000 input_tokens in any 61s",
    }
    given = {"*": () if lanes == "learnt" else (quota[lanes], "1000000 output_tokens/min")}
    content = [{"type": "document", "source": {"type": "file", "file_id": "1"}}]
    messages = [{"role": "user", "content": content}]
    headers = limit("input-tokens", 50_000, 49_000, "30s", anthropic=True)

    async def main(count, **options):
        usage = {"input_tokens": count, "output_tokens": 1}
        transport = answering(usage, headers)
        found, queue = await starts(
            llm.anthropic, MESSAGE, transport, lanes=given, messages=messages, **options
        )
        return found[1], queue.stats.malformed, queue.stats.costs["input_tokens"]

    _, malformed, tokens = run_virtual(lambda: main(90_000))
    assert (malformed, tokens) == (0, 180_000)
    at, malformed, tokens = run_virtual(lambda: main(10**9))
    assert (malformed, tokens) == (2, 2 * 1604)
    assert at <= HOUR


def test_estimates_of_streams_are_within(run_virtual):
    """A stream without a usage is estimated by its text: at most what the request allows."""
    events = b"".join(
        b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % (b"word " * 50) for _ in range(9)
    )

    async def main():
        transport = httpx2.MockTransport(
            lambda _: httpx2.Response(
                200, headers={"content-type": "text/event-stream"}, content=events
            )
        )
        _, queue = await starts(llm.compatible, CHAT, transport, lanes={"*": ()}, calls=1)
        assert queue.stats.costs == {"calls": 1, "tokens": 204}
        assert queue.stats.malformed == 0

    run_virtual(main)


# Limits that are learnt.


@pytest.mark.parametrize(
    ("unit", "most", "reset"),
    [("tokens", 1, "24h"), ("tokens", 1, "60s"), ("tokens", 104, "24h"), ("requests", 1, "24h")],
)
@pytest.mark.parametrize("profile", [llm.openai, llm.compatible])
def test_a_wrong_limit_holds_an_hour(profile, unit, most, reset, run_virtual):
    """One that has hardly any room for a call like the one that was served is not learnt."""
    headers = limit(unit, most, 0, reset)
    if unit == "requests":
        headers = [("RateLimit-Policy", '"d";q=1;w=86400'), ("RateLimit", '"d";r=0;t=86400')]

    async def main():
        transport = answering({"prompt_tokens": 90, "completion_tokens": 9}, headers)
        profiled = profile.with_(periods={})
        found, queue = await starts(profiled, CHAT, transport, lanes={"*": ()}, calls=3)
        assert queue.stats.learnt == {}
        assert queue.stats.malformed == 3
        assert found[1] <= HOUR
        assert found[2] - found[1] <= HOUR

    run_virtual(main)


def test_a_refusal_with_a_wrong_limit(run_virtual):
    """So it is with an answer that refuses, which settles its call to nothing."""
    headers = limit("tokens", 1, 0, "24h")
    statuses = iter([429, 200, 200])

    async def main():
        transport = httpx2.MockTransport(
            lambda _: httpx2.Response(next(statuses), headers=headers, json={})
        )
        found, queue = await starts(llm.compatible, CHAT, transport, lanes={"*": ()}, calls=3)
        assert queue.stats.learnt == {}
        assert found[1] <= HOUR
        assert found[2] - found[1] <= HOUR

    run_virtual(main)


def test_a_refusal_tells_a_smaller_limit(run_virtual):
    """A call that is larger than the limit is refused, and the limit is true."""
    headers = limit("tokens", 100, 100, "0s")

    async def main():
        transport = httpx2.MockTransport(lambda _: httpx2.Response(429, headers=headers, json={}))
        _, queue = await starts(llm.openai, CHAT, transport, lanes={"*": ()}, calls=1)
        assert [str(one) for one in queue.stats.learnt["m"]] == ["100 tokens/min burst 100"]
        assert queue.stats.malformed == 0

    run_virtual(main)


def test_a_limit_below_a_reservation_is_learnt(run_virtual):
    """`max_tokens` above the limit of a minute is usual: the provider counts what is made."""
    headers = limit("output-tokens", 8000, 7900, "30s", anthropic=True)

    async def main():
        transport = answering({"input_tokens": 90, "output_tokens": 90}, headers)
        _, queue = await starts(
            llm.anthropic, MESSAGE, transport, lanes={"*": ()}, calls=1, max_tokens=64_000
        )
        assert [str(one) for one in queue.stats.learnt["m"]] == [
            "8000 output_tokens/min burst 8000"
        ]
        assert queue.stats.malformed == 0

    run_virtual(main)
