"""Handles servers' own counts of their quotas, for one process.

The authority bounds all processes by these counts. A count may not include the calls that are in
flight, so the authority subtracts them: every message reports those of its sender.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue._server_quotas import refill_time
from aioapiqueue._shared.limit_table import NO_KEY, key_of
from aioapiqueue._shared.redis.messages import Count, FirstEnded, LaneReport

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._shared.clock import Clock
    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue._shared.redis.lane_statuses import LaneStatuses
    from aioapiqueue._shared.redis.leases import Lease, Leases
    from aioapiqueue._shared.redis.messages import LimitStatus
    from aioapiqueue.spi import Call, Host, statements

_MANY = 10_000
"""Answered lanes that are remembered. A forgotten one starts with one call in flight again."""


class FirstAnswers:
    """The lanes (None: the queue) that wait for their first answer, and their calls.

    Until then, such a lane has one call in flight at a time. The authority ensures that for all
    processes, by the number of calls that each reports to have in flight (`LaneReport.first`). This
    class knows which lanes have an answer in this process, and how many of their calls are in
    flight.

    Args:
        limits: of the queue and its lanes.
    """

    def __init__(self, limits: LimitTable) -> None:
        self.awaited = False
        """Whether lanes wait for their first answer at all."""
        self._limits = limits
        self._answered: dict[Hashable, None] = {}
        """Lanes with an answer, the latest last; None: the queue. A dict, as it keeps the order."""
        self._in_flight: dict[Call, Sequence[Hashable]] = {}
        """Calls in flight, and which of their lanes had no answer when they started."""
        self._updates: dict[Hashable, None] = {}
        """Lanes whose first answer has yet to be reported."""

    def forget_callers(self) -> None:
        """Forget the calls in flight: they were on a loop that is gone."""
        self._in_flight = {}

    def is_awaited(self, lane: Hashable) -> bool:
        """Return whether a lane (None: the queue) may have only one call in flight."""
        if not self.awaited or lane in self._answered:
            return False
        # With lanes, each one has its own first call, and none has to wait for another's.
        if lane is None and self._limits.lanes.limits:
            return False
        # Another process has had the first answer, and has set the limits that it learnt.
        return not self._limits.has_learnt(lane)

    def started(self, call: Call) -> None:
        """Note that a call has started."""
        if self.awaited:
            lanes = [lane for lane in (None, *call.limits.lanes) if self.is_awaited(lane)]
            if lanes:
                self._in_flight[call] = lanes

    def ended(self, call: Call) -> FirstEnded | None:
        """Note that a call has ended; return the message to send, if any."""
        lanes = self._in_flight.pop(call, ())
        # Once the first answer of a lane has come, the authority no longer waits for this end.
        if not any(map(self.is_awaited, lanes)):
            return None
        return FirstEnded([lane for lane in lanes if lane is not None])

    def number_in_flight(self, lane: Hashable) -> int:
        """Return the number of a lane's calls in flight."""
        return sum(lane in lanes for lanes in self._in_flight.values())

    def answered(self, lanes: Iterable[Hashable]) -> bool:
        """Note that these lanes have an answer; return whether a message has to be sent."""
        fresh = [lane for lane in (None, *lanes) if lane not in self._answered]
        self._answered.update(dict.fromkeys(fresh))
        if len(self._answered) > _MANY:
            for lane in list(islice(self._answered, len(self._answered) - _MANY)):
                del self._answered[lane]
        if not self.awaited or not fresh:
            return False
        self._updates.update(dict.fromkeys(fresh))
        return True

    def drain_updates(self) -> FirstEnded:
        """Return the message about lanes that had their first answer, and forget them."""
        lanes, self._updates = [lane for lane in self._updates if lane is not None], {}
        return FirstEnded(lanes, answered=True)


class ServerCounts:
    """The part of one queue in servers' own counts: its calls in flight, and their answers.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
    """

    def __init__(self, host: Host, limits: LimitTable) -> None:
        self.first = FirstAnswers(limits)
        self.follows = False
        """Whether requests report the calls in flight of each lane to the authority."""
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
            self._host.find_server_quotas()

    def learn(self) -> None:
        """Allow each lane one call in flight until its first answer, from now on."""
        self.first.awaited = True
        self.follow()

    def exceeds(self, lane: Hashable, count: statements.ServerCount) -> bool:
        """Return whether a lane (None: the queue) has more in flight and leased than remains."""
        return count.remaining < self._cost_in_flight(lane, count.unit)

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
        if reset is None:  # the header named none: as long as the limits take to recover
            reset = refill_time(self._limits.limits_of(lane), self._host.units.names[unit])
        received_at = self._clock.to_timestamp(now)
        # What the server may have counted: everything that was released before this call.
        released_at = received_at if lease is None else lease.timestamp
        left = count.remaining - self._cost_in_flight(lane, unit, with_ended=is_answer)
        return Count(lane, unit, count.limit, left, now + reset, released_at, received_at)

    def _cost_in_flight(self, lane: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return the cost of calls in flight and of leases in a lane; None: in the queue."""
        leased = self._leases.costs.of(lane, unit)
        calls = self._host.find_server_quotas(begins=self.follows)
        out = calls.cost_out(key_of(lane), unit, with_ended=with_ended)
        return max(0, out + leased)

    def report(self, lanes: Sequence[Hashable]) -> Mapping[Hashable, LaneReport]:
        """Return the calls in flight: of the queue (None) and, if counted, of these lanes."""
        # The queue's in any case: if another process begins to follow, the authority needs the
        # calls that are in flight by then.
        named = (None, *lanes) if self.follows else (None,)
        return {lane: self._report_of(lane) for lane in named}

    def _report_of(self, lane: Hashable) -> LaneReport:
        units, first = range(len(self._host.units)), None
        if self.first.is_awaited(lane):
            running = self._host.started - self._host.ended
            running_first = running if lane is None else self.first.number_in_flight(lane)
            first = running_first + self._leases.costs.number(lane)
        return LaneReport(tuple(self._cost_in_flight(lane, unit) for unit in units), first)

    def apply(self, statuses: Mapping[Hashable, LimitStatus]) -> list[tuple[Scope, Lease]]:
        """Apply servers' counts in a reply.

        Returns:
            Leases for which too little remains, taken away.
        """
        if statuses[None].counted > -math.inf:  # another process has reported a count
            self.follow()
        taken: list[tuple[Scope, Lease]] = []
        for lane, status in statuses.items() if self.follows else ():
            if lane is not NO_KEY:  # its calls are counted in the queue only
                at = self._clock.to_local(status.counted) - self._clock.uncertainty
                self._host.find_server_quotas().counted(lane, at)
            # Below 0, more is in flight and leased than remains: leases up to the refill go back.
            ends = [bound.until for bound in self._statuses.lane(lane).bounds if bound.left < 0]
            if ends:
                taken += self._leases.take_all([lane], before=max(ends))
        return taken
