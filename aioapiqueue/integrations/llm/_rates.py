"""Prices of tokens, and what numbers of tokens cost. Pure.

All amounts are `Decimal`s: USD per million tokens, and USD.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Steps: TypeAlias = tuple[tuple[int, Decimal], ...]
"""Prices of one kind of token. Each is valid for prompts of more tokens than its first number."""

_FALLBACKS = {
    "input": (),
    "input_audio": ("input",),
    "input_image": ("input",),
    "input_video": ("input",),
    "cache_read": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "output": (),
    "output_audio": ("output",),
    "output_image": ("output",),
    "output_video": ("output",),
    "output_reasoning": ("output",),
}
"""The kinds of tokens that responses count; each with those whose price it has by default."""
KINDS = tuple(_FALLBACKS)
OUTPUTS = tuple(kind for kind in KINDS if kind.startswith("output"))
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """The prices of one model.

    Args:
        steps: prices by kind of token; `input` is required, and for models with output `output`.
    """

    steps: Mapping[str, Steps]

    def of(self, kind: str, prompt: int) -> Decimal:
        """Return the price of a million tokens of a kind.

        Args:
            kind: one of `KINDS`.
            prompt: tokens of the whole prompt, on which the prices of some models depend.
        """
        names = (kind, *_FALLBACKS[kind])
        steps = next((self.steps[name] for name in names if name in self.steps), ())
        return next((price for start, price in reversed(steps) if prompt > start), _first(steps))

    def cost(self, tokens: Mapping[str, int], prompt: int) -> Decimal:
        """Return what numbers of tokens cost, in USD.

        Args:
            tokens: numbers by kind. Kinds that are not in `KINDS` cost nothing.
            prompt: as for `of`.
        """
        kinds = tokens.keys() & _FALLBACKS.keys()
        return sum((self.of(kind, prompt) * tokens[kind] for kind in kinds), Decimal()) / _MILLION

    def highest(self, kinds: tuple[str, ...], prompt: int) -> Decimal:
        """Return the highest price of several kinds, for any prompt up to a size."""
        starts = (start for steps in self.steps.values() for start, _ in steps)
        sizes = {prompt, *(start for start in starts if start < prompt)}
        return max(self.of(kind, size) for kind in kinds for size in sizes)


def _first(steps: Steps) -> Decimal:
    return steps[0][1] if steps else Decimal()
