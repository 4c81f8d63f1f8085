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
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Self

from aioapiqueue._core.order import Turns, W, rank_of
from aioapiqueue._limits.units import ONE_CALL, CostTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from aioapiqueue._core.order import Order, Rank

__all__ = ["Line", "Unsorted", "WaitQueue"]

_EARLY = -(2**62)
"""Numbers from here on are before all of those who had to wait."""
_MANY_GONE = 32
"""So few that have left are never cleared away before they are met: it would cost more."""


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


class Unsorted(Generic[W]):
    """Those who are in no line that counts, while all are sorted again.

    Args:
        former: the lines in which they were.
    """

    __slots__ = ("_heap", "_newcomers", "former", "plain")

    def __init__(self, former: Sequence[Line[W]]) -> None:
        self.former = former
        self.plain: Line[W] = Line(None)
        """The line of those who were sorted, and come under what all do."""
        self.plain.use_levels()
        self._newcomers: Line[W] = Line(None)
        self._heap: list[tuple[int, W]] = []
        """Who is to be sorted, by arrival."""

    @property
    def lines(self) -> list[Line[W]]:
        """The lines in which they are meanwhile, beside some who were sorted since."""
        return [*self.former, self._newcomers]

    def put(self, waiter: W) -> None:
        """Add a newcomer."""
        waiter.line = self._newcomers
        waiter.line.put(waiter)
        heappush(self._heap, (waiter.arrival, waiter))

    def order_again(self) -> None:
        """Go by the numbers that they have now: one has an earlier place."""
        self._heap = [(one.arrival, one) for _, one in self._heap]
        heapify(self._heap)

    def take_out(self, line: Line[W]) -> Iterator[W]:
        """Note, one by one, that those of a former line are to be sorted."""
        for waiter in [*line.everybody()]:
            if waiter.line is line:
                heappush(self._heap, (waiter.arrival, waiter))
                yield waiter

    def next(self) -> W | None:
        """Return the next who is to be sorted, as they came; None: nobody is left."""
        while self._heap:
            waiter = heappop(self._heap)[1]
            # Those whose future is cancelled, and whose task has not come to `leave` yet, stay in
            # the former lines, which are in use no more. `live` and the costs count them.
            if waiter.waits:
                return waiter
        return None


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
        self._turns = Turns() if self.fair else None
        self.unsorted: Unsorted[W] | None = None
        """While all are sorted again: those who are in no line."""
        self._none_left = asyncio.Event()
        super().__init__(maxsize)

    def empty_copy(self) -> Self:
        """Return an empty one of the same kind."""
        new = type(self)(
            self.on_first,
            order="fifo" if self._turns is None else "fair",
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
        if self.unsorted is not None:
            self.unsorted.order_again()
        is_first: bool = waiter.line.move_up(waiter)
        if is_first:
            self.on_first()
        return is_first

    def _add_to_line(self, item: W) -> None:
        if self.unsorted is not None:
            self.unsorted.put(item)
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
            assert self._turns is not None  # noqa: S101 - with `fair`, there are turns
            self._turns.give(line, len(self.lines))
        return line

    def name_of_line(self, item: W) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return (item.keys[0], item.limits) if self.fair else item.limits

    def rank_of(self, item: W) -> Rank:
        """Return the rank that a newcomer would have in a line of its own."""
        turn = 0 if self._turns is None else self._turns.next(item.keys[0])
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
        if self._turns is not None:
            self._turns.served(line, len(self.lines))
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
        if self._turns is not None:
            self._turns.served(line, len(self.lines))
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
            if self._turns is not None and not line.live:
                self._turns.take_back(line)
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
            if self._turns is not None:
                self._turns = Turns()
            self._check_none_left()

    def total(self, unit: int = 0) -> float:
        """Return what all who wait will cost together, in one unit."""
        return self._costs.of(unit, self.live)

    def not_left(self) -> list[W]:
        """Return all who wait, and those whose caller has gone and who have not left yet."""
        found = [one for line in self.lines.values() for one in line.everybody() if one.line]
        former = () if self.unsorted is None else self.unsorted.lines
        return found + [one for line in former for one in line.everybody() if one.line is line]

    def rebuild(self) -> None:
        """Sort all who wait into lines again: what they come under has changed."""
        waiting = sorted(self, key=lambda waiter: waiter.arrival)
        # Those whose future is cancelled, and whose task has not come to `leave` yet, stay in the
        # old lines, which are in use no more. `live` and the costs count them.
        self.lines = {}
        self._plain = Line(None)
        self._plain.use_levels()
        if self._turns is not None:
            self._turns.forget_flows()
        for waiter in waiting:
            self._add_to_line(waiter)

    def dissolve(self, line: Line[W]) -> list[W]:
        """Take a line apart; return who waits in it, for `put_back` by arrival.

        Those whose future is cancelled, and whose task has not come to `leave` yet, stay in it. It
        is in use no more; `live` and the costs count them.
        """
        waiting = list(line)
        self._drop(line)
        if self._turns is not None:
            self._turns.leave_to_next(line)
        return waiting

    def put_back(self, waiter: W) -> None:
        """Put one into the line of what it comes under now."""
        self._add_to_line(waiter)

    def begin_sorting(self) -> Unsorted[W]:
        """Have no lines until `end_sorting`; return what says who is to be sorted."""
        former = () if self.unsorted is None else self.unsorted.lines
        self.unsorted = Unsorted([*former, *self.lines.values()])
        self.lines = {}
        self._plain = Line(None)  # in which nobody waits, so that newcomers do not either
        if self._turns is not None:
            self._turns.forget_flows()
        return self.unsorted

    def sort_in(self, waiter: W) -> None:
        """Put one into the line of what it comes under now."""
        unsorted, of_newcomers = self.unsorted, self._plain
        assert unsorted is not None  # noqa: S101 - of the interface
        self.unsorted, self._plain = None, unsorted.plain
        self._add_to_line(waiter)
        self.unsorted, self._plain = unsorted, of_newcomers

    def end_sorting(self) -> None:
        """Have newcomers join lines again."""
        if self.unsorted is not None:
            self._plain, self.unsorted = self.unsorted.plain, None

    def oldest_of_least_urgent(self) -> W | None:
        """Return whom a newcomer may push out of a full queue."""
        return self._everybody.oldest_of_least_urgent() if self._everybody is not None else None

    def __iter__(self) -> Iterator[W]:
        """All who wait, in no order."""
        for line in list(self.lines.values()):
            yield from [waiter for waiter in line.everybody() if waiter.waits]
        for line in () if self.unsorted is None else self.unsorted.lines:
            everybody = [waiter for waiter in line.everybody() if waiter.waits]
            yield from (waiter for waiter in everybody if waiter.line is line)
