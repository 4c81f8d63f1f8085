"""Figures of limits that are kept in this process: what could start now, and what is used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._limits.limit_types import PERMITS
from aioapiqueue._limits.windows import Permits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioapiqueue._limits.budget_use import BudgetUse
    from aioapiqueue._limits.limit_state import LimitState
    from aioapiqueue._limits.limit_types import Limit

__all__ = ["budgets", "remaining"]


def remaining(
    states: Iterable[LimitState], names: Sequence[str], now: float, *, is_held: bool
) -> dict[str, float]:
    """Return how much could start now, by unit, and the number of free permits.

    Args:
        states: the states of the limits.
        names: the names of the units.
        now: the present instant.
        is_held: whether nothing starts now, whatever the limits say.
    """
    found: dict[str, float] = {}
    for state in states:
        unit = PERMITS if isinstance(state, Permits) else names[state.unit]
        room = 0 if is_held else state.room(now)
        if room < math.inf:
            found[unit] = min(room, found.get(unit, math.inf))
    return found


def budgets(
    limits: Iterable[Limit], states: Iterable[LimitState], now: float
) -> dict[str, BudgetUse]:
    """Return how much is used of each budget, and of each limit of a calendar period.

    Args:
        limits: the limits.
        states: their states, in the same order; further states may follow.
        now: the present instant.
    """
    uses = [(limit, state.use(now)) for limit, state in zip(limits, states, strict=False)]
    return {str(limit): use for limit, use in uses if use is not None}
