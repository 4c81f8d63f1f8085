"""What prices depend on besides sums of tokens: whether they are stated, the tier, the medium."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import introspect

llm_usage = introspect.llm_usage()

JSON = [("content-type", "application/json")]
SSE = [("content-type", "text/event-stream")]
LINE = 65_536
"""Bytes of a line that is parsed; a longer one is scanned."""
WORDS = 'a "service_tier": "scale", \\"usage\\": {"speed": "fast"} {'
USAGE = {"prompt_tokens": 40, "completion_tokens": 25}


def reader_of(body, headers=JSON, *, step=None):
    """Return a reader of a body that comes in pieces of so many bytes."""
    reader = llm_usage.BodyUsageReader.of(headers)
    step = step or max(1, len(body))
    for start in range(0, len(body), step):
        reader.feed(body[start : start + step])
    return reader


def read(body, headers=JSON, *, step=None):
    """Return its usage."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return reader_of(content, headers, step=step).usage()


def stream(*datas):
    """Return server-sent events."""
    return b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in datas)


def delta(text, **more):
    """Return an event of a chat completion."""
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


CHAT = {"choices": [{"message": {"content": WORDS}}], "usage": USAGE, "service_tier": "priority"}
EARLY = {"service_tier": "flex", "choices": [{"message": {"content": WORDS}}], "usage": USAGE}
RESPONSE = {"id": "r", "usage": {"input_tokens": 40, "output_tokens": 25}, "service_tier": "flex"}
MESSAGE = {
    "content": [{"type": "text", "text": WORDS}],
    "usage": {
        "input_tokens": 40,
        "output_tokens": 25,
        "service_tier": "standard",
        "speed": "fast",
        "server_tool_use": {"web_search_requests": 0},
    },
}
START = {"type": "message_start", "message": {"usage": {"input_tokens": 40, "output_tokens": 1}}}
END = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 25}}
LAST = {"type": "response.completed", "response": RESPONSE}
LONG = {"type": "response.completed", "response": {"output": [WORDS * 2000], **RESPONSE}}
FAST = {"usage": {"input_tokens": 40, "output_tokens": 1, "speed": "fast"}}

CONTEXTS = {
    "after the text": (CHAT, JSON, {"service_tier": "priority"}),
    "before the text": (EARLY, JSON, {"service_tier": "flex"}),
    "null": ({**CHAT, "service_tier": None}, JSON, {}),
    "number": ({**CHAT, "service_tier": 5}, JSON, {}),
    "object": ({**CHAT, "service_tier": {"type": "flex"}}, JSON, {}),
    "only in the text": ({"choices": CHAT["choices"], "usage": USAGE}, JSON, {}),
    "in the usage": (MESSAGE, JSON, {"service_tier": "standard", "speed": "fast"}),
    "stream": (
        stream(delta("a", service_tier="auto"), delta(WORDS), CHAT),
        SSE,
        {"service_tier": "priority"},
    ),
    "stream of responses": (stream(LAST), SSE, {"service_tier": "flex"}),
    "long line": (stream(LONG), SSE, {"service_tier": "flex"}),
    "start of a message": (
        stream({"type": "message_start", "message": FAST}, END),
        SSE,
        {"speed": "fast"},
    ),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_how_it_was_served(name):
    """The service tier and the speed, wherever a provider states them; no words of a text."""
    body, headers, expected = CONTEXTS[name]
    assert dict(read(body, headers).context) == expected


@pytest.mark.parametrize("name", [one for one in CONTEXTS if one != "long line"])
def test_served_however_cut(name):
    """Cut at any byte, or at every one."""
    body, headers, expected = CONTEXTS[name]
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    for cut in range(1, len(body)):
        reader = llm_usage.BodyUsageReader.of(headers)
        reader.feed(body[:cut])
        reader.feed(body[cut:])
        assert dict(reader.usage().context) == expected
    assert dict(read(body, headers, step=1).context) == expected


@given(st.lists(st.integers(1, LINE + 100), max_size=8), st.integers(0, 60))
def test_long_line_however_cut(cuts, shift):
    """A line that is scanned, its fields on either side of what is buffered."""
    for padding in (LINE - 60 + shift, 3 * LINE):
        inner = {"output": ["x" * padding], **RESPONSE}
        body = stream({"type": "response.completed", "response": inner})
        reader = llm_usage.BodyUsageReader.of(SSE)
        begin = 0
        for end in [*sorted(cuts), len(body)]:
            reader.feed(body[begin:end])
            begin = max(begin, end)
        found = reader.usage()
        assert dict(found.context) == {"service_tier": "flex"}
        assert (found, found.is_estimate) == ({"input_tokens": 40, "output_tokens": 25}, False)


def test_long_texts_are_no_tiers():
    """A value that is longer than any tier is not kept; the usage is found in any case."""
    body = json.dumps({"service_tier": "x" * 100_000, "usage": USAGE}).encode()
    for step in (None, 1000):
        found = read(body, step=step)
        assert found == {"input_tokens": 40, "output_tokens": 25}
        assert len(found.context.get("service_tier", "")) < 100_000


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (10, {"input_tokens": 18, "cache_read_tokens": 12, "cache_write_tokens": 10}),
        (28, {"input_tokens": 0, "cache_read_tokens": 12, "cache_write_tokens": 28}),
        (0, {"input_tokens": 28, "cache_read_tokens": 12}),
        (29, {"cache_read_tokens": 12, "cache_write_tokens": 29}),  # more than the input
        (-1, {}),
    ],
)
def test_openai_writes_to_its_cache(written, expected):
    """The input includes what was read from the cache, and what was written to it."""
    details = {"cached_tokens": 12, "cache_write_tokens": written}
    chat = {"usage": {**USAGE, "prompt_tokens_details": details}}
    response = {"usage": {**RESPONSE["usage"], "input_tokens_details": details}}
    for body in (chat, response):
        assert read(body) == {**expected, "output_tokens": 25}


