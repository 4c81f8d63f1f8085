"""Several limits together: a call is charged to all of them at one instant, or to none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._limits.algorithms import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue._limits.algorithms import LimitState
    from aioapiqueue._limits.units import CostTotals

__all__ = ["charge_full_pair", "consume_if_due", "try_consume"]


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
    for state in states:
        state.on_idle(now)
    return consume_if_due(states, now, costs)


def charge_full_pair(  # noqa: C901 - as one step, as it is done for each slot
    states: Sequence[LimitState], totals: CostTotals
) -> Callable[[float, Sequence[float]], bool] | None:
    """Return what charges most newcomers under two rates in one step, where both buckets are full.

    Most queues that count more than calls have two rates; for any number, a loop would take a
    quarter longer. The function is for the rates as they are now: where they change, ask for
    another one.

    Args:
        states: of the limits.
        totals: to which it adds what calls cost.

    Returns:
        A function of now and costs. It returns True if it has charged a newcomer while nobody
        waits, and False, with nothing charged, if a bucket is not full or a cost does not fit it.
        None: these limits are not two rates, or there is a unit before the last of theirs that
        neither of them counts.
    """
    buckets = [state for state in states if type(state) is TokenBucket]
    if len(states) != 2 or len(buckets) != 2:  # noqa: PLR2004 - a pair
        return None
    one, other = buckets
    unit, burst, interval = one.unit, one.burst, one.interval
    other_unit, other_burst, other_interval = other.unit, other.burst, other.interval
    catch_up = one.catch_up
    units = max(unit, other_unit) + 1
    if len({0, unit, other_unit}) < units:  # there is another one, which it would not add up
        return None
    sums = totals.sums_of(units)
    adds, adds_other = unit > 0, other_unit not in {0, unit}

    def charge(now: float, costs: Sequence[float]) -> bool:
        if len(costs) != units:  # made before these were known; or the queue knows another one
            return False
        used, other_used = costs[unit], costs[other_unit]
        tat, other_tat, earliest = one.tat, other.tat, now - catch_up
        if (
            tat > now
            or other_tat > now
            or not 0 < used <= burst  # so with one that is not stated
            or not 0 < other_used <= other_burst
            or one.held > earliest
            or other.held > earliest
        ):
            return False
        # As CostTotals.add.
        if costs[0] != 1:
            sums[0] += costs[0] - 1
        if adds:
            sums[unit] += used
        if adds_other:
            sums[other_unit] += other_used
        # As TokenBucket.on_idle and consume.
        if one.last < earliest and tat < now:
            one.anchor = now
        elif tat < earliest:
            one.anchor = earliest
        else:
            used += one.used
        if other.last < earliest and other_tat < now:
            other.anchor = now
        elif other_tat < earliest:
            other.anchor = earliest
        else:
            other_used += other.used
        one.used, other.used = used, other_used
        one.tat = one.anchor + used * interval
        other.tat = other.anchor + other_used * other_interval
        one.last = one.full_at = other.last = other.full_at = now
        return True

    return charge
