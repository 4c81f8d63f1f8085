"""The most tokens that the prompt of a request can have, read from its JSON. Pure.

A budget holds only if no call costs more than it reserves, so this is not an estimate. No tokenizer
makes more than one token of a byte, so text counts by its bytes, with all names and brackets of its
JSON, which are more than what a chat format adds. Where content is elsewhere or has no such bound
(a document, a video, an earlier response), the prompt may fill the context window of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._request import (
    ADDS_NOTHING,
    CONTENT,
    DATA,
    TYPES,
    is_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue.integrations.llm._request import Endpoint

HIDDEN = 100
"""Tokens that a provider adds to each prompt. The most that is known are some 70, those of the
format of OpenAI's open models."""
_HIDDEN_WITH_TOOLS = 1000
"""Tokens that a provider adds to a prompt with tools, or with a schema for its response. The most
that is known are some 800, Anthropic's instructions for tools."""
_BYTES_PER_AUDIO_TOKEN = 16
"""Base64 characters per token of audio, at least. Codecs for speech have 6 kbit/s or more, which is
1,000 characters a second; Gemini counts most tokens, 32 a second."""
_PUNCTUATION = 6
"""Bytes that JSON adds to a value and its name: quotes, a colon, a comma or brackets."""
_KINDS = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    **dict.fromkeys(("document", "file", "input_file", "media", "video", "video_url"), "other"),
}
"""Kind of attachment by the `type` of a part, or by its only field (Bedrock)."""
_MEDIA_TYPES = ("mimeType", "mime_type", "media_type")
_WITH_INSTRUCTIONS = (
    *("tools", "functions", "toolConfig", "response_format", "output_config", "output_format"),
    *("outputConfig", "text"),
)
_SETTINGS = (
    *("generationConfig", "generation_config", "output_config", "output_format", "outputConfig"),
    "response_format",
)
"""Fields that may contain a schema for the response, which the model reads."""
_SCHEMAS = frozenset({"responseJsonSchema", "responseSchema", "response_json_schema"}) | {
    "response_schema"
}
"""The same in Gemini's `generationConfig`."""
_ADDS_LITTLE = ADDS_NOTHING.union(
    _SETTINGS,
    {"additionalModelResponseFieldPaths", "anthropic_beta", "betas", "cache_control"},
    {"include_reasoning", "inference_geo", "labels", "prompt_cache_options", "random_seed"},
    {"reasoning_format", "safe_prompt", "schemaVersion", "serviceTier", "speed", "toolConfig"},
    {"chat_template_kwargs", "enable_thinking", "outputDimensionality", "output_dimensionality"},
    {"provider", "stop_token_ids", "taskType", "task_type", "transforms", "usage"},
)
"""Fields of a request that add nothing to its prompt but what is counted here. Mistral's
`safe_prompt` adds some 60 tokens, as `HIDDEN` allows."""
_FOR_THE_MODEL = "additionalModelRequestFields"
_PASSED_ON = frozenset(
    {"anthropic_beta", "reasoning_config", "reasoning_effort", "thinking", "top_k"}
)
_PRICED_OTHERWISE = {
    "web_search_options": "web search",
    "search_parameters": "web search",
    "plugins": "plugins",
    "mcp_servers": "MCP servers",
    "container": "a container",
    "context_management": "context management",
    "models": "fallback models",
    "fallbacks": "fallback models",
    "route": "a router",
    "guardrailConfig": "a guardrail",
}
"""Fields of a request whose cost does not depend on the prompt and the maximum alone."""
_DESCRIBED_TOOLS = ("bash", "computer", "text_editor", "memory", "apply_patch", "local_shell")
_OWN_TOOLS = ("function", "custom", *_DESCRIBED_TOOLS)
"""Beginnings of the `type` of tools that the user's program runs."""
_OWN_TOOL_FIELDS = frozenset(
    {"functionDeclarations", "function_declarations", "toolSpec", "cachePoint"}
)
"""The fields of Gemini's and Bedrock's tools that the user's program runs."""


@dataclass(slots=True)
class PromptBound:
    """The most that the prompt of a request can be.

    Attributes:
        text: most tokens of its text.
        images: number of its images.
        audio: most tokens of its audio.
        elsewhere: content that only the context window of the model bounds, or "".
        cache: how long the request wants parts of it to be cached: `"5m"`, `"1h"`, or "" for none.
        unbounded: what makes the cost of the request unbounded, or "".
    """

    text: int = HIDDEN
    images: int = 0
    audio: int = 0
    elsewhere: str = ""
    cache: str = ""
    unbounded: str = ""


