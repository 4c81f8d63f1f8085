"""When a call would start, as far as a queue of a shared quota knows.

The hub reports how long a newcomer would wait behind the calls that have just requested a grant.
Until then, the states that the queue keeps of its own limits are all that is known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue._shared.host.holds import Holds
    from aioapiqueue._shared.host.requests import Requests
    from aioapiqueue._shared.host.scopes import Scopes
    from aioapiqueue.spi import Call, Host, Line, algorithms


class Estimates:
    """Estimates when calls of one queue start.

    Args:
        host: the queue's dispatcher.
        scopes: the lanes of its calls.
        holds: until when nothing may start.
        requests: knows what the hub has reported.
    """

    def __init__(self, host: Host, scopes: Scopes, holds: Holds, requests: Requests) -> None:
        self._host = host
        self._scopes = scopes
        self._holds = holds
        self._requests = requests

    def newcomer(self, call: Call, now: float) -> float:
        """Return when a call would start that has not joined yet."""
        line = self._host.waiters.name_of_line(call)
        when = max(now, self._holds.all_until, self._holds.own_until(call))
        when = max(when, self._requests.due(line, call.priority))
        for lane, state in self._scopes.states_by_lane(call, now):
            when = max(when, state.estimate(now, self._ahead(call, lane, state.unit)))
        return when

    def all_started(self, now: float) -> float:
        """Return when the last of the waiting calls may have started."""
        waiters, when = self._host.waiters, max(now, self._holds.all_until)
        waiting: dict[algorithms.LimitState, float] = {}
        first: dict[algorithms.LimitState, float] = {}
        for name, line in waiters.lines.items():
            call = line.first()
            if call is None:
                continue
            when = max(when, self._holds.own_until(call), self._requests.due(name, math.inf))
            for lane, state in self._scopes.states_by_lane(call, now):
                unit = state.unit
                total = waiters.total(unit) if lane is None else line.total(unit)
                waiting[state] = total if lane is None else waiting.get(state, 0) + total
                first[state] = max(first.get(state, 0), call.costs[unit])
        for state, cost in waiting.items():
            when = max(when, state.all_started(now, cost, min(first[state], cost)))
        return when

    def _ahead(self, call: Call, lane: Hashable, unit: int) -> float:
        """Return the cost of a newcomer and all before it in a lane; None: in the queue."""
        lines = self._lines_in(lane)
        if all((first := line.first()) is None or call.priority < first.priority for line in lines):
            return call.costs[unit]  # it is more urgent than all of them
        total = self._host.waiters.total
        waiting = total(unit) if lane is None else sum(line.total(unit) for line in lines)
        return waiting + call.costs[unit]

    def _lines_in(self, lane: Hashable) -> Sequence[Line[Call]]:
        return [
            line
            for line in self._host.waiters.lines.values()
            if lane is None or (line.limits is not None and lane in line.limits.lanes)
        ]
