"""Counts or estimates the tokens of a text, without a request to the provider."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ASCII_PER_TOKEN = 4
"""ASCII characters per token. With cl100k_base: English prose 4.9, Python 4.2, manuals with tables
and code 3.5 to 3.9, digits 2.3."""
_BYTES_PER_TOKEN = 2.5
"""Bytes per token of all other characters, in UTF-8. So the estimate for Chinese, Japanese, Korean,
Thai, Hindi and Russian is 1.0 to 1.7 times the count of cl100k_base, for Arabic 0.97 times."""
_MOST_COUNTED = 131_072
"""Most characters that are counted. This takes 10 ms, during which the event loop is blocked."""

# The tables of tiktoken. It would download a missing one, and block the event loop meanwhile.
_TABLES = {
    name: f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    for name in ("o200k_base", "cl100k_base")
}
_TABLES["o200k_harmony"] = _TABLES["o200k_base"]
_KNOWN_TO_TIKTOKEN = re.compile(r"(?:ft:)?(?:gpt|chatgpt|o[1-9]|text-embedding)-?")


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text: one per 4 ASCII characters, or per 2.5 other UTF-8 bytes.

    >>> estimate_tokens("Hello, world!"), estimate_tokens("こんにちは")
    (4, 6)

    The estimate divided by the count of tiktoken's `cl100k_base` is 1.2 for English prose and for
    Chinese, 1.1 to 1.2 for Japanese and Korean, 1.7 for Russian, and 1.04 for Python. The estimate
    is too low for German, JSON and manuals with code (0.9) and for digits (0.6).

    Args:
        text: the text to count.
    """
    return math.ceil(text_size(text))


def text_size(text: str) -> float:
    """Estimate the tokens of a text without rounding, for sums of many pieces."""
    if text.isascii():
        return len(text) / _ASCII_PER_TOKEN
    # JSON may contain half of a surrogate pair, which plain UTF-8 refuses.
    size = len(text.encode("utf-8", "surrogatepass"))
    plain = len(text.encode("ascii", "ignore"))
    return plain / _ASCII_PER_TOKEN + (size - plain) / _BYTES_PER_TOKEN


def counter_for(model: str) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text for a model.

    The function uses tiktoken if it knows the model and its tables are on this machine, else it is
    `estimate_tokens`. Nothing is downloaded.

    Args:
        model: name of the model, as in the request.
    """
    # Only names that tiktoken may know, so that it is not imported for other providers.
    encoding = _encoding_of(model) if _KNOWN_TO_TIKTOKEN.match(model) else None
    if encoding is None:
        return estimate_tokens

    def count(text: str) -> int:
        counted = text[:_MOST_COUNTED]
        # The names of special tokens are plain text in a prompt.
        tokens = len(encoding.encode_ordinary(counted))
        # Scaled up to the whole text, and rounded up.
        return -(-tokens * len(text) // len(counted)) if counted else 0

    return count


@lru_cache(maxsize=256)
def _encoding_of(model: str) -> Any:  # noqa: ANN401 - of tiktoken, which may not be installed
    try:
        import tiktoken  # noqa: PLC0415 - optional, and slow to import

        name = tiktoken.encoding_name_for_model(model.removeprefix("ft:"))
        return tiktoken.get_encoding(name) if _is_on_disk(name) else None
    except Exception:  # noqa: BLE001 - after any error, there is the estimate
        return None


def _is_on_disk(name: str) -> bool:
    if name not in _TABLES:
        return False
    default = Path(tempfile.gettempdir(), "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    # Not for security: these are the names of tiktoken's files.
    file = hashlib.sha1(_TABLES[name].encode(), usedforsecurity=False).hexdigest()
    return bool(folder) and Path(folder, file).is_file()
