"""How fast: `Rate` and `Window`, immutable, validated, parsed from strings."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = [
    "LARGEST",
    "LONGEST",
    "Limit",
    "Rate",
    "Window",
    "as_limit",
    "as_limits",
    "positive",
    "whole",
]

_FORMS = (
    'accepted forms: "10/s", "500/min", "5000/h", "0.2/s", "7 per 2s" (calls per time), '
    '"100ms", "0.5s" (one call each so long)'
)
_SECONDS = {
    "ms": (1, 1000),
    "s": (1, 1),
    "sec": (1, 1),
    "second": (1, 1),
    "min": (60, 1),
    "minute": (60, 1),
    "h": (3600, 1),
    "hour": (3600, 1),
    "d": (86400, 1),
    "day": (86400, 1),
}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_UNIT = rf"({'|'.join(_SECONDS)})s?"
# ASCII: other digits look like these, and are mostly a slip of an input method.
_FLAGS = re.ASCII | re.IGNORECASE
_CALLS_PER = re.compile(rf"{_NUMBER}\s*(?:/|\bper\b)\s*{_NUMBER}?\s*{_UNIT}", _FLAGS)
_INTERVAL = re.compile(rf"{_NUMBER}\s*{_UNIT}", _FLAGS)


LARGEST = 1e15
"""The largest count: below 2**53, up to which floats count whole calls."""
LONGEST = 1e9
"""The longest time in seconds, some 30 years: sums of times stay exact to a microsecond."""


def positive(value: float, *, of: str, least: float | None = None, most: float = LARGEST) -> None:
    """Refuse what is not a number above zero (or, where given, of at least `least`), to `most`.

    Args:
        value: the number to check.
        of: what it is, as the caller wrote it, for the message.
        least: the smallest number that will do; default: any above zero.
        most: the largest number that will do; of seconds, `LONGEST`.

    Raises:
        TypeError: not a number.
        ValueError: too small, too large, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{of} takes a number, not {value!r}")
    enough = value > 0 if least is None else value >= least
    if not enough or value == math.inf:
        bound = "above 0" if least is None else f"at least {least:g}"
        raise ValueError(f"{of} must be finite and {bound}, not {value!r}")
    if value > most:  # also a whole number that no float can hold
        raise ValueError(f"{of} must be at most {most:g}, not {value!r:.30}")


def whole(value: int, *, of: str) -> None:
    """Refuse what is not a whole number of at least 1, as `positive` does."""
    positive(value, of=of, least=1)
    if not isinstance(value, int):
        raise TypeError(f"{of} takes a whole number, not {value!r}")


def _ratio(number: str) -> tuple[int, int]:
    """Return a decimal number as whole ones: its digits, and what they are divided by."""
    before, _, after = number.partition(".")
    return int(before + after), 10 ** len(after)


@dataclass(frozen=True, slots=True)
class Rate:
    """A pace: one call every `per / calls` seconds, with `burst` calls at once after a rest.

    >>> Rate(10)                        # one call every 100 ms
    Rate(calls=10, per=1.0, burst=1)
    >>> Rate.parse("500/min").interval
    0.12

    Args:
        calls: how many calls (or cost units) in `per` seconds; above 0, fractions too.
        per: seconds, above 0.
        burst: how many may start at once after a rest; 1 is a fixed interval, more is a
            token bucket of that capacity (GCRA).

    Raises:
        ValueError: a value is zero, negative, infinite or NaN, `burst` is below 1, a number is
            above 1e15, or `per` or the interval above 1e9 seconds.
        TypeError: a value is not a number.
    """

    calls: float
    per: float = 1.0
    burst: float = 1

    def __post_init__(self) -> None:
        try:
            positive(self.calls, of="calls")
            positive(self.per, of="per", most=LONGEST)
            positive(self.burst, of="burst", least=1)
            positive(self.interval, of="the interval", most=LONGEST)
        except (TypeError, ValueError, OverflowError) as problem:
            kind = TypeError if isinstance(problem, TypeError) else ValueError
            raise kind(f"{self!r}: {problem}; {_FORMS}") from None

    @property
    def interval(self) -> float:
        """Seconds from one call to the next."""
        return self.per / self.calls

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate such as `"10/s"`, `"7 per 2s"` or `"100ms"`.

        Args:
            text: calls per time, or the time from one call to the next.

        Raises:
            ValueError: the text has another form; the message quotes it and shows the forms.
        """
        if match := _CALLS_PER.fullmatch(text.strip()):
            number, of, unit = match.groups()
        elif match := _INTERVAL.fullmatch(text.strip()):
            number, (of, unit) = "1", match.groups()
        else:
            raise ValueError(f"{text!r} is not a rate; {_FORMS}")
        # Whole numbers until the end, so that each figure is rounded once.
        calls, parts = _ratio(number)
        seconds, of_second = _SECONDS[unit.lower()]
        per, per_parts = _ratio(of or "1")
        if not calls or not per:
            raise ValueError(f"{text!r} is not a rate: zero; {_FORMS}")
        try:
            exact = calls % parts == 0
            return cls(
                calls // parts if exact else calls / parts, per * seconds / (per_parts * of_second)
            )
        except OverflowError:
            raise ValueError(f"{text!r} is not a rate: too large; {_FORMS}") from None

    def __str__(self) -> str:
        rate = f"{self.calls:g}/{'' if self.per == 1 else f'{self.per:g}'}s"
        return rate if self.burst == 1 else f"{rate} (burst {self.burst:g})"


@dataclass(frozen=True, slots=True)
class Window:
    """An exact sliding window: never more than `calls` in any `per` seconds.

    Otherwise as fast as the other limits allow: all calls may start at once, so join it with a
    `Rate` where the other side dislikes bursts. It remembers each start within the window.

    >>> str(Window(5000, 3600))
    '5000 in any 3600s'

    Args:
        calls: how many calls (or cost units) at most; a whole number above 0.
        per: seconds, above 0. A call that started exactly `per` seconds ago no longer counts.

    Raises:
        ValueError: a value is zero, negative, infinite or NaN, `calls` is above 1e15, or `per`
            above 1e9.
        TypeError: `calls` is not a whole number, or `per` is not a number.
    """

    calls: int
    per: float

    def __post_init__(self) -> None:
        if not isinstance(self.calls, int):
            raise TypeError(f"{self!r}: calls takes a whole number")
        positive(self.calls, of=f"{self!r}: calls")
        positive(self.per, of=f"{self!r}: per", most=LONGEST)

    def __str__(self) -> str:
        return f"{self.calls} in any {self.per:g}s"


Limit = Rate | Window


def as_limit(value: object) -> Limit:
    """Return `value` as a limit: a string is parsed, a `Rate` or `Window` is itself.

    Raises:
        TypeError: a bare number, which could be milliseconds, seconds or a rate.
        ValueError: a string that is no rate.
    """
    if isinstance(value, Rate | Window):
        return value
    if isinstance(value, str):
        return Rate.parse(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise TypeError(
            f"a bare {value!r} has two readings: write "
            f'"{value:g}ms" for one call every {value:g} milliseconds (as apiqueue did), '
            f'"{value:g}s" for one every {value:g} seconds (as asyncio counts), '
            f'or "{value:g}/s" for {value:g} calls per second'
        )
    raise TypeError(f"a limit is a string, a Rate or a Window, not {value!r}; {_FORMS}")


def as_limits(value: object) -> list[Limit]:
    """Return one limit, or several in a tuple or list, as a list of limits."""
    several = value if isinstance(value, tuple | list) else (value,)
    return [as_limit(one) for one in several]
