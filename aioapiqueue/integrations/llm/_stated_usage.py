"""The numbers of tokens that a response states, whichever provider's names they have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens", "inputTokenCount")
_OUTPUT = (
    "completion_tokens",
    "output_tokens",
    "candidatesTokenCount",
    "outputTokens",
    "outputTokenCount",
)
_CACHE_READ = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_CACHE_WRITE = (
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
    "cacheWriteInputTokenCount",
)
_GEMINI_CACHED, _GEMINI_TOOLS = "cachedContentTokenCount", "toolUsePromptTokenCount"
_GEMINI_THOUGHTS = "thoughtsTokenCount"
_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_MOST = 1_000_000_000
_ONE_HOUR = "ephemeral_1h_input_tokens"
_WRITTEN = "cache_write_tokens"
_MEDIA = ("audio", "image", "video")
_BY_MEDIUM = {
    "input": ("promptTokensDetails", "toolUsePromptTokensDetails"),
    "output": ("candidatesTokensDetails",),
}
"""Fields of Gemini with the tokens of each medium."""
_WITH_PARTS = frozenset(
    {*_DETAILS, *_OUTPUT_DETAILS, *_BY_MEDIUM["input"], *_BY_MEDIUM["output"]}
    | {"cache_creation", "cacheDetails"}
)
_WITH_CACHED = frozenset({*_DETAILS, _GEMINI_CACHED})
_BEGINNINGS = {"input": ("input_", "cache_"), "output": ("output_", "reasoning_")}
"""Beginnings of the names in a usage."""
_WAYS = {
    **dict.fromkeys((*_INPUT, *_CACHE_READ, *_CACHE_WRITE), "input"),
    **dict.fromkeys((_GEMINI_CACHED, _GEMINI_TOOLS), "input"),
    **dict.fromkeys((*_OUTPUT, _GEMINI_THOUGHTS), "output"),
}
"""Fields with numbers of tokens, of the input or the output."""
_DETAIL_WAYS = {
    **dict.fromkeys((*_DETAILS, "cache_creation"), "input"),
    **dict.fromkeys(_OUTPUT_DETAILS, "output"),
}
"""The same for objects with details."""
_IN_DETAILS = (
    *("cached_tokens", "reasoning_tokens", _ONE_HOUR, _WRITTEN),
    *(f"{medium}_tokens" for medium in _MEDIA),
)
"""Fields that are read in these objects."""
Usage: TypeAlias = Mapping[str, int]
"""Usage that a response reports: see `BodyUsageReader.usage`."""


class ReadUsage(dict[str, int]):
    """Usage that was read from a response.

    Attributes:
        is_estimate: whether the response does not state its output, so that it was estimated.
        malformed: a number that the response states and that is none of tokens; empty if there is
            none. The numbers on which it depends are left out.
        context: what the response states of how it was served, such as its service tier.
    """

    is_estimate: bool = False
    malformed: str = ""
    context: Mapping[str, str] = MappingProxyType({})


def read_usage(found: Mapping[str, Any]) -> ReadUsage:
    """Return the usage in an object, whichever provider's names it has.

    >>> read_usage({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14})
    {'input_tokens': 9, 'output_tokens': 5}

    Args:
        found: the object.

    Returns:
        Numbers of tokens, as far as the object states them: `input_tokens` without those of a
        cache, `cache_read_tokens`, `cache_write_tokens`, `output_tokens`, and `reasoning_tokens`,
        the hidden part of the output. Parts of these, if there are any: `input_audio_tokens`,
        `input_image_tokens`, `input_video_tokens`, the same of the output, and
        `cache_write_1h_tokens`. If one number of the input is invalid, such as -1, the others are
        left out too, as they do not show what the whole input costs. The same holds for the output.
    """
    stated = _stated(found)
    if not _WITH_PARTS.isdisjoint(found):
        stated |= _parts(found)
    usage, malformed = ReadUsage(stated), _invalid(found)
    for way, usage.malformed in malformed.items():
        for name in stated:
            if name.startswith(_BEGINNINGS[way]):
                usage.pop(name, None)
    return usage


def _stated(found: Mapping[str, Any]) -> dict[str, int]:
    usage: dict[str, int] = {}
    names = {
        "input_tokens": _INPUT,
        "cache_read_tokens": _CACHE_READ,
        "cache_write_tokens": _CACHE_WRITE,
        "output_tokens": _OUTPUT,
    }
    for name, fields in names.items():
        count = _first(found, fields, is_cut=name == "output_tokens")
        if count is not None:
            usage[name] = count
    _take_out_cached(usage, found)
    # Gemini counts thoughts separately. OpenAI counts reasoning as a part of the output.
    thoughts = _first(found, (_GEMINI_THOUGHTS,))
    if thoughts:
        usage["output_tokens"] = usage.get("output_tokens", 0) + thoughts
    reasoning = thoughts or _detail(found, _OUTPUT_DETAILS, "reasoning_tokens")
    if reasoning:
        usage["reasoning_tokens"] = reasoning
    # Gemini counts what its tools read separately from the prompt.
    tools = _first(found, (_GEMINI_TOOLS,))
    if tools and "input_tokens" in usage:
        usage["input_tokens"] += tools
    # xAI does not count reasoning as a part of the output, as only the total shows.
    if reasoning and not thoughts and "output_tokens" in usage:
        whole = sum(usage.get(name, 0) for name in names) + reasoning
        if _first(found, ("total_tokens",)) == whole:
            usage["output_tokens"] += reasoning
    return usage


def _take_out_cached(usage: dict[str, int], found: Mapping[str, Any]) -> None:
    """Count the tokens of a cache separately.

    For OpenAI and Gemini, the input includes those that were read from it, and those written.
    """
    if _WITH_CACHED.isdisjoint(found):
        return
    cached = _first(found, (_GEMINI_CACHED,)) or _detail(found, _DETAILS, "cached_tokens")
    written = _detail(found, _DETAILS, _WRITTEN)
    for name, part in (("cache_read_tokens", cached), ("cache_write_tokens", written)):
        if part and "input_tokens" in usage:
            usage[name] = part
            usage["input_tokens"] -= part
    if usage.get("input_tokens", 0) < 0:  # impossible, and it does not show how many are in neither
        del usage["input_tokens"]


def _parts(found: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of tokens that have a price of their own, without zeros."""
    parts = {"cache_write_1h_tokens": _detail(found, ("cache_creation",), _ONE_HOUR) or 0}
    for entry in objects_in(found.get("cacheDetails")):  # Bedrock
        if entry.get("ttl") == "1h":
            parts["cache_write_1h_tokens"] += _first(entry, ("inputTokens",)) or 0
    for way, details in (("input", _DETAILS), ("output", _OUTPUT_DETAILS)):
        for medium in _MEDIA:
            number = _detail(found, details, f"{medium}_tokens") or 0
            for entry in (one for name in _BY_MEDIUM[way] for one in objects_in(found.get(name))):
                if entry.get("modality") == medium.upper():
                    number += _first(entry, ("tokenCount",)) or 0
            parts[f"{way}_{medium}_tokens"] = number
    return {name: number for name, number in parts.items() if number}


