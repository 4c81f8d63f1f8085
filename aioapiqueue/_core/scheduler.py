"""Which line is next, and when, where different limits apply to the waiting calls.

The calls to which the same limits apply wait in one `Line`. Terms:

- rank: priority, turn and arrival of the first call of a line.
- group: lines that have all been found to wait for the same two limits, or more. A group is in the
  wait list of one of them. When that limit has room and another has not, the whole group moves to
  the wait list of the other. A line that was found to wait for one limit only is in the wait list
  by itself.
- wait list of a limit: the lines and groups that wait there, by rank.
- room: what a limit admits at an instant; a limit without room for a call is closed to it.
- reservation: the limits of a call that was first at one of them and found another one closed,
  with the deadline at which all of them will have room for it.

What holds after each `step` that has not used up its budget:

1. A line that waits is in one wait list, by itself or in one group; a group is in the wait list of
   one limit of its set, and all limits of its set apply to all its lines.
2. No limit has room for the first call in its wait list (or that call would delay an earlier one
   that has reserved the limit).
3. A limit is closed to all calls that rank behind a call in its wait list.
4. The rank of a line becomes later only when one of its calls starts or leaves, which is reported
   here. So what a heap, a timer or a reservation remembers of a line stays true until then. An
   order whose turns move while calls wait keeps the rank of a call that has one (`WeightedLine`).

From 1 and 3 it follows that no call is overtaken by one to which all of its limits apply; from 2,
that each waiting call has a limit without room for the first call in its wait list.

If lines moved one by one, the cost would be quadratic as soon as two limits are busy at once, and
the queue's own limit is the most common second one: thousands of lanes would move to its wait list
and back. A group moves at once, and a line changes its group only as often as it has limits.

A call under two limits that other calls use up in turns would never start. So a call that was first
at one limit, found another one closed, and is the first at both, reserves them until the instant at
which all have room: calls behind it may only be charged what leaves room for it then. (EASY
backfilling, Lifka 1995, lets the first call reserve always. That costs a shared rate 10 %: it idles
before each opening of a slower lane.) The queue's own limits need no reservation: they apply to all
calls, and there the first by rank is next.

Finding every pair of open limits for which a call waits is as hard as the online matrix-vector
problem (Henzinger et al., 2015), so that looks are not bounded by a constant. The budget bounds the
time of a step; the next pass of the loop goes on.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from aioapiqueue._core.wait_lists import (
    MANY_STALE,
    Group,
    Ranked,
    Reservation,
    WaitList,
    is_waited_for,
    wait_list_at,
    wait_list_of,
)
from aioapiqueue._limits.algorithms import QUANTUM, next_look
from aioapiqueue._limits.limit_state import LimitState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue._core.orders import Rank
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.wait_queue import Line, WaitQueue
    from aioapiqueue._limits.own_limits import OwnLimits

BUDGET = 500
"""Number of looks in one step: 5 to 10 milliseconds, after which other tasks may run."""


class Scheduler:
    """Decides which of several lines is next, and when.

    Args:
        waiters: the lines.
        own: the queue's own limits.
        unreserved: returns those of them that no call needs to reserve.
        grant: starts a call that has been charged and taken out of `waiters`.
        on_end: called with a line in which no call is left.
    """

    def __init__(
        self,
        waiters: WaitQueue[Call],
        *,
        own: OwnLimits,
        unreserved: Callable[[], Sequence[LimitState]],
        grant: Callable[[Call, float], None],
        on_end: Callable[[Line[Call]], None],
    ) -> None:
        self._waiters = waiters
        self._own = own
        self._unreserved = unreserved
        self._grant = grant
        self._on_end = on_end
        self._without_limits = wait_list_of(LimitState())
        """Calls without limits, which wait for the end of a pause."""
        self._groups: dict[frozenset[WaitList], Group] = {}
        self._open = Ranked()
        """The wait lists whose limit has room for the first call there."""
        self._timers: list[tuple[float, int, WaitList]] = []
        self._timed = 0
        """Number of wait lists with a timer; the other entries of `_timers` are stale."""
        self._count = 0
        self.without_room: dict[WaitList, None] = {}
        """Wait lists of limits that raise, with a first call for which there is no room: see
        `Refusals`."""
        self._touched: dict[WaitList, None] = {}
        """Wait lists to look at again, in the order in which something changed there."""
        self.active = False
        """Whether there are several lines, or were since the last time that no call waited."""
        self.disturbed = False
        """Whether limits or lines were changed from outside during a step, so that it must end.

        An observer of a grant runs within the step. `begin` sets this (a second line), `Sorter`
        (new limits or states) and `LocalLimiter` (pause, hold, resume); `release_due` clears it.
        """

    def begin(self) -> None:
        """Decide which line is next, from now on."""
        # `disturbed` ends the loop over a single line if one of its grants has brought the second.
        self.active = self.disturbed = True

    def end(self) -> None:
        """Forget all lines: no call waits, or all are sorted into lines again."""
        self.active = False
        self._touched.clear()
        self.without_room.clear()
        # Wait lists live as long as their limits. What they note of timers and heaps must go, too.
        for _, _, wait_list in self._timers:
            self._drop_timer(wait_list)
        self._timers.clear()
        self._open.clear()

    # Arrival and departure.

    def is_late(self, limits: Sequence[LimitState], now: float) -> bool:
        """Return whether a call under one of these limits may be due and not granted yet."""
        timers = self._timers
        if not (self._open.size or self._touched or (timers and timers[0][0] <= now)):
            return False
        shared = any(limit in self._own.states or is_waited_for(limit) for limit in limits)
        return shared or self._without_limits.size > 0

    def try_start(self, call: Call, limits: Sequence[LimitState], now: float) -> bool:
        """Charge a new call, whose line does not exist yet, if it need not wait."""
        if self._blocker(limits, call, None, now, None) is not None:
            return False
        for limit in limits:
            limit.consume(now, call.costs)
        return True

    def joined(self, line: Line[Call], now: float) -> None:
        """Note that a call has joined a line, or that a line is new here."""
        rank = line.rank_now()
        if rank is None:  # all its calls are cancelled, and have not left yet
            return
        if line.waits_in is not None:
            if line.entry is not None:
                if rank < line.entry[0]:  # the new call overtakes the others of its line
                    self._end_reservation(line.reservation)
                    self._rank_again(line, rank)
                self._touched[wait_list_at(line)] = None
                return
            # All its calls were cancelled when it came to the top of a heap, which dropped it.
            self._ungroup(line)
        limits = self._own.states if line.limits is None else line.limits
        call = line.head
        assert call is not None  # noqa: S101 - it has a rank
        blocker = self._blocker(limits, call, line, now, None)
        if blocker is None:  # all have room: the next step finds it in any of their wait lists
            blocker = wait_list_of(limits[0]) if limits else self._without_limits
        self._let_wait(line, frozenset((blocker,)), now)

    def left(self, line: Line[Call]) -> None:
        """Note that a call has left a line without a grant."""
        if line.waits_in is None:
            return
        if line.reservation is not None and not line.reservation.call.waits:
            self._end_reservation(line.reservation)
        # Only noted, and heaps keep their stale entries: 100,000 calls may leave at one instant.
        self._touched[wait_list_at(line)] = None
        if not line.live:
            self.close(line)

    def close(self, line: Line[Call]) -> None:
        """Forget a line."""
        self._end_reservation(line.reservation)
        if line.waits_in is not None:
            self._touched[wait_list_at(line)] = None
            self._ungroup(line)

    def _rank_again(self, line: Line[Call], rank: Rank) -> None:
        """Note that a line ranks before its entry in the heap."""
        waits_in, wait_list = line.waits_in, wait_list_at(line)
        if isinstance(waits_in, Group):
            waits_in.add(line, rank)
            if waits_in.entry is None or rank < waits_in.entry[0]:
                self._stand(waits_in, wait_list, rank)
        else:
            self._stand(line, wait_list, rank)

    def changed(self, limit: LimitState) -> None:
        """Note that a limit may have room earlier or later than before."""
        if limit.wait_list is not None and self.active:
            self._touched[limit.wait_list] = None

    # The step.

    def step(self, now: float, planned: float) -> float | None:
        """Start all calls that are due, in their order.

        Args:
            now: the present instant.
            planned: the instant for which this step was planned; see `Limiter.release_due`.

        Returns:
            The instant of the next step at the latest: `now` if the budget is used up; inf: only
            after a change; None: no call waits.
        """
        # At most half of the budget is for timers, so that calls which may start are not delayed by
        # thousands of limits that open at one instant.
        budget = BUDGET - self._open_due(now, BUDGET // 2)
        touched, by_rank, line = self._touched, self._open, None
        while True:
            # Before each start, as the last one may have changed which wait list is the first.
            while touched:
                if budget <= 0:
                    return now
                budget -= 1
                wait_list = next(iter(touched))
                del touched[wait_list]
                self._arm(wait_list, now)
                line = None
            top = by_rank.top
            if top is None:
                break
            # After a start, the next line of the same wait list is often the first of all. Any
            # other may have left by now, or rank later, or its limit may have closed, charged
            # through another wait list: `_arm` looks, and puts its wait list where it belongs.
            if line is None or top is not wait_list.entry:
                wait_list, line = top[1], None  # that line waits in another wait list
                if wait_list.entry is top:
                    line = self._arm(wait_list, now)
                else:
                    by_rank.first()  # which drops the stale entries at the top
                continue
            if budget <= 0:
                return now
            budget -= 1
            line = self._look_at(wait_list, line, now)
            if self.disturbed:  # an observer of the grant has changed something
                return now
        return self._next_timer(now, planned) if self._waiters.live else None

    def _look_at(self, wait_list: WaitList, line: Line[Call], now: float) -> Line[Call] | None:
        """Start the first call at a limit that is open to it, or let it wait for another limit.

        Returns:
            The next line there, if it may be looked at now.
        """
        call: Call = line.head  # type: ignore[assignment]  # `step` has just looked
        limits = line.limits
        if limits is None:  # those of the queue, which may have been replaced since it joined
            limits = self._own.states
        blocker = self._blocker(limits, call, line, now, wait_list.limit)
        if blocker is not None:
            self._move(line, blocker, now)
            return None
        for limit in limits:
            limit.consume(now, call.costs)
        if line.reservation is not None:
            self._end_reservation(line.reservation)
        self._waiters.pop(call)
        if not line.live:
            self._ungroup(line)
            self._on_end(line)
        # Last, as observers run in it: they may let calls join or leave, or change limits.
        grant = self._grant  # a local, for the reason in `Dispatcher.try_start`
        grant(call, now)
        return self._arm(wait_list, now)

    def _open_due(self, now: float, most: int) -> int:
        """Look at the wait lists whose timers are due; return their number."""
        timers, number = self._timers, 0
        while timers and timers[0][0] <= now and number < most:
            at, _, wait_list = heappop(timers)
            if wait_list.timer == at:
                self._drop_timer(wait_list)
                self._arm(wait_list, now)
                number += 1
        return number

    def _next_timer(self, now: float, planned: float) -> float:
        if len(self._timers) > 2 * self._timed + MANY_STALE:
            self._timers = [entry for entry in self._timers if entry[2].timer == entry[0]]
            heapify(self._timers)
        timers, wake = self._timers, math.inf
        grouped: list[tuple[float, int, WaitList]] = []
        while timers:
            at, _, wait_list = timers[0]
            if wait_list.timer != at:
                heappop(timers)
                continue
            if at <= now:  # the budget was not enough for all due timers
                wake = now
                break
            # A timer may be too early by now, as calls of other lines were charged to the limit.
            # Asked again here, once at the top, it does not wake the loop without need.
            line = wait_list.first_line()
            opens = math.inf if line is None else self._opens_at(wait_list, line, now)
            if opens > at:
                heappop(timers)
                self._drop_timer(wait_list)
                self._set_timer(wait_list, opens)
                continue
            look = at
            if at < planned + QUANTUM:
                call = line.head  # type: ignore[union-attr]  # it opens
                look = next_look((wait_list.limit,), call.costs, at, now, planned)  # type: ignore[union-attr]  # as above
            wake = min(wake, look)
            if at == look or at >= wake:
                break
            # The timer itself stays as it is: a look for another reason must find that it is due,
            # or a newcomer would start before the calls that wait for their group.
            grouped.append(heappop(timers))
        for entry in grouped:
            heappush(timers, entry)
        return wake

    # One wait list.

    def _opens_at(self, wait_list: WaitList, line: Line[Call], now: float) -> float:
        """Return when a limit has room for the first line in its wait list; inf: unknown."""
        call = line.head
        assert call is not None  # noqa: S101 - it was found by its rank
        at = wait_list.limit.next_at(now, call.costs)
        if wait_list.reservation is not None and at <= now:
            assert line.rank is not None  # noqa: S101 - as above
            if self._is_reserved(wait_list, call, line.rank, now):
                return math.inf  # the end of the reservation has the wait list looked at again
        return at

    def _arm(self, wait_list: WaitList, now: float) -> Line[Call] | None:
        """Note when to look at a wait list: now, at an instant, or after a change.

        Returns:
            The first line there, if it may be looked at now.
        """
        line = wait_list.first_line()
        if line is None:
            self._open.remove(wait_list)
            self._drop_timer(wait_list)
            return None
        # The same as _opens_at, inlined for the usual case.
        at = wait_list.limit.next_at(now, line.head.costs)  # type: ignore[union-attr]  # it was found by it
        if wait_list.reservation is not None and at <= now:
            at = self._opens_at(wait_list, line, now)
        if at > now:
            if wait_list.entry is not None:
                self._open.remove(wait_list)
            self._set_timer(wait_list, at)
            return None
        rank, entry = line.rank, wait_list.entry
        if entry is None or rank is not entry[0]:
            self._open.add(wait_list, rank)  # type: ignore[arg-type]  # the line was found by it
        return line

    def _set_timer(self, wait_list: WaitList, at: float) -> None:
        if at == math.inf:
            if wait_list.limit.raises:
                self.without_room[wait_list] = None
        # A later instant needs no new timer: the present one is only too early (`_next_timer`).
        elif wait_list.timer is None or at < wait_list.timer:
            self._timed += wait_list.timer is None
            wait_list.timer = at
            self._count += 1
            heappush(self._timers, (at, self._count, wait_list))

    def _drop_timer(self, wait_list: WaitList) -> None:
        if wait_list.timer is not None:
            self._timed -= 1
            wait_list.timer = None

    # One line.

    def _blocker(
        self,
        limits: Sequence[LimitState],
        call: Call,
        line: Line[Call] | None,
        now: float,
        known: LimitState | None,
    ) -> WaitList | None:
        """Return the limit that a call has to wait for longest; None: all have room.

        Args:
            limits: the limits of the call.
            call: the call.
            line: its line; None: it is new, and would be the first of one.
            now: the present instant.
            known: the one of its limits that is known to be open to it, if any.
        """
        # The one that opens last: any look before that would find the call blocked still.
        blocker, latest, costs = None, now, call.costs
        rank: Rank = self._waiters.rank_of(call) if line is None else line.rank  # type: ignore[assignment]  # of its first call
        for limit in limits:
            if limit is known:
                continue
            at = limit.next_at(now, costs)
            # A limit with room is closed all the same if an earlier call waits there, or has
            # reserved it. `nextafter` makes that later than now even where the time is not known.
            wait_list: WaitList | None = limit.wait_list
            if wait_list is not None:
                first = wait_list.first_line() if wait_list.size else None
                if first is not None and first is not line and first.rank < rank:  # type: ignore[operator]  # it has one
                    # The first call waits until then, or (None) for an unknown change.
                    timer = math.inf if wait_list.timer is None else wait_list.timer
                    at = max(at, timer, math.nextafter(now, math.inf))
                elif (
                    wait_list.reservation is not None
                    and at <= now
                    and self._is_reserved(wait_list, call, rank, now)
                ):
                    at = max(wait_list.reservation.deadline, math.nextafter(now, math.inf))
            if at > latest:
                blocker, latest = limit, at
        return None if blocker is None else wait_list_of(blocker)

    def _let_wait(self, line: Line[Call], wait_lists: frozenset[WaitList], now: float) -> None:
        """Let a line wait for these limits; for several, in their group."""
        rank = line.rank
        assert rank is not None  # noqa: S101 - a line that waits is not empty
        if len(wait_lists) == 1:
            (line.waits_in,) = wait_lists
            self._stand(line, line.waits_in, rank)
            self._arm(line.waits_in, now)
            return
        line.waits_in = group = self._groups[wait_lists]
        group.members += 1
        group.add(line, rank)
        if group.entry is None or rank < group.entry[0]:
            self._stand(group, group.at, rank)
            self._arm(group.at, now)

    def _stand(self, item: Group | Line[Call], wait_list: WaitList, rank: Rank) -> None:
        if isinstance(item, Group):
            item.at = wait_list
        wait_list.add(item, rank)
        reservation = wait_list.reservation
        # If an earlier call waits there now, it goes first, and no reservation may delay it.
        if reservation is not None and rank < reservation.rank:
            self._end_reservation(reservation)

    def _move(self, line: Line[Call], blocker: WaitList, now: float) -> None:
        """Let the first line at an open limit wait for another one, with its group if possible."""
        waits_in: Group | WaitList = line.waits_in
        wait_list, rank = wait_list_at(line), line.rank
        assert rank is not None  # noqa: S101 - it is the first
        wait_lists = waits_in.wait_lists if isinstance(waits_in, Group) else frozenset((waits_in,))
        # If the blocker is in the group's set, the whole group moves: none of its lines could start
        # here. Otherwise this line alone has found a further limit, and joins a larger group.
        if isinstance(waits_in, Group) and blocker in wait_lists:
            wait_list.remove(waits_in)
            self._stand(waits_in, blocker, rank)
        else:
            wait_lists |= {blocker}
            self._ungroup(line)
            if wait_lists not in self._groups:
                together = self._groups[wait_lists] = Group(wait_lists)
                together.at = blocker
            self._let_wait(line, wait_lists, now)
        self._arm(blocker, now)
        self._arm(wait_list, now)
        self._reserve(line, now)  # after the move: it asks which line is first at each limit

    def _ungroup(self, line: Line[Call]) -> None:
        waits_in: Group | WaitList = line.waits_in
        line.waits_in = None
        if isinstance(waits_in, WaitList):
            waits_in.remove(line)
            return
        waits_in.remove(line)
        waits_in.members -= 1
        # Groups are many, and a set of limits may not come again: an empty one is forgotten.
        if not waits_in.members:
            waits_in.at.remove(waits_in)
            del self._groups[waits_in.wait_lists]

    # Reservations.

    def _is_reserved(self, wait_list: WaitList, call: Call, rank: Rank, now: float) -> bool:
        """Return whether a call that starts now would delay one that has reserved the limit."""
        reservation = wait_list.reservation
        if reservation is None or reservation.rank >= rank:  # it is its own, or of a later call
            return False
        return not wait_list.limit.leaves_room(
            now, call.costs, reservation.call.costs, reservation.deadline
        )

    def _reserve(self, line: Line[Call], now: float) -> None:
        """Reserve the limits of a line's first call, which found one of them closed."""
        limits, own = line.limits, self._unreserved()
        if limits is None:
            limits = self._own.states
        if len(limits) - len(own) <= 1:
            return  # all calls under its one lane are subject to the queue's limits, too
        call, rank = line.head, line.rank
        assert call is not None  # noqa: S101 - it was just looked at
        assert rank is not None  # noqa: S101 - as above
        deadline = now
        # Only a call that is first at all its limits reserves; it replaces those of later calls.
        for limit in limits:
            wait_list = wait_list_of(limit)
            if self._waits_behind_another(line, rank, wait_list):
                return
            # inf if a body has to end first. Rates then admit any call, and permits are kept for
            # this one, as nothing is known of when it will have room.
            deadline = max(deadline, limit.next_at(now, call.costs))
        wait_lists = [limit.wait_list for limit in limits if limit not in own]
        if line.reservation is not None:
            self._end_reservation(line.reservation)
        line.reservation = reservation = Reservation(line, call, rank, deadline, wait_lists)
        for wait_list in wait_lists:
            if wait_list.reservation is not None:
                self._end_reservation(wait_list.reservation)
            wait_list.reservation = reservation
            if wait_list.size:  # calls behind it may be able to start only later now
                self._touched[wait_list] = None

    @staticmethod
    def _waits_behind_another(line: Line[Call], rank: Rank, wait_list: WaitList) -> bool:
        """Return whether an earlier line waits for a limit, or has reserved it."""
        first, reservation = wait_list.first_line(), wait_list.reservation
        if first is not None and first is not line and first.rank < rank:  # type: ignore[operator]  # it has one
            return True
        return reservation is not None and reservation.line is not line and reservation.rank < rank

    def _end_reservation(self, reservation: Reservation | None) -> None:
        if reservation is not None:
            reservation.line.reservation = None
            for wait_list in reservation.wait_lists:
                wait_list.reservation = None
                if wait_list.size:  # and now earlier
                    self._touched[wait_list] = None