def prompt_bound(body: Mapping[str, Any], endpoint: Endpoint) -> PromptBound:
    """Return the most that the prompt of a request can be.

    Args:
        body: JSON of the request.
        endpoint: names the fields of the prompt.
    """
    bound = PromptBound()
    settings = [body[name] for name in _SETTINGS if name in body and name not in endpoint.prompt]
    has_schema = any(isinstance(one, Mapping) and _SCHEMAS & one.keys() for one in settings)
    if has_schema or any(body.get(name) for name in _WITH_INSTRUCTIONS):
        bound.text += _HIDDEN_WITH_TOOLS
    unknown = _fields(body) - _known_fields(endpoint)
    if unknown:
        bound.elsewhere = f"the field {min(unknown)!r}"
    # `web_search_options: {}` turns the search on; only null, "" and [] are no wish.
    asked = (why for name, why in _PRICED_OTHERWISE.items() if body.get(name) not in (None, "", []))
    bound.unbounded = next(asked, "") or _tool_elsewhere(body)
    if isinstance(body.get("prompt"), Mapping):
        bound.unbounded = "a stored prompt, whose tools are unknown"
    bound.text += _HIDDEN_WITH_TOOLS * _described_tools(body)
    _note_cache(bound, body)
    prompt = [(body[name], False) for name in endpoint.prompt if name in body]
    _add(bound, [*prompt, *((one, True) for one in settings)])
    return bound


def _known_fields(endpoint: Endpoint) -> frozenset[str]:
    # Titan's `textGenerationConfig.maxTokenCount` makes all of its object known.
    numbers = (name.partition(".")[0] for name in (*endpoint.most, *endpoint.choices))
    return _ADDS_LITTLE.union(endpoint.prompt, numbers)


def _fields(body: Mapping[str, Any]) -> set[str]:
    """Return the fields of a request, without Bedrock's for the model if all of these are known."""
    more = body.get(_FOR_THE_MODEL)
    is_known = isinstance(more, Mapping) and _PASSED_ON.issuperset(more)
    names = {name for name, value in body.items() if value is not None}
    return names - {_FOR_THE_MODEL} if is_known else names


def _add(bound: PromptBound, prompt: Iterable[tuple[Any, bool]]) -> None:
    """Add values of a request; with each, whether it is data of the user's program.

    The names in such data, for example in a schema, have no meaning here.
    """
    # A loop: a request may be nested deeper than Python can recurse.
    values = list(prompt)
    while values:
        value, is_data = values.pop()
        bound.text += _PUNCTUATION
        if isinstance(value, str):
            bound.text += _bytes_of(value)
        elif isinstance(value, list):
            if not is_data and is_tokens(value):
                bound.text += len(value)
            else:
                values.extend((one, is_data) for one in value)
        elif isinstance(value, Mapping):
            if is_data or not _add_attachment(bound, value):
                values.extend(_parts(bound, value, is_data=is_data))
        else:
            bound.text += len(str(value))


def _bytes_of(text: str) -> int:
    # JSON may contain half of a surrogate pair, which plain UTF-8 refuses.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _parts(
    bound: PromptBound, part: Mapping[Any, Any], *, is_data: bool
) -> Iterable[tuple[Any, bool]]:
    """Add the names in an object, and return its values."""
    if is_data:
        bound.text += sum(_bytes_of(str(name)) for name in part)
        return [(value, True) for value in part.values()]
    _note_cache(bound, part)
    bound.text += sum(map(len, part))
    kind = part.get("type", "text")
    is_known = isinstance(kind, str) and (kind in _TYPES or kind.startswith(_OWN_TOOLS))
    # Without the text, OpenAI has stored it.
    is_known = is_known or (kind == "reasoning" and bool(part.get("encrypted_content")))
    # SDKs send the messages of earlier responses back with all their fields, most of them empty.
    # A reference to an item that OpenAI has stored has only an `id`.
    names = {name for name, value in part.items() if value or name == "id"}
    if not is_known or names == {"id"} or not _KNOWN.issuperset(names):
        unknown = sorted(names - _KNOWN)
        bound.elsewhere = f"the field {unknown[0]!r}" if unknown else f"a part of the type {kind!r}"
    is_call = kind == "tool_use" or "toolUseId" in part
    data = _OWN_DATA | {"input"} if is_call else _OWN_DATA
    return [(value, name in data) for name, value in part.items()]


