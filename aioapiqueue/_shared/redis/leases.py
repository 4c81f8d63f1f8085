"""Keeps the slots that an authority has granted to one queue: for which calls, and when.

A lease belongs to a scope (to calls that come under the same lanes) and has costs, but no call:
which call gets it is decided when it is due. It stays in its scope, because it has been charged to
the limits of those lanes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from aioapiqueue._shared.clock import TICK
from aioapiqueue._shared.lateness import Lateness
from aioapiqueue.spi import DetailedCall, cost_units

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._shared.limit_table import Scope
    from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes
    from aioapiqueue.spi import Host

_MANY = 64
"""Unused scopes that are kept in memory, because removing them would cost more."""


class Lease(NamedTuple):
    """A granted slot: a call of these costs may start on it from `at` until `until`.

    `at` and `until` are on the queue's clock; `timestamp` is `at` on the authority's clock, on
    which the slot is used at most `late` seconds later.
    """

    at: float
    until: float
    costs: tuple[float, ...]
    timestamp: int
    late: float


class LeasedCall(DetailedCall):
    """A call whose slot an authority grants."""

    __slots__ = ("lease",)

    lease: Lease | None
    """The lease that it started on; None: it waits, or started at the fallback rate."""

    @classmethod
    def new(cls, *details: Any) -> Self:  # noqa: ANN401 - as of `DetailedCall`
        """Make a call without a lease; see `DetailedCall.new`."""
        call = super().new(*details)
        call.lease = None
        return call


@dataclass(eq=False, slots=True)
class ScopeGrants:
    """The leases for the calls of one scope, and when to request more."""

    leases: deque[Lease] = field(default_factory=deque)
    ask_at: float = -math.inf
    """The instant before which no further slot is due, on the queue's clock."""
    waits_for: Hashable = None
    """The lane for which the calls had to wait, by the last reply; None: they did not."""
    used_at: float = -math.inf
    """The instant at which its latest call started."""
    look_at: float = -math.inf
    """The instant for which a group is planned, from which lateness counts; -inf: none is."""


class LeasedCosts:
    """The costs that are leased and not used yet, by lane."""

    def __init__(self) -> None:
        self.sums: dict[Hashable, list[float]] = {}
        """The total cost by lane (None: in the queue) and unit."""
        self._numbers: dict[Hashable, int] = {}
        """Number of slots, by lane."""

    def add(self, scope: Scope, costs: Sequence[float]) -> None:
        """Count a slot for calls of a scope."""
        for lane in (None, *scope.lanes):
            self.add_to(lane, costs)

    def add_to(self, lane: Hashable, costs: Sequence[float]) -> None:
        """Count a slot in one lane; None: in the queue."""
        self._numbers[lane] = self._numbers.get(lane, 0) + 1
        sums = self.sums.setdefault(lane, [])
        sums.extend([0.0] * (len(costs) - len(sums)))
        for unit, cost in enumerate(costs):
            if cost_units.is_stated(costs, unit):
                sums[unit] += cost

    def remove(self, scope: Scope, costs: Sequence[float]) -> None:
        """Stop counting a slot that was added."""
        for lane in (None, *scope.lanes):
            left = self._numbers[lane] = self._numbers[lane] - 1
            if not left:  # sums of floats do not return to exactly 0
                del self._numbers[lane], self.sums[lane]
                continue
            sums = self.sums[lane]
            for unit, cost in enumerate(costs):
                if cost_units.is_stated(costs, unit):
                    sums[unit] -= cost

    def number(self, lane: Hashable) -> int:
        """Return the number of slots in a lane; None: in the queue."""
        return self._numbers.get(lane, 0)

    def of(self, lane: Hashable, unit: int) -> float:
        """Return the cost of those in a lane (None: in the queue) together, in one unit."""
        sums = self.sums.get(lane, ())
        return sums[unit] if unit < len(sums) else 0


