"""What an answer asks of its client, wherever it was read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aioapiqueue._grammar import CALLS

if TYPE_CHECKING:
    from aioapiqueue._rate import Limit

__all__ = ["MAX_HOLD", "Advice", "Quota", "shortened", "shortened_quota"]


MAX_HOLD = 3600.0
"""Seconds that an answer may hold a queue, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What an answer says of one of the server's quotas.

    Attributes:
        unit: what it counts: `"calls"` (default), or in the words of the header `"tokens"`,
            `"input_tokens"` and so on.
        remaining: what is left of it; None: not given, as below.
        reset: seconds from now until it is full again, or until its next window begins.
        limit: its size.
        period: the seconds in which so much is let through.
    """

    unit: str = CALLS
    remaining: float | None = None
    reset: float | None = None
    limit: float | None = None
    period: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What an answer asks for.

    Attributes:
        throttled: the other side pushed back.
        hold: seconds for which nothing should be sent; None: it names no time.
        remaining: every quota of which the answer says something, in the order of its fields. No
            reset is longer than `max_hold`.
        limits: the limits that it states whole: so much in so many seconds.
        refused: refused for good, since a quota is gone for longer than anybody waits, or since
            the server says not to send it again. That is no push-back.
        malformed: something in it cannot be read, or its hold is longer than `max_hold` and was
            cut.
    """

    throttled: bool = False
    hold: float | None = None
    remaining: tuple[Quota, ...] = ()
    limits: tuple[Limit, ...] = ()
    refused: bool = False
    malformed: bool = False


def shortened(advice: Advice, most: float) -> Advice:
    """Return the same advice with no wait that is longer than `most` seconds.

    A hold that was is malformed.
    """
    remaining = tuple(shortened_quota(quota, most) for quota in advice.remaining)
    if advice.hold is None or advice.hold <= most:
        return replace(advice, remaining=remaining)
    return replace(advice, remaining=remaining, hold=most, malformed=True)


def shortened_quota(quota: Quota, most: float) -> Quota:
    if quota.reset is None or quota.reset <= most:
        return quota
    return replace(quota, reset=most)
