"""The wait queue: an `asyncio.Queue` of waiting calls, by priority and in a certain order.

It keeps the contract of `asyncio.Queue`, as `asyncio.PriorityQueue` does: `get` waits for a call,
and `join` until no call waits and `task_done` was called for each call that `get` returned.

Calls with the same limits wait in one `Line`, as none of them can start before the first. Most
queues have one line. With several, the next call is the first of the line with the lowest rank.
Whether that line may start is up to the limiter, which therefore compares the lines itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic

from aioapiqueue._core.orders import ORDERINGS, Ordering, W, rank_of
from aioapiqueue._core.unsorted import Unsorted
from aioapiqueue._limits.cost_units import ONE_CALL, CostTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

    from aioapiqueue._core.orders import Order, Rank

_EARLY = -(2**62)
"""Numbers from here on come before those of all calls that had to wait."""
_MANY_STALE = 32
"""Calls that have left a line and stay in it until they are reached: removing fewer costs more."""


class Line(Generic[W]):
    """Waiting calls with the same limits, by priority, then by number.

    A call that leaves early stays in its container until it is reached or most calls there have
    left, so that leaving takes no search. Its future is done, and its `line` is None.

    Args:
        name: key in `WaitQueue.lines`: the limits, and what else the order separates.
        limits: limits of the calls; None: those of the queue.
    """

    __slots__ = (
        *("costs", "counted", "entry", "flow", "head", "levels", "limits", "live", "name", "only"),
        *("partial", "priorities", "rank", "reservation", "stale", "top", "turn", "waits_in"),
    )

    def __init__(self, name: Hashable, limits: Any = None) -> None:  # noqa: ANN401 - the limiter's
        self.name = name
        self.limits = limits
        # Of 100,000 lines, most have one call: containers would take memory, and time to collect.
        self.only: W | None = None
        """The one call, as long as there is no second."""
        self.levels: dict[float, deque[W]] | None = None
        """From then on, the calls by priority."""
        self.priorities: list[float]
        """A heap of the priorities in `levels`."""
        self.top: deque[W] | None = None
        """The level of the first of them; None: `priorities` is empty, or there are no levels."""
        self.live = 0
        """Number of calls that wait."""
        self.costs: CostTotals | None = None
        """Their total costs, if one of them states its own; not counted where `limits` is None."""
        self.stale = 0
        """Number of calls that have left early and are still in a container."""
        self.flow: Hashable = None
        self.turn = 0
        """Both set by the order, if it takes turns."""
        self.head: W | None = None
        self.rank: Rank | None = None
        """The first call as of the last `rank_now`, and its rank; None: look again."""
        # For the limiter, which decides between lines.
        self.counted = False
        """Whether it is registered with its limits."""
        self.partial = False
        """Whether some of the queue's own limits do not apply to it."""
        self.waits_in: Any = None
        """The wait list, or the group of lines, that it is in."""
        self.entry: Any = None
        """Its entry in a heap."""
        self.reservation: Any = None

    def __lt__(self, other: object) -> bool:
        return False  # heaps compare lines only where a stale entry and a new one of a line tie

    def put(self, waiter: W) -> bool:
        """Add a call behind those of its priority; return whether it may go first now."""
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
        if level and level[0].line is not None:  # a first call that has left wakes no one any more
            self.live += 1
            level.append(waiter)
            return False
        if level is None:
            level = levels[priority] = deque()
            heappush(self.priorities, priority)
        elif len(levels) != len(self.priorities):  # an interrupt in `first` came between the two
            self.priorities = sorted(levels)  # a sorted list is a heap
        self.top = levels[self.priorities[0]]  # also if an interrupt came after the last line
        self.live += 1
        level.append(waiter)
        head = self.head
        # If that one is cancelled and has not left yet, its leaving wakes the ticker.
        if head is not None and priority >= head.priority:
            return False
        self.head = None
        return True

    def move_by_number(self, waiter: W) -> bool:
        """Move a call to its place by number; return whether it is first."""
        if self.levels is not None:
            level = self.levels[waiter.priority]
            is_last = level[-1] is waiter  # unless `put` has moved it, where numbers fall
            if not is_last or (len(level) > 1 and level[-2].arrival > waiter.arrival):
                from bisect import bisect  # noqa: PLC0415 - few calls are moved

                if is_last:
                    level.pop()
                else:
                    level.remove(waiter)
                level.insert(bisect(level, waiter.arrival, key=attrgetter("arrival")), waiter)
        self.head = None
        return self.first() is waiter

    def use_levels(self) -> dict[float, deque[W]]:
        """Keep several calls from now on."""
        self.levels, self.priorities = {}, []
        if self.only is not None:
            self.top = self.levels[self.only.priority] = deque((self.only,))
            self.priorities.append(self.only.priority)
            self.only = None
        return self.levels

    def first(self) -> W | None:
        """Return the next call, and remove those before it that have left; None: no call waits."""
        level = self.top
        while level is not None:
            while level:
                waiter = level[0]
                # Also done if its task was cancelled, but has not run since and called `leave`:
                # then `stale`, which is corrected by `leave`, is one too low until it does.
                if not waiter.future.done():
                    return waiter
                level.popleft()
                self.stale -= 1
            # An interrupt may have left an old `top`: only the heap says which level is first.
            levels: Any = self.levels
            priorities = self.priorities
            if priorities and not levels[priorities[0]]:
                del levels[heappop(priorities)]
            level = self.top = levels[priorities[0]] if priorities else None
        only = self.only
        if only is not None and only.future.done():
            self.only = only = None
            self.stale -= 1
        return only

    def rank_now(self) -> Rank | None:
        """Return the rank of the next call; None: no call waits."""
        head = self.head
        if head is None or head.future.done():
            head = self.head = self.first()
            self.rank = None if head is None else rank_of(head.priority, self.turn, head.arrival)
        return self.rank

    def remove(self, waiter: W) -> None:
        """Take out a call that need not be the first."""
        if self.levels is None:
            self.only = None
        else:
            self.levels[waiter.priority].remove(waiter)
        self.live -= 1
        self.head = None

    def leave(self) -> None:
        """Note that a call has left early."""
        self.head = None
        self.live -= 1
        self.stale += 1
        if self.levels is None:
            if self.only is not None and not self.only.waits:
                self.only = None
                self.stale -= 1
        elif self.stale > self.live + _MANY_STALE:  # so each departure costs O(1) on average
            kept = {p: deque(w for w in level if w.waits) for p, level in self.levels.items()}
            self.levels = {p: level for p, level in kept.items() if level}
            self.priorities = sorted(self.levels)
            self.top = self.levels[self.priorities[0]] if self.priorities else None
            self.stale = sum(map(len, self.levels.values())) - self.live

    def all_calls(self) -> Iterable[W]:
        """Return all calls, in no order, with those that have left and are still there."""
        if self.levels is not None:
            return chain.from_iterable(self.levels.values())
        return () if self.only is None else (self.only,)

    def __iter__(self) -> Iterator[W]:
        """Iterate over the calls that wait, in their order."""
        if self.levels is None:
            yield from [waiter for waiter in self.all_calls() if waiter.waits]
            return
        for priority in sorted(self.priorities):
            yield from (waiter for waiter in self.levels[priority] if waiter.waits)

    def oldest_of_least_urgent(self) -> W | None:
        """Return the call that a more urgent one replaces; None: no call waits."""
        levels = self.levels or self.use_levels()
        for priority in sorted(self.priorities, reverse=True):
            level = levels[priority]
            while level:
                if level[0].waits:
                    return level[0]
                level.popleft()
                self.stale -= 1
        return None

    def total(self, unit: int) -> float:
        """Return the total cost of the calls that wait, in one unit."""
        return self.costs.of(unit, self.live) if self.costs else 0 if unit else self.live


