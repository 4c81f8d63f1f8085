"""Indexes the calls of a queue that wait for an authority, by scope and lane.

The calls of a scope share leases. A line without a lease that is due is parked, so that calls with
other limits can start. Among the lines that are not parked, a heap finds the one with the lowest
rank, so each step costs the logarithm of their number.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count, islice
from operator import lt
from typing import TYPE_CHECKING, Any, TypeAlias

from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.statement_json import plain_costs
from aioapiqueue.spi import Ranked

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Sequence

    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue.spi import Call, Host
    from aioapiqueue.spi import Line as AnyLine

    Line: TypeAlias = AnyLine[Call]

Place = tuple[float, float]
"""Priority of a call, and its place among calls of that priority: the least goes first. Unlike a
rank, it can be sent: the server counts up to 2**53."""
_IN_A_TURN = 2**24
"""Calls within a turn are ordered by their number modulo this. That leaves 2**29 turns."""
_MOST_SCOPES = 16
"""Scopes that share a lane with another one and are processed together with it: usually those that
have waited longest. The others ask within a second, as scopes of other processes do."""


class _Parked:
    """A parked line, in a heap of instants."""

    __slots__ = ("at", "entry", "line")

    def __init__(self, line: Line, at: float) -> None:
        self.line = line
        self.at = at
        self.entry = None

    def rank_now(self) -> Any:  # noqa: ANN401 - ranks of `Ranked` are integers, as a rule
        """Return the instant: it is the rank among parked lines."""
        return self.at

    def __lt__(self, other: object) -> bool:
        return False  # compared only if the instants are equal: any order will do


class WaitingScopes:
    """The scopes of a queue's waiting calls, and their lines.

    A scope has one line; if keys take turns, it has one line for each first key.

    Args:
        host: the queue's dispatcher.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.reset()

    def reset(self) -> None:
        """Forget everything: no call waits, or all of them are noted again."""
        self.by_scope: dict[Scope, dict[Line, None]] = {}
        """The lines of each scope."""
        self._by_lane: dict[Hashable, dict[Scope, None]] = {}
        """The scopes that contain each lane."""
        self._changed: dict[Line, None] = {}
        """The lines whose first call may have changed since `drain_changed_firsts`."""
        self._ready = Ranked()
        """The lines that are not parked."""
        self._parked: dict[Line, tuple[_Parked, _Parked]] = {}
        """The parked lines, and their entries in the following two."""
        self._dues = Ranked()
        """The parked lines by when they are due."""
        self._looks = Ranked()
        """The parked lines by when to look at them, which is later if they wait for a group."""

    # Calls that wait.

    def joined(self, call: Call) -> None:
        """Note that a call waits, in its line."""
        line = call.line
        lines = self.by_scope.get(line.limits)
        if lines is None:
            lines = self.by_scope[line.limits] = {}
            for lane in line.limits.lanes:
                self._by_lane.setdefault(lane, {})[line.limits] = None
        lines[line] = None
        if line.first() is call:  # it may cost less than the one before, and be due sooner
            self._changed[line] = None
            self._unpark(line)

    def pop(self, call: Call) -> None:
        """Remove a call that starts, the one that `first` has returned, from the wait queue."""
        line = call.line
        self._host.waiters.pop(call)
        self._call_has_left(line)

    def left(self, line: Line | None) -> None:
        """Note that a call has left a line; None: it was in none."""
        if line is not None:
            self._call_has_left(line)
            if line in self._parked:  # the next call may be due sooner
                self._unpark(line)

    def _call_has_left(self, line: Line) -> None:
        lines = self.by_scope.get(line.limits, {})
        if line not in lines:
            return  # a line from before `rebuild`
        self._changed[line] = None
        if line.live:
            return
        # Its last call has left. Kept, lines would add up: scopes may be many, and seen once.
        self._ready.remove(line)
        self._drop_timer(line)
        del lines[line]
        if not lines:
            del self.by_scope[line.limits]
            for lane in line.limits.lanes:
                scopes = self._by_lane[lane]
                del scopes[line.limits]
                if not scopes:
                    del self._by_lane[lane]

    def rebuild(self) -> None:
        """Sort all calls into lines again: their scopes have changed."""
        waiters = self._host.waiters
        waiters.rebuild()
        self.reset()
        for line in waiters.lines.values():
            if (first := line.first()) is not None:  # this index needs only the first of each line
                self.joined(first)

    # The next call.

    def first(self) -> Call | None:
        """Return the next call of a line that is not parked; None: there is no such line."""
        line: Line | None = self._ready.first()
        return None if line is None else line.head

    def park(self, call: Call, due: float, look_at: float) -> None:
        """Park the line of a call until `wake` is called with `due` or later.

        A call that waits for a group has both: a look for any other reason must find that it is
        due, or the call may time out, or be overtaken.

        Args:
            call: the first call of the line.
            due: when it is due.
            look_at: when to look at the line if nothing else causes a look before.
        """
        line = call.line
        self._ready.remove(line)
        self._parked[line] = by_due, by_look = _Parked(line, due), _Parked(line, look_at)
        self._dues.add(by_due, by_due.rank_now())
        self._looks.add(by_look, by_look.rank_now())

    def wake(self, now: float) -> None:
        """Unpark the lines that are due, whether or not they wait for a group."""
        while (parked := self._dues.first()) is not None:
            if parked.at - now > ROUNDING:  # as late as `release_due` takes a call for due
                break
            self._make_ready(parked.line)

    def next_look(self, *, exact: bool) -> float | None:
        """Return when to look at the parked lines; None: there are none.

        Args:
            exact: whether no line may wait for its group.
        """
        parked = (self._dues if exact else self._looks).first()
        return None if parked is None else float(parked.at)

    def wake_scope(self, scope: Scope) -> None:
        """Unpark the lines of a scope, because its leases have changed."""
        for line in self.by_scope.get(scope, ()):
            if line in self._parked:
                self._unpark(line)

    def wake_all(self) -> None:
        """Unpark all lines, because instants at which calls are due have changed."""
        for line in list(self._parked):
            self._unpark(line)

    def _unpark(self, line: Line) -> None:
        if self._make_ready(line):
            self._host.wake()

    def _make_ready(self, line: Line) -> bool:
        """Unpark a line; return whether a call waits in it."""
        self._drop_timer(line)
        rank = line.rank_now()
        if rank is None:  # all its calls are cancelled, and have yet to leave
            return False
        self._ready.add(line, rank)
        return True

    def _drop_timer(self, line: Line) -> None:
        if (parked := self._parked.get(line)) is not None:
            by_due, by_look = parked
            self._dues.remove(by_due)
            self._looks.remove(by_look)
            del self._parked[line]  # last: an interrupt must leave no entry of a line not parked

    # What to ask the authority for.

    def scopes_of(self, lane: Hashable) -> Collection[Scope]:
        """Return the scopes that contain a lane, and in which calls wait."""
        return self._by_lane.get(lane, ())

    def scopes_beside(self, scope: Scope) -> Iterator[Scope]:
        """Yield some of the scopes that share a lane with a scope, and in which calls wait."""
        for lane in scope.lanes:
            yield from islice(self.scopes_of(lane), _MOST_SCOPES)

    def waiting_in(self, scope: Scope, enough: float = math.inf) -> int:
        """Return how many calls wait in a scope; a number above `enough` may be too low."""
        waiting = 0
        for line in self.by_scope.get(scope, ()):
            waiting += line.live
            if waiting > enough:
                break
        return waiting

    def cost_in(self, lane: Hashable, unit: int) -> float:
        """Return the total cost of the calls that wait in a lane, in one unit."""
        lines = (line for scope in self.scopes_of(lane) for line in self.by_scope[scope])
        return sum(line.total(unit) for line in lines)

    def place_in(self, scope: Scope, behind: int = 0) -> Place | None:
        """Return the place of the call in a scope behind `behind` other ones; None: no such call.

        Args:
            scope: the scope.
            behind: the number of calls before it. Default: 0.
        """
        lines = self.by_scope.get(scope, {})
        # If keys take turns, calls of several lines are before it.
        if behind and len(lines) > 1:
            places = (place for place, *_ in self.iter_in_order(lines))
            return next(islice(places, behind, None), None)
        found: list[Place] = []
        for line in lines:
            call = next(islice(line, behind, None), None) if behind else line.first()
            if call is not None:
                found.append(self._place(line, call, behind))
        return min(found, default=None)

    def _place(self, line: Line, call: Call, behind: int = 0) -> Place:
        """Return the place of a call that waits behind `behind` others of its line."""
        turn = self._host.waiters.turn_behind(line, behind)
        within = call.arrival
        # Two numbers in one: the server compares places as single numbers.
        return call.priority, turn * _IN_A_TURN + within % _IN_A_TURN if turn else within

    def iter_in_order(self, lines: Collection[Line]) -> Iterator[tuple[Place, Line, Call]]:
        """Yield place, line and call in the order in which they would start if none were parked.

        A merge of all lines. If a line is removed from `lines` meanwhile, the rest of its calls is
        skipped.
        """
        heads: list[tuple[Place, Line, Call, int, Iterator[Call] | None]] = []
        for line in lines:
            first = line.first()
            if first is not None:
                heads.append((self._place(line, first), line, first, 0, None))
        heapify(heads)
        while heads:
            place, line, call, behind, rest = heads[0]
            if line in lines:
                yield place, line, call
            if rest is None:  # not before: of most lines, the caller reads only the first call
                rest = iter(line)
                next(rest, None)
            after = next(rest, None) if line in lines else None
            if after is None:
                heappop(heads)
            else:
                behind += 1
                heapreplace(heads, (self._place(line, after, behind), line, after, behind, rest))

    def drain_changed_firsts(self) -> list[Call]:
        """Return the first call of each line in which it may have changed since the last time."""
        lines, self._changed = self._changed, {}
        firsts = (line.first() for line in lines)
        return [first for first in firsts if first is not None]


