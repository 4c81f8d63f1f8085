"""Sends an event as half, four fifths and all of a budget, or of a calendar period, is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.seam import Core
from aioapiqueue._limits.limit_types import Budget, Calendar, parse_limit, unit_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.figures import LaneFigures
    from aioapiqueue._core.seam import Host
    from aioapiqueue._core.slot import Call
    from aioapiqueue._limits.limit_state import BudgetUse

__all__ = ["LocalThresholds", "Thresholds"]

_SHARES = (0.5, 0.8, 1)
_KEYS = 10_000
"""Number of keys whose thresholds are remembered: a key may be a tenant's."""
_ROUNDING = 1e-9

_Crossed = dict[str, tuple[float | None, float]]
"""By limit: the end of its period, and the largest share of which an event was sent."""


class Thresholds:
    """Sends an event for each share once: for each amount of a budget, and each period.

    Args:
        host: the queue's dispatcher.
    """

    __slots__ = ("_crossed", "_host")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._crossed: dict[Hashable, _Crossed] = {}

    def note(self, key: Hashable, budgets: Mapping[str, BudgetUse]) -> None:
        """Send events of the limits of a key's lane, or (None) of the queue's own."""
        known = self._crossed.get(key, {})
        crossed: _Crossed = {}
        for limit, use in budgets.items():
            period, before = known.get(limit, (use.resets_at, 0))
            if period != use.resets_at:
                before = 0
            # What is given back does not take an event back: a call may reserve so much again.
            share = max(
                [one for one in _SHARES if before < one <= use.share + _ROUNDING] or [before]
            )
            if share:
                crossed[limit] = (use.resets_at, share)
            if share > before:
                self._emit(key, limit, use, [one for one in _SHARES if before < one <= share])
        if crossed:
            self._crossed[key] = crossed
            if len(self._crossed) > _KEYS:
                del self._crossed[next(iter(self._crossed))]
        elif known:
            del self._crossed[key]

    def _emit(self, key: Hashable, text: str, use: BudgetUse, shares: Iterable[float]) -> None:
        limit = parse_limit(text)
        for share in shares:
            self._host.emit(
                "threshold",
                key=key,
                limits=(limit,),
                share=share,
                remaining=use.left,
                unit=unit_of(limit),
            )


class ObservedHost(Core, Protocol):
    """The part of a dispatcher that is used here and by the observers."""

    lanes: LaneFigures | None
    """Figures of the lanes; None: the queue has no lanes."""

    def follow(self, follower: Follower) -> None:
        """Call a follower as well from now on."""


class LocalThresholds(Follower):
    """Looks at the limits of each call that is charged, where they are kept in this process.

    Args:
        host: the queue's dispatcher.
    """

    __slots__ = ("_host", "_is_needed", "_thresholds")

    is_last = True

    def __init__(self, host: ObservedHost) -> None:
        self._host = host
        self._thresholds = Thresholds(host)
        self._is_needed = self._has_budgets()

    def _has_budgets(self) -> bool:
        host = self._host
        names = () if host.lanes is None else host.lanes.names
        limits_of = host.limiter.limits_of
        limits = [limit for name in (None, *names) for limit in limits_of(name) or ()]
        return any(isinstance(limit, Budget | Calendar) for limit in limits)

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - as `Follower`
        """Look at what the call was charged."""
        if self._is_needed:
            self._look(call.keys)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:  # noqa: ARG002 - as above
        """Look at what the call was charged beyond its reservation."""
        if self._is_needed:
            self._look(call.keys)

    def happened(
        self,
        kind: EventKind,
        call: Call | None,  # noqa: ARG002 - as above
        key: Hashable,  # noqa: ARG002 - as above
        **_: Any,  # noqa: ANN401 - for observers
    ) -> None:
        """Look whether other limits have budgets."""
        if kind == "limits_changed":
            self._is_needed = self._has_budgets()

    def _look(self, keys: Iterable[Hashable]) -> None:
        for key in dict.fromkeys((None, *keys)):
            self._thresholds.note(key, self._host.limiter.snapshot(key).budgets)
