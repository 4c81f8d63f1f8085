"""Whose turn it is: the wait queue of a quota, in which clients take turns.

Calls of one priority are served in turns of their clients, and those of one line as they came. Each
call is given the number of its turn when it comes: one more than that of its client's last call,
or, if that is more, that of the first of others who wait for the same limits. (Where nobody does,
one more than that of the call that was served last.) So ranks never change, and a client that was
away has saved up nothing: start-time fair queueing, Goyal et al. 1996, with a cost of 1 each.

A client has a line for each set of limits that its calls come under, and some of them may be closed
for hours. Those must not put its other calls behind. So calls of one line are as many turns apart
as its client has lines that were served lately, and no call is further ahead than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue.spi import DetailedCall, Line, WaitQueue, rank_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue.spi import CallOwner, Rank, Unsorted

__all__ = ["ClientCall", "ClientQueue"]

_IN_A_TURN = 2**24
"""More than there are clients: calls of one turn are told apart by their arrival, modulo this."""


_MOST_APART = 64
"""Turns between two calls of a line, at most, however many lines its client has."""
_LATELY = 64
"""Turns for which a line counts that was served, or in which somebody came to wait."""


class ClientCall(DetailedCall):
    """A call that a client has asked for.

    Args:
        client: whose it is.
        ticket: its number there.
        dispatcher: of the quota.
        keys: what kinds of call it is.
        priority: lower goes first.
    """

    __slots__ = ("before", "client", "delayed_by", "place", "ticket")

    def __init__(
        self,
        client: Hashable,
        ticket: int,
        dispatcher: CallOwner,
        keys: tuple[Hashable, ...],
        priority: float,
    ) -> None:
        super().__init__(dispatcher, keys, priority)
        self.client = client
        self.ticket = ticket
        self.place = 0
        """Its turn, and its number in that; 0: it has not waited yet."""
        self.before = 0.0
        """Seconds that it has waited before: at its client, or here under other limits."""
        self.delayed_by: tuple[str, str, str] | None = None
        """The limit of others that it waited for: its lane, itself, and whose it is."""


class _Turns:
    """The turns of a client that waits."""

    __slots__ = ("last", "last_in", "lately", "waiting")

    def __init__(self) -> None:
        self.last = 0
        """The last that it was given."""
        self.last_in: dict[Hashable, int] = {}
        """The last in each of its lines, by their limits."""
        self.lately: dict[Hashable, int] = {}
        """The turn in which each of its lines was last served, or begun, the latest last."""
        self.waiting = 0
        """How many of its calls wait."""

    def note(self, limits: Hashable, now: int) -> None:
        """Note that one of its lines is served, or begins, in a turn."""
        lately = self.lately
        if len(lately) == 1 and limits in lately:  # most
            lately[limits] = now
            return
        lately.pop(limits, None)
        lately[limits] = now
        while lately[first := next(iter(lately))] + _LATELY < now:
            del lately[first]


class ClientQueue(WaitQueue[ClientCall]):
    """All who wait, in one line for each client and what its calls come under."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as WaitQueue's
        super().__init__(*arguments, **options)
        self.fair = True
        """Lines of the same limits are told apart."""
        self._served = 0
        """The place of the last one that was served."""
        self._turns_of: dict[Hashable, _Turns] = {}
        """Of each client that waits."""
        self._of_limits: dict[Hashable, dict[Line[ClientCall], None]] = {}
        """The lines of each set of limits: one for each client."""

    def name_of_line(self, item: ClientCall) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return item.client, item.limits

    def rank_of(self, item: ClientCall) -> Rank:
        """Return the rank that a newcomer would have in a line of its own."""
        return rank_of(item.priority, 0, self._place_of(item))

    def _line_for(self, item: ClientCall) -> Line[ClientCall]:
        name = item.client, item.limits
        line = self.lines.get(name)
        if line is None:
            line = Line(name, item.limits)
            line.flow = item.client
            self._of_limits.setdefault(item.limits, {})[line] = None
        return line

    def put_nowait(self, item: ClientCall) -> None:
        """Let `item` wait; as `WaitQueue.put_nowait`."""
        item.place = self._place_of(item)
        turns = self._turns_of.get(item.client)
        if turns is None:
            turns = self._turns_of[item.client] = _Turns()
        turns.waiting += 1
        super().put_nowait(item)

    def _add_to_line(self, item: ClientCall) -> None:
        item.arrival = item.place
        super()._add_to_line(item)
        turns, turn = self._turns_of[item.client], item.place // _IN_A_TURN
        if item.limits not in turns.last_in:
            turns.note(item.limits, self._served // _IN_A_TURN)
        turns.last_in[item.limits] = turn
        if turn > turns.last:  # noqa: PLR1730 - this is done for each slot
            turns.last = turn

    def _drop(self, line: Line[ClientCall]) -> None:
        super()._drop(line)
        turns = self._turns_of.get(line.flow)
        if turns is not None:
            turns.last_in.pop(line.limits, None)
        lines = self._of_limits.get(line.limits, {})
        lines.pop(line, None)
        if not lines:
            self._of_limits.pop(line.limits, None)

    def begin_sorting(self) -> Unsorted[ClientCall]:
        """Have no lines until `end_sorting`; as `WaitQueue.begin_sorting`."""
        self._of_limits.clear()
        for turns in self._turns_of.values():
            turns.last_in.clear()
        return super().begin_sorting()

    def _place_of(self, item: ClientCall) -> int:
        if item.place:
            return item.place
        # Beside others who wait for the same, it is next after the first of them. (What others are
        # served of other limits must not put them before it, or behind it.)
        first = None
        for line in self._of_limits.get(item.limits, ()):
            if line.flow is not item.client and (head := line.first()) is not None:
                first = head.arrival if first is None else min(first, head.arrival)
        turn = (self._served + _IN_A_TURN if first is None else first) // _IN_A_TURN
        turns = self._turns_of.get(item.client)
        if turns is not None and turn <= turns.last:
            last = turns.last_in.get(item.limits)
            apart = min(_MOST_APART, len(turns.lately) + (item.limits not in turns.lately))
            if last is None:
                turn = max(turn, min(turns.last + 1, self._served // _IN_A_TURN + apart))
            else:
                turn = max(turn, last + apart)
        return turn * _IN_A_TURN + (self._count + 1) % _IN_A_TURN

    def pop(self, waiter: ClientCall) -> None:
        """Take out the first of its line; as `WaitQueue.pop`."""
        if waiter.arrival > self._served:  # noqa: PLR1730 - this is done for each slot
            self._served = waiter.arrival
        self._turns_of[waiter.client].note(waiter.limits, self._served // _IN_A_TURN)
        super().pop(waiter)
        self._gone(waiter)

    def _removed(self, waiter: ClientCall, line: Line[ClientCall]) -> None:
        super()._removed(waiter, line)
        self._gone(waiter)

    def _gone(self, waiter: ClientCall) -> None:
        turns = self._turns_of[waiter.client]
        turns.waiting -= 1
        if not turns.waiting:
            del self._turns_of[waiter.client]
