"""Several limits together: a call is charged to all of them at one instant, or to none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._algorithms import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._algorithms import LimitState

__all__ = ["FullBuckets", "consume_if_due", "try_consume"]


def consume_if_due(states: Sequence[LimitState], now: float, costs: Sequence[float]) -> float:
    """Charge `costs` if all limits have room: return when they have; `<= now` means charged."""
    due = now
    for state in states:
        at = state.next_at(now, costs)
        if at > due:  # noqa: PLR1730 - done for each slot
            due = at
    if due <= now:
        for state in states:
            state.consume(now, costs)
    return due


def try_consume(states: Sequence[LimitState], now: float, costs: Sequence[float]) -> float:
    """As `consume_if_due`, of a newcomer while nobody waits."""
    due = now
    for state in states:
        at = state.newcomer_at(now, costs)
        if at > due:  # noqa: PLR1730 - done for each slot
            due = at
    if due <= now:
        for state in states:
            state.consume(now, costs)
    return due


class FullBuckets:
    """The way of most newcomers under several rates: all buckets are full, and it takes of each.

    Args:
        buckets: the states of the rates.
    """

    __slots__ = ("_buckets", "_catch_up")

    def __init__(self, buckets: Sequence[TokenBucket]) -> None:
        self._buckets = buckets
        self._catch_up = buckets[0].catch_up

    @classmethod
    def of(cls, states: Sequence[LimitState]) -> FullBuckets | None:
        """Return this of a queue's own limits; None if not all of them are rates."""
        buckets = [state for state in states if type(state) is TokenBucket]
        return cls(buckets) if buckets and len(buckets) == len(states) else None

    def try_consume(self, now: float, costs: Sequence[float]) -> bool:
        """Charge a newcomer while nobody waits, and return True, if it is such a case.

        In any other, nothing has been charged: it has to be asked for in full.
        """
        buckets, earliest = self._buckets, now - self._catch_up
        try:
            for bucket in buckets:
                if (
                    bucket.tat > now
                    or not 0 < costs[bucket.unit] <= bucket.burst  # so with one that is not stated
                    or bucket.held > earliest
                ):
                    return False
        except IndexError:  # the call was made before this unit was known
            return False
        for bucket in buckets:  # as TokenBucket.newcomer_at and consume
            used = costs[bucket.unit]
            if bucket.last < earliest and bucket.tat < now:
                bucket.anchor = now
            elif bucket.tat < earliest:
                bucket.anchor = earliest
            else:
                used += bucket.used
            bucket.used = used
            bucket.tat = bucket.anchor + used * bucket.interval
            bucket.last = bucket.full_at = now
        return True
