"""What a response asks the client to do, in one form for all services."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from aioapiqueue import Limit


MAX_HOLD = 3600.0
"""Longest hold in seconds, by default."""


@dataclass(frozen=True, slots=True)
class Quota:
    """One of the server's quotas, as a response reports it.

    Attributes:
        unit: what the quota counts: `"calls"` (default), `"tokens"`, `"input_tokens"` and so on.
        remaining: amount left. Default: None, not reported.
        reset: seconds from now until the quota is full again, or until its next window begins.
            Default: None, not reported.
        limit: size of the quota. Default: None, not reported.
        period: seconds in which the server admits `limit`. Default: None, not reported.
    """

    unit: str = CALLS
    remaining: float | None = None
    reset: float | None = None
    limit: float | None = None
    period: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What a response asks the client to do.

    Attributes:
        throttled: whether the server throttled the call. Default: False.
        hold: seconds during which no call should be sent. Default: None, no time given.
        remaining: the quotas that the response reports, in the order of its headers. Resets are cut
            to `max_hold`. Default: none.
        limits: limits that the response states completely, with amount and period. Default: none.
        refused: whether the server refused the call permanently: retrying will not help. Such a
            call is not counted as throttled. Default: False.
        malformed: whether a header could not be parsed, or the hold was longer than `max_hold` and
            has been cut. Default: False.
    """

    throttled: bool = False
    hold: float | None = None
    remaining: tuple[Quota, ...] = ()
    limits: tuple[Limit, ...] = ()
    refused: bool = False
    malformed: bool = False


def shortened(advice: Advice, most: float) -> Advice:
    """Return the advice with holds and resets of at most `most` seconds.

    If the hold was longer, the advice is malformed.
    """
    # The reset of a daily quota may be hours away, so only a long hold is malformed.
    remaining = tuple(
        one if one.reset is None or one.reset <= most else replace(one, reset=most)
        for one in advice.remaining
    )
    if advice.hold is None or advice.hold <= most:
        return replace(advice, remaining=remaining)
    return replace(advice, remaining=remaining, hold=most, malformed=True)
