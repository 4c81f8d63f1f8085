"""Which lines wait for which limit, by rank: the containers of the scheduler."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heappushpop
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aioapiqueue._core.orders import Rank
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.limit_state import LimitState

MANY_STALE = 32
"""Number of stale entries that a heap keeps until they come to its top."""


class Ranks(Protocol):
    """An item of a `Ranked`."""

    entry: Any
    """Its entry in the heap; any other entry with this item is stale."""

    def rank_now(self) -> Rank | None:
        """Return its present rank; None: it has none, and leaves the heap.

        A rank that has not changed is the same object: `Ranked` compares ranks by identity.
        """


class Ranked:
    """A heap by rank. An entry may rank its item too early, never too late: the top is checked.

    So a call that leaves, or that starts, needs no search in the heaps in which its line is: the
    rank that it leaves behind is too early. A rank that falls is added at once.

    The top is kept apart from the rest. Most heaps have no rest, and so need no list.
    """

    __slots__ = ("rest", "size", "top")

    def __init__(self) -> None:
        self.top: tuple[Rank, Any] | None = None
        self.rest: list[tuple[Rank, Any]] | None = None
        self.size = 0

    def add(self, item: Ranks, rank: Rank) -> None:
        """Add an item, or give it another rank."""
        if item.entry is None:
            self.size += 1
        # By identity, `item.entry` says which of the entries with this item is the valid one.
        item.entry = entry = (rank, item)
        top = self.top
        if top is None:
            self.top = entry
        elif top[1] is item:  # its former entry, which is stale now
            self.top = heappushpop(self.rest, entry) if self.rest else entry
        else:
            if entry < top:
                self.top, entry = entry, top
            if self.rest is None:
                self.rest = [entry]
            else:
                heappush(self.rest, entry)
                if len(self.rest) > 2 * self.size + MANY_STALE:
                    self._clear_stale()

    def remove(self, item: Ranks) -> None:
        """Remove an item, if it is there."""
        if item.entry is not None:
            item.entry = None
            self.size -= 1
            rest = self.rest
            if self.top is not None and self.top[1] is item:
                self.top = heappop(rest) if rest else None
            elif rest is not None and len(rest) > 2 * self.size + MANY_STALE:
                # As in `add`: 100,000 calls may leave before another one joins.
                self._clear_stale()

    def clear(self) -> None:
        """Remove all items."""
        for _, item in (self.top, *(self.rest or ())) if self.top else ():
            item.entry = None
        self.top = self.rest = None
        self.size = 0

    def _clear_stale(self) -> None:
        """Forget the stale entries."""
        # Only when they are more than half of all, so that the total cost stays linear.
        self.rest = [entry for entry in self.rest or () if entry[1].entry is entry]
        heapify(self.rest)

    def first(self) -> Any:  # noqa: ANN401 - a line, group or wait list
        """Return the item of the lowest rank; None: there is none."""
        top, rest = self.top, self.rest
        while top is not None:
            rank, item = top
            if item.entry is top:
                now = item.rank_now()
                if now is rank:
                    return item
                if now is not None:  # later than its entry said: add it where it belongs
                    item.entry = self.top = top = (now, item)
                    if not rest:
                        return item
                    self.top = top = heappushpop(rest, top)
                    continue
                item.entry = None  # it is empty, and may be dropped: a new call adds it again
                self.size -= 1
            self.top = top = heappop(rest) if rest else None
        return None


class Group(Ranked):
    """Lines that wait for the same set of limits."""

    __slots__ = ("at", "entry", "members", "wait_lists")

    def __init__(self, wait_lists: frozenset[WaitList]) -> None:
        super().__init__()
        self.wait_lists = wait_lists
        self.members = 0
        """Number of its lines, also of those whose calls are cancelled and have not left yet."""
        self.at: WaitList
        """The wait list that it is in."""
        self.entry: Any = None

    # A group ranks as its first line: an urgent call of any of its lines brings all of them ahead.
    def rank_now(self) -> Rank | None:
        line = self.first()
        return None if line is None else line.rank

    def __lt__(self, other: object) -> bool:
        return False  # see Line.__lt__


def wait_list_at(line: Line[Call]) -> WaitList:
    """Return the wait list that a line is in, by itself or with its group."""
    waits_in: Group | WaitList = line.waits_in
    return waits_in.at if isinstance(waits_in, Group) else waits_in


class Reservation:
    """The limits of a call that was the first at one of them, and found another one closed.

    Args:
        line: the line of the call.
        call: the call.
        rank: its rank.
        deadline: the instant at which all of them will have room for it.
        wait_lists: the wait lists of the reserved limits.
    """

    __slots__ = ("call", "deadline", "line", "rank", "wait_lists")

    def __init__(
        self,
        line: Line[Call],
        call: Call,
        rank: Rank,
        deadline: float,
        wait_lists: Sequence[WaitList],
    ) -> None:
        self.line = line
        self.call = call
        self.rank = rank
        self.deadline = deadline
        self.wait_lists = wait_lists


class WaitList(Ranked):
    """The lines and groups that wait for one limit."""

    __slots__ = ("entry", "limit", "lines", "reservation", "timer")

    def __init__(self, limit: LimitState) -> None:
        super().__init__()
        self.limit = limit
        self.lines: set[Line[Call]] | Line[Call] | None = None
        """The lines to which the limit applies, wherever they wait; a single one needs no set."""
        self.timer: float | None = None
        """The instant at which to look at it again."""
        self.reservation: Reservation | None = None
        self.entry: Any = None

    def first_line(self) -> Line[Call] | None:
        """Return the first line that waits here, by itself or in a group."""
        top = self.top
        if top is None:
            return None
        # This is asked several times for each look, mostly while nothing has changed. So it avoids
        # `first`, which asks each item that comes to a top for its rank.
        item: Any = top[1]
        if item.entry is top:
            line: Line[Call] | None = item
            if type(item) is Group:
                inner = item.top
                line = None if inner is None or inner[1].entry is not inner else inner[1]
            if line is not None:
                head = line.head
                # Done: it was cancelled, and its task has not run since and left.
                if head is not None and line.rank is top[0] and not head.future.done():
                    return line
        item = self.first()
        return item.top[1] if type(item) is Group else item  # type: ignore[index, no-any-return]  # `first` has looked

    def rank_now(self) -> Rank | None:
        line = self.first_line()
        return None if line is None else line.rank

    def __lt__(self, other: object) -> bool:
        return False  # see Line.__lt__


def wait_list_of(limit: LimitState) -> WaitList:
    """Return the wait list of a limit, made if needed."""
    if limit.wait_list is None:
        limit.wait_list = WaitList(limit)
    wait_list: WaitList = limit.wait_list
    return wait_list


def is_waited_for(limit: LimitState) -> bool:
    """Return whether a limit applies to a registered line, or a call has reserved it."""
    wait_list: WaitList | None = limit.wait_list
    return wait_list is not None and (bool(wait_list.lines) or wait_list.reservation is not None)


def lines_under(limit: LimitState) -> Collection[Line[Call]]:
    """Return the registered lines to which a limit applies, except that of calls without lanes."""
    wait_list: WaitList | None = limit.wait_list
    lines = None if wait_list is None else wait_list.lines
    if lines is None:
        return ()
    return lines if isinstance(lines, set) else (lines,)


def add_line(line: Line[Call]) -> None:
    """Register a line with its limits."""
    for limit in line.limits or ():
        wait_list = wait_list_of(limit)
        # Most lanes have one line at a time; 100,000 sets would take 20 MB.
        if wait_list.lines is None:
            wait_list.lines = line
        elif isinstance(wait_list.lines, set):
            wait_list.lines.add(line)
        else:
            wait_list.lines = {wait_list.lines, line}


def remove_line(line: Line[Call]) -> None:
    """Undo `add_line`."""
    for limit in line.limits or ():
        wait_list: WaitList = limit.wait_list  # made by `add_line`
        if isinstance(wait_list.lines, set):
            wait_list.lines.discard(line)
        else:
            wait_list.lines = None
