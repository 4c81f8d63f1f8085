"""Chooses the scopes for which slots are requested, and when.

A scope with waiting calls and no lease is either requesting (slots are requested for it now), or
known to be due later. Both indices may contain scopes that need nothing, or are listed too early:
these are dropped when their turn comes. So joining and leaving cost a logarithm, and no step looks
at all scopes.

Scopes are of one kind if their calls leave the same units unused (`Scope.unused`). One kind may
wait for the queue's own limits while another, which uses none of the first one's units, has room.
So each kind has heaps of its own, an instant until which it is closed, and a part of each request.
There are few kinds, whatever the number of lanes.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from aioapiqueue._shared.clock import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue._shared.redis.leases import ScopeGrants
    from aioapiqueue._shared.redis.waiting_scopes import Place, WaitingScopes

Kind = tuple[int, ...]
"""`Scope.unused`: the units that calls do not use."""

_MOST_LANES = 32
"""Lanes of one limit each in one request: each takes up to 0.05 milliseconds of the server, and of
this loop when it reads the reply."""
_MANY = 64
"""Stale entries of a heap that may stay until they reach its top."""
_LAST: Place = (math.inf, math.inf)
"""The place after all others."""
_SortKey = TypeVar("_SortKey", tuple[float, float], float)


class _Lanes:
    """The lanes that a request names."""

    def __init__(self, limits: LimitTable) -> None:
        self.named: set[Hashable] = set()
        self._limits = limits
        self._work = 0.0

    @property
    def full(self) -> bool:
        """Whether it may name no more."""
        return self._work >= _MOST_LANES

    def add(self, scope: Scope, most: float = _MOST_LANES) -> bool:
        """Add the lanes of a scope, unless the work would exceed `most`; return whether it did."""
        lanes = [lane for lane in scope.lanes if lane not in self.named]
        work = self._work + sum(map(self._limits.work_of, lanes))
        # The first scope fits whatever it has, or a call with many lanes would never be asked for.
        if self._work and lanes and work > most:
            return False
        self.named.update(lanes)
        self._work = work
        return True


class _Index(Generic[_SortKey]):
    """Scopes with a sort key each: finds the first scope of each kind."""

    def __init__(self) -> None:
        self.keys: dict[Scope, _SortKey] = {}
        self.heaps: dict[Kind, list[tuple[_SortKey, int, Scope]]] = {}
        """By kind, a heap; an entry whose key is no longer that of its scope is stale."""
        self._numbers = count()  # so that heaps never compare scopes, whose lanes may not compare

    def add(self, scope: Scope, key: _SortKey) -> None:
        """Add a scope, or give it another key."""
        self.keys[scope] = key
        heap = self.heaps.setdefault(scope.unused, [])
        heappush(heap, (key, next(self._numbers), scope))
        if len(heap) > 2 * len(self.keys) + _MANY:  # amortised: a constant for each `add`
            heap[:] = [
                (its, next(self._numbers), one)
                for one, its in self.keys.items()
                if one.unused == scope.unused
            ]
            heapify(heap)

    def first(self, kind: Kind) -> tuple[_SortKey, int, Scope] | None:
        """Return the first entry of a kind; None: it has none."""
        heap = self.heaps.get(kind, [])
        while heap and self.keys.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        if heap:
            return heap[0]
        self.heaps.pop(kind, None)
        return None

    def take(self, kind: Kind) -> tuple[_SortKey, Scope] | None:
        """Take the first entry of a kind out of its heap, not out of `keys`; return both parts."""
        first = self.first(kind)
        if first is None:
            return None
        key, _, scope = heappop(self.heaps[kind])
        return key, scope


class ScopeQueue:
    """The scopes in which calls wait without a lease.

    Args:
        waiting: the scopes in which calls wait.
        limits: of the queue and its lanes.
        grants_of: returns what is known of the calls of a scope.
        asks_at: returns, by that, when to request slots.
    """

    def __init__(
        self,
        waiting: WaitingScopes,
        limits: LimitTable,
        grants_of: Callable[[Scope], ScopeGrants],
        asks_at: Callable[[ScopeGrants], float],
    ) -> None:
        self._waiting = waiting
        self._limits = limits
        self._grants_of = grants_of
        self._asks_at = asks_at
        self._requesting: _Index[Place] = _Index()
        """Scopes to ask for now, each by the place of its first call without a lease."""
        self._later: _Index[float] = _Index()
        """Scopes to ask for later, each by the instant to ask."""
        self._closed: dict[Kind, float] = {}
        """The instant until which the queue's own limits have no room for a kind, nor for kinds
        that use more units."""

    # Which scopes need slots.

    def lacks(self, scope: Scope) -> None:
        """Note that a scope may need more leases than it has."""
        at = self._asks_at(self._grants_of(scope))
        # Only ever moved forward here: an entry that is too early is corrected when it comes up.
        if at > -math.inf:
            if at < self._later.keys.get(scope, math.inf):
                self._later.add(scope, at)
        elif (place := self._place_of(scope)) is not None and place < self._requesting.keys.get(
            scope, _LAST
        ):
            self._requesting.add(scope, place)

    def leave(self, scope: Scope) -> None:
        """Note that no call waits in a scope any more."""
        self._requesting.keys.pop(scope, None)
        self._later.keys.pop(scope, None)

    def rebuild(self) -> None:
        """Look at all scopes again."""
        self._requesting, self._later = _Index(), _Index()
        for scope in self._waiting.by_scope:
            self.lacks(scope)

    def ignore_leases(self) -> None:
        """Look again at the scopes with leases: these are no longer a reason to ask later."""
        for scope in [one for one in self._later.keys if self._grants_of(one).leases]:
            self.lacks(scope)

    def close(self, asked: Iterable[Kind], until: Mapping[Kind, float]) -> None:
        """Note until when the kinds of the last request are closed; if not in `until`: open."""
        for kind in asked:
            self._closed.pop(kind, None)
        self._closed.update(until)

    def open(self, kind: Kind) -> None:
        """Ask for calls of a kind whenever they need slots."""
        # Kinds that use a subset of its units close this one, too.
        self._closed = {one: at for one, at in self._closed.items() if not set(kind) <= set(one)}

    def open_all(self) -> None:
        """Ask for calls of every kind whenever they need slots."""
        self._closed.clear()

    # When to ask, and for which scopes.

    def next_at(self, now: float) -> float:
        """Return when to ask for the next scope; now or earlier: at once."""
        while (later := self._first_later(now)) is not None:
            if (place := self._look_at(later, now)) is not None:
                self._requesting.add(later, place)
        at = math.inf
        for kind, heap in self._later.heaps.items():
            at = min(at, max(heap[0][0], self._closed_until(kind)))
        for kind in list(self._requesting.heaps):
            closed_until = self._closed_until(kind)
            if closed_until < at and self._first_requesting(kind, now) is not None:
                at = closed_until
        return at

    def choose(self, now: float, soon: float) -> tuple[Sequence[Scope], Mapping[Scope, Place]]:
        """Return scopes of at most `_MOST_LANES` lanes, and the place that each must not overtake.

        These are the requesting scopes, by place, then any that will be due `soon`. (By place
        alone, the same scopes would be asked for again and again.) Each kind has its part of the
        lanes, because different kinds may wait for different limits; then the first in order have
        what is left over.
        """
        # Closed kinds included: were later calls of another kind asked for alone, they could take
        # what the closed kind waits for.
        kinds, lanes = self._requesting_kinds(now), _Lanes(self._limits)
        parts = len(kinds)
        scopes = self._take_requesting(kinds, lanes, now, parts)
        if parts > 1:  # what later kinds have left over is for the earlier ones
            scopes |= self._take_requesting(kinds, lanes, now, 1)
        requesting = dict(scopes)
        self._add_soon(soon, scopes, lanes)
        asked = list(scopes)
        behind: list[tuple[Scope, Place, Scope]] = []
        for scope in asked:  # it grows in the loop: then come the scopes before those just added
            asked += self._add_earlier(scope, scopes, lanes, behind)
        left_out: dict[Kind, Place] = {}
        for kind in kinds:
            while (found := self._first_requesting(kind, now)) is not None:
                place, scope = found
                if scope not in scopes:
                    left_out[kind] = place
                    break
                requesting[scope] = self._requesting.keys.pop(scope)
        # They were taken out to find the next ones. The request may fail, so they stay listed; a
        # reply corrects that.
        for scope, place in requesting.items():
            self._requesting.add(scope, place)
        # A kind must not overtake one that is left out and uses a subset of its units.
        of_kinds = {
            kind: min([_LAST, *(its for one, its in left_out.items() if set(kind) <= set(one))])
            for kind in {scope.unused for scope in scopes}
        }
        before = {scope: of_kinds[scope.unused] for scope in scopes}
        for scope, place, one in behind:  # nor may later calls of a scope overtake a neighbour
            if one not in scopes and place < before[scope]:
                before[scope] = place
        return list(scopes), before

    def _closed_until(self, kind: Kind) -> float:
        ends = [at for one, at in self._closed.items() if set(kind) <= set(one)]
        return max(ends, default=-math.inf)

    def _first_later(self, until: float) -> Scope | None:
        """Return the first scope of those due later, if it is due by then."""
        firsts = map(self._later.first, list(self._later.heaps))
        first = min((one for one in firsts if one is not None), default=None)
        return None if first is None or first[0] > until + ROUNDING else first[2]

    def _first_requesting(self, kind: Kind, now: float) -> tuple[Place, Scope] | None:
        """Return the first requesting scope of a kind, with its place; None: no scope requests."""
        while (found := self._requesting.take(kind)) is not None:
            known, scope = found
            # Calls may have started or left since: the scope is listed again by its present place,
            # and is the first only if that has not changed.
            if (place := self._look_at(scope, now)) is not None:
                self._requesting.add(scope, place)
                if place == known:
                    return found
        return None

    def _place_of(self, scope: Scope, covered: int = 0) -> Place | None:
        """Return the place of the first call in a scope without a lease; None: all have one."""
        if not scope.lanes:
            return (-math.inf, 0.0)  # calls without a lane are never left out
        return self._waiting.place_in(scope, covered)

    def _look_at(self, scope: Scope, until: float) -> Place | None:
        """Return the place of a scope to ask for by then; else note when to ask for it."""
        grants, place = self._grants_of(scope), None
        covered = len(grants.leases)  # the first calls of the scope, which will use them
        if self._waiting.waiting_in(scope, covered) > covered:
            place = self._place_of(scope, covered)
        at = math.inf if place is None else self._asks_at(grants)
        self.leave(scope)
        if at <= until + ROUNDING:
            return place
        if at < math.inf:
            self._later.add(scope, at)
        return None

    def _requesting_kinds(self, now: float) -> list[Kind]:
        """Return the kinds of the requesting scopes, by the place of the first of each."""
        kinds: list[tuple[Place, Kind]] = []
        for kind in list(self._requesting.heaps):
            first = self._first_requesting(kind, now)
            kinds += [] if first is None else [(first[0], kind)]
        return [kind for _, kind in sorted(kinds)]

    def _take_requesting(
        self, kinds: Sequence[Kind], lanes: _Lanes, now: float, parts: int
    ) -> dict[Scope, Place]:
        """Take the first requesting scopes of each kind, within its part of the lanes."""
        scopes: dict[Scope, Place] = {}
        for number, kind in enumerate(kinds, 1):
            # With what the kinds before have left over.
            most = _MOST_LANES * min(1, number / parts)
            while (found := self._first_requesting(kind, now)) is not None:
                place, scope = found
                if not lanes.add(scope, most):
                    break
                del self._requesting.keys[scope]
                scopes[scope] = place
        return scopes

    def _add_soon(self, soon: float, scopes: dict[Scope, Place], lanes: _Lanes) -> None:
        others = []
        while (later := self._first_later(soon)) is not None and lanes.add(later):
            if (place := self._look_at(later, soon)) is not None:
                scopes[later] = place
                others.append(later)
        for scope in others:  # only now: the loop would find them again
            self.lacks(scope)

    def _add_earlier(
        self,
        scope: Scope,
        scopes: dict[Scope, Place],
        lanes: _Lanes,
        behind: list[tuple[Scope, Place, Scope]],
    ) -> Sequence[Scope]:
        """Add scopes whose calls go before those of a scope in one of its lanes; return them.

        The authority then knows that these calls wait. Else the calls behind them would take every
        slot before it is their time to ask, or overtake them as they cost less. Scopes that only
        later calls of this scope could overtake are noted in `behind`.
        """
        added = []
        for one in self._waiting.scopes_beside(scope):
            if one in scopes:
                continue
            place = self._place_of(one, len(self._grants_of(one).leases))
            if place is None:
                continue
            if place > scopes[scope]:
                behind.append((scope, place, one))
            elif not (lanes.full and not lanes.named.issuperset(one.lanes)) and lanes.add(one):
                scopes[one] = place
                added.append(one)
        return added
