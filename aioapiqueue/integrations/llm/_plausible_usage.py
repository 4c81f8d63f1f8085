"""What the usage in an answer can be, by the request that it answers. Pure.

A proxy that counts characters, or a server that is wrong, may say that a call used 1,000,000,000
tokens. Charged, they would close a model for months. So what is larger than the request allows is
not believed, and of that the call keeps what it was charged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._request import is_data_url, is_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue.integrations.llm._request import Endpoint, LLMRequest

__all__ = ["believable", "most_input"]

_TIMES = 10
"""How many times its estimate an input is believed to be. Digits come out 1.7 times as long as they
are taken for, and no text that we have tried was further off."""
_HIDDEN = 30_000
"""Input tokens that a provider may add to any request without showing them: its own system prompt,
what it writes for tools, and what some models look up (Groq's compound)."""
_TENTH, _FEW = 10, 16
"""A tenth of the output that a request allows, and 16 tokens, are believed beyond it. A server may
count the end of each choice, or what it has guessed ahead (speculative decoding); or it counts the
tokens of the text, which are not always those that were made."""
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
"""Fields of a prompt whose text is all that they add to it."""
_DATA = frozenset(
    {"arguments", "input_schema", "inputSchema", "json_schema", "parameters", "schema"}
)
"""Those of them in which names are those of the user's program."""
_TYPES = frozenset(
    {"custom", "default", "ephemeral", "function", "function_call", "function_call_output"}
    | {"input_text", "json_object", "json_schema", "message", "output_text", "redacted_thinking"}
    | {"refusal", "text", "thinking", "tool_result", "tool_use"}
)
"""Each `type` of such text, and of tools that the user's program runs. `reasoning` is none of them:
OpenAI's responses name it by an id, and the server has it."""


def most_input(body: Mapping[str, Any], endpoint: Endpoint, size: float) -> float | None:
    """Return the most tokens that the input of a request can be believed to have.

    None: any number. Most of it may be elsewhere: in a file, an image, an earlier answer
    (`previous_response_id`) or its stored reasoning, a cached prompt, or in what a tool of the
    provider finds. Any field that is not known to be text may be such, so that no honest usage is
    refused.

    Args:
        body: of the request.
        endpoint: says which of its fields a model reads.
        size: its tokens, estimated.
    """
    if not body or not _ADDS_NOTHING.union(endpoint.prompt).issuperset(body):
        return None  # the first: it could not be read
    values = [body[name] for name in endpoint.prompt if name in body]
    return _TIMES * size + _HIDDEN if all(map(_is_text, values)) else None


def _is_text(prompt: object) -> bool:
    """Return whether all of a prompt is text that stands in it."""
    values = [prompt]
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
            # What a program gets as JSON has any names.
            is_call = kind == "tool_use" or "toolUseId" in value
            data = _DATA | {"input"} if is_call else _DATA
            values.extend(inner for name, inner in value.items() if name not in data)
        elif isinstance(value, str) and is_data_url(value):
            return False
    return True


def believable(request: LLMRequest, usage: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Return what of a usage can be, and why the rest cannot; an empty text: all of it can.

    Not believed is output of more than the request allows, and input far above the request's.

    Args:
        request: as it was read.
        usage: what its answer says.
    """
    believed, wrong = dict(usage), []
    allowed = request.max_output_tokens
    # Reasoning is left out: some servers have a maximum for what is shown only (`max_tokens` of
    # Qwen's). A maximum of 0 means none to some, and those who mean it make nothing.
    output = usage.get("output_tokens", 0) - usage.get("reasoning_tokens", 0)
    if allowed and output > allowed + allowed // _TENTH + _FEW:
        del believed["output_tokens"]
        wrong.append(f"{output} output tokens, but the request allows {allowed}")
    read = sum(usage.get(name, 0) for name in _INPUT)
    if request.most_input_tokens is not None and read > request.most_input_tokens:
        for name in _INPUT:
            believed.pop(name, None)
        wrong.append(f"{read} input tokens, but the estimate is {request.input_tokens}")
    return believed, " and ".join(wrong)
