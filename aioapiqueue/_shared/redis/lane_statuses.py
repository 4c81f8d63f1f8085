"""Keeps the last known status of the limits of a queue and its lanes, and estimates starts from it.

The authority reports when each limit has room for the next call. From that, the queue estimates
when a newcomer would start. The estimate assumes that no other process uses the same limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue import Rate, Window
from aioapiqueue.spi import cost_units

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._shared.clock import Clock
    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue._shared.redis.leases import Leases
    from aioapiqueue._shared.redis.messages import BoundStatus, LimitStatus
    from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes
    from aioapiqueue.spi import Host

_FIRSTS = 16
"""Scopes whose first call is compared with a server's count. The other scopes ask within a second
(`POLL`)."""
_MANY = 64
"""Unused lanes that are kept in memory, because removing them would cost more."""


@dataclass(eq=False, slots=True)
class LaneStatus:
    """The status of one lane (or of the queue), by the last reply. Instants are local ones."""

    round_position: int = 0
    """The timestamp of the first slot that this queue may have, by its place among the processes
    that wait for this lane; 0: none was named. Not a local instant: it is sent back unchanged."""
    held_until: float = -math.inf
    """The end of a hold."""
    ready_at: tuple[float, ...] = ()
    """The instants at which its limits have room for the next call."""
    rate: float = math.inf
    """Calls per second after slow-downs."""
    waiting_since: float = math.inf
    """The instant since which a call has always been waiting."""
    bounds: tuple[BoundStatus, ...] = ()
    """What remains of the server's own quotas; `until` is a local instant."""


