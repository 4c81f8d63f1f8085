"""Until when a request may be sent: AWS refuses signatures that are more than five minutes old.

How old one is depends on the clock of this machine, which may be wrong: SDKs find that out from
AWS's answers, and sign for AWS's time. So the smallest age at which any request has come is taken
for the difference of the two clocks, if that is more than what clients let their requests wait.
"""

from __future__ import annotations

import calendar
import math
import re
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from aioapiqueue.gateway._calls import Request

__all__ = ["Signatures", "Validity"]

_HOLD_SECONDS = 240.0
_OLDEST_SECONDS = 290.0
"""Ten seconds are left for the way, and for clocks that differ."""

_WRONG_CLOCK_SECONDS = 60.0

_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_SECONDS = re.compile(r"\d{1,7}", re.ASCII)


class Validity(NamedTuple):
    """How long the signature of a request is good; instants are those of `time.time()`.

    Attributes:
        waits_until: so long the request waits; then its client is asked to sign again.
        ends: it is not sent after that.
    """

    waits_until: float
    ends: float


class Signatures:
    """Knows how long the signatures of requests are good."""

    def __init__(self) -> None:
        self._youngest = math.inf

    def validity_of(self, request: Request, now: float) -> Validity | None:
        """Return how long a request may wait, and be sent; None: for as long as one likes.

        Args:
            request: that has just come.
            now: as `time.time()`.
        """
        signed = _time_of(request.headers.get("x-amz-date", ""))
        if signed is not None and "authorization" in request.headers:
            self._youngest = min(self._youngest, max(0.0, now - signed))
            if self._youngest > _WRONG_CLOCK_SECONDS:
                signed += self._youngest
            signed = min(signed, now)
            return Validity(signed + _HOLD_SECONDS, signed + _OLDEST_SECONDS)
        if "X-Amz-Expires=" not in request.query:
            return None
        # A link, which was signed for some time: nobody signs it again.
        fields = dict(parse_qsl(request.query))
        signed, seconds = _time_of(fields.get("X-Amz-Date", "")), fields.get("X-Amz-Expires", "")
        if signed is None or not _SECONDS.fullmatch(seconds):
            return None
        ends = signed + int(seconds)
        # One that is over already is for AWS to refuse: nobody would come again for it.
        return Validity(ends, ends) if ends > now else None


def _time_of(text: str) -> float | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None
