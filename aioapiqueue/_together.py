"""Several limits as one: a call is charged to all of them at one instant, or to none.

What a queue asks of its own limits for each slot, `LimitState` has for a single one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._algorithms import LimitState, TokenBucket
from aioapiqueue._units import ONE_CALL

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Together", "together", "try_consume"]


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


class Together:
    """Limits of any kind.

    Args:
        states: theirs.
    """

    __slots__ = ("_states",)

    def __init__(self, states: Sequence[LimitState]) -> None:
        self._states = states

    def consume_if_due(self, now: float, costs: Sequence[float]) -> float:
        """Charge `costs` if all limits have room: return when they have; `<= now`: charged."""
        return consume_if_due(self._states, now, costs)

    def try_consume(self, now: float, costs: Sequence[float]) -> float:
        """As `consume_if_due`, of a newcomer while nobody waits."""
        return try_consume(self._states, now, costs)

    def consume_one_if_due(self, now: float) -> float:
        """As `consume_if_due`, of a call that says nothing of its cost."""
        return self.consume_if_due(now, ONE_CALL)

    def try_consume_one(self, now: float) -> float:
        """As `try_consume`, of a call that says nothing of its cost."""
        return self.try_consume(now, ONE_CALL)


class _BucketsTogether(Together):
    """Token buckets: as inherited, with fewer steps where all of them are full."""

    __slots__ = ("_buckets", "_catch_up")

    def __init__(self, buckets: Sequence[TokenBucket]) -> None:
        super().__init__(buckets)
        self._buckets = buckets
        self._catch_up = buckets[0].catch_up

    def try_consume(self, now: float, costs: Sequence[float]) -> float:
        buckets, earliest = self._buckets, now - self._catch_up
        for bucket in buckets:
            if (
                bucket.tat > now
                or bucket.last < earliest
                or costs[bucket.unit] > bucket.burst
                or bucket.held > earliest
            ):
                return try_consume(buckets, now, costs)
        for bucket in buckets:  # as TokenBucket.consume
            used = costs[bucket.unit]
            if bucket.tat < earliest:
                bucket.anchor = earliest
            else:
                used += bucket.used
            bucket.used = used
            bucket.tat = bucket.anchor + used * bucket.interval
            bucket.last = bucket.full_at = now
        return now


def together(states: Sequence[LimitState]) -> Together | LimitState:
    """Return these limits as one."""
    if len(states) == 1:
        return states[0]
    buckets = [state for state in states if type(state) is TokenBucket]
    if states and len(buckets) == len(states):
        return _BucketsTogether(buckets)
    return Together(states)
