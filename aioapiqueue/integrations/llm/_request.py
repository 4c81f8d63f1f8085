"""The model, prompt and maximum output of an LLM request, read from its JSON. Pure.

Nothing here raises an error. A request that cannot be read costs one call.

A proxy that counts characters, or a faulty server, may report 1,000,000,000 tokens for a call.
Charging these would close a model for months. So usage that exceeds what the request allows is
ignored, and the call keeps its reserved cost (`plausible_part`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MAX_REQUEST = 33_554_432
"""Most bytes of a body that is parsed: Anthropic's limit."""
_MOST_TOKENS = 10_000_000
"""Most tokens of a response. A larger maximum in a request is cut to this."""
_MOST_CHOICES = 128
_PER_MESSAGE = 4
"""Tokens that a chat format adds to each message, for its role and its delimiters."""
_ATTACHED = frozenset(
    {"audio", "document", "file", "image", "image_url", "input_audio", "input_file"}
    | {"input_image", "media", "video"}
)
"""Each `type` of a part that is not text."""
_MEDIA_TYPES = ("media_type", "mime_type", "mimeType", "format", "fileUri", "file_uri")
_UNCOUNTED = frozenset({"type", "role", "cache_control", "id"})
"""Fields whose values are not part of the text that the model reads."""
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")
_INPUT_FACTOR = 10
"""Factor by which the input may exceed its estimate. The worst text measured, digits, has 1.7 times
its estimate."""
_HIDDEN_INPUT = 30_000
"""Input tokens that a provider may add to any request: its own system prompt, its instructions for
tools, and the search results of some models (Groq's compound)."""
_TENTH, _OUTPUT_MARGIN = 10, 16
"""The output may exceed the maximum of the request by a tenth and 16 tokens. A server may count the
end of each choice or tokens of speculative decoding, or it may tokenise the text again."""
_MEDIA = ("audio", "image", "video")
_MOST_REASONING = 200_000
"""Tokens that a response may have beyond its maximum, if the server says that they are reasoning.
The largest output of a model is 128,000."""
_INPUT = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
_OUTPUT = ("output_tokens",)
_PARTS: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    f"{way} tokens of media": (names, names, tuple(f"{way}_{one}_tokens" for one in _MEDIA))
    for way, names in (("input", _INPUT), ("output", _OUTPUT))
} | {"cache writes for an hour": (_INPUT, ("cache_write_tokens",), ("cache_write_1h_tokens",))}
"""Parts of the input and output: what is impossible if they are; their wholes, and the parts.
`reasoning_tokens` is not here, because some servers count it beside the output."""
_PART_NAMES = frozenset(part for _, _, parts in _PARTS.values() for part in parts)