FINISHED = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
PENDING = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}
SO_FAR = {"usageMetadata": {"promptTokenCount": 40, "candidatesTokenCount": 3}}


@pytest.mark.parametrize(
    ("body", "headers", "is_estimate"),
    [
        (CHAT, JSON, False),
        (MESSAGE, JSON, False),
        ({"usage": {"prompt_tokens": 40}}, JSON, True),
        ({"usage": {"prompt_tokens": 40, "completion_tokens": None}}, JSON, True),
        ({**PENDING, **SO_FAR}, JSON, False),  # a document is the whole of it
        (stream(delta("Hi")), SSE, True),
        (stream(delta("Hi"), {"choices": [{"finish_reason": "stop"}], "usage": USAGE}), SSE, False),
        (stream(delta("Hi"), {"choices": [], "usage": USAGE}), SSE, False),
        # vLLM's `continuous_usage_stats`, left before the end, and to the end.
        (stream(delta("Hi", usage=USAGE)), SSE, True),
        (stream(delta("Hi", usage=USAGE), {"choices": [], "usage": USAGE}), SSE, False),
        (stream(LAST), SSE, False),
        (stream(LONG), SSE, False),
        (stream(START), SSE, True),
        (stream(START, END), SSE, False),
        (stream({**PENDING, **SO_FAR}), SSE, True),
        (stream({**PENDING, **SO_FAR}, {**FINISHED, **SO_FAR}), SSE, False),
        (stream({**FINISHED, **SO_FAR}, SO_FAR), SSE, False),
    ],
)
def test_stated_output_is_known(body, headers, is_estimate):
    """What is only estimated, or only the sum so far, is no statement of the output."""
    assert read(body, headers).is_estimate is is_estimate


def test_stream_of_gemini_as_a_list():
    """A document whose elements are the events: none of them tells that it is the last."""
    events = [{**PENDING, **SO_FAR}, {**FINISHED, **SO_FAR}]
    assert read(events).is_estimate


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            {
                **USAGE,
                "prompt_tokens_details": {"audio_tokens": 10, "image_tokens": 5},
                "completion_tokens_details": {"audio_tokens": 7, "reasoning_tokens": 3},
            },
            {
                "input_audio_tokens": 10,
                "input_image_tokens": 5,
                "output_audio_tokens": 7,
                "reasoning_tokens": 3,
            },
        ),
        (
            {
                "promptTokenCount": 40,
                "candidatesTokenCount": 25,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 10},
                    {"modality": "AUDIO", "tokenCount": 20},
                    {"modality": "VIDEO", "tokenCount": 6},
                    {"modality": "IMAGE", "tokenCount": 4},
                ],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 25}],
            },
            {
                "input_audio_tokens": 20,
                "input_image_tokens": 4,
                "input_video_tokens": 6,
                "output_image_tokens": 25,
            },
        ),
        ({**USAGE, "prompt_tokens_details": {"audio_tokens": 0}}, {}),
        ({**USAGE, "prompt_tokens_details": None, "completion_tokens_details": []}, {}),
    ],
)
def test_tokens_of_each_medium(found, expected):
    """They are parts of the input and of the output, which are as without them."""
    plain = {"input_tokens": 40, "output_tokens": 25}
    assert llm_usage.read_usage(found) == {**plain, **expected}
    body = {"usageMetadata" if "promptTokenCount" in found else "usage": found}
    assert read(body, step=1) == {**plain, **expected}


@pytest.mark.parametrize(
    "found",
    [
        {
            "input_tokens": 40,
            "output_tokens": 25,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
        {
            "inputTokens": 40,
            "outputTokens": 25,
            "cacheWriteInputTokens": 30,
            "cacheDetails": [{"ttl": "5m", "inputTokens": 10}, {"ttl": "1h", "inputTokens": 20}],
        },
    ],
)
def test_writes_for_an_hour(found):
    """Anthropic and Bedrock state them as a part of all writes to the cache."""
    assert llm_usage.read_usage(found) == {
        "input_tokens": 40,
        "output_tokens": 25,
        "cache_write_tokens": 30,
        "cache_write_1h_tokens": 20,
    }


@pytest.mark.parametrize(
    ("made", "reasoning", "total", "output"),
    [
        (25, 60, 40 + 25 + 60, 85),  # xAI: beside the output
        (85, 60, 40 + 85, 85),  # OpenAI: a part of it
        (85, 60, None, 85),
        (25, 0, 65, 25),
    ],
)
def test_reasoning_is_output(made, reasoning, total, output):
    """Only the total tells whether a server counts it as a part of the output."""
    usage = {
        "prompt_tokens": 40,
        "completion_tokens": made,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        **({} if total is None else {"total_tokens": total}),
    }
    found = llm_usage.read_usage(usage)
    assert (found["output_tokens"], found.get("reasoning_tokens", 0)) == (output, reasoning)


def test_reasoning_beside_cached_input():
    """The total contains what is read from the cache."""
    usage = {
        "prompt_tokens": 40,
        "completion_tokens": 25,
        "total_tokens": 40 + 25 + 60,
        "prompt_tokens_details": {"cached_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 60},
    }
    assert llm_usage.read_usage(usage) == {
        "input_tokens": 10,
        "cache_read_tokens": 30,
        "output_tokens": 85,
        "reasoning_tokens": 60,
    }
