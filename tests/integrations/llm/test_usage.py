"""What an answer took, found in its body as it passes, however it is cut."""

import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import introspect

llm_usage = introspect.llm_usage()

JSON = [("content-type", "application/json")]
SSE = [("Content-Type", "text/event-stream; charset=utf-8")]
WORDS = '"usage": {"prompt_tokens": 1, "completion_tokens": 1}, \\"usageMetadata\\": {'


def usage(body, headers=JSON, *, step=None):
    """Return what is found in a body that comes in pieces of so many bytes."""
    reader = llm_usage.BodyUsageReader.of(headers)
    step = step or max(1, len(body))
    for start in range(0, len(body), step):
        reader.feed(body[start : start + step])
    return reader.usage()


def events(*datas):
    """Return server-sent events."""
    lines = []
    for data in datas:
        if "type" in data:
            lines.append(f"event: {data['type']}\n")
        lines.append(f"data: {json.dumps(data)}\n\n")
    return "".join(lines).encode()


CHAT = {
    "choices": [{"message": {"content": f"the answer is {WORDS}"}}],
    "usage": {
        "prompt_tokens": 40,
        "completion_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 8},
    },
    "service_tier": "default",
}
RESPONSE = {
    "output": [{"content": [{"type": "output_text", "text": WORDS * 1000}]}],
    "usage": {"input_tokens": 40, "output_tokens": 25},
}
MESSAGE = {
    "type": "message",
    "content": [
        {"type": "text", "text": WORDS},
        {"type": "tool_use", "input": {"usage": {"a": 1}}},
    ],
    "usage": {
        "input_tokens": 40,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 100,
        "output_tokens": 25,
    },
}
CANDIDATE = {
    "candidates": [{"content": {"parts": [{"text": WORDS}]}}],
    "usageMetadata": {"promptTokenCount": 40, "candidatesTokenCount": 20, "thoughtsTokenCount": 5},
}


def chunk(text, **more):
    """Return a piece of a chat completion."""
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


CHAT_STREAM = events(
    chunk(""),
    chunk("Hello, wor", usage=None),
    chunk(f"ld! {WORDS}"),
    {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 25}},
)
CHAT_STREAM += b"data: [DONE]\n\n"
RESPONSES_STREAM = events(
    {"type": "response.created", "response": {"usage": None}},
    {"type": "response.output_text.delta", "delta": "Hello"},
    {"type": "response.completed", "response": RESPONSE},
)
MESSAGES_STREAM = events(
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": WORDS}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 60}},
    {"type": "message_stop"},
)
GEMINI_STREAM = events(
    {**CANDIDATE, "usageMetadata": {"promptTokenCount": 40, "candidatesTokenCount": 3}}, CANDIDATE
)
GEMINI_LIST = json.dumps([{"usageMetadata": {"promptTokenCount": 40}}, CANDIDATE], indent=2)

PLAIN = {"input_tokens": 40, "output_tokens": 25}
CACHED = {"cache_write_tokens": 5, "cache_read_tokens": 100}
THOUGHT = {**PLAIN, "reasoning_tokens": 5}
BODIES = {
    "chat": (CHAT, JSON, {"input_tokens": 32, "cache_read_tokens": 8, "output_tokens": 25}),
    "response": (RESPONSE, JSON, PLAIN),
    "message": (MESSAGE, JSON, {**PLAIN, **CACHED}),
    "content": (CANDIDATE, JSON, THOUGHT),
    "content as a list": (GEMINI_LIST.encode(), JSON, THOUGHT),
    "chat stream": (CHAT_STREAM, SSE, PLAIN),
    "responses stream": (RESPONSES_STREAM, SSE, PLAIN),
    "messages stream": (MESSAGES_STREAM, SSE, {**PLAIN, **CACHED, "output_tokens": 60}),
    "content stream": (GEMINI_STREAM, SSE, THOUGHT),
    "content stream, CRLF": (GEMINI_STREAM.replace(b"\n", b"\r\n"), SSE, THOUGHT),
}


def body_of(name):
    """Return a body, its headers and the usage in it."""
    body, headers, expected = BODIES[name]
    return body if isinstance(body, bytes) else json.dumps(body).encode(), headers, expected


@pytest.mark.parametrize("name", BODIES)
def test_finds_usage_of_each_form(name):
    """What the providers document, in one piece and byte by byte; its words in a text are none."""
    body, headers, expected = body_of(name)
    assert usage(body, headers) == expected
    assert usage(body, headers, step=1) == expected


