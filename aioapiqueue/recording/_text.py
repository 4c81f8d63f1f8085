"""Times, shares and the verdict on a run as text, for messages, JSON and pages."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def as_clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> as_clock(83.7), as_clock(7384)
    ('1:23', '2:03:04')
    """
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def as_iso(seconds: float) -> str:
    """Return an instant, in seconds since the epoch, in the form of ISO 8601 and in UTC.

    >>> as_iso(1_800_000_000.5)
    '2027-01-15T08:00:00.500+00:00'
    """
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")


def as_percent(share: float) -> str:
    """Return a share in whole percents.

    >>> as_percent(0.944)
    '94 %'
    """
    return f"{100 * share:.0f} %"


class Verdict(NamedTuple):
    """The result of a run in one line.

    Attributes:
        text: the line.
        good: whether no call was throttled and nothing else is wrong; None if that is not known.
    """

    text: str
    good: bool | None


def verdict_of(
    queues: Sequence[Mapping[str, Any]],
    seconds: float,
    *,
    before: str = "",
    good: bool | None = True,
) -> Verdict:
    """Return the verdict on the queues of a recording.

    Args:
        queues: the queues, as `Recording.as_json` has them.
        seconds: the duration.
        before: a more important text to put first, with its colon or semicolon. Default: none.
        good: the verdict if no call was throttled; None if it is not known. Default: True.
    """
    calls = sum(one["calls"] for one in queues)
    throttled = sum(one["throttled"] for one in queues)
    counted = f"{calls:,} call{'s' * (calls != 1)} in {as_clock(seconds)}"
    if throttled:
        found = f"throttled {_times(throttled)}; {counted}"
    elif not calls:
        found = "no calls"
    else:
        found = f"no call was throttled; {counted}"
    # The fullest limit shows best how near to throttling the run came.
    shares = [(one["tightest"], one["queue"]) for one in queues if one["tightest"] and calls]
    if shares:
        tightest, queue = max(shares, key=lambda one: one[0]["share"])
        whose = "" if len(queues) == 1 else f" in {queue}"
        lane = "" if tightest["lane"] is None else f" for {tightest['lane']}"
        found += f", using {as_percent(tightest['share'])} of the limit{lane}{whose}"
    return Verdict(f"{before}{found}", good=False if throttled else good)


def _times(number: int) -> str:
    """Return how many times, in words."""
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")
