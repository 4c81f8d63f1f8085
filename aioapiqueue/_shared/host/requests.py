"""Which calls are held, which have requested a grant from the hub, and when a call would start.

Only the first few calls of each line request a grant. So a queue with many waiting calls costs the
hub no more than any other, and takes its turn.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.host.messages import join_text, keys_to
from aioapiqueue._shared.host.scopes import HostCall, line_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    from aioapiqueue._shared.decisions import Decisions
    from aioapiqueue._shared.host.scopes import Scopes
    from aioapiqueue._shared.host.session import HubSession
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue.spi import Call, Host, Line, algorithms


class Holds:
    """The holds of one queue, which take effect here before the hub knows them.

    Args:
        host: the queue's dispatcher.
        limits: the queue's own.
        scopes: the lanes of calls.
        decisions: the holds and pauses.

    Attributes:
        all_until: the end of the last hold or pause of everything.
    """

    def __init__(
        self, host: Host, limits: LimitTable, scopes: Scopes, decisions: Decisions
    ) -> None:
        self._host = host
        self._limits = limits
        self._scopes = scopes
        self._decisions = decisions
        self.reset()

    def reset(self) -> None:
        """Hold nothing."""
        self.all_until = -math.inf
        self._by_key = self._decisions.holds()

    def own_until(self, call: Call) -> float:
        """Return until when a call is held, which the hub may not know yet."""
        until = self.all_until
        for key in call.keys if self._by_key else ():
            if self._scopes.lane_of(key) is not None:
                until = max(until, self._by_key.get(key, until))
        return until

    def apply(self) -> None:
        """Note the holds in the states of limits, which then make up for no time of a hold."""
        now = self._host.loop.now()
        self._by_key = self._decisions.holds()
        users = max(self._decisions.paused_until, self._by_key.get(None, -math.inf))
        # If a resume has ended a hold early, there was a hold until now.
        self.all_until = max(users, min(self.all_until, now))
        for state in self._limits.states:
            state.held = self.all_until
        for key, held in self._by_key.items():
            its = None if key is None else self._limits.lanes.get(key, now)
            if its is not None:
                its.hold(held)
        self._host.wake()


_MOST = 64
"""Most calls of one line that have a request. At thousands of calls per second, a hub grants about
as many at a time; and they are too few to keep other processes waiting."""


class Requests:
    """Requests grants for calls, and knows which calls have requested one.

    Args:
        host: the queue's dispatcher.
        session: the exchange with the hub.
        holds: held calls make no request before their hold ends.
    """

    def __init__(self, host: Host, session: HubSession, holds: Holds) -> None:
        self._host = host
        self._session = session
        self._holds = holds
        self._tickets = 0
        """The last ticket. Never reset: calls of an earlier loop keep theirs."""
        self.reset()

    def reset(self) -> None:
        """Forget all requests, as their calls have ended."""
        self.calls: dict[int, HostCall] = {}
        """The waiting calls with a request, by ticket."""
        self._in_line: dict[Hashable, int] = {}
        """Number of requests of each line."""
        self._due: dict[Hashable, tuple[float, float]] = {}
        """By line, when a newcomer of a priority would start, as the hub has last reported."""
        self._hold_timer: asyncio.TimerHandle | None = None
        self._hold_ends = math.inf

    def forget_hub(self) -> None:
        """Note that the hub, and with it all requests, is lost."""
        for call in self.calls.values():
            call.ticket = 0  # so that `request_all` sends each of them to the next hub
        self.calls, self._in_line, self._due = {}, {}, {}

    # Requests.

    def next_ticket(self) -> int:
        """Return the ticket of another call."""
        self._tickets += 1
        return self._tickets

    def joined(self, call: HostCall) -> None:
        """Request a grant for a call that waits now, if it is among the first of its line."""
        if call.ticket:
            return
        line = line_of(call)
        assert line is not None  # noqa: S101 - it waits
        asked = self._in_line.get(line.name, 0)
        # Not before the earlier calls of its line: a grant passes to the first call of the line
        # only if both cost the same. Otherwise this call would start before the earlier ones.
        is_next = line.live - 1 <= asked < self._most
        if not is_next and line.levels is not None:  # else it is the only call
            is_next = any(priority > call.priority for priority in line.priorities)
        if is_next:
            self.request(call, line.name)

    @property
    def _most(self) -> int:
        # The hub grants in the order of requests. With `order="fair"`, 64 of one key would so start
        # before the first of another.
        return _MOST if self._host.waiters.ordering is None else 1

    def request(self, call: HostCall, line: Hashable, after: int | None = None) -> None:
        """Request a grant for a call.

        Args:
            call: the call.
            line: name of its line.
            after: see `join`; default None.
        """
        if not self._session.is_up:  # it was lost while earlier calls made their requests
            return
        ticket = self.next_ticket()
        priority = call.priority if type(call.priority) is int else float(call.priority)
        call.ticket = ticket
        self.calls[ticket] = call
        # The first call of the line will start on this grant, and may have come long before.
        waiting = self._host.waiters.lines.get(line)
        first = None if waiting is None else waiting.first()
        waited = self._host.loop.now() - (call if first is None else first).joined_at
        others = max(0, self._host.waiters.live - len(self.calls))
        amounts = self._session.amounts(call)
        keys = keys_to(call.keys)
        text = join_text(ticket, keys, amounts, priority, waited=waited, others=others, after=after)
        before = self._in_line.get(line, 0)
        self._in_line[line] = before + 1
        # At once only if no call of its line is there already: else it waits behind that one
        # anyway.
        self._session.send_text(text, at_once=not before)

    def request_more(self, line: Line[Call] | None) -> None:
        """Request grants for more calls of a line, if few of its requests are left."""
        if line is not None and self._session.is_up:
            if self._host.waiters.lines.get(line.name) is not line:  # empty, so it was dropped
                return
            for call in self._next_of(line):
                self.request(call, line.name)

    def request_all(self) -> None:
        """Request grants for the first calls of each line, in the order in which they came."""
        if not self._session.is_up:
            return
        lines = list(self._host.waiters.lines.values())
        asking = [(call, line.name) for line in lines for call in self._next_of(line)]
        for call, name in sorted(asking, key=lambda one: (one[0].priority, one[0].arrival)):
            self.request(call, name)

    def _next_of(self, line: Line[Call]) -> list[HostCall]:
        """Return the next calls of a line that make a request, if few of its requests are left."""
        asked, most = self._in_line.get(line.name, 0), self._most
        # Half of them at a time: one message then has many requests.
        if asked > most // 2 or line.live <= asked:
            return []
        first = line.first()  # drops calls before it that have left
        held = -math.inf if first is None else self._holds.own_until(first)
        if held - self._host.loop.now() > ROUNDING:
            self.request_all_at(held)
            return []
        silent = (call for call in map(HostCall.of, line) if not call.ticket)
        return list(islice(silent, most - asked))

    def request_all_at(self, when: float) -> None:
        """Request grants for held calls when their hold ends."""
        if self._hold_timer is not None:
            if when >= self._hold_ends:
                return
            self.cancel_timer()
        if when < math.inf:
            self._hold_ends = when
            delay = max(0.0, when - self._host.loop.now())
            self._hold_timer = self._host.loop.call_later(delay, self._hold_is_over)

    def cancel_timer(self) -> None:
        """Stop waiting for the end of a hold."""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    def _hold_is_over(self) -> None:
        self._hold_timer = None
        self.request_all()

    # Which calls have requested a grant.

    def forget(self, call: HostCall, line: Hashable) -> None:
        """Forget the request of a call."""
        del self.calls[call.ticket]
        left = self._in_line.get(line, 0) - 1
        if left > 0:
            self._in_line[line] = left
        else:
            self._in_line.pop(line, None)
            self._due.pop(line, None)

    def withdraw(self, call: HostCall, line: Hashable) -> None:
        """Withdraw the request of a call."""
        self.forget(call, line)
        self._session.send("leave", call.ticket)
        call.ticket = 0

    def swap(self, call: HostCall, granted_call: HostCall) -> None:
        """Exchange the tickets of two calls: the second one starts on the first one's grant."""
        call.ticket, granted_call.ticket = granted_call.ticket, call.ticket
        self.calls[granted_call.ticket] = granted_call
        if call.ticket:  # 0 if the granted call had made no request
            self.calls[call.ticket] = call

    def withdraw_cancelled(self) -> None:
        """Withdraw the requests of cancelled calls: they are in no line any more."""
        for call in list(self.calls.values()):
            if not call.waits:
                self.withdraw(call, None)

    def sort_again(self) -> None:
        """Count the requests of each line again: the lines have changed."""
        self._in_line, self._due = {}, {}
        for call in self.calls.values():
            line = line_of(call)
            name = None if line is None else line.name
            self._in_line[name] = self._in_line.get(name, 0) + 1

    # When a newcomer would start.

    def set_due(self, line: Hashable, at: float, priority: float) -> None:
        """Note when a newcomer of a line and priority would start."""
        # Behind calls of this priority: a more urgent newcomer would start earlier.
        self._due[line] = at, priority

    def forget_due(self, line: Hashable) -> None:
        """Forget when a newcomer of a line would start."""
        self._due.pop(line, None)

    def due(self, line: Hashable, priority: float) -> float:
        """Return when a newcomer would start, as far as the hub has reported it; else -inf."""
        at, of_priority = self._due.get(line, (-math.inf, -math.inf))
        return at if priority >= of_priority else -math.inf


class Estimates:
    """Estimates when calls of one queue start.

    The hub reports how long a newcomer would wait behind the calls that have just requested a
    grant. Until then, the states that the queue keeps of its own limits are all that is known.

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
        """Return when a call that has not joined yet would start."""
        waiters = self._host.waiters
        name = waiters.name_of_line(call)
        line = waiters.lines.get(name)
        when = max(now, self._holds.all_until, self._holds.own_until(call))
        if line is None or not waiters.goes_before(call, line):
            when = max(when, self._requests.due(name, call.priority))
        for lane, state in self._scopes.states_by_lane(call, now):
            # None: the limit applies to all calls.
            under = None if lane is None else self._lines_in(lane)
            ahead = waiters.cost_ahead(call, state.unit, under)
            when = max(when, state.estimate(now, ahead + call.costs[state.unit]))
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

    def _lines_in(self, lane: Hashable) -> list[Line[Call]]:
        lines = self._host.waiters.lines.values()
        return [line for line in lines if line.limits is not None and lane in line.limits.lanes]
