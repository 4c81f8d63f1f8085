"""Who has asked the hub: the first few of each line.

So a queue in which many wait is no more work to the hub than others, and takes its turn with them.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.host.call import HostCall, line_of
from aioapiqueue._shared.host.messages import join_text, keys_to

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    from aioapiqueue._shared.host.holds import Holds
    from aioapiqueue._shared.host.session import HubSession
    from aioapiqueue.spi import Call, Host, Line

__all__ = ["Asking"]

_MOST = 64
"""Calls of one line that have asked, at least, if so many wait: as many as a hub lets go together
where thousands start each second, and fewer than would keep others waiting."""


class Asking:
    """Lets calls ask, and knows which have.

    Args:
        host: the queue's dispatcher.
        session: the exchange with the hub.
        holds: for the end of which those wait that are held.
    """

    def __init__(self, host: Host, session: HubSession, holds: Holds) -> None:
        self._host = host
        self._session = session
        self._holds = holds
        self._tickets = 0
        """How many were given: calls of an earlier loop keep theirs."""
        self.reset()

    def reset(self) -> None:
        """Have nobody ask: all who did are gone."""
        self.calls: dict[int, HostCall] = {}
        """Those that wait and have asked, by ticket."""
        self._in_line: dict[Hashable, int] = {}
        """How many of each line have."""
        self._due: dict[Hashable, tuple[float, float]] = {}
        """Of each line, when a newcomer of a priority would start, as the hub has last said."""
        self._hold_timer: asyncio.TimerHandle | None = None
        self._hold_ends = math.inf

    def forget_hub(self) -> None:
        """Note that there is no hub any more that anybody has asked."""
        for call in self.calls.values():
            call.ticket = 0
        self.calls, self._in_line, self._due = {}, {}, {}

    # Asking.

    def next_ticket(self) -> int:
        """Return another number for a call."""
        self._tickets += 1
        return self._tickets

    def joined(self, call: HostCall) -> None:
        """Let a call ask that waits now, if it is among the first of its line."""
        if call.ticket:
            return
        line = line_of(call)
        assert line is not None  # noqa: S101 - it waits
        asked = self._in_line.get(line.name, 0)
        # Not before earlier calls of its line have asked: a grant passes to the first call of the
        # line only if both cost the same.
        is_next = line.live - 1 <= asked < self._most
        if is_next or _overtakes(call, line):
            self.ask(call, line.name)

    @property
    def _most(self) -> int:
        # In turns by key: the hub serves a process as it asks.
        return 1 if self._host.waiters.fair else _MOST

    def ask(self, call: HostCall, line: Hashable) -> None:
        """Let a call ask."""
        if not self._session.is_up:  # lost while those before it have asked
            return
        ticket = self.next_ticket()
        priority = call.priority if type(call.priority) is int else float(call.priority)
        call.ticket = ticket
        self.calls[ticket] = call
        # A grant goes to the first of the line, which may have come long before this call.
        waiting = self._host.waiters.lines.get(line)
        first = None if waiting is None else waiting.first()
        waited = self._host.loop.now() - (call if first is None else first).joined_at
        others = max(0, self._host.waiters.live - len(self.calls))
        amounts = self._session.amounts(call)
        keys = keys_to(call.keys)
        text = join_text(ticket, keys, amounts, priority, waited=waited, others=others)
        before = self._in_line.get(line, 0)
        self._in_line[line] = before + 1
        self._session.send_text(text, at_once=not before)  # else it waits behind those before it

    def ask_more(self, line: Line[Call] | None) -> None:
        """Let more of a line ask, if few of it still do."""
        if line is not None and self._session.is_up:
            if self._host.waiters.lines.get(line.name) is not line:  # nobody is left in it
                return
            for call in self._next_of(line):
                self.ask(call, line.name)

    def ask_all(self) -> None:
        """Let the first of each line ask, in the order in which they came."""
        if not self._session.is_up:
            return
        lines = list(self._host.waiters.lines.values())
        asking = [(call, line.name) for line in lines for call in self._next_of(line)]
        for call, name in sorted(asking, key=lambda one: (one[0].priority, one[0].arrival)):
            self.ask(call, name)

    def _next_of(self, line: Line[Call]) -> list[HostCall]:
        """Return those of a line that are to ask, too, if few of it still do."""
        asked, most = self._in_line.get(line.name, 0), self._most
        if asked > most // 2 or line.live <= asked:
            return []
        first = line.first()  # forgets those before it who have left
        held = -math.inf if first is None else self._holds.own_until(first)
        if held - self._host.loop.now() > ROUNDING:
            self.ask_all_at(held)
            return []
        silent = (call for call in map(HostCall.of, line) if not call.ticket)
        return list(islice(silent, most - asked))

    def ask_all_at(self, when: float) -> None:
        """Let those ask again who wait for the end of a hold."""
        if self._hold_timer is not None:
            if when >= self._hold_ends:
                return
            self.stop_waiting()
        if when < math.inf:
            self._hold_ends = when
            delay = max(0.0, when - self._host.loop.now())
            self._hold_timer = self._host.loop.call_later(delay, self._hold_is_over)

    def stop_waiting(self) -> None:
        """Wait for the end of no hold."""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    def _hold_is_over(self) -> None:
        self._hold_timer = None
        self.ask_all()

    # Who has asked.

    def forget(self, call: HostCall, line: Hashable) -> None:
        """Note that a call asks no more."""
        del self.calls[call.ticket]
        left = self._in_line.get(line, 0) - 1
        if left > 0:
            self._in_line[line] = left
        else:
            self._in_line.pop(line, None)
            self._due.pop(line, None)

    def withdraw(self, call: HostCall, line: Hashable) -> None:
        """Tell the hub that a call does not want what it has asked for."""
        self.forget(call, line)
        self._session.send("leave", call.ticket)
        call.ticket = 0

    def swap(self, call: HostCall, heir: HostCall) -> None:
        """Let `heir` have the ticket of `call`, and the other way round."""
        call.ticket, heir.ticket = heir.ticket, call.ticket
        self.calls[heir.ticket] = heir
        if call.ticket:
            self.calls[call.ticket] = call

    def withdraw_cancelled(self) -> None:
        """Withdraw those whose caller has gone: they stay in a line of before."""
        for call in list(self.calls.values()):
            if not call.waits:
                self.withdraw(call, None)

    def sort_again(self) -> None:
        """Count those of each line, which are others by now."""
        self._in_line, self._due = {}, {}
        for call in self.calls.values():
            line = line_of(call)
            name = None if line is None else line.name
            self._in_line[name] = self._in_line.get(name, 0) + 1

    # When a newcomer would start.

    def set_due(self, line: Hashable, at: float, priority: float) -> None:
        """Note when a newcomer of a line and priority would start."""
        self._due[line] = at, priority

    def forget_due(self, line: Hashable) -> None:
        """Note that somebody has left who counted in that."""
        self._due.pop(line, None)

    def due(self, line: Hashable, priority: float) -> float:
        """Return when a newcomer would start, as far as the hub has said; else -inf."""
        at, of_priority = self._due.get(line, (-math.inf, -math.inf))
        return at if priority >= of_priority else -math.inf


def _overtakes(call: Call, line: Line[Call]) -> bool:
    """Return whether a newcomer goes before some of its line."""
    levels = line.levels
    return levels is not None and any(priority > call.priority for priority in line.priorities)
