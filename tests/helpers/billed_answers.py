"""Usage in the format of each provider's responses.

A usage has the names of genai-prices; `input_tokens` and `output_tokens` include all others.
"""

from __future__ import annotations

import json

__all__ = [
    "anthropic",
    "chat_completions",
    "converse",
    "gemini",
    "invoke_model",
    "parts_of",
    "responses",
]

_WORDS = ["Once", " upon", " a", " time"]


def parts_of(usage):
    """Return input that is in no cache, reads, writes, output, and reasoning."""
    read, written = usage.get("cache_read_tokens", 0), usage.get("cache_write_tokens", 0)
    fresh = usage["input_tokens"] - read - written
    return fresh, read, written, usage["output_tokens"], usage.get("output_reasoning_tokens", 0)


def _body(document):
    return "application/json", json.dumps(document).encode()


def _events(events, *, end=""):
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return "text/event-stream; charset=utf-8", (lines + end).encode()


def chat_completions(usage, *, streams, context, groq=False):
    """Return the type and the body of a response of OpenAI's chat completions."""
    _, read, written, output, reasoning = parts_of(usage)
    found = {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": output,
        "total_tokens": usage["input_tokens"] + output,
        "prompt_tokens_details": {
            "cached_tokens": read,
            "cache_write_tokens": written,
            "audio_tokens": usage.get("input_audio_tokens", 0),
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": usage.get("output_audio_tokens", 0),
        },
    }
    if not streams:
        message = {"role": "assistant", "content": "".join(_WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return _body({"id": "c", "choices": [choice], "usage": found, **context})
    events = [
        {"choices": [{"index": 0, "delta": {"content": word}}], **context, "usage": None}
        for word in _WORDS
    ]
    last = {"choices": [], "usage": found, **context}
    if groq:
        last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": found}}
    return _events([*events, last], end="data: [DONE]\n\n")


def responses(usage, *, streams, context):
    """Return the type and the body of one of OpenAI's responses."""
    _, read, written, output, reasoning = parts_of(usage)
    found = {
        "input_tokens": usage["input_tokens"],
        "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["input_tokens"] + output,
    }
    content = [{"type": "output_text", "text": "".join(_WORDS), "annotations": []}]
    message = {"type": "message", "role": "assistant", "content": content}
    whole = {"id": "r", "output": [message], "usage": found, **context}
    if not streams:
        return _body(whole)
    begun = {"id": "r", "output": [], "usage": None, "service_tier": "auto"}
    deltas = [{"type": "response.output_text.delta", "delta": word} for word in _WORDS]
    return _events(
        [
            {"type": "response.created", "response": begun},
            *deltas,
            {"type": "response.completed", "response": whole},
        ]
    )


def _claude(usage):
    fresh, read, written, output, _ = parts_of(usage)
    long = usage.get("cache_write_1h_tokens", 0)
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - long,
            "ephemeral_1h_input_tokens": long,
        },
        "output_tokens": output,
    }


def _claude_events(usage, context):
    found = {**_claude(usage), **context}
    begun = {**found, "output_tokens": 1}
    return [
        {"type": "message_start", "message": {"role": "assistant", "usage": begun}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": word}}
            for word in _WORDS
        ),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": found},
        {"type": "message_stop"},
    ]


def anthropic(usage, *, streams, context):
    """Return the type and the body of a response of Anthropic's messages."""
    if streams:
        return _events(_claude_events(usage, context))
    content = [{"type": "text", "text": "".join(_WORDS)}]
    return _body({"role": "assistant", "content": content, "usage": {**_claude(usage), **context}})


def gemini(usage, *, streams):
    """Return the type and the body of a response of Gemini."""
    _, read, _, output, reasoning = parts_of(usage)
    audio = usage.get("input_audio_tokens", 0)
    found = {
        "promptTokenCount": usage["input_tokens"],
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": usage["input_tokens"] - audio},
            *([{"modality": "AUDIO", "tokenCount": audio}] if audio else []),
        ],
        "candidatesTokenCount": output - reasoning,
        "totalTokenCount": usage["input_tokens"] + output,
    }
    if read:
        found["cachedContentTokenCount"] = read
    if reasoning:
        found["thoughtsTokenCount"] = reasoning

    def answer(text, **more):
        return {"candidates": [{"content": {"parts": [{"text": text}]}, **more}]}

    if not streams:
        return _body(answer("".join(_WORDS), finishReason="STOP") | {"usageMetadata": found})
    so_far = {**found, "candidatesTokenCount": 1}
    events = [answer(word) | {"usageMetadata": so_far} for word in _WORDS]
    return _events([*events, answer("", finishReason="STOP") | {"usageMetadata": found}])


def converse(usage, *, streams):
    """Return a response of Bedrock's Converse, or the events of a stream."""
    fresh, read, written, output, _ = parts_of(usage)
    found = {
        "inputTokens": fresh,
        "outputTokens": output,
        "totalTokens": usage["input_tokens"] + output,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": written,
    }
    if written:
        long = usage.get("cache_write_1h_tokens", 0)
        by_ttl = {"1h": long, "5m": written - long}
        found["cacheDetails"] = [
            {"ttl": ttl, "inputTokens": number} for ttl, number in by_ttl.items() if number
        ]
    if not streams:
        return {"output": {"message": {"content": [{"text": "Once"}]}}, "usage": found}
    deltas = [{"contentBlockDelta": {"delta": {"text": word}}} for word in _WORDS]
    return [*deltas, {"messageStop": {}}, {"metadata": {"usage": found, "metrics": {}}}]


def invoke_model(usage, *, streams, is_claude):
    """Return the headers of a response of Bedrock's InvokeModel, or the events of a stream."""
    fresh, read, written, output, _ = parts_of(usage)
    counts = {"input": fresh, "output": output, "cache-read-input": read}
    counts["cache-write-input"] = written
    if not streams:
        return {f"x-amzn-bedrock-{name}-token-count": str(one) for name, one in counts.items()}
    metrics = {
        "inputTokenCount": fresh,
        "outputTokenCount": output,
        "cacheReadInputTokenCount": read,
        "cacheWriteInputTokenCount": written,
    }
    chunks = _claude_events(usage, {}) if is_claude else [{"generation": word} for word in _WORDS]
    chunks[-1] = {**chunks[-1], "amazon-bedrock-invocationMetrics": metrics}
    return [{"chunk": {"bytes": json.dumps(chunk).encode()}} for chunk in chunks]
