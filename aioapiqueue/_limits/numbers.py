"""Checks of numbers that callers pass: counts, times, and what servers report."""

from __future__ import annotations

import math

__all__ = ["LARGEST", "LONGEST", "check_count", "positive", "whole"]

LARGEST = 1e15
"""Largest count. It is below 2**53, up to which floats represent every whole number."""
LONGEST = 1e9
"""Longest time in seconds, some 30 years. Sums of such times are exact to a microsecond."""


def positive(value: float, *, of: str, least: float | None = None, most: float = LARGEST) -> None:
    """Refuse a value that is not a number above zero (or of at least `least`), or is above `most`.

    Args:
        value: the number to check.
        of: name of the argument, as the caller wrote it, for the message.
        least: smallest valid number; default: any number above zero.
        most: largest valid number; for seconds, pass `LONGEST`.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is too small, too large, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{of} must be a number, not {value!r}")
    enough = value > 0 if least is None else value >= least
    if not enough or value == math.inf:
        bound = "above 0" if least is None else f"at least {least:g}"
        raise ValueError(f"{of} must be finite and {bound}, not {value!r}")
    if value > most:  # also an `int` that is too large for a float
        raise ValueError(f"{of} must be at most {most:g}, not {value!r:.30}")


def whole(value: int, *, of: str) -> None:
    """Refuse a value that is not a whole number of at least 1, as `positive` does."""
    positive(value, of=of, least=1)
    if not isinstance(value, int):
        raise TypeError(f"{of} must be a whole number, not {value!r}")


def check_count(remaining: float, reset: float | None, limit: float | None) -> None:
    """Refuse a remaining quota that no server can mean; see `Slot.sync`.

    Raises:
        ValueError: a number is negative, infinite or NaN.
        TypeError: a value is not a number.
    """
    positive(remaining, of="remaining", least=0)
    if reset is not None:
        positive(reset, of="reset", least=0, most=LONGEST)
    if limit is not None:
        positive(limit, of="limit", least=0)
