"""The model, prompt and maximum output of an LLM request, read from its JSON. Pure.

Nothing here raises an error. A request that cannot be read costs one call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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


def read_body(content: bytes | None) -> Mapping[str, Any]:
    """Return the JSON object of a request; empty if there is none."""
    if not content or len(content) > _MAX_REQUEST:
        return {}
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def most_output(body: Mapping[str, Any], endpoint: Endpoint) -> int | None:
    """Return the most tokens of all responses to a request; None if it sets no maximum."""
    found = list(_numbers(body, endpoint.most, most=_MOST_TOKENS))
    choices = max([1, *_numbers(body, endpoint.choices, most=_MOST_CHOICES)])
    return min(_MOST_TOKENS, max(found) * choices * _prompts(body, endpoint)) if found else None


def _prompts(body: Mapping[str, Any], endpoint: Endpoint) -> int:
    """Return the number of prompts: the completions API accepts a list, and answers each one."""
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
                values.extend(_read_of(value))
    return size + sum(count(text) for text in texts)


def _read_of(part: Mapping[str, Any]) -> Iterable[Any]:
    """Return the parts of an object that a model reads: of a tool, also the names of fields."""
    values = [value for name, value in part.items() if name not in _UNCOUNTED]
    return values if "role" in part or "text" in part else [*part, *values]


def is_data_url(text: str) -> bool:
    """Return whether a text is a file, most often an image."""
    return _DATA_URL.match(text) is not None


def is_tokens(values: list[Any]) -> bool:
    """Return whether a list is a prompt of token numbers."""
    return bool(values) and type(values[0]) is int


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
    return isinstance(part.get("bytes"), (bytes, bytearray))


def _numbers(body: Mapping[str, Any], names: Iterable[str], *, most: int) -> Iterable[int]:
    for name in names:
        value: Any = body
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if type(value) in (int, float) and 0 <= value < float("inf"):
            yield min(most, int(value))
