"""The wait queue of a queue whose keys have weights.

Calls with the same limits wait in one line, as in any queue, and a line starts its keys in turns,
by a virtual time of its own (`virtual_time.py`). So the shares of keys are right at each limit,
however fast others are. Among lines, which compete for the limits that they have in common, the one
with the key that has the earliest turn in the whole queue is next; the line then decides which of
its keys starts.

One virtual time for both would be wrong in either place. A lane that is slower than the others
would be behind that of the queue at each of its calls, so that its keys would have equal shares.
With a virtual time for each line alone, a key would have more of the queue's own limits the more
lanes it calls.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from aioapiqueue._core.orders import Ordering, Turns, W
from aioapiqueue._core.wait_queue import WaitQueue
from aioapiqueue._core.weighted_lines import WeightedLine

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from aioapiqueue._core.key_shares import KeyShares
    from aioapiqueue._core.orders import OrderedLine
    from aioapiqueue._core.wait_queue import Line

_MOST_LINES = 16
"""Lines that are ranked again when a call of their key settles. A key may have thousands; the
others are ranked by its former turn until their next call starts."""


class WeightedTurns(Ordering[W]):
    """Keys take turns in proportion to their weights.

    Args:
        shares: the weights, and what each key has been charged.
    """

    __slots__ = ("shares",)

    decides_late = True

    def __init__(self, shares: KeyShares) -> None:
        self.shares = shares

    def empty_copy(self) -> Self:
        """Return the same order, in which no call waits."""
        return type(self)(self.shares.empty_copy())

    def turn_of(self, call: W) -> int:
        """Return the turn of the line that a newcomer would begin."""
        return self.shares.next_turn(call)

    def turn_behind(self, line: OrderedLine, behind: int) -> int:
        """Return the turn of the call that waits behind this many others of a line."""
        first = line.first()
        if not isinstance(line, WeightedLine) or first is None:
            return line.turn
        line.rank_now()  # which updates the turn
        # As if all these calls had the cost of the first, and calls of a key in several lines
        # started in turns.
        share = self.shares.of(first)
        turns = self.shares.turns_for(first.costs, max(line.weight, share.weight))
        return line.turn + behind * max(1, len(share.parts)) * turns

    def turns(self, call: W, line: OrderedLine, behind: int) -> Turns:
        """Return the turns by which a call competes with other lines."""
        each = self.turn_behind(line, 1) - line.turn
        return Turns(self.shares.next_turn(call, behind), self.shares.now(call.priority), each)

    def added(self, call: W, line: OrderedLine | None) -> None:
        """Count a call that waits in a line."""
        if line is not None:
            self.shares.join(call)

    def served(self, call: W, line: OrderedLine) -> None:
        """Charge a call that starts to its key."""
        self.shares.charge(call)
        if isinstance(line, WeightedLine):
            line.charge(call)
        self.shares.leave(call)

    def left(self, call: W, line: OrderedLine) -> None:
        """Count a call no longer; it has moved no turn."""
        # Not in a line from before calls were sorted again: it has not been counted since.
        if isinstance(line, WeightedLine) and line.sorting == self.shares.sorting:
            line.count_off(call)
            self.shares.leave(call)

    def ended(self, line: OrderedLine, lines: int) -> None:  # noqa: ARG002 - it has no turn
        """Forget all turns when no call waits."""
        if not lines:
            self.shares.forget()

    def dissolved(self, line: OrderedLine) -> None:
        """Leave the turns of a line's keys to the calls that are sorted again."""
        if isinstance(line, WeightedLine):
            line.dissolve()

    def begin_sorting(self) -> None:
        """Have all calls counted again; keys keep their turns."""
        self.shares.count_again()


class WeightedQueue(WaitQueue[W]):
    """A wait queue whose keys take turns by their weights."""

    ordering: WeightedTurns[W]

    def add_to_line(self, item: W) -> None:
        """Add a call to the line of its limits."""
        if item.limits not in self.lines:  # the base class finds it there, as one that is in use
            shares = self.ordering.shares
            self.lines[item.limits] = WeightedLine(item.limits, item.limits, shares)
        super().add_to_line(item)

    def pop(self, waiter: W) -> None:
        """Take out a call that is the first of its key; the caller changes its state."""
        waiter.line.find(waiter)
        super().pop(waiter)

    def started_at_once(self, call: W) -> None:
        """Charge a call that starts without having waited, while others wait."""
        shares = self.ordering.shares
        if shares.knows(call.priority):  # else it has overtaken no call of its priority
            shares.charge(call)

    def correct(self, call: W, costs: Sequence[float] | None) -> Iterable[Line[W]]:
        """Correct the turns of a key by the true costs of a call that has started.

        Args:
            call: the call, with the costs that it was charged.
            costs: its true costs; None: it was not made.

        Returns:
            Lines that may rank earlier now.
        """
        shares = self.ordering.shares
        if not shares.knows(call.priority):
            return ()
        weight = shares.of(call).weight
        turns = shares.turns_for(call.costs, weight)
        if costs is not None:
            turns -= shares.turns_for(costs, weight)
        share = shares.give_back(call, turns)
        line: Any = self.lines.get(call.limits)
        if line is not None:
            line.give_back(call, turns)
        parts = list(islice(share.parts, _MOST_LINES))
        for part in parts:
            part.line.rank_again(part, call.priority)
        return dict.fromkeys((*(part.line for part in parts), *(() if line is None else (line,))))

    def cost_ahead(self, item: W, unit: int, lines: Collection[Line[W]] | None = None) -> float:
        """Return the cost of the calls, of all or of these lines, that start before a newcomer."""
        under: Any = self.lines.values() if lines is None else lines
        if self.unsorted is not None and lines is None:  # calls that are in no line count, too
            return super().cost_ahead(item, unit, lines)
        shares = self.ordering.shares
        own = shares.of(item).waiting if shares.knows(item.priority) else 0
        turn = shares.next_turn(item, own)
        return float(sum(line.ahead_of(item, turn, unit) for line in under))