def _invalid(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what fields of the input or the output contain that is no number of tokens."""
    ways = {}
    for name, value in found.items():
        if type(value) is int and 0 <= value <= _MOST:
            continue  # nearly all
        if name in _WAYS:
            # More output than any model has is charged as much as one has: see `Price.most_output`.
            is_more = type(value) is int and value > _MOST and name in _OUTPUT
            if not is_more and not _is_number(value):
                ways[_WAYS[name]] = f"{name} is {value!r:.50}"
        elif name in _DETAIL_WAYS and isinstance(value, dict):
            for one in _IN_DETAILS:
                if not _is_number(value.get(one)):
                    ways[_DETAIL_WAYS[name]] = f"{one} is {value[one]!r:.50}"
    return ways


def _is_number(value: object) -> bool:
    """Return whether a value is a number of tokens, or null: none, or an unknown number."""
    # Not `isinstance`: True is an int.
    return value is None or (type(value) is int and 0 <= value <= _MOST)


def objects_in(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _first(found: Mapping[str, Any], names: Iterable[str], *, is_cut: bool = False) -> int | None:
    for name in names:
        value = found.get(name)
        # Not `isinstance`: True is an int.
        if type(value) is int and value >= 0 and (is_cut or value <= _MOST):
            return min(value, _MOST)
    return None


def _detail(found: Mapping[str, Any], names: Iterable[str], detail: str) -> int | None:
    inner = (found[name] for name in names if isinstance(found.get(name), dict))
    return next((_first(one, (detail,)) for one in inner), None)