_MANY = 64
"""Stale entries of a heap that may stay until they reach its top."""


class FirstCosts:
    """The lowest costs of the first calls of all lines: a cheaper call may have room at once.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
        waiting: the scopes in which calls wait.
    """

    def __init__(self, host: Host, limits: LimitTable, waiting: WaitingScopes) -> None:
        self._host = host
        self._limits = limits
        self._waiting = waiting
        self._cheapest: tuple[float, ...] = ()
        """The lowest cost, by unit."""
        self._firsts: list[list[tuple[float, int, Call]]] = []
        """For each unit, a heap of the calls by cost; those that are no longer first are stale."""
        self._costs: tuple[float, ...] | None = None
        """The costs of every call since the queue was last empty; None: they differ."""
        self._numbers = count()

    def arrives(self, call: Call) -> None:
        """Note a newcomer, before it waits."""
        if not self._host.waiters.live:
            self._costs = call.costs
        elif call.costs != self._costs:
            self._costs = None

    def have_fallen(self) -> bool:
        """Return whether a call is now first that costs less than all that were, in some unit."""
        waiters = self._host.waiters
        firsts, cheapest = self._waiting.drain_changed_firsts(), self._costs
        if cheapest is None and waiters.live:
            cheapest = self._find_cheapest(firsts)
        else:  # every first call costs the same, as in most queues: no heaps are needed
            self._firsts = []
            cheapest = plain_costs(cheapest) if cheapest and waiters.live else ()
        known, self._cheapest = self._cheapest, cheapest
        return bool(cheapest and not known) or any(map(lt, cheapest, known))

    def _find_cheapest(self, new: Sequence[Call]) -> tuple[float, ...]:
        """Return the lowest cost of a first call, by unit.

        Args:
            new: the calls that may have become first since the last time.
        """
        lines, units = self._host.waiters.lines, len(self._limits.units)
        most = 2 * len(lines) + _MANY
        # Amortised: a constant for each call. It also happens when costs have begun to differ, and
        # after a call has declared a new unit.
        if len(self._firsts) != units or len(self._firsts[0]) > most:
            self._firsts = [[] for _ in range(units)]
            new = [first for line in lines.values() if (first := line.first()) is not None]
        for first in new:
            number, costs = next(self._numbers), plain_costs(first.costs)
            for unit, heap in enumerate(self._firsts):
                heappush(heap, (costs[unit] if unit < len(costs) else 0, number, first))
        for heap in self._firsts:
            while heap and not ((first := heap[0][2]).waits and first.line.first() is first):
                heappop(heap)
        # inf: all calls are cancelled, and have yet to leave.
        return tuple(heap[0][0] if heap else math.inf for heap in self._firsts)
