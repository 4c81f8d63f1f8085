"""Who waits for which limit: what the scheduler keeps an order in."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heappushpop
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aioapiqueue._core.order import Rank
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.algorithms import LimitState

__all__ = [
    "MANY_STALE",
    "Group",
    "Ranked",
    "Ranks",
    "Reservation",
    "WaitList",
    "add_line",
    "is_stood_at",
    "is_waited_for",
    "lines_under",
    "remove_line",
    "wait_list_at",
    "wait_list_of",
]

MANY_STALE = 32
"""So many stale entries of a heap are never cleared away before they are met."""


class Ranks(Protocol):
    """What a heap of ranks keeps."""

    entry: Any
    """Its entry; another one of it that is met is stale."""

    def rank_now(self) -> Rank | None:
        """Return its rank as things stand; None: it has none, and drops out."""


class Ranked:
    """A heap by rank. An entry may rank its item too early, never too late: the top is checked.

    Its top is kept apart from the others: in most there are none, and so there is no list.
    """

    __slots__ = ("rest", "size", "top")

    def __init__(self) -> None:
        self.top: tuple[Rank, Any] | None = None
        self.rest: list[tuple[Rank, Any]] | None = None
        self.size = 0

    def add(self, item: Ranks, rank: Rank) -> None:
        """Put an item in, or give it another rank."""
        if item.entry is None:
            self.size += 1
        item.entry = entry = (rank, item)
        top = self.top
        if top is None:
            self.top = entry
        elif top[1] is item:  # stale now
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
        """Take an item out, if it is in."""
        if item.entry is not None:
            item.entry = None
            self.size -= 1
            rest = self.rest
            if self.top is not None and self.top[1] is item:
                self.top = heappop(rest) if rest else None
            elif rest is not None and len(rest) > 2 * self.size + MANY_STALE:
                self._clear_stale()  # here, too: to meet 100,000 that have left would take a while

    def clear(self) -> None:
        """Take all out."""
        for _, item in (self.top, *(self.rest or ())) if self.top else ():
            item.entry = None
        self.top = self.rest = None
        self.size = 0

    def _clear_stale(self) -> None:
        """Forget the stale entries: so seldom that it is linear."""
        self.rest = [entry for entry in self.rest or () if entry[1].entry is entry]
        heapify(self.rest)

    def first(self) -> Any:  # noqa: ANN401 - of the one kind that it keeps
        """Return the item of the lowest rank; None if there is none."""
        while (top := self.top) is not None:
            rank, item = top
            rest = self.rest
            if item.entry is top:
                now = item.rank_now()
                if now is rank or now == rank:
                    return item
                if now is not None:
                    item.entry = entry = (now, item)
                    if not rest:
                        self.top = entry
                        return item
                    self.top = heappushpop(rest, entry)
                    continue
                item.entry = None
                self.size -= 1
            self.top = heappop(rest) if rest else None
        return None


class Group(Ranked):
    """Lines that wait for the same set of limits."""

    __slots__ = ("at", "entry", "members", "wait_lists")

    def __init__(self, wait_lists: frozenset[WaitList]) -> None:
        super().__init__()
        self.wait_lists = wait_lists
        self.members = 0
        """How many lines are in it, even if their callers have all gone and not left yet."""
        self.at: WaitList
        """The one that it stands with."""
        self.entry: Any = None

    def rank_now(self) -> Rank | None:
        line = self.first()
        return None if line is None else line.rank

    def __lt__(self, other: object) -> bool:
        return False  # as Line.__lt__


def wait_list_at(line: Line[Call]) -> WaitList:
    """Return the wait list that a line is in, by itself or with its group."""
    waits_in: Group | WaitList = line.waits_in
    return waits_in.at if isinstance(waits_in, Group) else waits_in


class Reservation:
    """The limits of a call that had its turn at one of them and found another one closed."""

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
    """Who waits for one limit: the lines and groups that stand with it."""

    __slots__ = ("entry", "limit", "lines", "reservation", "timer")

    def __init__(self, limit: LimitState) -> None:
        super().__init__()
        self.limit = limit
        self.lines: set[Line[Call]] | Line[Call] | None = None
        """Those that come under the limit, wherever they stand; one needs no set."""
        self.timer: float | None = None
        """When to look at it again."""
        self.reservation: Reservation | None = None
        self.entry: Any = None

    def first_line(self) -> Line[Call] | None:
        """Return the first line of those that stand here."""
        top = self.top
        if top is None:
            return None
        # Asked several times for each look, mostly of what has not changed: so not by `first`,
        # which asks each item that is at a top for its rank.
        item: Any = top[1]
        if item.entry is top:
            inner: tuple[Rank, Any] | None = top
            if type(item) is Group:
                inner = item.top
                item = None if inner is None else inner[1]
            if item is not None and item.entry is inner:
                head = item.head
                if head is not None and item.rank is top[0] and not head.future.done():
                    return item  # type: ignore[no-any-return]  # a line
                if inner is top and not self.rest and (rank := item.rank_now()) is not None:
                    self.top = item.entry = (rank, item)
                    return item  # type: ignore[no-any-return]  # a line
        item = self.first()
        if type(item) is Group:
            line: Line[Call] = item.top[1]  # type: ignore[index]  # `first` has looked
            return line
        return item  # type: ignore[no-any-return]  # a line

    def rank_now(self) -> Rank | None:
        line = self.first_line()
        return None if line is None else line.rank

    def __lt__(self, other: object) -> bool:
        return False  # as Line.__lt__


def wait_list_of(limit: LimitState) -> WaitList:
    if limit.wait_list is None:
        limit.wait_list = WaitList(limit)
    wait_list: WaitList = limit.wait_list
    return wait_list


def is_waited_for(limit: LimitState) -> bool:
    """Return whether a line comes under a limit, or has reserved it."""
    wait_list: WaitList | None = limit.wait_list
    return wait_list is not None and (bool(wait_list.lines) or wait_list.reservation is not None)


def is_stood_at(limit: LimitState) -> bool:
    """Return whether somebody stands with a limit."""
    wait_list: WaitList | None = limit.wait_list
    return wait_list is not None and wait_list.size > 0


def lines_under(limit: LimitState) -> Collection[Line[Call]]:
    """Return the lines that come under a limit, but for those that have only what all have."""
    wait_list: WaitList | None = limit.wait_list
    lines = None if wait_list is None else wait_list.lines
    if lines is None:
        return ()
    return lines if isinstance(lines, set) else (lines,)


def add_line(line: Line[Call]) -> None:
    """Note that a line comes under its limits."""
    for limit in line.limits or ():
        wait_list = wait_list_of(limit)
        if wait_list.lines is None:
            wait_list.lines = line
        elif isinstance(wait_list.lines, set):
            wait_list.lines.add(line)
        else:
            wait_list.lines = {wait_list.lines, line}


def remove_line(line: Line[Call]) -> None:
    """Note that a line is gone."""
    for limit in line.limits or ():
        wait_list: WaitList = limit.wait_list  # it has been there since `add_line`
        if isinstance(wait_list.lines, set):
            wait_list.lines.discard(line)
        else:
            wait_list.lines = None
