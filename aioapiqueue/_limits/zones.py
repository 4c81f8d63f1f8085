"""Where the hours, days and months of a time zone begin and end.

Loaded by the first `Calendar` only: few programs need it, and zoneinfo takes long to import.

A day begins at the first instant at which the clocks of the zone show its date, or a later one. So
the days follow each other without gaps, each instant is in one of them, and none comes twice,
whatever the clocks do: set forward over midnight, the day begins then; set back over midnight, the
few minutes that are shown again belong to the day that had begun. Months are made of such days.
Hours begin where the clocks show a full hour, so that a day of 25 hours has 25, and also where the
clocks are set by half an hour (Lord Howe Island).

Clocks are set at whole seconds, so all of this is in whole numbers.
"""

from __future__ import annotations

import difflib
import math
import re
import zoneinfo
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from typing import Literal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = 3600


@cache  # there are some 600 names
def zone_called(name: str) -> tzinfo:
    """Return the time zone of a name; "UTC" needs no database.

    Raises:
        ValueError: no zone has that name, or there is no database of time zones.
    """
    if name == "UTC":
        return UTC
    try:
        if not re.fullmatch(r"[\w+/-]+", name, re.ASCII):
            raise ValueError(name)  # noqa: TRY301 - as ZoneInfo does for some
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # OSError: "America", a folder
        raise ValueError(_unknown(name)) from None


def _unknown(name: str) -> str:
    known = zoneinfo.available_timezones()
    if not known:
        return (
            f"no time zone database was found to look up {name[:60]!r}: pip install tzdata, or "
            'keep the zone "UTC"'
        )
    plain = {one.lower(): one for one in sorted(known)}
    plain |= {one.lower().rpartition("/")[2]: one for one in sorted(known) if "/" in one} | plain
    near = difflib.get_close_matches(name[:60].lower().replace(" ", "_"), plain, n=1)
    remedy = f"did you mean {plain[near[0]]!r}?" if near else 'write one such as "Europe/Paris"'
    return f"no time zone is called {name[:60]!r}; {remedy}"


def period(wall: float, each: Literal["hour", "day", "month"], zone: str) -> tuple[float, float]:
    """Return the start and the end of the period that an instant is in: see `Calendar.period`."""
    of, second = zone_called(zone), math.floor(wall)
    # Hours are computed, not looked up by date: a repeated hour shows the same time twice.
    if each == "hour":
        return _hour(second, of)
    first = _local(second, of).date()
    if each == "month":
        first = first.replace(day=1)
    begins, ends = _begins(first, of), _begins(_next(first, each), of)
    if second >= ends:  # the clocks were set back over midnight
        begins, ends = ends, _begins(_next(_next(first, each), each), of)
    return float(begins), float(ends)


def _hour(second: int, zone: tzinfo) -> tuple[float, float]:
    offset = _offset(second, zone)
    begins = (second + offset) // _HOUR * _HOUR - offset
    ends = begins + _HOUR
    if (offset - _offset(begins, zone)) % _HOUR:  # not all clocks are set by whole hours
        begins = _changes(begins, second, zone)
    if (offset - _offset(ends - 1, zone)) % _HOUR:
        ends = _changes(second, ends - 1, zone)
    return float(begins), float(ends)


def _next(first: date, each: Literal["hour", "day", "month"]) -> date:
    if each == "month":
        return date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first + timedelta(days=1)


def _begins(day: date, zone: tzinfo) -> int:
    """Return the first second at which a zone's clocks show this day or a later one."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    second = _seconds(midnight)
    shown = _local(second, zone).replace(tzinfo=None)
    skipped = int((shown - midnight.replace(tzinfo=None)).total_seconds())
    # Where the clocks skip midnight, this is midnight by the clocks as they were before.
    return _changes(second - skipped, second, zone) if skipped else second


def _changes(before: int, after: int, zone: tzinfo) -> int:
    """Return the second at which the clocks are set, between two with different offsets."""
    # zoneinfo does not list its transitions, so this searches: 12 steps for an hour.
    offset = _offset(after, zone)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(middle, zone) == offset:
            after = middle
        else:
            before = middle
    return after


def _local(second: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(seconds=second)).astimezone(zone)


def _offset(second: int, zone: tzinfo) -> int:
    return int((_local(second, zone).utcoffset() or timedelta()).total_seconds())


def _seconds(at: datetime) -> int:
    return int((at - _EPOCH).total_seconds())
