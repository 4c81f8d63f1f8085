"""Determines until when a request may be sent: AWS refuses signatures older than five minutes.

The clock of this machine may be wrong. SDKs notice that in AWS's responses, and then sign with
AWS's time. So the gateway also compares the clocks, by the `Date` header.
"""

from __future__ import annotations

import calendar
import contextlib
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from aioapiqueue_run.gateway.calls import HttpRequest

__all__ = ["Signatures", "Validity"]

_HOLD_SECONDS = 240.0
"""Age of a signature at which the client of a waiting request is asked to sign again."""
_OLDEST_SECONDS = 290.0
"""Age at which a request is no longer sent: ten seconds are left for its way and AWS's clock."""

_WRONG_CLOCK_SECONDS = 60.0
"""Least difference of clocks that counts. A smaller one may be the delay of a response."""

_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_SECONDS = re.compile(r"\d{1,7}", re.ASCII)


class Validity(NamedTuple):
    """How long the signature of a request is valid. Times are as from `time.time()`.

    Attributes:
        waits_until: the time until which the request waits. Then its client is asked to sign again.
        ends: the time after which it is not sent.
    """

    waits_until: float
    ends: float


class Signatures:
    """Determines how long the signatures of requests stay valid."""

    def __init__(self) -> None:
        self._ahead = 0.0
        """Seconds by which this machine's clock is ahead of AWS's; 0 unless it is clearly wrong."""

    def note_date(self, date: str, now: float) -> None:
        """Compare the clocks, by the `Date` header of a response.

        Args:
            date: the header; an invalid one is ignored.
            now: the present time, as `time.time()`.
        """
        with contextlib.suppress(ValueError, TypeError):
            ahead = now - parsedate_to_datetime(date).timestamp()
            self._ahead = ahead if abs(ahead) > _WRONG_CLOCK_SECONDS else 0.0

    def validity_of(self, request: HttpRequest, now: float) -> Validity | None:
        """Return how long a request may wait and be sent; None if there is no limit.

        Args:
            request: a request that has just arrived.
            now: the present time, as `time.time()`.
        """
        signed = _time_of(request.headers.get("x-amz-date", ""))
        if signed is not None and "authorization" in request.headers:
            # In this machine's time. A signature from the future is counted from now: its machine's
            # clock is ahead of ours, and how it compares with AWS's is unknown.
            signed = min(signed + self._ahead, now)
            return Validity(signed + _HOLD_SECONDS, signed + _OLDEST_SECONDS)
        if "X-Amz-Expires=" not in request.query:
            return None
        # A presigned URL. Its client has no key to sign it again, so it waits until the very end.
        fields = dict(parse_qsl(request.query))
        signed, seconds = _time_of(fields.get("X-Amz-Date", "")), fields.get("X-Amz-Expires", "")
        if signed is None or not _SECONDS.fullmatch(seconds):
            return None
        ends = signed + int(seconds) + self._ahead
        # An expired one is sent as well: its client cannot sign it again, and gets AWS's own error.
        return Validity(ends, ends) if ends > now else None


def _time_of(text: str) -> float | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None