@given(st.data())
def test_any_split_gives_the_same(data):
    """However the same bytes are cut, or a beginning of them, the usage is the same."""
    body, headers, _ = body_of(data.draw(st.sampled_from(sorted(BODIES))))
    body = body[: data.draw(st.integers(0, len(body)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    reader = llm_usage.BodyUsageReader.of(headers)
    for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        reader.feed(body[begin:end])
    assert reader.usage() == usage(body, headers)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("step", [None, 1, 7])
def test_compressed_bodies_are_decoded(encoding, step):
    """gzip, and both forms of deflate, wherever they are cut; a long one, too."""
    for name in ("message", "response", "responses stream"):
        body, headers, expected = body_of(name)
        packer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw deflate": -15}[encoding])
        data = packer.compress(body) + packer.flush()
        found = [*headers, ("Content-Encoding", encoding.removeprefix("raw "))]
        assert usage(data, found, step=step) == expected


@pytest.mark.parametrize("size", [65_536 * n + d for n in (1, 2, 3) for d in (-1, 0, 1)])
def test_decoded_sizes_around_the_piece(size):
    """Output that fills a piece to the byte is not left behind."""
    head = b'{"text": "'
    tail = b'", "usage": {"prompt_tokens": 40, "completion_tokens": 25}}'
    body = head + b"a" * (size - len(head) - len(tail)) + tail
    assert len(body) == size
    assert usage(gzip.compress(body), [*JSON, ("content-encoding", "gzip")]) == PLAIN


@pytest.mark.parametrize(
    "headers",
    [
        [*JSON, ("content-encoding", "br")],
        [*JSON, ("content-encoding", "gzip, deflate")],
        [("content-type", "audio/mpeg")],
        [],
    ],
)
def test_what_cannot_be_read(headers):
    """A body in another encoding, or of another kind, has no reader."""
    assert llm_usage.BodyUsageReader.of(headers) is None


def test_stream_left_early_is_estimated():
    """What has come counts: the text, at least a token for each piece of it."""
    half = MESSAGES_STREAM.partition(b"event: message_delta")[0]
    assert usage(half, SSE) == {"input_tokens": 40, **CACHED, "output_tokens": 25}
    assert usage(events(chunk(WORDS)), SSE) == {"output_tokens": -(-len(WORDS) // 4)}
    assert usage(events(chunk("a"), chunk("b"), chunk("cdefg")), SSE) == {"output_tokens": 3}
    tool = {"choices": [{"delta": {"tool_calls": [{"id": "x", "function": {"arguments": "{}"}}]}}]}
    assert usage(events(tool), SSE) == {"output_tokens": 1}
    assert usage(events({"type": "ping"}), SSE) is None


def test_started_usage_is_not_final():
    """Of `message_start`, the output is what there was by then; a greater estimate counts."""
    start = events({"type": "message_start", "message": MESSAGE})
    assert usage(start, SSE)["output_tokens"] == 25
    more = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 400}}
    assert usage(start + events(more), SSE)["output_tokens"] == 100


@pytest.mark.parametrize(
    "found",
    [
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": "9"},
        {"prompt_tokens": 1e300},
        {"prompt_tokens": 10**30},
        {"prompt_tokens": None},
        {"prompt_tokens": [1]},
    ],
)
def test_malformed_counts_are_none(found):
    """A count that is no count of tokens is as if it were not there."""
    assert llm_usage.read_usage({**found, "completion_tokens": 5}) == {"output_tokens": 5}


def test_bedrock_words_of_usage():
    """Converse, and the metrics of InvokeModel's streams."""
    converse = {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14, "cacheReadInputTokens": 3}
    assert llm_usage.read_usage(converse) == {
        "input_tokens": 9,
        "cache_read_tokens": 3,
        "output_tokens": 5,
    }
    assert llm_usage.read_usage({"inputTokenCount": 9, "outputTokenCount": 5}) == {
        "input_tokens": 9,
        "output_tokens": 5,
    }


@given(
    st.lists(
        st.binary()
        | st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b"]", b":", b"\n", b"data:", b'"usage":'])
        | st.sampled_from([b'{"usage":{"prompt_tokens":', b"1e999", b"null", b'{"message":', b"\r"])
    ),
    st.sampled_from([JSON, SSE]),
    st.sampled_from(["", "gzip", "deflate"]),
)
def test_no_bytes_raise(parts, headers, encoding):
    """Whatever a server sends is read to its end, and usage is what it always is."""
    reader = llm_usage.BodyUsageReader.of([*headers, ("content-encoding", encoding)])
    for part in parts:
        reader.feed(part)
    found = reader.usage()
    assert found is None or all(type(value) is int and value >= 0 for value in found.values())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("headers", [JSON, SSE])
@pytest.mark.parametrize(
    "unit", [b"[", b'{"usage":', b'"', b"\\", b'{"a":"b"},', b"data:", b"data: [[[[\n", b"x", b"\n"]
)
def test_time_is_linear(unit, headers):
    """Four times the bytes take about four times the CPU, whatever they are."""

    def seconds(count):
        body = b"data: " + unit * count
        begin = time.process_time()
        usage(body, headers, step=512)
        return time.process_time() - begin

    count = 70_000 // len(unit)  # more than a line of events may have
    # The best of three tries: what else a machine does makes some of them longer.
    tries = ((seconds(count), seconds(4 * count)) for _ in range(3))
    assert any(many <= 10 * few + 0.002 for few, many in tries)


@pytest.mark.parametrize("headers", [JSON, SSE])
@pytest.mark.parametrize("unit", [b'{"a": [1],', b'{"usage": {"a":', b"x" * 100, b'"' + b"y" * 90])
def test_memory_is_bounded(unit, headers):
    """Of a megabyte without an end, no more than a line is kept."""
    part = unit * (20_000 // len(unit))
    reader = llm_usage.BodyUsageReader.of(headers)
    tracemalloc.start()
    try:
        reader.feed(b"data: " + part)
        for _ in range(50):
            reader.feed(part)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    assert peak < 300_000


def test_bomb_is_decoded_in_pieces():
    """A small chunk that is 50 MB takes no memory."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(b" " * 50_000_000) + packer.flush()
    reader = llm_usage.BodyUsageReader.of([*JSON, ("content-encoding", "gzip")])
    tracemalloc.start()
    try:
        reader.feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