ADDS_NOTHING = frozenset(
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
CONTENT = frozenset(
    {"arguments", "cachePoint", "cache_control", "call_id", "content", "description", "format"}
    | {"function", "functionCall", "functionDeclarations", "functionResponse", "function_call"}
    | {"function_declarations", "id", "input", "inputSchema", "input_schema", "is_error"}
    | {"json_schema", "name", "output", "parameters", "parts", "prefix", "reasoning"}
    | {"reasoningContent", "reasoningText", "reasoning_content", "refusal", "role", "schema"}
    | {"signature", "status", "strict", "text", "thinking", "thought"}
    | {"thoughtSignature", "toolResult", "toolSpec", "toolUse", "toolUseId", "tool_call_id"}
    | {"tool_calls", "tool_use_id", "tools", "ttl", "type", "verbosity"}
)
"""Fields of a prompt that add only their own text to it."""
DATA = frozenset(
    {"arguments", "input_schema", "inputSchema", "json_schema", "parameters", "schema"}
)
"""The fields of `CONTENT` that contain names chosen by the user's program."""
TYPES = frozenset(
    {"custom", "default", "ephemeral", "function", "function_call", "function_call_output"}
    | {"input_text", "json_object", "json_schema", "message", "output_text", "redacted_thinking"}
    | {"refusal", "text", "thinking", "tool_result", "tool_use"}
)
"""Each `type` of such text, and of tools that the user's program runs. `reasoning` is not among
them, because OpenAI stores that text, and a request contains only its id."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of request, and the JSON fields that determine its cost.

    Args:
        path: regular expression for the end of the URL's path (for Bedrock, the operation). A group
            named `model` captures the model.
        prompt: fields of the body that contain the prompt. Default: none; the request costs no
            tokens.
        most: fields that limit the tokens of the response, such as `"inferenceConfig.maxTokens"`.
            Default: none; the response has no tokens.
        choices: fields that contain the number of responses to generate. Default: none.
    """

    path: str
    prompt: tuple[str, ...] = ()
    most: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LLMRequest:
    """A request as a profile reads it: the argument of `key=` and `reserve=` functions.

    Attributes:
        host: host of the URL, without the port; for Bedrock, the Region.
        path: path of the URL, without the query; for Bedrock, the operation.
        headers: headers, with names in lower case. They contain the API key.
        body: JSON of the body; empty if it is not an object.
        model: name of the model; empty if the request names none.
        endpoint: kind of the request; None if the profile does not cover it.
        input_tokens: estimated tokens of the prompt.
        max_output_tokens: most tokens of the response, for all prompts and choices; None if the
            request sets no maximum.
        reserved: tokens reserved for the response; None if none have been reserved yet.
        most_input_tokens: most input tokens that a response may plausibly report; None if the
            request refers to content outside of it, so that any number is plausible.
        method: HTTP method.
        price: price of the request, with `most`, the most that it can cost in USD; None if no limit
            of it counts USD.
    """

    host: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    model: str = ""
    endpoint: Endpoint | None = None
    input_tokens: int = 0
    max_output_tokens: int | None = None
    reserved: float | None = None
    most_input_tokens: float | None = None
    method: str = "POST"
    price: Any = field(default=None, repr=False)


def read_body(content: object) -> dict[str, Any]:
    """Return the JSON object of a body; empty if it has none, or is a file, which is read once."""
    if not isinstance(content, str | bytes | bytearray) or len(content) > _MAX_REQUEST:
        return {}
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def most_output(body: Mapping[str, Any], endpoint: Endpoint) -> int | None:
    """Return the most tokens of all responses to a request; None if it sets no maximum."""
    found = list(_numbers(body, endpoint.most, most=_MOST_TOKENS))
    # One choice by default. `best_of` counts all that are generated, though fewer are returned.
    return min(_MOST_TOKENS, max(found) * responses(body, endpoint)) if found else None


def responses(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """Return the number of responses that a request asks for."""
    choices = max([1, *_numbers(body, endpoint.choices, most=_MOST_CHOICES)])
    return choices * _prompts(body, endpoint)


def with_maximum(body: Mapping[str, Any], endpoint: Endpoint, most: int) -> dict[str, Any]:
    """Return a copy of a request's JSON that sets a maximum for its response."""
    # Gemini's fields have two spellings: use the one that the request has.
    wanted = (one for one in endpoint.most if "." in one and one.partition(".")[0] in body)
    *path, name = next(wanted, endpoint.most[0]).split(".")
    changed = dict(body)
    inner = changed
    for step in path:
        found = inner.get(step)
        inner[step] = dict(found) if isinstance(found, Mapping) else {}
        inner = inner[step]
    inner[name] = most
    return changed


def _prompts(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """Return the number of prompts."""
    # The completions API accepts a list, and answers each one.
    prompt = body.get("prompt") if "prompt" in endpoint.prompt else None
    return len(prompt) if isinstance(prompt, list) and prompt and not is_tokens(prompt) else 1


def prompt_size(
    body: Mapping[str, Any],
    endpoint: Endpoint,
    *,
    count: Callable[[str], float],
    attachment_tokens: float,
) -> float:
    """Return the estimated number of tokens that the model reads.

    Args:
        body: JSON of the request.
        endpoint: names the fields of the prompt.
        count: returns the tokens of a text.
        attachment_tokens: tokens of an image or another part that is not text.
    """
    texts: list[str] = []
    size = 0.0
    values: list[Any] = [body[name] for name in endpoint.prompt if name in body]
    # A loop: a request may be nested deeper than Python can recurse.
    while values:
        value = values.pop()
        if isinstance(value, str):
            if is_data_url(value):
                size += attachment_tokens
            else:
                texts.append(value)
        elif isinstance(value, list):
            if is_tokens(value):
                size += len(value)
            else:
                values.extend(value)
        elif isinstance(value, dict):
            if _is_attachment(value):
                size += attachment_tokens
            else:
                size += _PER_MESSAGE if "role" in value else 0
                values.extend(_parts_of_prompt(value))
    return size + sum(count(text) for text in texts)


def _parts_of_prompt(part: Mapping[str, Any]) -> Iterable[Any]:
    """Return the parts of an object that a model reads."""
    values = [value for name, value in part.items() if name not in _UNCOUNTED]
    # The names in a tool's schema are part of the prompt, but those in a message are only format.
    return values if "role" in part or "text" in part else [*part, *values]


def is_data_url(text: str) -> bool:
    """Return whether a text is a file, most often an image."""
    return _DATA_URL.match(text) is not None


def is_tokens(values: list[Any]) -> bool:
    """Return whether a list is a prompt of token numbers."""
    return bool(values) and type(values[0]) is int and all(type(one) is int for one in values)


def _is_attachment(part: Mapping[str, Any]) -> bool:
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") in ("text", "content"):
        return False  # a document that is text
    kind = part.get("type")
    if isinstance(kind, str) and kind in _ATTACHED:
        return True
    has_data = any(name in part for name in ("data", "bytes", "fileUri", "file_uri"))
    if has_data and any(name in part for name in _MEDIA_TYPES):
        return part.get("media_type") != "text/plain"
    # Parameters of botocore have the data itself, not its base64.
    return isinstance(part.get("bytes"), (bytes, bytearray))


def _numbers(body: Mapping[str, Any], names: Iterable[str], *, most: int) -> Iterable[int]:
    for name in names:
        value: Any = body
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        # Not `isinstance`: True is an int.
        if type(value) in (int, float) and 0 <= value < float("inf"):
            yield min(most, int(value))


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
    if not body or not ADDS_NOTHING.union(endpoint.prompt).issuperset(body):
        return None
    values = [body[name] for name in endpoint.prompt if name in body]
    return plausible_input(size) if all(map(_is_text, values)) else None


def plausible_input(size: float) -> float:
    """Return the most input tokens that a response may plausibly report for a known size."""
    return _INPUT_FACTOR * size + _HIDDEN_INPUT


def _is_text(prompt: object) -> bool:
    """Return whether a prompt contains all of its text."""
    values = [prompt]  # a loop, as in `prompt_size`
    while values:
        value = values.pop()
        if isinstance(value, list):
            values.extend(() if is_tokens(value) else value)
        elif isinstance(value, dict):
            kind = value.get("type", "text")
            is_known = isinstance(kind, str) and kind in TYPES
            is_reference = value.keys() == {"id"}  # to an item that OpenAI has stored
            if not is_known or is_reference or not CONTENT.issuperset(value):
                return False
            # Arguments of tools have names that the user's program has chosen: do not check them.
            is_call = kind == "tool_use" or "toolUseId" in value
            data = DATA | {"input"} if is_call else DATA
            values.extend(inner for name, inner in value.items() if name not in data)
        elif isinstance(value, str) and is_data_url(value):
            return False
    return True


def plausible_part(request: LLMRequest, usage: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Return the plausible part of a usage, and why the rest is impossible ("" if nothing is).

    Args:
        request: the request.
        usage: the usage in its response.
    """
    plausible, wrong = dict(usage), []
    allowed = request.max_output_tokens
    # Without reasoning: for some servers, the maximum covers only the visible output (`max_tokens`
    # of Qwen's). A maximum of 0 means "no maximum" to some servers; the others produce no output.
    reasoning = min(usage.get("reasoning_tokens", 0), _MOST_REASONING)
    output = usage.get("output_tokens", 0) - reasoning
    if allowed and output > allowed + allowed // _TENTH + _OUTPUT_MARGIN:
        _remove(plausible, _OUTPUT)
        wrong.append(f"{output} output tokens, but the request allows {allowed}")
    read = sum(usage.get(name, 0) for name in _INPUT)
    if request.most_input_tokens is not None and read > request.most_input_tokens:
        _remove(plausible, _INPUT)
        wrong.append(f"{read} input tokens, but the estimate is {request.input_tokens}")
    if not _PART_NAMES.isdisjoint(usage):  # few responses have such parts
        wrong += _remove_impossible(plausible, usage)
    return plausible, " and ".join(wrong)


def _remove_impossible(plausible: dict[str, int], usage: Mapping[str, int]) -> list[str]:
    """Remove the wholes that are smaller than their parts, and return why."""
    wrong = []
    for what, (names, wholes, parts) in _PARTS.items():
        whole, inner = (sum(usage.get(one, 0) for one in ones) for ones in (wholes, parts))
        if inner > whole and names[0] in plausible:
            _remove(plausible, names)
            wrong.append(f"{inner} {what}, but only {whole} with all others")
    return wrong


def _remove(usage: dict[str, int], names: Iterable[str]) -> None:
    for name in names:
        usage.pop(name, None)
