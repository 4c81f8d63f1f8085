"""Orders of waiting calls: ranks, and turns by key."""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

__all__ = ["ORDERS", "Order", "Rank", "Turns", "W", "Waiter", "rank_of"]

Order = Literal["fifo", "fair"]
"""Among those of one priority: by arrival, or in turns by key."""
ORDERS: tuple[Order, ...] = get_args(Order)

Rank = int
"""By priority, turn (with `fair`), and number by arrival: the least goes first. In one number, as
heaps compare ranks a dozen times for each slot, which takes a third of the time of tuples."""

_PLACES = 2**64
"""More than any turn, and any number by arrival."""
_LOW_BITS = 2**63 - 1
_DOUBLE, _WHOLE = struct.Struct(">d"), struct.Struct(">q")
_MANY_FLOWS = 64
"""So many turns are never cleared away, even if they are over: it would cost more than they do."""


class Waiter(Protocol):
    """What a wait queue knows of those in it."""

    keys: tuple[Hashable, ...]
    costs: tuple[float, ...]
    priority: float
    limits: Hashable
    """What it comes under besides, or instead of, what all do; None: what all do."""
    arrival: int
    """Its number; given by the queue."""
    future: asyncio.Future[Any]
    """Done once it has left."""
    line: Any
    """Where it waits; None: not any more. Given by the queue."""

    @property
    def waits(self) -> bool:
        """Whether it still waits."""


W = TypeVar("W", bound=Waiter)


class OrderedLine(Protocol):
    """What an order knows of a line."""

    flow: Hashable
    turn: int
    live: int


def rank_of(priority: float, turn: int, arrival: int) -> Rank:
    """Return the rank of who has that priority, turn and number by arrival."""
    if not priority and not turn:  # most
        return arrival
    return (_number_of(priority) * _PLACES + turn) * _PLACES + arrival


@lru_cache
def _number_of(priority: float) -> int:
    """Return a whole number that is less for a lower priority: the bits of a float are."""
    try:
        bits = _DOUBLE.pack(float(priority))
    except OverflowError:  # a whole number that is larger than any float
        bits = _DOUBLE.pack(math.inf if priority > 0 else -math.inf)
    (number,) = _WHOLE.unpack(bits)
    return number if number >= 0 else -(number & _LOW_BITS)  # type: ignore[no-any-return]  # whole


class Turns:
    """With `fair`, the turns of flows: the lines of one key. A line keeps its own."""

    __slots__ = ("last_of", "latest")

    def __init__(self) -> None:
        self.latest = -1
        """That of the last line that was served, or a later one."""
        self.last_of: dict[Hashable, int] = {}
        """The last that each flow was given."""

    def next(self, flow: Hashable) -> int:
        """Return the turn that a flow would be given."""
        return max(self.latest, self.last_of.get(flow, -1)) + 1

    def give(self, line: OrderedLine, lines: int) -> None:
        """Give a line its flow's next turn; there are so many lines."""
        line.turn = self.last_of[line.flow] = self.next(line.flow)
        if len(self.last_of) > 2 * lines + _MANY_FLOWS:  # so seldom that it is linear
            self.last_of = {one: last for one, last in self.last_of.items() if last > self.latest}

    def served(self, line: OrderedLine, lines: int) -> None:
        """Note that a line has had its turn; it has another one if somebody is left in it."""
        self.latest = max(self.latest, line.turn)
        if line.live:
            self.give(line, lines)

    def take_back(self, line: OrderedLine) -> None:
        """Leave the turn of a line that is gone, and has not had it, to the next of its flow."""
        if self.last_of.get(line.flow) == line.turn:
            self.last_of[line.flow] = line.turn - 1
            if line.turn - 1 <= self.latest:
                del self.last_of[line.flow]

    def leave_to_next(self, line: OrderedLine) -> None:
        """Leave the turn of a line to the first of its flow that is sorted again."""
        self.last_of[line.flow] = min(line.turn, self.last_of.get(line.flow, line.turn)) - 1

    def forget_flows(self) -> None:
        """Forget which turns were given: all are sorted again."""
        self.last_of.clear()
