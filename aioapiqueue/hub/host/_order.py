"""Whose turn it is: the wait queue of a quota, in which clients take turns.

Calls of one priority are served in turns of their clients, and those of one client as they came.
Each call is given the number of its turn when it comes: one more than that of its client's last
call, or, if that is more, that of the first of others who wait for the same limits. (Where nobody
does, one more than that of the call that was served last.) So ranks never change, and a client that
was away has saved up nothing: start-time fair queueing, Goyal et al. 1996, with a cost of 1 each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue._line import Line, rank_of
from aioapiqueue._slot import Call, DetailedCall
from aioapiqueue._wait_queue import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue._line import Rank

__all__ = ["ClientCall", "ClientQueue"]

_IN_A_TURN = 2**24
"""More than there are clients: calls of one turn are told apart by their arrival, modulo this."""


class ClientCall(DetailedCall):
    """A call that a client has asked for.

    Args:
        client: whose it is.
        ticket: its number there.
        details: as of `DetailedCall`.
    """

    __slots__ = ("client", "delayed_by", "place", "ticket")

    def __init__(self, client: Hashable, ticket: int, *details: Any) -> None:  # noqa: ANN401 - as `Args` says
        super().__init__(*details)
        self.client = client
        self.ticket = ticket
        self.place = 0
        """Its turn, and its number in that; 0: it has not waited yet."""
        self.delayed_by: tuple[str, str, str] | None = None
        """The limit of others that it waited for: its lane, itself, and whose it is."""


class ClientQueue(WaitQueue[Call]):
    """All who wait, in one line for each client and what its calls come under."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as WaitQueue's
        super().__init__(*arguments, **options)
        self.fair = True
        """Lines of the same limits are told apart."""
        self._served = 0
        """The place of the last one that was served."""
        self._last: dict[Hashable, int] = {}
        """The last turn that each client was given that waits."""
        self._of_limits: dict[Hashable, dict[Line[Call], None]] = {}
        """The lines of each set of limits: one for each client."""
        self._waiting: dict[Hashable, int] = {}
        """How many calls of each client wait."""

    def name_of_line(self, item: Call) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return _client_of(item), item.limits

    def rank_of(self, item: Call) -> Rank:
        """Return the rank that a newcomer would have in a line of its own."""
        return rank_of(item.priority, 0, self._place_of(item))

    def _line_for(self, item: Call) -> Line[Call]:
        name = self.name_of_line(item)
        line = self.lines.get(name)
        if line is None:
            line = Line(name, item.limits)
            line.flow = _client_of(item)
        return line

    def _put(self, item: Call) -> None:
        assert isinstance(item, ClientCall)  # noqa: S101 - of the quota's own making
        item.place = self._place_of(item)
        client, turn = item.client, item.place // _IN_A_TURN
        self._last[client] = max(turn, self._last.get(client, 0))
        self._waiting[client] = self._waiting.get(client, 0) + 1
        super()._put(item)

    def _add_to_line(self, item: Call) -> None:
        assert isinstance(item, ClientCall)  # noqa: S101 - as above
        item.arrival = item.place
        super()._add_to_line(item)
        line: Line[Call] = item.line  # type: ignore[assignment]  # that of any call
        self._of_limits.setdefault(item.limits, {})[line] = None

    def _drop(self, line: Line[Call]) -> None:
        super()._drop(line)
        lines = self._of_limits.get(line.limits, {})
        lines.pop(line, None)
        if not lines:
            self._of_limits.pop(line.limits, None)

    def begin_sorting(self) -> list[Line[Call]]:
        """Have no lines until `end_sorting`; as `WaitQueue.begin_sorting`."""
        self._of_limits.clear()
        return super().begin_sorting()

    def _place_of(self, item: Call) -> int:
        assert isinstance(item, ClientCall)  # noqa: S101 - as above
        if item.place:
            return item.place
        # Beside others who wait for the same, it is next after the first of them. (What others are
        # served of other limits must not put them before it, or behind it.)
        others = [
            head.arrival
            for line in self._of_limits.get(item.limits, ())
            if line.flow is not item.client and (head := line.first()) is not None
        ]
        turn = min(others, default=self._served + _IN_A_TURN) // _IN_A_TURN
        turn = max(turn, self._last.get(item.client, 0) + 1)
        return turn * _IN_A_TURN + (self._count + 1) % _IN_A_TURN

    def _next_turn(self, flow: Hashable) -> int:  # noqa: ARG002 - lines have no turns, calls have
        return 0

    def pop(self, waiter: Call) -> None:
        """Take out the first of its line; as `WaitQueue.pop`."""
        self._served = max(self._served, waiter.arrival)
        super().pop(waiter)
        self._gone(waiter)

    def leave(self, waiter: Call) -> Line[Call] | None:
        """Take out one that waits no more; as `WaitQueue.leave`."""
        line = super().leave(waiter)
        if line is not None:
            self._gone(waiter)
        return line

    def _gone(self, waiter: Call) -> None:
        client = _client_of(waiter)
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client], self._last[client]


def _client_of(call: Call) -> Hashable:
    assert isinstance(call, ClientCall)  # noqa: S101 - as above
    return call.client
