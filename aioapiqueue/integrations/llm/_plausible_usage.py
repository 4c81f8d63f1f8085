"""Checks whether the usage in a response is possible for its request. Pure.

A proxy that counts characters, or a faulty server, may report 1,000,000,000 tokens for a call.
Charging these would close a model for months. So usage that exceeds what the request allows is
ignored, and the call keeps its reserved cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._request import is_data_url, is_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue.integrations.llm._request import Endpoint, LLMRequest

_INPUT_FACTOR = 10
"""Factor by which the input may exceed its estimate. The worst text measured, digits, has 1.7 times
its estimate."""
_HIDDEN_INPUT = 30_000
"""Input tokens that a provider may add to any request: its own system prompt, its instructions for
tools, and the search results of some models (Groq's compound)."""
_TENTH, _OUTPUT_MARGIN = 10, 16
"""The output may exceed the maximum of the request by a tenth and 16 tokens. A server may count the
end of each choice or tokens of speculative decoding, or it may tokenise the text again."""
_INPUT = ("input_tokens", "cache_read_tokens", "cache_write_tokens")

_ADDS_NOTHING = frozenset(
    {"anthropic_version", "audio", "background", "dimensions", "echo", "encoding_format"}
    | {"frequency_penalty", "function_call", "generationConfig", "generation_config", "include"}
    | {"inferenceConfig", "logit_bias", "logprobs", "max_completion_tokens", "max_output_tokens"}
    | {"max_tokens", "max_tool_calls", "metadata", "min_p", "modalities", "model", "modelId", "n"}
    | {"parallel_tool_calls", "performanceConfig", "presence_penalty", "prompt_cache_key"}
    | {"prompt_cache_retention", "reasoning", "reasoning_effort", "repetition_penalty"}
    | {"requestMetadata", "response_format", "safetySettings", "safety_identifier"}
    | {"safety_settings", "seed", "service_tier", "stop", "stop_sequences", "store", "stream"}
    | {"stream_options", "temperature", "text", "thinking", "toolConfig", "tool_choice"}
    | {"tool_config", "top_k", "top_logprobs", "top_p", "truncation", "user", "verbosity"}
)
"""Fields of a request that do not make its prompt longer."""
_CONTENT = frozenset(
    {"arguments", "cachePoint", "cache_control", "call_id", "content", "description", "format"}
    | {"function", "functionCall", "functionDeclarations", "functionResponse", "function_call"}
    | {"function_declarations", "id", "input", "inputSchema", "input_schema", "is_error"}
    | {"json_schema", "name", "output", "parameters", "parts", "prefix", "reasoning"}
    | {"reasoningContent", "reasoningText", "reasoning_content", "refusal", "role", "schema"}
    | {"signature", "status", "strict", "text", "thinking", "thought"}
    | {"thoughtSignature", "toolResult", "toolSpec", "toolUse", "toolUseId", "tool_call_id"}
    | {"tool_calls", "tool_use_id", "tools", "type", "verbosity"}
)
"""Fields of a prompt that add only their own text to it."""
_DATA = frozenset(
    {"arguments", "input_schema", "inputSchema", "json_schema", "parameters", "schema"}
)
"""The fields of `_CONTENT` that contain names chosen by the user's program."""
_TYPES = frozenset(
    {"custom", "default", "ephemeral", "function", "function_call", "function_call_output"}
    | {"input_text", "json_object", "json_schema", "message", "output_text", "redacted_thinking"}
    | {"refusal", "text", "thinking", "tool_result", "tool_use"}
)
"""Each `type` of such text, and of tools that the user's program runs. Without `reasoning`: OpenAI
stores that text on the server, and a request contains only its id."""


def most_input(body: Mapping[str, Any], endpoint: Endpoint, size: float) -> float | None:
    """Return the most input tokens that a response may plausibly report. None: any number.

    Any number is plausible if the request refers to content elsewhere: a file, an image, an earlier
    response (`previous_response_id`) or its stored reasoning, a cached prompt, or the results of a
    tool of the provider. Any unknown field may be such a reference, so that no correct usage is
    ever ignored.

    Args:
        body: JSON of the request.
        endpoint: names the fields of the prompt.
        size: estimated tokens of the prompt.
    """
    # An empty body is one that could not be read.
    if not body or not _ADDS_NOTHING.union(endpoint.prompt).issuperset(body):
        return None
    values = [body[name] for name in endpoint.prompt if name in body]
    return _INPUT_FACTOR * size + _HIDDEN_INPUT if all(map(_is_text, values)) else None


def _is_text(prompt: object) -> bool:
    """Return whether a prompt contains all of its text."""
    values = [prompt]  # a loop: a request may be nested deeper than Python can recurse
    while values:
        value = values.pop()
        if isinstance(value, list):
            values.extend(() if is_tokens(value) else value)
        elif isinstance(value, dict):
            kind = value.get("type", "text")
            is_known = isinstance(kind, str) and kind in _TYPES
            is_reference = value.keys() == {"id"}  # to an item that OpenAI has stored
            if not is_known or is_reference or not _CONTENT.issuperset(value):
                return False
            # Arguments of tools have names that the user's program has chosen: do not check them.
            is_call = kind == "tool_use" or "toolUseId" in value
            data = _DATA | {"input"} if is_call else _DATA
            values.extend(inner for name, inner in value.items() if name not in data)
        elif isinstance(value, str) and is_data_url(value):
            return False
    return True


def plausible_part(request: LLMRequest, usage: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Return the plausible part of a usage, and why the rest is impossible ("" if none is).

    Args:
        request: the request.
        usage: the usage in its response.
    """
    plausible, wrong = dict(usage), []
    allowed = request.max_output_tokens
    # Without reasoning: for some servers, the maximum covers only the visible output (`max_tokens`
    # of Qwen's). A maximum of 0 means "no maximum" to some servers; the others produce no output.
    output = usage.get("output_tokens", 0) - usage.get("reasoning_tokens", 0)
    if allowed and output > allowed + allowed // _TENTH + _OUTPUT_MARGIN:
        del plausible["output_tokens"]
        wrong.append(f"{output} output tokens, but the request allows {allowed}")
    read = sum(usage.get(name, 0) for name in _INPUT)
    if request.most_input_tokens is not None and read > request.most_input_tokens:
        for name in _INPUT:
            plausible.pop(name, None)
        wrong.append(f"{read} input tokens, but the estimate is {request.input_tokens}")
    return plausible, " and ".join(wrong)
