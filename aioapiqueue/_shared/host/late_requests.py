"""Requests for grants where it may change until a grant comes which call of a line is next.

With weights, a line has the calls of all keys. A grant is for the first of them, if that costs the
same as the call that made the request: the hub has charged its cost. So all requests of a line are
for calls of one cost, and when a call of another cost comes, it waits for one of them at most.

Among several lines, the hub decides which is next. So each has one request, which states how many
calls of this queue are to start before its own (`_after`). This number is found from the turns of
keys, which count what has started: if the hub has started lines in another order, their next
requests make up for it.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue._shared.host.messages import FARTHEST
from aioapiqueue._shared.host.requests import Requests
from aioapiqueue._shared.host.scopes import HostCall, line_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue.spi import Call, Line

_MOST = 8
"""Most calls that have a request if there is one line: a hub grants about as many between two round
trips at thousands of calls per second. A line has more calls of one cost than this only by chance.
"""
_MOST_LINES = 64
"""Lines that are looked at for a request. Of 65 or more, every second one counts twice, and so on:
neighbors in the order of requests have similar turns, so that a sample is enough."""


class _Request(NamedTuple):
    """The last request of a line."""

    key: Hashable
    priority: float
    behind: int
    """Number of calls of its key that have a request in other lines."""
    turns: Any
    """As `Ordering.turns` returns them."""


class LateRequests(Requests):
    """Requests grants for calls of a queue with weights; see `Requests`."""

    def reset(self) -> None:
        """Forget all requests, as their calls have ended."""
        super().reset()
        self._costs_in: dict[Hashable, tuple[float, ...]] = {}
        """The costs of the last request of each line."""
        self._turns: dict[Hashable, _Request] = {}
        """The last request of each line, while there are several lines."""

    def joined(self, call: HostCall) -> None:
        """Request a grant for a call that waits now, if it could start on one."""
        line = line_of(call)
        assert line is not None  # noqa: S101 - it waits
        if call.ticket:
            self._find_place(call, line)
            return
        if not self._turns and line.live == 1:  # it may be the second line
            for one in self._host.waiters.lines.values():
                self._keep_one(one)
        costs = self._costs_in.get(line.name)
        if self._in_line.get(line.name, 0) and costs != call.costs:
            self._keep_one(line)
            # A more urgent call is granted before those with a request, whatever it costs.
            if line.first() is not call:
                return
        super().joined(call)

    @property
    def _most(self) -> int:
        return _MOST if len(self._host.waiters.lines) == 1 else 1

    def request(self, call: HostCall, line: Hashable, after: int | None = None) -> None:  # noqa: ARG002 - found here
        """Request a grant for a call."""
        self._costs_in[line] = call.costs
        super().request(call, line, self._after(call, line))

    def _after(self, call: HostCall, name: Hashable) -> int | None:
        """Return the number of calls that are to start before one; None: it is in the only line."""
        waiters = self._host.waiters
        line, ordering = waiters.lines.get(name), waiters.ordering
        self._turns.pop(name, None)
        if line is None or ordering is None or len(waiters.lines) == 1:
            return None
        key, priority = call.keys[0], call.priority
        step = 1 + len(self._turns) // _MOST_LINES
        some = islice(self._turns.values(), None, None, step)
        others = [one for one in some if one.priority == priority]
        behind = step * sum(one.key == key for one in others)
        turns = ordering.turns(call, line, behind)
        self._turns[name] = _Request(key, priority, behind, turns)
        return min(FARTHEST, step * sum(int(one.turns.until(turns)) for one in others))

    def _find_place(self, call: HostCall, line: Line[Call]) -> None:
        """Request a grant again if settlements have moved the turn of a call by half a call."""
        ordering, last = self._host.waiters.ordering, self._turns.get(line.name)
        if ordering is None or last is None:
            return
        turns = ordering.turns(call, line, last.behind)
        if turns.own + turns.each // 2 <= last.turns.own:
            self.withdraw(call, line.name)
            self.request_more(line)

    def forget_hub(self) -> None:
        """Note that the hub, and with it all requests, is lost."""
        super().forget_hub()
        self._turns.clear()

    def sort_again(self) -> None:
        """Count the requests of each line again: the lines have changed."""
        super().sort_again()
        self._turns.clear()

    def forget(self, call: HostCall, line: Hashable) -> None:
        """Forget the request of a call."""
        super().forget(call, line)
        if line not in self._in_line:
            self._costs_in.pop(line, None)
            self._turns.pop(line, None)

    def _keep_one(self, line: Line[Call]) -> None:
        """Withdraw the requests of a line, but for the first."""
        if self._in_line.get(line.name, 0) > 1:
            asking = [one for one in self.calls.values() if line_of(one) is line]
            for call in asking[1:]:
                self.withdraw(call, line.name)

    def _next_of(self, line: Line[Call]) -> list[HostCall]:
        """Return the next calls of a line that make a request, if few of its requests are left."""
        following = super()._next_of(line)
        asked = self._in_line.get(line.name, 0)
        costs = self._costs_in.get(line.name) if asked else None
        if costs is None and following:
            costs = following[0].costs
        alike = takewhile(lambda call: call.costs == costs, following)
        return list(islice(alike, max(0, self._most - asked)))  # more may have asked as one line
