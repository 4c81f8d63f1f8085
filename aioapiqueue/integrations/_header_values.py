"""Numbers, durations and dates in headers. Pure: the clock is an argument."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DAY = 86_400.0
_YEARS = 1e9
"""A number below this (30 years) is in seconds; a number above it is a date."""
_MILLISECONDS = 1e11
"""A date above this is in milliseconds: in seconds, it would be in the year 5138."""
_REMEMBERED = 60.0
"""Shortest time in seconds for which an estimate of a server's clock is kept."""
_LONGEST_VALUE = 64
"""Most characters of a number, duration or date. Real values are shorter."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": _DAY}
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ].*")
_ASCTIME = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}")


class ServerClock:
    """The clock of one server, estimated from the `Date` of many responses.

    A `Date` is rounded down to whole seconds, so a time computed from one response is up to a
    second late. The response that arrives soonest after its `Date` gives the best lower bound of
    how far the server's clock is ahead of the local clock. As it is a lower bound, no computed time
    is early.
    """

    __slots__ = ("_ahead", "_before", "_since")

    def __init__(self) -> None:
        self._ahead = self._before = -math.inf
        self._since = -math.inf

    def now(self, date: float, now: float) -> float:
        """Return the time of the server: at least `date`, and less than a second later.

        Args:
            date: the `Date` of a response that has just arrived.
            now: the time of the local clock.
        """
        # Two spans: the bound comes from at least the last `_REMEMBERED` seconds, and older ones
        # are forgotten, because either clock may be adjusted.
        if not now < self._since + _REMEMBERED:
            self._before, self._ahead, self._since = self._ahead, -math.inf, now
        # The `Date` is at most the time at which the server sent it, so this is a lower bound.
        self._ahead = max(self._ahead, date - now)
        # Floating-point rounding can make `now + (date - now)` a little less than `date`.
        return max(date, min(now + max(self._ahead, self._before), date + 1))


class Values:
    """Reads the values of one response, and notes whether any of them is malformed.

    Args:
        now: time of the local clock, in seconds since 1970.
        dates: values of the `Date` headers; the last one counts.
        age: value of the `Age` header in seconds: how long a cache has had the response.
        clock: clock of the server. Default: none; only `dates` are used.
    """

    __slots__ = ("_age", "_clock", "_dates", "_now", "malformed")

    def __init__(
        self,
        now: float,
        dates: Sequence[str] = (),
        age: float = 0.0,
        clock: ServerClock | None = None,
    ) -> None:
        self._now = now
        self._clock = clock
        self._dates = dates
        self._age = age
        self.malformed = False

    def read(
        self,
        values: Sequence[str],
        read: Callable[[str], float | None],
        *,
        pick: Callable[[list[float]], float] = max,
    ) -> float | None:
        """Read a header that should come once. It is malformed if it has two different values.

        Args:
            values: all values of the header.
            read: reads one value; returns None if it is malformed.
            pick: returns the safest of several values. Default: the largest.
        """
        if len(values) == 1:  # the usual case, without a list
            value = read(values[0])
            self.malformed |= value is None
            return value
        distinct = dict.fromkeys(values)
        found = [value for text in distinct if (value := read(text)) is not None]
        if len(distinct) > 1 or len(found) < len(distinct):
            self.malformed = True
        return pick(found) if found else None

    def wait(self, values: Sequence[str]) -> float | None:
        """Return a time as seconds from now, at least 0, or None if it is missing or malformed."""
        seconds = self.read(values, self.seconds)
        if seconds is None:
            return None
        if seconds < -_DAY:  # no clock is that wrong
            self.malformed = True
            return None
        return max(seconds, 0.0)

    def seconds(self, text: str) -> float | None:
        """Return the seconds from now to the time in `text`, or None if it is malformed."""
        value = number(text)
        if value is not None:
            if value < _YEARS:
                return value
            return self._until(value if value < _MILLISECONDS else value / 1000)
        if (span := duration(text)) is not None:
            return span
        date = _date(text)
        return None if date is None else self._until(date)

    def _until(self, date: float) -> float:
        """Return the seconds until `date`, by the server's clock unless it is plainly wrong."""
        here = date - self._now
        server = _date(self._dates[-1]) if self._dates else None
        if server is None:
            return here
        there = date - server - self._age
        # By the local clock, the time is less than a day away; by the `Date`, it is not. So the
        # `Date` is wrong.
        if abs(here) <= _DAY < abs(there):
            return here
        return (
            there if self._clock is None or self._age else date - self._clock.now(server, self._now)
        )


def number(text: str) -> float | None:
    """Return a plain number of at least 0, or None."""
    if len(text) > _LONGEST_VALUE:
        return None
    # HTTP allows these two around a value. A bare `strip()` would remove more, such as "\x1c".
    digits = text.strip(" \t")
    return float(digits) if _NUMBER.fullmatch(digits) else None


def count(text: str) -> float | None:
    """Return an amount, at most the largest that limits can count, or None."""
    value = number(text)
    return None if value is None else min(value, checks.LARGEST)


def duration(text: str) -> float | None:
    """Return a duration such as `"6m0s"` in seconds, or None."""
    if len(text) > _LONGEST_VALUE:
        return None
    text = text.strip(" \t")
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))


def _date(text: str) -> float | None:
    """Return a date of RFC 9110 or RFC 3339 as seconds since 1970, or None if it is malformed."""
    if len(text) > _LONGEST_VALUE or not text.isascii():  # the parser accepts non-ASCII digits
        return None
    return _parsed_date(text.strip(" \t"))


@lru_cache(maxsize=256)  # all responses within a second have the same `Date`
def _parsed_date(text: str) -> float | None:
    try:
        if _ISO.fullmatch(text):
            date = datetime.fromisoformat(text)
        else:
            date = parsedate_to_datetime(text)
            # The parser also accepts dates with an unknown time zone.
            if date.tzinfo is None and not _ASCTIME.fullmatch(text):
                return None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
