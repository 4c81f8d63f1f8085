"""Who starts next, and when, where the calls that wait come under different sets of limits.

The calls that come under the same limits wait in one `Line`. Terms:

- rank: priority, turn and arrival of a line's first call.
- group: lines that have all been found to wait for the same two limits, or more. It stands with one
  of them. When that has room and another one has not, the whole group goes over to the other. A
  line that was found to wait for one limit only stands with that by itself.
- room of a limit: the lines and groups that stand with it, by rank.

What holds after each `step` that has not used up its budget:

1. A line that waits stands with one limit, by itself or in one group; a group stands with one limit
   of its set, and all its lines come under all limits of its set.
2. No limit has room for the first of those who stand with it (or it would delay an earlier call
   that has reserved the limit).
3. A limit is closed for all who rank behind somebody who stands with it.

From 1 and 3 it follows that a call is never overtaken by one that comes under all of its limits;
from 2, that nobody waits without a limit of its own that has no room for the first who waits there.

Lines that each went over to another limit alone would be quadratic as soon as two limits are busy
at once, of which the queue's own is the commonest: thousands of lanes would go to it and back one
by one. As a group they do so at once, and a line changes its group only as often as it has limits.

A call under two limits that others use up in turns would never start. So one that had its turn at
one limit, found another closed, and is the first at both, reserves them until the instant at which
all have room: somebody behind it may be charged only what leaves room for it then. (EASY
backfilling, Lifka 1995, lets the first reserve always. That costs a shared rate 10 %: it idles
before each opening of a slower lane.) A queue's own limits need no reservation: there, the first by
rank is the next.

Finding every pair of two open limits that somebody waits for at once is as hard as the online
matrix-vector problem (Henzinger et al., 2015), so that looks are not bounded by a constant. The
budget bounds what one step takes; the next pass of the loop goes on.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush, heappushpop
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._slot import Call
    from aioapiqueue._wait_queue import Line, Rank, WaitQueue

__all__ = [
    "BUDGET",
    "Scheduler",
    "add_line",
    "is_stood_at",
    "is_waited_for",
    "lines_under",
    "remove_line",
]

BUDGET = 500
"""Looks in one step: 5 to 10 milliseconds, after which the event loop is to have its turn."""
_MANY_STALE = 32
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
                if len(self.rest) > 2 * self.size + _MANY_STALE:
                    self._clear_stale()

    def remove(self, item: Ranks) -> None:
        """Take an item out, if it is in."""
        if item.entry is not None:
            item.entry = None
            self.size -= 1
            rest = self.rest
            if self.top is not None and self.top[1] is item:
                self.top = heappop(rest) if rest else None
            elif rest is not None and len(rest) > 2 * self.size + _MANY_STALE:
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

    __slots__ = ("at", "entry", "members", "rooms")

    def __init__(self, rooms: frozenset[Room]) -> None:
        super().__init__()
        self.rooms = rooms
        self.members = 0
        """How many lines are in it, even if their callers have all gone and not left yet."""
        self.at: Room
        """The one that it stands with."""
        self.entry: Any = None

    def rank_now(self) -> Rank | None:
        line = self.first()
        return None if line is None else line.rank

    def __lt__(self, other: object) -> bool:
        return False  # as Line.__lt__


def _at(line: Line[Call]) -> Room:
    """Return the room that a line is in, by itself or with its group."""
    place: Group | Room = line.group
    return place.at if isinstance(place, Group) else place


class Reservation:
    """The limits of a call that had its turn at one of them and found another one closed."""

    __slots__ = ("call", "deadline", "line", "rank", "rooms")

    def __init__(
        self, line: Line[Call], call: Call, rank: Rank, deadline: float, rooms: Sequence[Room]
    ) -> None:
        self.line = line
        self.call = call
        self.rank = rank
        self.deadline = deadline
        self.rooms = rooms


class Room(Ranked):
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


def _room_of(limit: LimitState) -> Room:
    if limit.room is None:
        limit.room = Room(limit)
    room: Room = limit.room
    return room


def is_waited_for(limit: LimitState) -> bool:
    """Return whether a line comes under a limit, or has reserved it."""
    room: Room | None = limit.room
    return room is not None and (bool(room.lines) or room.reservation is not None)


def is_stood_at(limit: LimitState) -> bool:
    """Return whether somebody stands with a limit."""
    room: Room | None = limit.room
    return room is not None and room.size > 0


def lines_under(limit: LimitState) -> Collection[Line[Call]]:
    """Return the lines that come under a limit, but for those that have only what all have."""
    room: Room | None = limit.room
    lines = None if room is None else room.lines
    if lines is None:
        return ()
    return lines if isinstance(lines, set) else (lines,)


def add_line(line: Line[Call]) -> None:
    """Note that a line comes under its limits."""
    for limit in line.limits or ():
        room = _room_of(limit)
        if room.lines is None:
            room.lines = line
        elif isinstance(room.lines, set):
            room.lines.add(line)
        else:
            room.lines = {room.lines, line}


def remove_line(line: Line[Call]) -> None:
    """Note that a line is gone."""
    for limit in line.limits or ():
        room = _room_of(limit)
        if isinstance(room.lines, set):
            room.lines.discard(line)
        elif room.lines is line:
            room.lines = None


class Scheduler:
    """Decides who of several lines starts, and when.

    Args:
        waiters: the lines.
        limits_of: returns the limits of a line.
        own: returns the queue's own limits, that nobody reserves.
        grant: lets a call start that has been charged and taken out of `waiters`.
        on_end: called with a line in which nobody is left.
        nothing: stands for the limit of those who come under none, and wait for the end of a pause.
    """

    def __init__(
        self,
        waiters: WaitQueue[Call],
        *,
        limits_of: Callable[[Line[Call]], Sequence[LimitState]],
        own: Callable[[], Sequence[LimitState]],
        grant: Callable[[Call, float], None],
        on_end: Callable[[Line[Call]], None],
        nothing: LimitState,
    ) -> None:
        self._waiters = waiters
        self._limits_of = limits_of
        self._own = own
        self._grant = grant
        self._on_end = on_end
        self._nothing = nothing
        self._groups: dict[frozenset[Room], Group] = {}
        self._open = Ranked()
        """The rooms whose limit has room for the first of those who stand there."""
        self._timers: list[tuple[float, int, Room]] = []
        self._timed = 0
        """How many rooms have a timer; more entries than that are stale."""
        self._count = 0
        self._touched: dict[Room, None] = {}
        """Rooms to be looked at again, as something has changed there, in the order of that."""
        self.active = False
        """Whether there is, or was since nobody waited, more than one line."""
        self.disturbed = False
        """Whether somebody else has changed what a step goes by, while it was under way."""
        self.looks = self.moves = 0
        """How many calls were looked at, and how many lines or groups changed their limit."""

    def begin(self) -> None:
        """Say which line is next, from now on: there is more than one."""
        self.active = self.disturbed = True

    def end(self) -> None:
        """Forget what has been noted: nobody waits, or all are sorted into lines again."""
        self.active = False
        self._touched.clear()
        for _, _, room in self._timers:
            self._drop_timer(room)
        self._timers.clear()
        self._open.clear()

    # Arrival and departure.

    def is_late(self, now: float) -> bool:
        """Return whether somebody who waits may be due by now, and has not been served."""
        timers = self._timers
        return bool(self._open.size or self._touched or (timers and timers[0][0] <= now))

    def try_start(self, call: Call, limits: Sequence[LimitState], now: float) -> bool:
        """Charge a newcomer of a new line if it need not wait."""
        if self._blocker(limits, call, self._waiters.rank_of(call), None, now) is not None:
            return False
        for limit in limits:
            limit.consume(now, call.costs)
        return True

    def joined(self, line: Line[Call], now: float) -> None:
        """Note that somebody has joined a line, or that a line is new here."""
        rank = line.rank_now()
        if rank is None:  # all in it have gone, and not left yet
            return
        if line.group is not None:
            if line.entry is not None:
                if rank < line.entry[0]:  # it overtakes those of its line
                    self._end_reservation(line.reservation)
                    self._rank_again(line, rank)
                self._touched[_at(line)] = None
                return
            self._ungroup(line)
        limits = self._limits_of(line)
        call = line.head
        assert call is not None  # noqa: S101 - it has a rank
        blocker = self._blocker(limits, call, rank, line, now)
        if blocker is None:
            blocker = _room_of(limits[0] if limits else self._nothing)
        self._place(line, frozenset((blocker,)), now)

    def left(self, line: Line[Call]) -> None:
        """Note that somebody has left a line early."""
        if line.group is None:
            return
        if line.reservation is not None and not line.reservation.call.waits:
            self._end_reservation(line.reservation)
        self._touched[_at(line)] = None
        if not line.live:
            self.close(line)

    def close(self, line: Line[Call]) -> None:
        """Forget a line."""
        self._end_reservation(line.reservation)
        if line.group is not None:
            self._touched[_at(line)] = None
            self._ungroup(line)

    def _rank_again(self, line: Line[Call], rank: Rank) -> None:
        """Note that a line ranks before its entry."""
        group, room = line.group, _at(line)
        if isinstance(group, Group):
            group.add(line, rank)
            if group.entry is None or rank < group.entry[0]:
                self._stand(group, room, rank)
        else:
            self._stand(line, room, rank)

    def changed(self, limit: LimitState) -> None:
        """Note that a limit may have room sooner, or later, than it had."""
        if limit.room is not None and self.active:
            self._touched[limit.room] = None

    # The step.

    def step(self, now: float, budget: int = BUDGET) -> float | None:
        """Start all who are due, in their order.

        Returns:
            When to call again at the latest: `now` if the budget is used up; inf: once something
            has changed; None: nobody waits.
        """
        budget -= self._open_due(now, budget // 2)
        touched, by_rank, line = self._touched, self._open, None
        while True:
            while touched:
                if budget <= 0:
                    return now
                budget -= 1
                room = next(iter(touched))
                del touched[room]
                self._arm(room, now)
                line = None
            top = by_rank.top
            if top is None:
                break
            if line is None or top is not room.entry:  # else it is the next of the same room
                room = top[1]
                line = room.first_line()
                if top is not room.entry or line is None or line.rank is not top[0]:
                    room = by_rank.first()
                    if room is None:
                        break
                    line = room.first_line()
            if budget <= 0:
                return now
            budget -= 1
            line = self._look_at(room, line, now)
            if self.disturbed:  # by an observer
                return now
        return self._next_timer(now) if self._waiters.live else None

    def _look_at(self, room: Room, line: Line[Call], now: float) -> Line[Call] | None:
        """Start the first at an open limit, or let it wait for another one.

        Returns:
            The next there, if it may be looked at now.
        """
        self.looks += 1
        call, rank, limits = line.head, line.rank, line.limits
        assert call is not None  # noqa: S101 - `step` has just looked
        assert rank is not None  # noqa: S101 - as above
        if limits is None:
            limits = self._limits_of(line)
        blocker = self._blocker(limits, call, rank, line, now, first_at=room)
        if blocker is None:
            for limit in limits:
                limit.consume(now, call.costs)
            if line.reservation is not None:
                self._end_reservation(line.reservation)
            self._waiters.pop(call)
            if not line.live:
                self._ungroup(line)
                self._on_end(line)
            self._grant(call, now)
        elif blocker is not room:  # else it was charged through another group
            self._move(line, blocker, now)
            return None
        return self._arm(room, now)

    def _open_due(self, now: float, most: int) -> int:
        """Look at the rooms whose time has come; return how many."""
        timers, number = self._timers, 0
        while timers and timers[0][0] <= now and number < most:
            at, _, room = heappop(timers)
            if room.timer == at:
                self._drop_timer(room)
                self._arm(room, now)
                number += 1
        return number

    def _next_timer(self, now: float) -> float:
        if len(self._timers) > 2 * self._timed + _MANY_STALE:
            self._timers = [entry for entry in self._timers if entry[2].timer == entry[0]]
            heapify(self._timers)
        timers = self._timers
        while timers:
            at, _, room = timers[0]
            if room.timer != at:
                heappop(timers)
                continue
            if at <= now:  # the budget was not enough for all that were due
                return now
            line = room.first_line()
            opens = math.inf if line is None else self._opens_at(room, line, now)
            if opens <= at:
                return at
            heappop(timers)
            self._drop_timer(room)
            self._set_timer(room, opens)
        return math.inf

    # One room.

    def _opens_at(self, room: Room, line: Line[Call], now: float) -> float:
        """Return when a limit has room for the first of those who stand with it; inf: unknown."""
        call = line.head
        assert call is not None  # noqa: S101 - it was found by its rank
        at = room.limit.next_at(now, call.costs)
        if room.reservation is not None and at <= now:
            assert line.rank is not None  # noqa: S101 - as above
            if self._is_reserved(room, call, line.rank, now):
                return math.inf  # the end of the reservation will be noted
        return at

    def _arm(self, room: Room, now: float) -> Line[Call] | None:
        """Note when to look at a room: now, at an instant, or once something has changed.

        Returns:
            The first line there, if it may be looked at now.
        """
        line = room.first_line()
        if line is None:
            self._open.remove(room)
            self._drop_timer(room)
            return None
        # As _opens_at, which would be one call more.
        at = room.limit.next_at(now, line.head.costs)  # type: ignore[union-attr]  # it was found by it
        if room.reservation is not None and at <= now:
            at = self._opens_at(room, line, now)
        if at > now:
            if room.entry is not None:
                self._open.remove(room)
            self._set_timer(room, at)
            return None
        rank, entry = line.rank, room.entry
        assert rank is not None  # noqa: S101 - it was found by it
        if entry is None or (rank is not entry[0] and rank != entry[0]):
            self._open.add(room, rank)
        return line

    def _set_timer(self, room: Room, at: float) -> None:
        if at < math.inf and (room.timer is None or at < room.timer):
            self._timed += room.timer is None
            room.timer = at
            self._count += 1
            heappush(self._timers, (at, self._count, room))

    def _drop_timer(self, room: Room) -> None:
        if room.timer is not None:
            self._timed -= 1
            room.timer = None

    # One line.

    def _blocker(
        self,
        limits: Sequence[LimitState],
        call: Call,
        rank: Rank,
        line: Line[Call] | None,
        now: float,
        *,
        first_at: Room | None = None,
    ) -> Room | None:
        """Return the limit that a call has to wait for longest; None: all have room.

        At one of them it is known to be the first.
        """
        blocker, latest, costs = None, now, call.costs
        for limit in limits:
            at = limit.next_at(now, costs)
            room: Room | None = limit.room
            if room is not None:
                first = room.first_line() if room.size and room is not first_at else None
                if first is not None and first is not line and first.rank < rank:  # type: ignore[operator]  # it has one
                    timer = math.inf if room.timer is None else room.timer
                    at = max(at, timer, math.nextafter(now, math.inf))
                elif (
                    at <= now
                    and room.reservation is not None
                    and self._is_reserved(room, call, rank, now)
                ):
                    at = max(room.reservation.deadline, math.nextafter(now, math.inf))
            if at > latest:
                blocker, latest = limit, at
        return None if blocker is None else _room_of(blocker)

    def _place(self, line: Line[Call], rooms: frozenset[Room], now: float) -> None:
        """Let a line wait for these limits; a new group stands with any of them."""
        rank = line.rank
        assert rank is not None  # noqa: S101 - of an empty line, nobody waits
        if len(rooms) == 1:
            (line.group,) = rooms
            self._stand(line, line.group, rank)
            self._arm(line.group, now)
            return
        group = self._groups.get(rooms)
        if group is None:
            group = self._groups[rooms] = Group(rooms)
            (group.at, *_) = rooms
        line.group = group
        group.members += 1
        group.add(line, rank)
        if group.entry is None or rank < group.entry[0]:
            self._stand(group, group.at, rank)
            self._arm(group.at, now)

    def _stand(self, item: Group | Line[Call], room: Room, rank: Rank) -> None:
        if isinstance(item, Group):
            item.at = room
        room.add(item, rank)
        held = room.reservation
        if held is not None and rank < held.rank:  # an earlier one waits there: it goes first
            self._end_reservation(held)

    def _move(self, line: Line[Call], blocker: Room, now: float) -> None:
        """Let a line, the first at an open limit, wait for another: with its group if it can."""
        self.moves += 1
        place: Group | Room = line.group
        room, rank = _at(line), line.rank
        assert rank is not None  # noqa: S101 - it is the first
        rooms = place.rooms if isinstance(place, Group) else frozenset((place,))
        if isinstance(place, Group) and blocker in rooms:
            room.remove(place)
            self._stand(place, blocker, rank)
        else:
            rooms |= {blocker}
            self._ungroup(line)
            if rooms not in self._groups:
                together = self._groups[rooms] = Group(rooms)
                together.at = blocker
            self._place(line, rooms, now)
        self._arm(blocker, now)
        self._arm(room, now)
        self._reserve(line, now)

    def _ungroup(self, line: Line[Call]) -> None:
        place: Group | Room = line.group
        line.group = None
        if isinstance(place, Room):
            place.remove(line)
            return
        place.remove(line)
        place.members -= 1
        if not place.members:
            place.at.remove(place)
            del self._groups[place.rooms]

    # Reservations.

    def _is_reserved(self, room: Room, call: Call, rank: Rank, now: float) -> bool:
        """Return whether a call that starts now would delay one that has reserved its limit."""
        held = room.reservation
        if held is None or held.rank >= rank:
            return False
        return not room.limit.leaves_room(now, call.costs, held.call.costs, held.deadline)

    def _reserve(self, line: Line[Call], now: float) -> None:
        """See that the first of a line, which has just had its turn in vain, is not delayed."""
        limits, own = line.limits, self._own()
        if limits is None:
            limits = self._limits_of(line)
        if len(limits) - len(own) <= 1:
            return  # any other call under its one lane comes under the queue's limits, too
        call, rank = line.head, line.rank
        assert call is not None  # noqa: S101 - it has just had its turn
        assert rank is not None  # noqa: S101 - as above
        deadline = now
        for limit in limits:
            room = _room_of(limit)
            if self._waits_behind_another(line, rank, room):
                return
            deadline = max(deadline, limit.next_at(now, call.costs))
        rooms = [limit.room for limit in limits if limit not in own]
        if line.reservation is not None:
            self._end_reservation(line.reservation)
        line.reservation = reservation = Reservation(line, call, rank, deadline, rooms)
        for room in rooms:
            if room.reservation is not None:
                self._end_reservation(room.reservation)
            room.reservation = reservation
            if room.size:
                self._touched[room] = None

    @staticmethod
    def _waits_behind_another(line: Line[Call], rank: Rank, room: Room) -> bool:
        """Return whether somebody before a line stands with a limit, or has reserved it."""
        first, held = room.first_line(), room.reservation
        if first is not None and first is not line and first.rank < rank:  # type: ignore[operator]  # it has one
            return True
        return held is not None and held.line is not line and held.rank < rank

    def _end_reservation(self, reservation: Reservation | None) -> None:
        if reservation is not None:
            reservation.line.reservation = None
            for room in reservation.rooms:
                if room.reservation is reservation:
                    room.reservation = None
                    if room.size:
                        self._touched[room] = None
