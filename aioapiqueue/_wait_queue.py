"""Who is next: an `asyncio.Queue` of those who wait, by priority, turn and arrival. Knows no clock.

It is a queue as `asyncio.PriorityQueue` is one: `get` waits for the next, `join` for the moment at
which nobody waits and everybody who was taken out has been accounted for (`task_done`).

The calls that come under the same limits form a `Line`: none of them can start before the first.
Most queues have one line, and there is nothing else to compare. Where there are more, the next is
the first of the line of the lowest rank; which lines may go at all is the limiter's business, so
that it looks at the lines itself (`lines`, `rank_now`).
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Literal, Self, get_args

from aioapiqueue._line import Line, W, rank_of
from aioapiqueue._units import ONE_CALL, CostTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from aioapiqueue._line import Rank

__all__ = ["ORDERS", "Order", "WaitQueue"]

Order = Literal["fifo", "fair"]
"""Among those of one priority: by arrival, or in turns by key."""
ORDERS: tuple[Order, ...] = get_args(Order)

_EARLY = -(2**62)
"""Numbers from here on are before all of those who had to wait."""
_MANY_FLOWS = 64
"""So many turns are never cleared away, even if they are over: it would cost more than they do."""


class WaitQueue(asyncio.Queue[W]):
    """All who wait, in lines.

    Args:
        on_first: called when somebody becomes the first of a line.
        order: who goes first among those of one priority.
        maxsize: how many may wait; 0: any number. `put_nowait` leaves that to the caller.
        ranked: keep what `oldest_of_least_urgent` needs.
    """

    # A plain attribute: the inherited property is slow, and this is read for each call that waits.
    maxsize = 0

    def __init__(
        self,
        on_first: Callable[[], None],
        *,
        order: Order = "fifo",
        maxsize: int = 0,
        ranked: bool = False,
    ) -> None:
        self.maxsize = maxsize
        self.on_first = on_first
        self.order = order
        self.fair = order == "fair"
        self.lines: dict[Hashable, Line[W]] = {}
        """Those in which somebody waits, by name."""
        self.live = 0
        """How many wait."""
        self._plain: Line[W] = Line(None)
        """The line of those who come under what all do; kept, as most queues have no other."""
        self._plain.use_levels()
        self._costs = CostTotals()
        """What they cost."""
        self._everybody: Line[W] | None = Line(None) if ranked else None
        """All of them, by arrival whatever the order: for `oldest_of_least_urgent` and nothing
        else, as those who were served are still in it."""
        self._count = 0
        self._early_count = _EARLY
        self._taken = 0
        """How many were taken out by `get`, and not yet accounted for by `task_done`."""
        self._turn = -1
        """With `fair`, the turn of the last one that was served, or a later one."""
        self._turns: dict[Hashable, int] = {}
        """With `fair`, the last turn that each flow (of one key) was given."""
        self._former: list[Line[W]] = []
        """While all are sorted again: the lines in which they were, and that of newcomers."""
        self._unsorted: list[tuple[int, W]] | None = None
        """A heap, by arrival, of those who are in no line meanwhile; None: it is not the case."""
        self._plain_to_be = self._plain
        """Meanwhile: the line of those who were sorted and come under what all do."""
        self._none_left = asyncio.Event()
        super().__init__(maxsize)

    def empty_copy(self) -> Self:
        """Return an empty one of the same kind."""
        new = type(self)(
            self.on_first,
            order=self.order,
            maxsize=self.maxsize,
            ranked=self._everybody is not None,
        )
        new.go_on_from(self._count, self._early_count)
        return new

    def go_on_from(self, number: int, early_number: int) -> None:
        """Give out later numbers only, so that none comes twice in the life of a queue."""
        self._count, self._early_count = number, early_number

    # What asyncio.Queue asks of those derived from it.

    def _init(self, maxsize: int) -> None:
        """Make no container: the lines are it."""

    def qsize(self) -> int:
        """Return how many wait."""
        return self.live

    def empty(self) -> bool:
        """Return whether there is nobody for `get`."""
        return self.first() is None

    def put_nowait(self, item: W) -> None:
        """Let `item` wait. There is always room: how many may wait is for the caller to say."""
        # As the inherited one does, with less: this is done for every call that has to wait.
        item.arrival = self._count = self._count + 1
        if self._everybody is not None:
            self._everybody.put(item)
        self.live += 1
        if item.costs is not ONE_CALL:
            self._costs.add(item.costs)
        line = self._plain
        if item.limits is not None or self.fair or not line.live:
            self._add_to_line(item)
        else:
            item.line = line
            if line.put(item):
                self.on_first()
        if self._getters:  # type: ignore[attr-defined]  # typeshed leaves it out
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]  # as above

    def next_number(self) -> int:
        """Return a number by arrival, for somebody who need not wait."""
        self._count += 1
        return self._count

    def early_number(self) -> int:
        """Return a number by arrival before all others of those who had to wait."""
        self._early_count += 1
        return self._early_count

    def move_up(self, waiter: W, arrival: int) -> bool:
        """Give one who has just joined an earlier place; return whether it may go first now.

        Among those of its line and priority: with `fair`, lines keep their turns.
        """
        waiter.arrival = arrival
        if self._unsorted is not None:
            self._unsorted = [(one.arrival, one) for _, one in self._unsorted]
            heapify(self._unsorted)
        is_first: bool = waiter.line.move_up(waiter)
        if is_first:
            self.on_first()
        return is_first

    def _add_to_line(self, item: W) -> None:
        if self._unsorted is not None:
            item.line = self._former[-1]
            item.line.put(item)
            heappush(self._unsorted, (item.arrival, item))
            return
        if self.fair:
            line = self._line_for(item)
        elif item.limits is None:
            line = self._plain
        else:  # as _line_for: this is done for each call of a lane that has to wait
            line = self.lines.get(item.limits) or Line(item.limits, item.limits)
        if not line.live:
            self.lines[line.name] = line
        item.line = line
        if item.costs is not ONE_CALL and line.limits is not None:
            if line.costs is None:
                line.costs = CostTotals()
            line.costs.add(item.costs)
        if line.put(item):
            self.on_first()

    def _line_for(self, item: W) -> Line[W]:
        name = self.name_of_line(item)
        line = self.lines.get(name)
        if line is None:
            line = Line(name, item.limits)
            line.flow = item.keys[0]
            line.turn = self._next_turn(line.flow)
        return line

    def name_of_line(self, item: W) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return (item.keys[0], item.limits) if self.fair else item.limits

    def _next_turn(self, flow: Hashable) -> int:
        turn = self._turns[flow] = max(self._turn, self._turns.get(flow, -1)) + 1
        if len(self._turns) > 2 * len(self.lines) + _MANY_FLOWS:  # so seldom that it is linear
            self._turns = {one: last for one, last in self._turns.items() if last > self._turn}
        return turn

    def rank_of(self, item: W) -> Rank:
        """Return the rank that a newcomer would have in a line of its own."""
        turn = max(self._turn, self._turns.get(item.keys[0], -1)) + 1 if self.fair else 0
        return rank_of(item.priority, turn, self._count + 1)

    def _get(self) -> W:
        waiter = self.first()
        assert waiter is not None  # noqa: S101 - asyncio.Queue asks `empty` before
        self._taken += 1
        self.pop(waiter)
        return waiter

    def task_done(self) -> None:
        """Note that one who was taken out by `get` has been dealt with.

        Raises:
            ValueError: called more often than there were any.
        """
        if not self._taken:
            raise ValueError("task_done() called too many times")
        self._taken -= 1
        self._check_none_left()

    async def join(self) -> None:
        """Wait until nobody waits, and `task_done` was called for everybody that `get` gave."""
        if self.live or self._taken:
            self._none_left.clear()
            await self._none_left.wait()

    def _check_none_left(self) -> None:
        if not self.live and not self._taken:
            self._none_left.set()

    # Beyond that.

    def first(self) -> W | None:
        """Return who is next, if it were not for limits; None if nobody waits."""
        ranks = ((rank, line) for line in self.lines.values() if (rank := line.rank_now()))
        _, best = min(ranks, default=(None, None))
        return None if best is None else best.head

    def pop(self, waiter: W) -> None:
        """Take out the first of its line: it needs no `task_done`.

        That it no longer `waits` is for the caller to see to.
        """
        line = waiter.line
        waiter.line = None
        levels = line.levels
        if levels is None:  # as Line.pop: this is done for each slot
            line.only = None
        else:
            levels[line.priorities[0]].popleft()
        line.live -= 1
        line.head = None
        if self.fair:
            self._turn = max(self._turn, line.turn)
            if line.live:
                line.turn = self._next_turn(line.flow)
        if not line.live:
            self._drop(line)
        self.live -= 1
        if waiter.costs is not ONE_CALL:
            if line.costs is not None:
                line.costs.subtract(waiter.costs)
            self._forget(waiter)
        elif not self.live or self._everybody is not None:
            self._forget(waiter)

    def remove(self, waiter: W) -> None:
        """Take out one that starts, and need not be the first of its line."""
        line: Line[W] = waiter.line
        waiter.line = None
        line.remove(waiter)
        if self.fair:
            self._turn = max(self._turn, line.turn)
            if line.live:
                line.turn = self._next_turn(line.flow)
        self._removed(waiter, line)

    def leave(self, waiter: W) -> Line[W] | None:
        """Take out one that waits no more, and return its line; None: it was out before.

        With `fair`, the next of its line has the turn that it had.
        """
        line: Line[W] | None = waiter.line
        if line is not None:
            waiter.line = None
            line.leave()
            self._removed(waiter, line)
            if self.fair and not line.live and self._turns.get(line.flow) == line.turn:
                # It had no turn: the next one of its flow has this one.
                self._turns[line.flow] = line.turn - 1
                if line.turn - 1 <= self._turn:
                    del self._turns[line.flow]
        return line

    def _removed(self, waiter: W, line: Line[W]) -> None:
        if line.costs is not None and waiter.costs is not ONE_CALL:
            line.costs.subtract(waiter.costs)
        if not line.live:
            self._drop(line)
        self.live -= 1
        self._forget(waiter)

    def _drop(self, line: Line[W]) -> None:
        if self.lines.get(line.name) is line:
            del self.lines[line.name]

    def _forget(self, waiter: W) -> None:
        """Take one that has been taken out, and off `live`, out of the rest."""
        if self._everybody is not None:
            self._everybody.leave()
        if waiter.costs is not ONE_CALL:
            self._costs.subtract(waiter.costs)
        if not self.live:
            self._turn = -1
            self._turns.clear()
            self._check_none_left()

    def total(self, unit: int = 0) -> float:
        """Return what all who wait will cost together, in one unit."""
        return self._costs.of(unit, self.live)

    def not_left(self) -> list[W]:
        """Return all who wait, and those whose caller has gone and who have not left yet."""
        found = [one for line in self.lines.values() for one in line.everybody() if one.line]
        return found + [
            one for line in self._former for one in line.everybody() if one.line is line
        ]

    def rebuild(self) -> None:
        """Sort all who wait into lines again: what they come under has changed."""
        waiting = sorted(self, key=lambda waiter: waiter.arrival)
        # Those whose future is cancelled, and whose task has not come to `leave` yet, stay in the
        # old lines, which are in use no more. `live` and the costs count them.
        self.lines = {}
        self._plain = Line(None)
        self._plain.use_levels()
        self._turns.clear()
        for waiter in waiting:
            self._add_to_line(waiter)

    def dissolve(self, line: Line[W]) -> list[W]:
        """Take a line apart; return who waits in it, for `put_back` by arrival.

        Those whose future is cancelled, and whose task has not come to `leave` yet, stay in it. It
        is in use no more; `live` and the costs count them.
        """
        waiting = list(line)
        self._drop(line)
        if self.fair:  # so that they have the turn that it had
            self._turns[line.flow] = min(line.turn, self._turns.get(line.flow, line.turn)) - 1
        return waiting

    def put_back(self, waiter: W) -> None:
        """Put one into the line of what it comes under now."""
        self._add_to_line(waiter)

    @property
    def is_sorting(self) -> bool:
        """Whether newcomers join no line for now."""
        return self._unsorted is not None

    def begin_sorting(self) -> list[Line[W]]:
        """Have no lines until `end_sorting`; return those that there were."""
        former = [*self._former, *self.lines.values()]
        self._former, self._unsorted = [*former, Line(None)], []
        self.lines = {}
        self._plain = Line(None)  # in which nobody waits, so that newcomers do not either
        self._plain_to_be = Line(None)
        self._plain_to_be.use_levels()
        self._turns.clear()
        return former

    def take_out(self, line: Line[W]) -> Iterator[W]:
        """Note, one by one, that those of a former line are to be sorted."""
        assert self._unsorted is not None  # noqa: S101 - of the interface
        for waiter in [*line.everybody()]:
            if waiter.line is line:
                heappush(self._unsorted, (waiter.arrival, waiter))
                yield waiter

    def next_unsorted(self) -> W | None:
        """Return the next who is to be sorted, as they came; None: nobody is left."""
        while self._unsorted:
            waiter = heappop(self._unsorted)[1]
            # Those whose future is cancelled, and whose task has not come to `leave` yet, stay in
            # the former lines, which are in use no more. `live` and the costs count them.
            if waiter.waits:
                return waiter
        return None

    def sort_in(self, waiter: W) -> None:
        """Put one into the line of what it comes under now."""
        unsorted, self._unsorted = self._unsorted, None
        of_newcomers, self._plain = self._plain, self._plain_to_be
        self._add_to_line(waiter)
        self._unsorted, self._plain = unsorted, of_newcomers

    def end_sorting(self) -> None:
        """Have newcomers join lines again."""
        if self._unsorted is not None:
            self._former, self._unsorted, self._plain = [], None, self._plain_to_be

    def oldest_of_least_urgent(self) -> W | None:
        """Return whom a newcomer may push out of a full queue."""
        return self._everybody.oldest_of_least_urgent() if self._everybody is not None else None

    def __iter__(self) -> Iterator[W]:
        """All who wait, in no order."""
        for line in list(self.lines.values()):
            yield from [waiter for waiter in line.everybody() if waiter.waits]
        for line in self._former:
            everybody = [waiter for waiter in line.everybody() if waiter.waits]
            yield from (waiter for waiter in everybody if waiter.line is line)
