"""Slots that an authority has granted: for which calls, and when they may be used."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue.spi import DetailedCall, cost_units

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue._shared.redis.messages import BoundStatus
    from aioapiqueue._shared.scope import Scope

__all__ = [
    "LaneStatus",
    "Lease",
    "LeasedCall",
    "LeasedCosts",
    "ScopeGrants",
]


class Lease(NamedTuple):
    """A granted slot: from when until when a call of these costs may start on it.

    `at` and `until` are on the queue's clock, `timestamp` is the former on the authority's. By the
    authority's clock, the slot is used at most `late` seconds after that.
    """

    at: float
    until: float
    costs: tuple[float, ...]
    timestamp: int
    late: float


class LeasedCall(DetailedCall):
    """A call whose slot an authority grants.

    Args:
        details: as of `DetailedCall`.
    """

    __slots__ = ("lease",)

    lease: Lease | None
    """What it was granted by; None: it waits, or the fallback let it go."""

    def __init__(self, *details: Any) -> None:  # noqa: ANN401 - as `Args` says
        super().__init__(*details)
        self.lease = None


@dataclass(eq=False, slots=True)
class ScopeGrants:
    """What is leased for the calls of one scope, and when to ask for more."""

    leases: deque[Lease] = field(default_factory=deque)
    ask_at: float = -math.inf
    """No slot is due before; on the queue's clock."""
    stands_with: Hashable = None
    """The lane for which they had to wait, by the last reply."""


class LeasedCosts:
    """What is leased and not used yet, by lane."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._sums: dict[Hashable, list[float]] = {}

    def add(self, scope: Scope, costs: Sequence[float]) -> None:
        """Count a slot for calls of a scope."""
        for lane in (None, *scope.lanes):
            self._numbers[lane] = self._numbers.get(lane, 0) + 1
            sums = self._sums.setdefault(lane, [])
            sums.extend([0.0] * (len(costs) - len(sums)))
            for unit, cost in enumerate(costs):
                if cost_units.is_stated(costs, unit):
                    sums[unit] += cost

    def remove(self, scope: Scope, costs: Sequence[float]) -> None:
        """Count one no more that was added."""
        for lane in (None, *scope.lanes):
            left = self._numbers[lane] = self._numbers[lane] - 1
            if not left:  # fractions of cost do not add up
                del self._numbers[lane], self._sums[lane]
                continue
            sums = self._sums[lane]
            for unit, cost in enumerate(costs):
                if cost_units.is_stated(costs, unit):
                    sums[unit] -= cost

    def number(self, lane: Hashable) -> int:
        """Return how many there are in a lane; None: in all."""
        return self._numbers.get(lane, 0)

    def of(self, lane: Hashable, unit: int) -> float:
        """Return what those in a lane (None: in all) cost together, in one unit."""
        sums = self._sums.get(lane, ())
        return sums[unit] if unit < len(sums) else 0


@dataclass(eq=False, slots=True)
class LaneStatus:
    """How one lane (or the whole queue) stands, by the last reply. Instants are local ones."""

    round_position: int = 0
    """The timestamp of the first slot that this queue may have, by its place among the processes
    that wait for this lane; 0: none was named."""
    held_until: float = -math.inf
    """The end of a hold."""
    ready_at: tuple[float, ...] = ()
    """When each of its limits has room for the next call."""
    rate: float = math.inf
    """Calls per second that push-back has left."""
    waiting_since: float = math.inf
    """Since when there has always been a waiter."""
    bounds: tuple[BoundStatus, ...] = ()
    """What the other side has said of its quotas; `until` is a local instant."""