class LaneStatuses:
    """The statuses of all lanes of one queue; that of the lane None is the queue's.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
        clock: reads the authority's.
        leases: of the queue.
        waiting: the scopes in which calls wait.

    Attributes:
        whole: the status of the queue. Its hold may be a pause.
    """

    def __init__(
        self,
        host: Host,
        limits: LimitTable,
        clock: Clock,
        leases: Leases,
        waiting: WaitingScopes,
    ) -> None:
        self.whole = LaneStatus()
        self._host = host
        self._limits = limits
        self._clock = clock
        self._leases = leases
        self._waiting = waiting
        self._lanes: dict[Hashable, LaneStatus] = {None: self.whole}
        self._prune_at = _MANY

    def lane(self, lane: Hashable) -> LaneStatus:
        """Return the status of a lane; None: of the queue."""
        status = self._lanes.get(lane)
        if status is None:
            # At twice the size of the last time, so that the loop costs a constant for each lane.
            if len(self._lanes) >= self._prune_at:
                waiting, now = self._waiting, self._host.loop.now()
                self._lanes = {
                    one: its
                    for one, its in self._lanes.items()
                    if one is None
                    or waiting.scopes_of(one)
                    or max((its.held_until, *its.ready_at)) > now
                    or any(bound.until > now for bound in its.bounds)
                }
                self._prune_at = 2 * len(self._lanes) + _MANY
            status = self._lanes[lane] = LaneStatus()
        return status

    def forget_rounds(self) -> None:
        """Forget the queue's place among the processes that wait: the authority has lost it."""
        for status in self._lanes.values():
            status.round_position = 0

    def apply(self, statuses: Mapping[Hashable, LimitStatus]) -> None:
        """Note the statuses in a reply."""
        to_local = self._clock.to_local
        for lane, status in statuses.items():
            its = self.lane(lane)
            its.held_until, its.rate = to_local(status.held_until), status.rate
            its.ready_at = tuple(map(to_local, status.ready_at))
            its.bounds = tuple([one._replace(until=to_local(one.until)) for one in status.bounds])

    def held_until_of(self, scope: Scope) -> float:
        """Return the end of the last hold that concerns the calls of a scope."""
        return max(self.lane(lane).held_until for lane in (None, *scope.lanes))

    def room_in(self, lane: Hashable) -> float:
        """Return how often a server's quota has room for the first call of a scope.

        Two such numbers are compared: if it has risen, a call that waits may have room now.

        Args:
            lane: whose quotas and scopes; None: the queue's.
        """
        bounds = self.lane(lane).bounds
        if not bounds:
            return math.inf
        waiting = self._waiting
        scopes = waiting.by_scope if lane is None else waiting.scopes_of(lane)
        firsts = [
            first
            for scope in islice(scopes, _FIRSTS)
            for line in islice(waiting.by_scope[scope], 1)  # one line stands for all of them
            if (first := line.first()) is not None
        ]
        now = self._host.loop.now()
        return sum(
            until <= now or not cost_units.is_stated(first.costs, unit) or first.costs[unit] <= left
            for first in firsts
            for unit, left, until in bounds
        )

    # Estimates.

    def estimate(
        self, lanes: Iterable[Hashable], costs: Sequence[float] | None, now: float
    ) -> float:
        """Return when a newcomer to these lanes may start.

        Args:
            lanes: the lanes.
            costs: of the newcomer; None: estimate when the last waiting call may start.
            now: the present instant.
        """
        start = max(now, self.whole.held_until)
        when = self._estimate_in(None, start, costs, self._host.waiters.total)
        for lane in lanes:
            status = self.lane(lane)
            position = status.round_position
            turn = self._clock.to_local(position) if position else now
            start = max(now, status.held_until, turn)
            # A function, as its sum over all lines is needed only for units that are limited.
            waiting = partial(self._waiting.cost_in, lane)
            when = max(when, self._estimate_in(lane, start, costs, waiting))
        return when

    def all_started(self, now: float) -> float:
        """Return when the last of the waiting calls may have started."""
        scopes = self._waiting.by_scope
        lanes = dict.fromkeys(lane for scope in scopes for lane in scope.lanes)
        return self.estimate(lanes, None, now)

    def _estimate_in(
        self,
        lane: Hashable,
        start: float,
        costs: Sequence[float] | None,
        waiting: Callable[[int], float],
    ) -> float:
        """As `LimitState.estimate`; of a window, only the room for the next call is known.

        Args:
            lane: whose limits; None: the queue's.
            start: when the first of the waiting calls may start, apart from these limits.
            costs: as of `estimate`.
            waiting: returns the cost of the waiting calls in a unit.
        """
        status, ends = self.lane(lane), [start]
        limits = [one for one in self._limits.limits_of(lane) if isinstance(one, Rate | Window)]
        # Before the first reply, and just after limits were changed, some instants are unknown.
        ready = list(status.ready_at) + [-math.inf] * len(limits)
        # The last of `ready_at` is then that of this rate.
        if status.rate < math.inf:
            limits.append(Rate(status.rate))
        for limit, ready_at in zip(limits, ready, strict=False):
            unit = self._limits.units.place_of(limit.unit)
            cost = _cost_in(unit, costs, waiting)
            if not cost:
                continue
            cost -= self._leases.costs.of(lane, unit)  # of waiting calls that have a slot already
            if isinstance(limit, Rate):
                # There is room for one call `burst - 1` intervals before the bucket is full again.
                paid_at = ready_at + (limit.burst - 1) * limit.interval
                ends.append(max(start, paid_at) + (cost - limit.burst) * limit.interval)
            else:
                # As if all its room came with that for the next call: the rest is unknown.
                rounds = max(0, math.ceil(cost / limit.calls) - 1)
                ends.append(max(start, ready_at) + rounds * limit.per)
        for unit, left, until in status.bounds:
            cost = _cost_in(unit, costs, waiting) if until > start else 0
            if cost and cost - self._leases.costs.of(lane, unit) > left:
                ends.append(until)
        return max(ends)


def _cost_in(unit: int, costs: Sequence[float] | None, waiting: Callable[[int], float]) -> float:
    """Return the cost of the waiting calls and a newcomer, if any; 0: it uses none of the unit."""
    if costs is None:
        return waiting(unit)
    return costs[unit] + waiting(unit) if cost_units.is_stated(costs, unit) and costs[unit] else 0