_TYPES = TYPES | {"document", "search_result"}
"""Each `type` of text. Of documents, only those that are text are looked into."""
_OWN_DATA = DATA.union(
    {"annotations", "args", "cachePoint", "cache_control", "caller", "citations", "custom"},
    {"format", "input_examples", "json", "logprobs", "mediaResolution", "media_resolution"},
    {"output_schema", "parametersJsonSchema", "parameters_json_schema", "toolChoice"},
    {"prompt_cache_breakpoint", "response", "responseJsonSchema", "response_json_schema"},
)
"""Fields whose values count by their bytes, whatever is in them."""
_KNOWN = CONTENT.union(
    _OWN_DATA,
    {"allowed_callers", "behavior", "context", "data", "defer_loading", "displayName"},
    {"display_name", "eager_input_streaming", "inlineData", "inline_data", "media_type"},
    {"encrypted_content", "model", "outputDimensionality", "output_dimensionality", "summary"},
    {"taskType", "task_type"},
    {"namespace", "phase", "scheduling", "source", "thought_signature", "title", "toolset_name"},
)
"""Fields of a prompt that add at most their own text and names to it."""


def _add_attachment(bound: PromptBound, part: Mapping[Any, Any]) -> bool:
    """Add a part that is not text; return whether it was one."""
    kind = part.get("type")
    source: Any = part.get("source")
    if kind == "document" and isinstance(source, Mapping) and source.get("type") == "text":
        return False
    found = _KINDS.get(kind) if isinstance(kind, str) else None
    media = next((part[name] for name in _MEDIA_TYPES if name in part), None)
    if found is None and isinstance(media, str) and media != "text/plain":
        found = _kind_of(media)
    if found is None and len(part) == 1:  # Bedrock
        found = _KINDS.get(next(iter(part)))
    if found is None:
        return False
    _note_cache(bound, part)
    _add_kind(bound, found, _size(part))
    return True


def _kind_of(media_type: str) -> str:
    kind = media_type.partition("/")[0]
    return kind if kind in ("image", "audio") else "other"


def _add_kind(bound: PromptBound, kind: str, size: int) -> None:
    if kind == "image":
        bound.images += 1
    elif kind == "audio" and size > 1000:  # noqa: PLR2004 - else it is only a reference
        bound.audio += -(-size // _BYTES_PER_AUDIO_TOKEN)
    else:
        bound.elsewhere = "a document, a video or another file"


def _size(part: Any) -> int:  # noqa: ANN401 - any JSON
    """Return the bytes of the data in an attachment, as base64."""
    if isinstance(part, Mapping):
        return sum(map(_size, part.values()))
    if isinstance(part, bytes | bytearray):
        return len(part) * 4 // 3
    return len(part) if isinstance(part, str) else 0


def _note_cache(bound: PromptBound, part: Mapping[Any, Any]) -> None:
    """Note that the request wants a part to be cached."""
    marker = part.get("cache_control", part.get("cachePoint"))
    if isinstance(marker, Mapping) and bound.cache != "1h":
        bound.cache = "1h" if marker.get("ttl") == "1h" else "5m"


def _described_tools(body: Mapping[str, Any]) -> int:
    """Return the number of tools that the provider describes to the model, as Claude's bash."""
    tools = body.get("tools")
    kinds = [one.get("type") for one in tools or () if isinstance(one, Mapping)]
    return sum(isinstance(kind, str) and kind.startswith(_DESCRIBED_TOOLS) for kind in kinds)


def _tool_elsewhere(body: Mapping[str, Any]) -> str:
    """Return a tool that the provider runs, whose cost is unbounded, or ""."""
    config = body.get("toolConfig")
    tools = config.get("tools") if isinstance(config, Mapping) else None
    for tool in body.get("tools") or tools or ():
        if not isinstance(tool, Mapping):
            continue
        kind = tool.get("type")
        if isinstance(kind, str):
            if not kind.startswith(_OWN_TOOLS):
                return f"the tool {kind!r}, which the provider runs"
        elif "name" not in tool and not _OWN_TOOL_FIELDS.issuperset(tool):
            name = min(tool.keys() - _OWN_TOOL_FIELDS, default="")
            return f"the tool {name!r}, which the provider runs"
    return ""
