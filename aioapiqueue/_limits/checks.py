"""Checks of what callers pass: numbers, functions, and names of options."""

from __future__ import annotations

import inspect
import math
import re
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "LARGEST",
    "LONGEST",
    "check_count",
    "is_coroutine_function",
    "pattern_problem",
    "positive",
    "refuse_unknown",
    "whole",
]

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
    # `True` is an int, but a mistake wherever a number is expected.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{of} must be a number, not {value!r}")
    enough = value > 0 if least is None else value >= least  # False for NaN
    if not enough or value == math.inf:
        bound = "above 0" if least is None else f"at least {least:g}"
        raise ValueError(f"{of} must be finite and {bound}, not {value!r}")
    if value > most:  # also an `int` that is too large for a float
        raise ValueError(f"{of} must be at most {most:g}, not {value!r:.30}")


def whole(value: int, *, of: str, least: float = 1) -> None:
    """Refuse a value that is not a whole number of at least `least`, as `positive` does."""
    positive(value, of=of, least=least)
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


def pattern_problem(
    name: object,
    *,
    remedy: str = 'give calls a key for each part, keys=(tenant, "search"), and name "search" here',
) -> str | None:
    """Return why a name looks like a pattern but can match nothing; None if it does not.

    Args:
        name: a key or pattern. One with an attribute `is_exact` has been checked.
        remedy: what to write instead.
    """
    if not isinstance(name, str) or hasattr(name, "is_exact") or not _WILDCARD.search(name):
        return None
    return f'this pattern matches nothing, because only a "*" at the end is a wildcard: {remedy}'


# Not "/search?q=1", "items[0]" or the IPv6 address "[::1]", which are names and no patterns.
_WILDCARD = re.compile(r"\*(?=.)|\?(?!\w+=)|\[[^\]:]{2,}\]", re.DOTALL)


def is_coroutine_function(function: object) -> bool:
    """Return whether each call of a function returns a coroutine."""
    while isinstance(function, partial):
        function = function.func
    # An object with an async `__call__` counts; its class, whose calls return objects, does not.
    call = getattr(function, "__call__", None) if not isinstance(function, type) else None  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def refuse_unknown(
    options: Iterable[str],
    known: Iterable[str],
    *,
    by: str,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Refuse unknown options, and name the option that was probably meant.

    Args:
        options: names of the options that were given.
        known: names of the options that exist.
        by: what takes the options, for the message.
        hints: what to write instead of names that other libraries have; default: nothing.

    Raises:
        TypeError: an option is unknown.
    """
    known = list(known)
    for name in options:
        if name not in known:
            import difflib  # noqa: PLC0415 - only a refusal needs it

            near = difflib.get_close_matches(name, known, n=1)
            # A known word of another library is more certain than a similar name.
            if hints is not None and name in hints:
                remedy = f": {hints[name]}"
            elif near:
                remedy = f": did you mean {near[0]}=?"
            else:
                remedy = f": its options are {', '.join(f'{one}=' for one in known)}"
            raise TypeError(f"{by} has no option {name}={remedy}")
