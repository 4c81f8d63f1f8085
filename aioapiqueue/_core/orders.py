"""The orders in which waiting calls start: everything that defines one is here.

A call ranks by its priority, then by the turn of its line, then by its number; the lowest rank goes
first. An order decides about turns and numbers. To add one, derive it from `Ordering` and name it
in `Order` and `ORDERINGS`.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Mapping

__all__ = ["ORDERS", "Order", "Ordering"]

Rank = int
"""Priority, turn and number of a call as one integer: heaps compare ranks a dozen times for each
slot, and comparing integers takes a third of the time of comparing tuples."""

_PLACES = 2**64
"""Greater than any turn, and than any number."""
_LOW_BITS = 2**63 - 1
_DOUBLE, _WHOLE = struct.Struct(">d"), struct.Struct(">q")
_CLOSED = 4
"""A line that is this many of its calls late cannot start, and delays no other."""
_MANY_FLOWS = 64
"""Flows whose past turns are never dropped: searching for them would cost more than they do."""


class Waiter(Protocol):
    """The attributes of a waiting call that wait queues and orders use."""

    keys: tuple[Hashable, ...]
    costs: tuple[float, ...]
    priority: float
    limits: Hashable
    """The limits of the call, if they differ from those of the queue; None: those of the queue."""
    arrival: int
    """Its number, set by the wait queue."""
    future: asyncio.Future[Any]
    """Done as soon as the call stops waiting."""
    line: Any
    """The line in which it waits; None: it has left. Set by the wait queue."""

    @property
    def waits(self) -> bool:
        """Whether it still waits."""


W = TypeVar("W", bound=Waiter)


class OrderedLine(Protocol):
    """The attributes of a line that orders use."""

    limits: Any
    live: int
    """Number of calls that wait in it."""
    flow: Hashable
    """Set by the order: lines of one flow share its turns."""
    turn: int
    """Set by the order."""

    def first(self) -> Any:  # noqa: ANN401 - a call of the line's kind
        """Return the next call; None: no call waits."""


class Turns:
    """The virtual times by which a call competes with the calls of other lines.

    Args:
        own: its turn.
        latest: the latest turn in which a call has started.
        each: what a call of its line takes.
    """

    __slots__ = ("each", "latest", "own")

    def __init__(self, own: int, latest: int, each: int) -> None:
        self.own = own
        self.latest = latest
        self.each = max(1, each)

    def until(self, other: Turns) -> int:
        """Return how many calls of this line, from this one on, are to start before another."""
        if self.own > other.own or self.own + _CLOSED * self.each < other.latest:
            return 0
        return 1 + (other.own - self.own) // self.each


class Ordering(Generic[W]):
    """First come, first served; and the base of all other orders.

    Turns order the lines, and numbers the calls of a line. `step = -1` alone makes an order in
    which the last call that joined goes first. An order in which keys take turns is `FairTurns`.
    The wait queue informs its order of all that happens to calls and lines.
    """

    __slots__ = ()

    step = 1
    """Difference between the numbers of a call and of the next one that joins; -1: newcomers go
    first. Users see the number of a call as `Event.call`."""
    decides_late = False
    """Whether it may change until a call starts which of several lines is next."""

    def empty_copy(self) -> Self:
        """Return the same order, in which no call waits."""
        return type(self)()

    def name_of_line(self, call: W) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return call.limits

    def number_of(self, call: W, number: int) -> int:  # noqa: ARG002 - turns may depend on it
        """Return the number of a call that joins; `number` is the next one by arrival."""
        return number

    def turn_of(self, call: W) -> int:  # noqa: ARG002 - as above
        """Return the turn of the line that a newcomer would begin."""
        return 0

    def turn_behind(self, line: OrderedLine, behind: int) -> int:  # noqa: ARG002 - as above
        """Return the turn of the call that waits behind this many others of a line."""
        return line.turn

    def joined(self, call: W) -> None:
        """Note that a call joins, before it is added to a line."""

    def turns(self, call: W, line: OrderedLine, behind: int) -> Turns:  # noqa: ARG002 - as above
        """Return the turns by which a call competes with other lines, if the order decides late.

        Args:
            call: the call.
            line: its line.
            behind: number of calls of its key that start before it.
        """
        return Turns(0, 0, 1)

    def added(self, call: W, line: OrderedLine | None) -> None:
        """Note that a call is about to be added to a line, empty if it is new.

        None: all calls are being sorted into lines again, and this one will be.
        """

    def served(self, call: W, line: OrderedLine) -> None:
        """Note that a call of a line starts; it has been taken out."""

    def left(self, call: W, line: OrderedLine) -> None:
        """Note that a call has left a line without a slot."""

    def ended(self, line: OrderedLine, lines: int) -> None:
        """Note that a line is empty and was dropped; `lines` are left."""

    def dissolved(self, line: OrderedLine) -> None:
        """Note that a line was dropped: its calls will be sorted into other lines."""

    def begin_sorting(self) -> None:
        """Note that all lines were dropped: all calls will be sorted into lines again."""


class FairTurns(Ordering[W]):
    """Keys take turns: the first key of each call counts.

    The lines of one key are a flow. A line keeps its turn until one of its calls starts; the next
    turn of a flow comes after all that the flow was given, and after that of the line served last.
    """

    __slots__ = ("last_of", "latest")

    def __init__(self) -> None:
        self.latest = 0
        """Turn of the line that was served last, or a later one."""
        self.last_of: dict[Hashable, int] = {}
        """The last turn that each flow was given."""

    def name_of_line(self, call: W) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return call.keys[0], call.limits

    def turn_of(self, call: W) -> int:
        """Return the turn of the line that a newcomer would begin."""
        return self._next(call.keys[0])

    def turn_behind(self, line: OrderedLine, behind: int) -> int:
        """Return the turn of the call that waits behind this many others of a line."""
        return max(line.turn, self.latest) + behind if behind else line.turn

    def added(self, call: W, line: OrderedLine | None) -> None:
        """Give a new line its turn."""
        if line is not None and not line.live:
            line.flow = call.keys[0]
            self._give(line)

    def served(self, call: W, line: OrderedLine) -> None:  # noqa: ARG002 - the turn is the line's
        """Give a line that has had its turn another one, if calls are left in it."""
        self.latest = max(self.latest, line.turn)  # lines may start out of turn: limits differ
        if line.live:
            self._give(line)

    def left(self, call: W, line: OrderedLine) -> None:  # noqa: ARG002 - as above
        """Return the unused turn of a line that is empty now to its flow."""
        # As long as calls are left in the line, the next of them has the turn. A turn that nothing
        # used must not count: calls that join and are cancelled would move their key back.
        flow = line.flow
        if not line.live and self.last_of.get(flow) == line.turn:
            self.last_of[flow] = line.turn - 1
            if line.turn - 1 <= self.latest:
                del self.last_of[flow]

    def ended(self, line: OrderedLine, lines: int) -> None:  # noqa: ARG002 - it has no turn
        """Forget turns that are over."""
        if not lines:
            self.latest = 0
            self.last_of.clear()
        elif len(self.last_of) > 2 * lines + _MANY_FLOWS:  # so rarely that it costs little
            self.last_of = {one: last for one, last in self.last_of.items() if last > self.latest}

    def dissolved(self, line: OrderedLine) -> None:
        """Leave the turn of a line to the first call of its flow that is sorted again."""
        # `_next` adds 1. Of several lines of the flow, in whatever order they are dissolved, the
        # earliest turn counts.
        self.last_of[line.flow] = min(line.turn - 1, self.last_of.get(line.flow, line.turn))

    def begin_sorting(self) -> None:
        """Forget which turns were given."""
        self.last_of.clear()

    def _next(self, flow: Hashable) -> int:
        return max(self.latest, self.last_of.get(flow, 0)) + 1

    def _give(self, line: OrderedLine) -> None:
        line.turn = self.last_of[line.flow] = self._next(line.flow)


Order = Literal["fifo", "fair"]
"""By arrival, or keys in turns; in either, lower priorities go first."""

ORDERINGS: Mapping[Order, type[Ordering[Any]]] = {"fifo": Ordering, "fair": FairTurns}
"""Every order by its name. If AWS services share a queue, the last order that they name applies."""

ORDERS = tuple(ORDERINGS)


def rank_of(priority: float, turn: int, number: int) -> Rank:
    """Return the rank of a call with this priority and number, in a line with this turn."""
    if turn:
        number += turn * _PLACES
    return number + _first_rank(priority) if priority else number  # that of 0 is 0


@lru_cache
def _first_rank(priority: float) -> Rank:
    """Return the rank of a call of this priority with the number 0, in a line with the turn 0."""
    # IEEE 754: the bits of positive floats, read as integers, are in the order of the floats. Those
    # of negative floats are in the reverse order, so they are negated without their sign bit.
    try:
        bits = _DOUBLE.pack(float(priority))
    except OverflowError:  # an integer beyond the range of floats
        bits = _DOUBLE.pack(math.inf if priority > 0 else -math.inf)
    (number,) = _WHOLE.unpack(bits)
    return (number if number >= 0 else -(number & _LOW_BITS)) * _PLACES**2  # type: ignore[no-any-return]  # an int
