"""Those who wait under the same limits, in their order. Knows no clock."""

from __future__ import annotations

import math
import struct
from collections import deque
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Iterable, Iterator

    from aioapiqueue._limits.units import CostTotals

__all__ = ["Line", "Rank", "W", "Waiter", "rank_of"]

Rank = int
"""By priority, turn (with `fair`), and number by arrival: the least goes first. In one number, as
heaps compare ranks a dozen times for each slot, which takes a third of the time of tuples."""

_PLACES = 2**64
"""More than any turn, and any number by arrival."""
_LOW_BITS = 2**63 - 1
_DOUBLE, _WHOLE = struct.Struct(">d"), struct.Struct(">q")

_MANY_GONE = 32
"""So few that have left are never cleared away before they are met: it would cost more."""


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


class Line(Generic[W]):
    """The waiters that come under the same limits, by priority, then by arrival.

    One that leaves early stays where it is until it is met or most there have left, so that
    leaving costs no search.

    Args:
        name: whose it is: `limits`, or with `fair` a key and `limits`.
        limits: what they come under; None: what all do.
    """

    __slots__ = (
        "costs",
        "counted",
        "entry",
        "flow",
        "gone",
        "head",
        "levels",
        "limits",
        "live",
        "name",
        "only",
        "partial",
        "priorities",
        "rank",
        "reservation",
        "turn",
        "waits_in",
    )

    def __init__(self, name: Hashable, limits: Any = None) -> None:  # noqa: ANN401 - the limiter's
        self.name = name
        self.limits = limits
        # In most of 100,000 lines one call waits: it needs no containers, which take memory, and
        # the garbage collector's time.
        self.only: W | None = None
        """Who waits, until there is a second one."""
        self.levels: dict[float, deque[W]] | None = None
        """By priority, from then on."""
        self.priorities: list[float]
        """A heap of the priorities in `levels`."""
        self.live = 0
        self.costs: CostTotals | None = None
        """What they cost, if any of them has said so; not counted where `limits` is None."""
        self.gone = 0
        """How many have left early and are still in it."""
        self.flow: Hashable = None
        self.turn = 0
        """With `fair`: whose turns it takes, and the number of its next one."""
        self.head: W | None = None
        self.rank: Rank | None = None
        """The first that `rank_now` has seen, and its rank; None: look again."""
        # For the limiter, which puts lines in an order.
        self.counted = False
        """Whether the limits know of it."""
        self.partial = False
        """Whether it does not come under all that the queue's own limits are."""
        self.waits_in: Any = None
        """The wait list of a limit, or the group of lines, that it is in."""
        self.entry: Any = None
        """Its entry there."""
        self.reservation: Any = None

    def __lt__(self, other: object) -> bool:
        return False  # only entries of one and the same line, one of them stale, ever tie

    def put(self, waiter: W) -> bool:
        """Add `waiter` to those of its priority; return whether it may go first now."""
        levels = self.levels
        if levels is None:
            if self.only is None:
                self.only = waiter
                self.live += 1
                self.head = None
                return True
            levels = self.use_levels()
        priority = waiter.priority
        level = levels.get(priority)
        if level is None:
            level = levels[priority] = deque()
            heappush(self.priorities, priority)
        level.append(waiter)
        self.live += 1
        if level[0] is not waiter:
            return False
        head = self.head
        if head is not None:
            if priority >= head.priority:
                return head.future.done()
            self.head = None
        return True

    def move_up(self, waiter: W) -> bool:
        """Move the last of its priority to where its number says; return whether it is first."""
        if self.levels is not None:
            level = self.levels[waiter.priority]
            level.pop()
            place = next((n for n, one in enumerate(level) if one.arrival > waiter.arrival), None)
            level.insert(len(level) if place is None else place, waiter)
        self.head = None
        return self.first() is waiter

    def use_levels(self) -> dict[float, deque[W]]:
        """Keep several waiters, from now on."""
        self.levels, self.priorities = {}, []
        if self.only is not None:
            self.levels[self.only.priority] = deque((self.only,))
            self.priorities.append(self.only.priority)
            self.only = None
        return self.levels

    def first(self) -> W | None:
        """Return who is next, forgetting on the way those who left; None if nobody waits."""
        levels = self.levels
        if levels is None:
            waiter = self.only
            if waiter is not None and waiter.future.done():
                self.only = waiter = None
                self.gone -= 1
            return waiter
        while self.priorities:
            level = levels[self.priorities[0]]
            while level:
                waiter = level[0]
                if not waiter.future.done():  # all who left have a future that is done
                    return waiter
                level.popleft()
                self.gone -= 1
            del levels[heappop(self.priorities)]
        return None

    def rank_now(self) -> Rank | None:
        """Return the rank of who is next; None if nobody waits."""
        head = self.head
        if head is None or head.future.done():
            head = self.head = self.first()
            self.rank = None if head is None else rank_of(head.priority, self.turn, head.arrival)
        return self.rank

    def pop(self) -> None:
        """Take out the one that `first` returned."""
        if self.levels is None:
            self.only = None
        else:
            self.levels[self.priorities[0]].popleft()
        self.live -= 1
        self.head = None

    def remove(self, waiter: W) -> None:
        """Take out one that need not be the first."""
        if self.levels is None:
            self.only = None
        else:
            self.levels[waiter.priority].remove(waiter)
        self.live -= 1
        self.head = None

    def leave(self) -> None:
        """Note that somebody has left early."""
        self.head = None
        self.live -= 1
        self.gone += 1
        if self.levels is None:
            if self.only is not None and not self.only.waits:
                self.only = None
                self.gone -= 1
        elif self.gone > self.live + _MANY_GONE:
            kept = {p: deque(w for w in level if w.waits) for p, level in self.levels.items()}
            self.levels = {p: level for p, level in kept.items() if level}
            self.priorities = list(self.levels)
            heapify(self.priorities)
            self.gone = sum(map(len, self.levels.values())) - self.live

    def everybody(self) -> Iterable[W]:
        """All in it, in no order, with those who have left early and were not met yet."""
        if self.levels is not None:
            return chain.from_iterable(self.levels.values())
        return () if self.only is None else (self.only,)

    def __iter__(self) -> Iterator[W]:
        """All who wait, in their order."""
        if self.levels is None:
            yield from [waiter for waiter in self.everybody() if waiter.waits]
            return
        for priority in sorted(self.priorities):
            yield from (waiter for waiter in self.levels[priority] if waiter.waits)

    def oldest_of_least_urgent(self) -> W | None:
        """Return who loses its place to somebody more urgent; None if nobody waits."""
        levels = self.levels or self.use_levels()
        for priority in sorted(self.priorities, reverse=True):
            level = levels[priority]
            while level:
                if level[0].waits:
                    return level[0]
                level.popleft()
                self.gone -= 1
        return None

    def total(self, unit: int) -> float:
        """Return what all who wait will cost together, in one unit."""
        return self.costs.of(unit, self.live) if self.costs else 0 if unit else self.live
