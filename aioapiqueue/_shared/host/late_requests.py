"""Requests for grants where it may change until a grant comes which call of a line is next.

With weights, a line has the calls of all keys. A grant is for the first of them, if that costs the
same as the call that made the request: the hub has charged its cost. So all requests of a line are
for calls of one cost, and when a call of another cost comes, it waits for one of them at most.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING

from aioapiqueue._shared.host.requests import Requests
from aioapiqueue._shared.host.scopes import HostCall, line_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue.spi import Call, Line

_MOST = 8
"""Most calls of one line that have a request: a hub grants about as many between two round trips at
thousands of calls per second. A line has more calls of one cost than this only by chance."""


class LateRequests(Requests):
    """Requests grants for calls of a queue with weights; see `Requests`."""

    def reset(self) -> None:
        """Forget all requests, as their calls have ended."""
        super().reset()
        self._costs_in: dict[Hashable, tuple[float, ...]] = {}
        """The costs of the last request of each line."""

    def joined(self, call: HostCall) -> None:
        """Request a grant for a call that waits now, if it could start on one."""
        line = line_of(call)
        assert line is not None  # noqa: S101 - it waits
        costs = self._costs_in.get(line.name)
        if self._in_line.get(line.name, 0) and costs != call.costs:
            self._keep_one(line)
            # A more urgent call is granted before those with a request, whatever it costs.
            if line.first() is not call:
                return
        super().joined(call)

    @property
    def _most(self) -> int:
        return _MOST

    def request(self, call: HostCall, line: Hashable) -> None:
        """Request a grant for a call."""
        self._costs_in[line] = call.costs
        super().request(call, line)

    def forget(self, call: HostCall, line: Hashable) -> None:
        """Forget the request of a call."""
        super().forget(call, line)
        if line not in self._in_line:
            self._costs_in.pop(line, None)

    def _keep_one(self, line: Line[Call]) -> None:
        """Withdraw the requests of a line, but for the first."""
        if self._in_line[line.name] > 1:
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
        return list(islice(alike, _MOST - asked))