class SortedLine(Line[W]):
    """A line for calls whose numbers need not rise."""

    __slots__ = ()

    def put(self, waiter: W) -> bool:
        """Add a call where its number belongs; return whether it goes first now."""
        may_go_first = super().put(waiter)
        level = None if self.levels is None else self.levels[waiter.priority]
        if level is not None and len(level) > 1 and level[-2].arrival > waiter.arrival:
            return self.move_by_number(waiter)
        return may_go_first and self.first() is waiter


class WaitQueue(asyncio.Queue[W]):
    """All waiting calls of a queue, in lines.

    Args:
        wake_ticker: called when a call becomes the first of a line, as it may be due earlier.
        order: which call goes first among those of one priority.
        maxsize: how many calls may wait; 0: any number. `put_nowait` leaves this to its caller.
        ranked: whether `oldest_of_least_urgent` is used.
    """

    # A plain attribute hides the inherited property, which is slow: each call that waits reads it.
    maxsize = 0

    def __init__(
        self,
        wake_ticker: Callable[[], None],
        *,
        order: Order | Callable[[], Ordering[Any]] = "fifo",
        maxsize: int = 0,
        ranked: bool = False,
    ) -> None:
        self.maxsize = maxsize
        self.wake_ticker = wake_ticker
        kind = ORDERINGS[order] if isinstance(order, str) else order
        self.ordering: Ordering[W] | None = None if kind is Ordering else kind()
        """The order; None: by arrival, which has nothing to be informed of."""
        self.lines: dict[Hashable, Line[W]] = {}
        """The lines with waiting calls, by name."""
        self.live = 0
        """Number of waiting calls."""
        self._plain: Line[W] = Line(None)
        """The line of the queue's own limits; kept while it is empty, as most have no other."""
        self._plain.use_levels()  # `put_behind` appends to a level without a call
        self._costs = CostTotals()
        """Total costs of the waiting calls."""
        self._by_urgency: Line[W] | None = Line(None) if ranked else None
        """All waiting calls as they joined, whatever the order; calls that start leave it."""
        self._count = 0
        self._early_count = _EARLY
        self._taken = 0
        """Number of calls that `get` has returned and `task_done` was not called for."""
        self.unsorted: Unsorted[W] | None = None
        """The calls that are not sorted yet; None: no sorting is under way."""
        self._none_left: asyncio.Event | None = None
        """Set once no call is left; made by the first caller of `join`."""
        super().__init__(maxsize)

    def empty_copy(self) -> WaitQueue[W]:
        """Return an empty wait queue of the same kind."""
        new: WaitQueue[W] = type(self)(
            self.wake_ticker,
            order="fifo" if self.ordering is None else self.ordering.empty_copy,
            maxsize=self.maxsize,
            ranked=self._by_urgency is not None,
        )
        # No number occurs twice in the life of a queue.
        new._count, new._early_count = self._count, self._early_count
        return new

    # The contract of asyncio.Queue.

    def _init(self, maxsize: int) -> None:
        """Create no container: the lines are the container."""

    def qsize(self) -> int:
        """Return the number of waiting calls."""
        return self.live

    def empty(self) -> bool:
        """Return whether `get` would have to wait."""
        return self.first() is None

    def put_behind(self, item: W) -> bool:
        """Add a call to the plain line if it waits there behind others; return whether it does.

        The same as `put_nowait`, for the most common call that has to wait. The scheduler need not
        know: if the calls before it are cancelled, the line keeps its place until the next look.
        """
        line = self._plain
        level = line.levels.get(item.priority)  # type: ignore[union-attr]  # `use_levels`
        if not level or level[0].line is None or self.unsorted is not None:  # as in `Line.put`
            return False
        if item.limits is not None or item.costs is not ONE_CALL:
            return False
        item.arrival = self._count = self._count + 1
        item.line = line
        line.live += 1
        self.live += 1
        level.append(item)
        if self._getters:  # type: ignore[attr-defined]  # as in `put_nowait`
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]  # as above
        return True

    def put_nowait(self, item: W) -> None:
        """Add a call, even if `maxsize` calls wait: the caller has checked that."""
        if self.ordering is not None:
            self._count += self.ordering.step
            item.arrival = self.ordering.number_of(item, self._count)
            self.ordering.joined(item)
        else:
            item.arrival = self._count = self._count + 1
        if self._by_urgency is not None:
            self._by_urgency.put(item)
        self.live += 1
        if item.costs is not ONE_CALL:
            self._costs.add(item.costs)
        if self.unsorted is None:
            self.add_to_line(item)
        else:
            self.unsorted.put(item)
        # Only for users of `get`. The dispatcher has none, and takes calls out by `pop`.
        if self._getters:  # type: ignore[attr-defined]  # typeshed leaves it out
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]  # as above

    def _get(self) -> W:
        waiter = self.first()
        assert waiter is not None  # noqa: S101 - asyncio.Queue has checked `empty`
        self._taken += 1
        self.pop(waiter)
        return waiter

    def task_done(self) -> None:
        """Note that a call returned by `get` has been dealt with.

        Raises:
            ValueError: `get` has not returned that many calls.
        """
        if not self._taken:
            raise ValueError("task_done() called too many times")
        self._taken -= 1
        if self._none_left is not None:
            self._release_joiners(self._none_left)

    async def join(self) -> None:
        """Wait until no call waits, and `task_done` was called for each that `get` returned."""
        if self.live or self._taken:
            if self._none_left is None:
                self._none_left = asyncio.Event()
            await self._none_left.wait()

    def _release_joiners(self, none_left: asyncio.Event) -> None:
        if not self.live and not self._taken:
            none_left.set()
            self._none_left = None  # later calls of `join` wait for the next time

    # A call joins.

    def next_number(self) -> int:
        """Return a number by arrival, for a call that does not wait."""
        self._count += 1 if self.ordering is None else self.ordering.step
        return self._count

    def early_number(self) -> int:
        """Return a number before those of all calls that had to wait."""
        self._early_count += 1
        return self._early_count

    def move_up(self, waiter: W, arrival: int) -> None:
        """Give a call that has just joined an earlier number."""
        waiter.arrival = arrival
        if self.unsorted is not None:
            self.unsorted.order_again()
        if waiter.line.move_by_number(waiter):  # it is the first of its line
            self.wake_ticker()

    def add_to_line(self, item: W) -> None:
        """Add a call to the line of its limits."""
        if self.ordering is not None:
            name = self.ordering.name_of_line(item)
            line = self.lines.get(name) or SortedLine(name, item.limits)
            self.ordering.added(item, line)
        elif item.limits is None:
            line = self._plain
        else:
            line = self.lines.get(item.limits) or Line(item.limits, item.limits)
        if not line.live:  # it is new, or the plain one; an empty line has no place in `lines`
            self.lines[line.name] = line
        item.line = line
        if item.costs is not ONE_CALL and line.limits is not None:
            if line.costs is None:
                line.costs = CostTotals()
            line.costs.add(item.costs)
        if line.put(item):
            self.wake_ticker()

    def name_of_line(self, item: W) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return item.limits if self.ordering is None else self.ordering.name_of_line(item)

    def rank_of(self, item: W) -> Rank:
        """Return the rank that a newcomer would have in a line of its own."""
        ordering = self.ordering
        if ordering is None:  # the number is only assigned if it has to wait
            return rank_of(item.priority, 0, self._count + 1)
        number = ordering.number_of(item, self._count + ordering.step)
        return rank_of(item.priority, ordering.turn_of(item), number)

    def goes_before(self, item: W, line: Line[W]) -> bool:
        """Return whether a newcomer would go before all calls of a line."""
        rank = line.rank_now()
        return rank is None or self.rank_of(item) < rank

    def cost_ahead(self, item: W, unit: int, lines: Collection[Line[W]] | None = None) -> float:
        """Return the cost of all calls, or of these lines, unless a newcomer goes before them."""
        under = self.lines.values() if lines is None else lines
        # While calls are being sorted, some are in no line: `self.total` counts them, too.
        is_sorted = self.unsorted is None or lines is not None
        if is_sorted and all(self.goes_before(item, line) for line in under):
            return 0
        return self.total(unit) if lines is None else sum(line.total(unit) for line in lines)

    # A call starts or leaves.

    def first(self) -> W | None:
        """Return the next call, whatever the limits are; None: no call waits."""
        ranks = [(line.rank_now(), line) for line in self.lines.values()]
        _, best = min((one for one in ranks if one[0] is not None), default=(None, None))
        return None if best is None else best.head

    def pop(self, waiter: W) -> None:
        """Take out the first call of a line; the caller changes its state.

        It is not counted as one that `get` returned: it needs no `task_done`.
        """
        line = waiter.line
        waiter.line = None
        if line.top is None:
            line.only = None
        else:
            line.top.popleft()
        line.live -= 1
        line.head = None  # the next `rank_now` looks for another first call
        self.live -= 1
        if self.ordering is not None:
            self.ordering.served(waiter, line)
        if waiter.costs is not ONE_CALL:
            self._subtract_costs(waiter, line)
        if self._by_urgency is not None:
            self._by_urgency.leave()
        if not line.live:  # as `_end_line`, inlined: calls only start from lines in use
            del self.lines[line.name]
            if self.ordering is not None:
                self.ordering.ended(line, len(self.lines))
            if self._none_left is not None:
                self._release_joiners(self._none_left)

    def remove(self, waiter: W) -> None:
        """Take out a call that starts, and need not be the first of its line."""
        line: Line[W] = waiter.line
        waiter.line = None
        line.remove(waiter)
        if self.ordering is not None:
            self.ordering.served(waiter, line)
        self._removed(waiter, line)

    def leave(self, waiter: W) -> Line[W] | None:
        """Take out a call that stops waiting; return its line (None: it had left before)."""
        line: Line[W] | None = waiter.line
        if line is not None:
            waiter.line = None
            line.leave()
            if self.ordering is not None:
                self.ordering.left(waiter, line)
            self._removed(waiter, line)
        return line

    def _removed(self, waiter: W, line: Line[W]) -> None:
        self.live -= 1
        if waiter.costs is not ONE_CALL:
            self._subtract_costs(waiter, line)
        if self._by_urgency is not None:
            self._by_urgency.leave()
        # `line` may be one of those before all calls were sorted again: such a line still counts
        # calls that wait in another one now.
        if not line.live or not self.live:
            self._end_line(line)

    def _subtract_costs(self, waiter: W, line: Line[W]) -> None:
        self._costs.subtract(waiter.costs)
        if line.costs is not None:
            line.costs.subtract(waiter.costs)

    def _end_line(self, line: Line[W]) -> None:
        """Drop an empty line, if it is still in use."""
        if self.lines.get(line.name) is line:
            del self.lines[line.name]
            if self.ordering is not None:
                self.ordering.ended(line, len(self.lines))
        if self._none_left is not None:
            self._release_joiners(self._none_left)

    def total(self, unit: int = 0) -> float:
        """Return the total cost of all waiting calls, in one unit."""
        return self._costs.of(unit, self.live)

    def oldest_of_least_urgent(self) -> W | None:
        """Return the call that a newcomer may replace in a full queue."""
        return self._by_urgency.oldest_of_least_urgent() if self._by_urgency is not None else None

    def turn_behind(self, line: Line[W], behind: int) -> int:
        """Return the turn of the call that waits behind this many others of its line."""
        return line.turn if self.ordering is None else self.ordering.turn_behind(line, behind)

    def not_left(self) -> list[W]:
        """Return all waiting calls, and those that were cancelled and have not left yet."""
        return [one for line in self._all_lines() for one in line.all_calls() if one.line is line]

    def __iter__(self) -> Iterator[W]:
        """Iterate over all waiting calls, in no order."""
        for line in self._all_lines():
            # Its own calls only: a former line still has calls that were sorted into others.
            waiting = [waiter for waiter in line.all_calls() if waiter.waits]
            yield from (waiter for waiter in waiting if waiter.line is line)

    # Limits have changed, so that calls belong to other lines. A call that was cancelled, and whose
    # task has not run since and called `leave`, stays in its former line, which is not used any
    # more; `live` and the costs still count it.

    def _all_lines(self) -> Sequence[Line[W]]:
        """Return all lines, with those from before the sorting that is under way."""
        former = () if self.unsorted is None else self.unsorted.lines
        return (*self.lines.values(), *former)

    def rebuild(self) -> None:
        """Sort all waiting calls into lines again."""
        waiting = sorted(self, key=attrgetter("arrival"))
        self._drop_lines()
        for waiter in waiting:
            self.add_to_line(waiter)

    def dissolve(self, line: Line[W]) -> list[W]:
        """Drop a line; return its calls, for `add_to_line` in the order of their numbers."""
        waiting = list(line)
        del self.lines[line.name]
        if self.ordering is not None:
            self.ordering.dissolved(line)
        return waiting

    def begin_sorting(self) -> Unsorted[W]:
        """Drop all lines; return the calls to sort, which newcomers join until `end_sorting`."""
        self.unsorted = Unsorted(self._all_lines(), Line(None), self.ordering)
        self._drop_lines()
        return self.unsorted

    def _drop_lines(self) -> None:
        self.lines = {}
        self._plain = Line(None)
        self._plain.use_levels()
        if self.ordering is not None:
            self.ordering.begin_sorting()

    def end_sorting(self) -> None:
        """Have newcomers join lines again."""
        self.unsorted = None
