"""Tokens of an image by its size, by the formulas that the providers have published."""

from __future__ import annotations

import math

__all__ = ["claude", "gemini", "llama", "openai"]

_TILES = {
    "gpt-4o-mini": (2833, 5667),
    "gpt-4o": (85, 170),
    "gpt-4.1": (85, 170),
    "o1": (75, 150),
    "o3": (75, 150),
    "gpt-5": (70, 140),
    "gpt-5.1": (70, 140),
    "gpt-5.2": (70, 140),
}
_PATCHES = {
    "gpt-4.1-mini": (1536, 1.62),
    "gpt-4.1-nano": (1536, 2.46),
    "gpt-5-mini": (1536, 1.62),
    "gpt-5-nano": (1536, 2.46),
    "o4-mini": (1536, 1.72),
    "gpt-5.4-mini": (1536, 1.62),
}
"""Most patches of 32 by 32 pixels, and tokens for each. Newer models: 10,000 of 1.2."""


def openai(model, width, height):
    """Return the tokens of an image at OpenAI, in full detail."""
    if model in _TILES:
        base, each = _TILES[model]
        scale = min(1, 2048 / max(width, height))
        scale *= min(1, 768 / (min(width, height) * scale))
        tiles = math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
        return base + each * tiles
    most, factor = _PATCHES.get(model, (10_000, 1.2))
    patches = math.ceil(width / 32) * math.ceil(height / 32)
    return math.ceil(min(most, patches) * factor)


def claude(width, height, *, is_new):
    """Return the tokens of an image at Anthropic, which scales large ones down."""
    longest, most = (2576, 4784) if is_new else (1568, 1568)
    scale = min(1, longest / max(width, height))
    return min(most, math.ceil(width * scale * height * scale / 750))


def gemini(model, width, height):
    """Return the tokens of an image at Google: of Gemini 3 a fixed number, else by its crops."""
    if model >= "gemini-3":
        return 1120
    if max(width, height) <= 384:
        return 258
    unit = max(1, min(width, height) // 1.5)
    return 258 * math.ceil(width / unit) * math.ceil(height / unit)


def llama(width, height):
    """Return the tokens of an image of Llama 4: up to 16 tiles, and the whole."""
    tiles = math.ceil(width / 336) * math.ceil(height / 336)
    return 146 * (min(16, tiles) + 1)