class Leases:
    """The leases of one queue, by scope.

    Args:
        host: the queue's dispatcher.
        waiting: the scopes in which calls wait.
        on_taken: called with a scope when one of its leases is taken: it may need another.

    Attributes:
        by_scope: what is known of the calls of each scope.
        costs: of all leases, by lane.
        lateness: how late leases are used.
    """

    def __init__(
        self, host: Host, waiting: WaitingScopes, on_taken: Callable[[Scope], None]
    ) -> None:
        self.by_scope: dict[Scope, ScopeGrants] = {}
        self.costs = LeasedCosts()
        self.lateness = Lateness()
        self._host = host
        self._waiting = waiting
        self._on_taken = on_taken
        self._prune_at = _MANY
        self._surplus: set[Scope] = set()
        """Scopes that may have more leases than waiting calls."""

    @property
    def number(self) -> int:
        """Number of leases, in all scopes."""
        return self.costs.number(None)

    def of(self, scope: Scope) -> ScopeGrants:
        """Return what is known of the calls of a scope."""
        grants = self.by_scope.get(scope)
        if grants is None:
            # At twice the size of the last time, so that the loop costs a constant for each scope.
            if len(self.by_scope) >= self._prune_at:
                waiting, now = self._waiting.by_scope, self._host.loop.now()
                self.by_scope = {
                    one: its
                    for one, its in self.by_scope.items()
                    if one in waiting or its.leases or its.ask_at > now
                }
                self._prune_at = 2 * len(self.by_scope) + _MANY
            grants = self.by_scope[scope] = ScopeGrants()
        return grants

    def add(self, scope: Scope, lease: Lease, *, is_next: bool = False) -> None:
        """Add a lease.

        Args:
            scope: whose calls may use it.
            lease: the lease.
            is_next: whether it is earlier than all other leases of the scope, because it is back
                from a call that never ran. Otherwise it is later. Default: False.
        """
        leases = self.of(scope).leases
        (leases.appendleft if is_next else leases.append)(lease)
        self.costs.add(scope, lease.costs)
        self._surplus.add(scope)  # the call that it was granted for may have left meanwhile

    def usable(self, scope: Scope, now: float) -> tuple[Lease | None, list[Lease]]:
        """Return the next lease that can still be used, and those that cannot, taken away."""
        leases, lost = self.of(scope).leases, []
        # Used later than `until`, a slot would be too close to the slots after it.
        while leases and leases[0].until < now - TICK:
            lost.append(self.take(scope))
            self.lateness.missed(max(lost[-1].at, self.of(scope).look_at), now)
        return (leases[0] if leases else None), lost

    def take(self, scope: Scope) -> Lease:
        """Take the next lease away from a scope."""
        lease = self.of(scope).leases.popleft()
        self.costs.remove(scope, lease.costs)
        self._on_taken(scope)
        return lease

    def use(self, scope: Scope, now: float) -> Lease:
        """Take the next lease of a scope for a call that starts now."""
        lease, grants = self.take(scope), self.of(scope)
        self.lateness.used(max(lease.at, grants.look_at), now)
        grants.used_at = now
        return lease

    def take_all(
        self, lanes: Iterable[Hashable], *, before: float = math.inf
    ) -> list[tuple[Scope, Lease]]:
        """Take all leases away that come under one of these lanes; None: all leases.

        Args:
            lanes: the lanes.
            before: take only leases for earlier instants than this.
        """
        taken: list[tuple[Scope, Lease]] = []
        lanes = set(lanes)
        if not lanes or not self.number:
            return taken
        for scope, grants in self.by_scope.items():
            if grants.leases and (None in lanes or not lanes.isdisjoint(scope.lanes)):
                while grants.leases and grants.leases[0].at < before:
                    taken.append((scope, self.take(scope)))
        return taken

    def note_surplus(self, scopes: Iterable[Scope]) -> None:
        """Note that scopes may have more leases than waiting calls."""
        self._surplus.update(scopes)

    def take_surplus(self) -> list[tuple[Scope, Lease]]:
        """Take away leases whose calls have left: other processes may need them."""
        taken: list[tuple[Scope, Lease]] = []
        for scope in self._surplus if self.number else ():
            leases, waiting = self.of(scope).leases, self._waiting.waiting_in(scope)
            while len(leases) > waiting:
                # The latest one: the calls that remain start earlier, and nothing may have been
                # granted after it yet, so that a rate can take it back. Not by `take`: no call
                # lacks it.
                lease = leases.pop()
                self.costs.remove(scope, lease.costs)
                taken.append((scope, lease))
        self._surplus.clear()
        return taken

    def forget(self) -> None:
        """Forget all leases: the authority has lost them."""
        for grants in self.by_scope.values():
            grants.leases.clear()
            grants.waits_for = None
        self.costs = LeasedCosts()
