"""The wait queue of a shared quota: the lines of scopes, and which of them are parked.

A line has its own leases. While it has none that is due it is parked, so that it blocks nobody
else. Among those that are not parked, a heap finds the one whose first waiter is next: each step
costs the logarithm of their number. With `fair` each first key has lines of its own, and one that
was served goes to the end of the round.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.scope import NO_LANES
from aioapiqueue.spi import Call, Line, WaitQueue, cost_units

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator

    from aioapiqueue._shared.scope import Scope
    from aioapiqueue.spi import Host

__all__ = ["KeyQueues", "Place", "key_queues"]

Place = tuple[float, float]
"""Priority, and place among those of that priority: the least goes first."""
_ROUND = 2**60
"""More than any `turn`: a place in the n-th round from now is n times this, and that."""
_NEIGHBOURS = 16
"""So many scopes with a lane are looked at together with one: those that have waited longest there,
as a rule. The others ask within a second, and find out then, as those in other processes do."""
_MANY_STALE = 32
"""So many stale entries of a heap are never cleared away before they are met."""


def key_queues(host: Host) -> KeyQueues:
    """Return who waits, as what `wait_queue_type` has made it."""
    waiters = host.waiters
    assert isinstance(waiters, KeyQueues)  # noqa: S101 - see `SharedLimiter.wait_queue_type`
    return waiters


class KeyQueues(WaitQueue[Call]):
    """All who wait, in one line for each scope (with `fair`: for each first key and scope)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as WaitQueue's
        super().__init__(*arguments, **options)
        self.by_scope: dict[Scope, dict[Hashable, Line[Call]]] = {}
        """The lines of each scope, by name."""
        self._scopes_of: dict[Hashable, dict[Scope, None]] = {}
        """The scopes of each lane in which somebody waits."""
        self._new_firsts: dict[Line[Call], None] = {}
        """The lines whose first may be another one than `take_new_firsts` has returned."""
        self._parked_until: dict[Line[Call], float] = {}
        self._ready: list[tuple[float, int, Line[Call]]] = []
        """A heap of (priority, place, line). An entry may rank its line too early, never too late:
        the one at the top is checked when it is met. So a newcomer that overtakes the first of its
        line has to `_enter` it again."""
        self._parked: list[tuple[float, int, Line[Call]]] = []
        """A heap of (until, number, line)."""

    def _add_to_line(self, item: Call) -> None:
        name, scope = self.name_of_line(item), item.limits or NO_LANES
        line = self.lines.get(name)
        if line is None:
            line = self.lines[name] = Line(name, scope)
            lines = self.by_scope.get(scope)
            if lines is None:
                lines = self.by_scope[scope] = {}
                for lane in scope.lanes:
                    self._scopes_of.setdefault(lane, {})[scope] = None
            lines[name] = line
        item.line = line
        is_first = line.put(item)
        if is_first:
            self._new_firsts[line] = None
        if line in self._parked_until:
            # In a parked line a new first may be due sooner (it may cost less).
            if line.first() is item:
                self._unpark(line)
        elif line.entry is None or (is_first and line.first() is item):
            self._enter(line, item)  # the entry may be that of one who has gone

    def move_up(self, waiter: Call, arrival: int) -> bool:
        """Give one who has just joined an earlier place; as `WaitQueue.move_up`."""
        line, is_first = waiter.line, super().move_up(waiter, arrival)
        self._new_firsts[line] = None
        if is_first and line in self._parked_until:
            self._unpark(line)
        elif is_first:
            self._enter(line, waiter)
        return is_first

    def _drop(self, line: Line[Call]) -> None:
        if self.lines.get(line.name) is not line:
            return
        del self.lines[line.name]
        scope, lines = line.limits, self.by_scope[line.limits]
        del lines[line.name]
        if not lines:
            del self.by_scope[scope]
            for lane in scope.lanes:
                scopes = self._scopes_of[lane]
                del scopes[scope]
                if not scopes:
                    del self._scopes_of[lane]

    def scopes_of(self, lane: Hashable) -> Collection[Scope]:
        """Return the scopes that contain a lane, and in which somebody waits."""
        return self._scopes_of.get(lane, ())

    def neighbours(self, scope: Scope) -> Iterator[Scope]:
        """Yield some of the scopes in which somebody waits for a lane of this one."""
        for lane in scope.lanes:
            yield from islice(self.scopes_of(lane), _NEIGHBOURS)

    def waiting_in(self, scope: Scope, enough: float = math.inf) -> int:
        """Return how many wait in a scope; if they are more than `enough`, not how many more."""
        waiting = 0
        for line in self.by_scope.get(scope, {}).values():
            waiting += line.live
            if waiting > enough:
                break
        return waiting

    def first(self) -> Call | None:
        """Return who is next among those that are not parked; None if nobody is."""
        ready = self._ready
        while ready:
            priority, place, line = entry = ready[0]
            if line.entry is not entry:
                heappop(ready)
                continue
            waiter = line.first()
            if waiter is None:
                heappop(ready)
                line.entry = None
                self._drop(line)
            elif len(ready) > 1 and (
                (true := self._place(line, waiter)) != place or waiter.priority != priority
            ):
                line.entry = (waiter.priority, true, line)
                heapreplace(ready, line.entry)
            else:
                return waiter
        return None

    def pop(self, waiter: Call) -> None:
        """Take out the one that `first` has just returned; as `WaitQueue.pop`."""
        line = waiter.line
        waiter.line = None  # type: ignore[assignment]  # it waits no more
        line.pop()
        self._new_firsts[line] = None
        if self.fair:  # to the end of the round
            heappop(self._ready)
            line.entry, line.turn = None, 0
            after = line.first()
            if after is None:
                self._drop(line)
            else:
                self._enter(line, after)
        elif not line.live:
            line.entry = None
            self._drop(line)
        self.live -= 1
        self._forget(waiter)

    def leave(self, waiter: Call) -> Line[Call] | None:
        """Take out one that waits no more; as `WaitQueue.leave`."""
        line: Line[Call] | None = waiter.line
        if line is None:
            return None
        waiter.line = None  # type: ignore[assignment]  # as above
        line.leave()
        self._new_firsts[line] = None
        if line in self._parked_until:  # its next may be due sooner, or there is none
            self._unpark(line)
        if not line.live:
            line.entry = None
            self._drop(line)
        self.live -= 1
        self._forget(waiter)
        return line

    def park(self, until: float) -> None:
        """Set the line of the first aside, until `wake` is called with `until` or later."""
        line = heappop(self._ready)[2]
        line.entry = None
        self._parked_until[line] = until
        self._count += 1
        heappush(self._parked, (until, self._count, line))
        if len(self._parked) > 2 * len(self.lines) + _MANY_STALE:  # as in `_enter`
            until_of = self._parked_until
            parked = {one[2]: one for one in self._parked if until_of.get(one[2]) == one[0]}
            self._parked = list(parked.values())
            heapify(self._parked)

    def wake(self, now: float) -> float | None:
        """Let go the lines parked until `now`; return when the next one is to be let go."""
        parked = self._parked
        while parked:
            until, _, line = parked[0]
            if self._parked_until.get(line) != until:
                heappop(parked)
            elif until <= now:
                heappop(parked)
                self._unpark(line)
            else:
                return until
        return None

    def wake_scope(self, scope: Scope) -> None:
        """Let go the lines of one scope that are parked: what was due there has changed."""
        for line in list(self.by_scope.get(scope, {}).values()):
            if line in self._parked_until:
                self._unpark(line)

    def wake_all(self) -> None:
        """Let go every line that is parked: what was due has changed."""
        for line in list(self._parked_until):
            self._unpark(line)

    def rebuild(self) -> None:
        """Sort all who wait into lines again: which keys have their own has changed."""
        self._ready, self._parked, self._parked_until = [], [], {}
        self.by_scope, self._scopes_of, self._new_firsts = {}, {}, {}
        super().rebuild()
        self._wake_getters()

    def take_new_firsts(self) -> list[Call]:
        """Return who is first in a line, once, in all lines where that may have changed."""
        lines, self._new_firsts = self._new_firsts, {}
        firsts = (line.first() for line in lines)
        return [first for first in firsts if first is not None]

    def rank(self, scope: Scope, behind: int = 0) -> Place | None:
        """Return the place of who waits behind so many others of one scope; None: nobody does."""
        lines = self.by_scope.get(scope, {})
        if behind and len(lines) > 1:  # of several keys, which take turns
            places = (place for place, *_ in self.iter_in_order(lines))
            return next(islice(places, behind, None), None)
        found: list[Place] = []
        for line in lines.values():
            waiter = next(islice(line, behind, None), None) if behind else line.first()
            if waiter is not None:
                found.append((waiter.priority, self._place(line, waiter, behind)))
        return min(found, default=None)

    def _place(self, line: Line[Call], waiter: Call, behind: int = 0) -> int:
        """Return a waiter's place among those of its priority: the least goes first.

        With `fair`, it is that of who waits behind so many of its key.
        """
        return behind * _ROUND + line.turn if self.fair else waiter.arrival

    def iter_in_order(self, names: Collection[Hashable]) -> Iterator[tuple[Place, Hashable, Call]]:
        """Yield place, line's name and waiter of who would be next if none of them were parked.

        A name that is taken out of `names` meanwhile is left there.
        """
        number = self._count
        heads: list[tuple[float, float, Line[Call], Call, int, Iterator[Call] | None]] = []
        for line in map(self.lines.get, names):
            first = None if line is None else line.first()
            if line is not None and first is not None:
                heads.append((first.priority, self._place(line, first, 0), line, first, 0, None))
        heapify(heads)
        while heads:
            _, _, line, first, behind, rest = heads[0]
            if line.name in names:
                yield (first.priority, self._place(line, first, behind)), line.name, first
            if rest is None:  # most lines are not looked into any further
                rest = iter(line)
                next(rest, None)
            after = next(rest, None) if line.name in names else None
            if after is None:
                heappop(heads)
            else:
                number += 1
                place = number if self.fair else self._place(line, after)
                heapreplace(heads, (after.priority, place, line, after, behind + 1, rest))

    def cost_in(self, lane: Hashable, unit: int) -> float:
        """Return what all who wait in a lane cost, in one unit."""
        return sum(
            waiter.costs[unit]
            for scope in self.scopes_of(lane)
            for line in self.by_scope[scope].values()
            for waiter in line
            if cost_units.is_stated(waiter.costs, unit)
        )

    def _enter(self, line: Line[Call], first: Call) -> None:
        self._count += 1
        self._parked_until.pop(line, None)
        if not line.turn:  # one that was parked has the place in the round that it had before
            line.turn = self._count
        line.entry = (first.priority, self._place(line, first), line)
        heappush(self._ready, line.entry)
        if len(self._ready) > 2 * len(self.lines) + _MANY_STALE:  # so seldom that it is linear
            entries = (one.entry for one in self.lines.values())
            self._ready = [entry for entry in entries if entry is not None]
            heapify(self._ready)
        self.on_first()

    def _unpark(self, line: Line[Call]) -> None:
        self._parked_until.pop(line, None)
        first = line.first()
        if first is None:
            self._drop(line)
            return
        self._enter(line, first)
        self._wake_getters()

    def _wake_getters(self) -> None:
        # All of them: each finds out whether there is somebody for it. PriorityQueue has no need of
        # this, so that asyncio has no public way.
        while self._getters:  # type: ignore[attr-defined]  # typeshed leaves it out
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]  # as above
