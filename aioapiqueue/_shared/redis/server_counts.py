"""Servers' own counts of their quotas, as one process and the authority exchange them.

The authority bounds all processes by these counts. It has to know which calls each process has in
flight, which the count may not contain: every message reports that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._server_quotas import refill_time
from aioapiqueue._shared.redis.first_answers import FirstAnswers
from aioapiqueue._shared.redis.messages import Count, LaneReport, plain_costs
from aioapiqueue._shared.scope import NO_KEY, key_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue._shared.clock import Clock
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.redis.lane_statuses import LaneStatuses
    from aioapiqueue._shared.redis.leases import Lease, Leases
    from aioapiqueue._shared.redis.messages import Granted, LimitStatus
    from aioapiqueue._shared.scope import Scope
    from aioapiqueue.spi import Host, statements


class ServerCounts:
    """The part of one queue in servers' own counts: its calls in flight, and their answers.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
    """

    def __init__(self, host: Host, limits: LimitTable) -> None:
        self.first = FirstAnswers(limits)
        self.follows = False
        """Whether calls in flight are counted."""
        self._host = host
        self._limits = limits

    def reset(self, leases: Leases, statuses: LaneStatuses, clock: Clock) -> None:
        """Start on another event loop, with leases, statuses and a clock of its own."""
        self.first.forget_callers()
        self._leases = leases
        self._statuses = statuses
        self._clock = clock

    def follow(self) -> None:
        """Count calls in flight from now on."""
        if not self.follows:
            self.follows = self._limits.reports_lanes = True
            self._host.server_quotas()

    def learn(self) -> None:
        """Allow each lane one call in flight until its first answer, from now on."""
        self.first.awaited = True
        self.follow()

    def exceed(self, lane: Hashable, count: statements.ServerCount) -> bool:
        """Return whether a lane (None: the queue) has more in flight and leased than remains."""
        return count.remaining < self._out(lane, count.unit)

    def count_of(
        self, lane: Hashable, count: statements.ServerCount, lease: Lease | None, *, is_answer: bool
    ) -> Count:
        """Return the message about a server's count.

        Args:
            lane: the lane whose calls the server counts; None: all calls.
            count: its report.
            lease: of the call that it has answered; None: unknown.
            is_answer: whether the report is the answer to a call.
        """
        unit, now, reset = count.unit, self._host.loop.now(), count.reset
        if reset is None:
            reset = refill_time(self._limits.limits_of(lane), self._host.units.names[unit])
        heard_at = self._clock.to_timestamp(now)
        released_at = heard_at if lease is None else lease.timestamp
        left = count.remaining - self._out(lane, unit, with_ended=is_answer)
        return Count(lane, unit, count.limit, left, now + reset, released_at, heard_at)

    def _out(self, lane: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return the cost of calls in flight and of leases in a lane; None: in the queue."""
        leased = self._leases.costs.of(lane, unit)
        calls = self._host.server_quotas(begins=self.follows)
        out = calls.cost_out(key_of(lane), unit, with_ended=with_ended)
        return max(0, out + leased)

    def report(self, lanes: Sequence[Hashable]) -> Mapping[Hashable, LaneReport]:
        """Return the calls in flight: of the queue (None) and, if counted, of these lanes."""
        named = (None, *lanes) if self.follows else (None,)
        return {lane: self._report_of(lane) for lane in named}

    def _report_of(self, lane: Hashable) -> LaneReport:
        out, first = tuple(self._out(lane, unit) for unit in range(len(self._host.units))), None
        if self.first.is_awaited(lane):
            running = self._host.started - self._host.ended
            out_first = running if lane is None else self.first.number_out(lane)
            first = out_first + self._leases.costs.number(lane)
        return LaneReport(out, first)

    def apply(self, statuses: Mapping[Hashable, LimitStatus]) -> list[tuple[Scope, Lease]]:
        """Apply servers' counts in a reply.

        Returns:
            Leases for which too little remains, taken away.
        """
        if statuses[None].counted > -math.inf:
            self.follow()
        taken: list[tuple[Scope, Lease]] = []
        for lane, status in statuses.items() if self.follows else ():
            if lane is not NO_KEY:  # its calls are counted in the queue only
                at = self._clock.to_local(status.counted) - self._clock.uncertainty
                self._host.server_quotas().counted(lane, at)
            ends = [bound.until for bound in self._statuses.lane(lane).bounds if bound.left < 0]
            if ends:
                taken += self._leases.take_all([lane], before=max(ends))
        return taken


def sums_of(granted: Granted) -> Mapping[Hashable, Sequence[float]]:
    """Return the total cost of granted slots, by lane (None: in the queue) and unit."""
    sums: dict[Hashable, list[float]] = {}
    for request, *_ in granted.grants:
        costs = plain_costs(request.costs)
        for lane in (None, *request.scope.lanes):
            its = sums.setdefault(lane, [])
            its.extend([0.0] * (len(costs) - len(its)))
            for unit, cost in enumerate(costs):
                its[unit] += cost
    return sums
