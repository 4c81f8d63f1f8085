"""Looks at budgets and calendar limits that are kept in this process, as calls are charged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.seam import Core
from aioapiqueue._core.thresholds import Thresholds
from aioapiqueue._limits.limit_types import Budget, Calendar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.figures import LaneFigures
    from aioapiqueue._core.slot import Call

__all__ = ["LocalThresholds"]


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
