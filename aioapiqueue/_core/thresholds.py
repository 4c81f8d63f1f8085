"""Sends an event as half, four fifths and all of a budget, or of a calendar period, is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from aioapiqueue._limits.limit_types import parse_limit, unit_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from aioapiqueue._limits.budget_use import BudgetUse

__all__ = ["Thresholds"]

_SHARES = (0.5, 0.8, 1)
_KEYS = 100_000
"""Number of keys whose thresholds are remembered: a key may be a tenant's."""
_ROUNDING = 1e-9

_Crossed = dict[str, tuple[float | None, float]]
"""By limit: the end of its period, and the largest share of which an event was sent."""


class Emitter(Protocol):
    """The part of a dispatcher that is used here."""

    def emit(self, kind: Literal["threshold"], *, key: Hashable, **details: Any) -> None:  # noqa: ANN401 - of `Event`, each of its own type
        """Count an event of a key, and inform observers."""


class Thresholds:
    """Sends an event for each share once: for each amount of a budget, and each period.

    Args:
        host: the queue's dispatcher.
    """

    __slots__ = ("_crossed", "_host")

    def __init__(self, host: Emitter) -> None:
        self._host = host
        self._crossed: dict[Hashable, _Crossed] = {}

    def note(self, key: Hashable, budgets: Mapping[str, BudgetUse]) -> None:
        """Send events of the limits of a key's lane, or (None) of the queue's own."""
        known = self._crossed.pop(key, {})
        crossed: _Crossed = {}
        found: list[tuple[str, BudgetUse, list[float]]] = []
        for limit, use in budgets.items():
            period, before = known.get(limit, (use.resets_at, 0))
            if period != use.resets_at:
                before = 0
            # What is given back does not take an event back: a call may reserve so much again.
            shares = [one for one in _SHARES if before < one <= use.share + _ROUNDING]
            if before or shares:
                crossed[limit] = (use.resets_at, max([before, *shares]))
            found.append((limit, use, shares))
        if crossed:
            self._crossed[key] = crossed  # the latest is the last
            if len(self._crossed) > _KEYS:
                del self._crossed[next(one for one in self._crossed if one is not None)]
        # Last: an observer may make a call, and then this looks again.
        for limit, use, shares in found:
            self._emit(key, limit, use, shares)

    def _emit(self, key: Hashable, text: str, use: BudgetUse, shares: Iterable[float]) -> None:
        for share in shares:
            limit = parse_limit(text)
            self._host.emit(
                "threshold",
                key=key,
                limits=(limit,),
                share=share,
                remaining=use.left,
                unit=unit_of(limit),
            )
