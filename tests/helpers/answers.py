"""What the tests of answers share: an instant, values that are none, and short forms."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

from aioapiqueue.integrations.http import read_advice

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT

WIDE = str.maketrans({str(digit): chr(0xFF10 + digit) for digit in range(10)})
"""To digits that are as wide as Chinese characters, and that `int()` reads."""

JUNK = [
    "",
    " ",
    "-1",
    "-2",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e5",
    "0x10",
    "soon",
    "\x00\x01\x02",
    "\x1c30",
    "30\x1f",
    "\udcff\udcfe",
    "٣",
    *(
        text.translate(WIDE)
        for text in (
            "30",
            "1s",
            "Mon, 21 Sep 2026 14:13:50 GMT",
            "Mon Sep 21 14:13:50 2026",
            "2026-09-21T14:13:50Z",
        )
    ),
    "30 seconds",
    "Fri, 31 Foo 2026 99:99:99 GMT",
    "Tue Feb 16 2021 09:02:42 GMT+0100 (Central European Standard Time)",
    "2026-99-99T00:00:00Z",
    "1s2",
    "9" * 10_000_000,
]


def http_date(at):
    """Write an instant as HTTP does."""
    return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)


def advice(status, *headers, **how):
    """Read the advice of an answer to a request that was answered at `NOW`."""
    return read_advice(status, headers, now=NOW, **how)


def hold(status, *headers, **how):
    """Return the hold alone, of what is not malformed."""
    read = advice(status, *headers, **how)
    assert not read.malformed
    return read.hold


def quotas(*headers, status=200, **how):
    """Return the quotas alone, of what is not malformed."""
    read = advice(status, *headers, **how)
    assert not read.malformed
    return read.remaining


def limits(*headers, status=200, **how):
    """Return the limits as text, of what is not malformed."""
    read = advice(status, *headers, **how)
    assert not read.malformed
    return [str(limit) for limit in read.limits]


def body(value):
    """Write a JSON body."""
    return json.dumps(value).encode()
