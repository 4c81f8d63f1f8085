"""What tests ask of the servers is in the prompt: how long the answer is, and how long it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["Script", "count_tokens", "prompt", "read_script", "texts"]

CHARACTERS = 4  # a token, as a rule of thumb has it for English


@dataclass(frozen=True)
class Script:
    """What a prompt asks of the server.

    Args:
        out: output tokens, if the maximum allows them.
        seconds: from the arrival to the end of the answer.
        cached: input tokens that come from the provider's cache.
        written: input tokens that the provider puts into its cache (Anthropic).
        written_1h: those of them that it keeps for an hour.
        status: fail with this HTTP status after `seconds`, instead of an answer.
        cut: close the connection after so many of the 5 pieces of a stream.
    """

    out: int = 10
    seconds: float = 0.0
    cached: int = 0
    written: int = 0
    written_1h: int = 0
    status: int = 200
    cut: int = 0


def count_tokens(*parts):
    """Return how many tokens these texts are, together: one for each 4 characters begun."""
    return -(-sum(map(len, parts)) // CHARACTERS)


def prompt(tokens=None, **script):
    """Return a user message for `Script(**script)`, of exactly so many tokens if given.

    Raises:
        ValueError: the script alone is longer.
    """
    head = json.dumps(script)
    tokens = count_tokens(head) if tokens is None else tokens
    if tokens < count_tokens(head):
        raise ValueError(f"the script alone is {count_tokens(head)} tokens, above {tokens}")
    return head + "." * (tokens * CHARACTERS - len(head))


def texts(content):
    """Yield every text of messages, parts and the like, in their order."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from texts(part)
    elif isinstance(content, dict):
        for name in ("content", "parts", "text"):
            yield from texts(content.get(name))


def read_script(parts):
    """Return the `Script` of the last text that begins with one, or the default."""
    for text in reversed(parts):
        if text.startswith("{"):
            return Script(**json.JSONDecoder().raw_decode(text)[0])
    return Script()
