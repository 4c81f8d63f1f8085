"""What a command says, without what stands before each line."""

from __future__ import annotations

import re

__all__ = ["words_of"]

_MESSAGE = re.compile(r"(?m)^(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ )?aioapiqueue: (.*)$")


def words_of(text: str) -> str:
    """Return our messages in a text, be it a log with times, without their line breaks."""
    return " ".join(_MESSAGE.findall(text))
