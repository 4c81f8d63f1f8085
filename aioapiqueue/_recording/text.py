"""Times and shares as text, for messages, JSON and pages."""

from __future__ import annotations

import datetime as dt


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
