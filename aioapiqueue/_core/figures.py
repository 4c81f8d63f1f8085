"""Figures of a queue and of its lanes, whichever limiter it has.

The figures of lanes are counted here and not in the limiters. A limiter keeps a state for each key
only while the key is in use, and may keep it in another process, but figures must stay. There is
one entry for each name that the user gave, a key or a pattern. A call counts once in each entry
to which one of its keys belongs. Queues without lanes have no `LaneFigures`, and pay nothing.

`set_rate` of a new key adds an entry while bodies run. These calls stay in the entries in which
they were counted, and are settled and refunded there, so that no figure falls below zero: a call
counts only in entries that are older than its start. A call that starts at the instant at which an
entry was added counts as started before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.slot import GRANTED
from aioapiqueue._limits.cost_units import ONE_CALL, CostTotals, LateCosts
from aioapiqueue._limits.lane_states import find_patterns, fits
from aioapiqueue._limits.limit_types import raises, unit_of

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Sequence

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.seam import Core
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.stats import LaneTable, Stats


_COUNTED: tuple[EventKind, ...] = ("cancelled", "timed_out", "refused", "throttled", "backed_off")
_COUNTED_OF_QUEUE = ("refunded", *_COUNTED, "refused_by_server", "malformed")


class QueueFigures:
    """The figures of a queue as a whole, by the names of `Stats`.

    Attributes:
        counts: number of events, for each kind that is counted.
        waited: as in `Stats`.
        longest_wait: as in `Stats`.
        costs: total cost of the calls that started, without one call each.
        overdrawn: as in `Stats`.
        prices: as in `Stats`.
    """

    __slots__ = ("costs", "counts", "longest_wait", "overdrawn", "prices", "waited")

    def __init__(self) -> None:
        self.counts: dict[EventKind | str, int] = dict.fromkeys(_COUNTED_OF_QUEUE, 0)
        self.waited = 0.0
        self.longest_wait = 0.0
        self.costs = CostTotals()
        self.overdrawn = 0
        self.prices = ""

    def settled(self, host: Core, call: Call, costs: tuple[float, ...]) -> None:
        """Replace the costs of a call by its true costs, which note what is charged late."""
        before = call.costs
        self.costs.replace(before, costs)
        if isinstance(costs, LateCosts):
            was_late = isinstance(before, LateCosts) and _counted_by_budget(before.late, host, call)
            self.overdrawn += not was_late and _counted_by_budget(costs.late, host, call)

    def refunded(self, call: Call) -> None:
        """Undo the count of a call that started and was refunded."""
        self.counts["refunded"] += 1
        # `longest_wait` stays: the second longest is not known.
        self.waited -= call.waited
        if call.costs is not ONE_CALL:
            self.costs.subtract(call.costs)

    def stats(self, host: Core, lanes: LaneFigures | None, unaccounted: int) -> Stats:
        """Return the current figures, with those of the limiter and the lanes.

        Args:
            host: the queue's dispatcher.
            lanes: figures of the lanes, if the queue has any.
            unaccounted: as in `Stats`.
        """
        from aioapiqueue._core.stats import LaneTable, Stats  # noqa: PLC0415 - late: see there

        limiter, started = host.limiter.snapshot(), host.started
        paused, held = limiter.stops_for(host.loop.now())
        return Stats(
            waiting=host.waiters.live,
            running=host.running,
            lanes=LaneTable() if lanes is None else lanes.table(),
            remaining=limiter.remaining,
            budgets=limiter.budgets,
            overdrawn=self.overdrawn,
            prices=self.prices,
            lanes_in_memory=limiter.lanes,
            released=started,
            # The totals leave out one call for each start, so that number is passed to them.
            costs=self.costs.by_unit(host.units, started),
            rate=limiter.rate,
            paused=paused,
            held=held,
            unaccounted=unaccounted,
            learnt=dict(host.learnt),
            asks=limiter.asks,
            faults=limiter.faults,
            fault=limiter.fault,
            waited=self.waited,
            longest_wait=self.longest_wait,
            **self.counts,
        )


def _counted_by_budget(units: Collection[int], host: Core, call: Call) -> bool:
    """Return whether a limit of a call that raises `LimitExceeded` counts one of these units."""
    names = {host.units.names[unit] for unit in units}
    limits_of = host.limiter.limits_of
    limits = [limit for key in (None, *call.keys) for limit in limits_of(key) or ()]
    return any(raises(limit) and unit_of(limit) in names for limit in limits)


class _Figures:
    """The figures of one entry, by the names of `LaneStats`."""

    __slots__ = (
        "costs",
        "counts",
        "longest_wait",
        "name",
        "refunded",
        "released",
        "since",
        "waited",
        "waiting",
    )

    def __init__(self, name: Hashable, since: float) -> None:
        self.name = name
        self.since = since
        """Time (loop clock) of the last start before this entry was added; it counts later ones."""
        self.waiting = 0
        self.released = 0
        self.refunded = 0
        self.waited = 0.0
        self.longest_wait = 0.0
        self.costs = CostTotals()
        """Total cost of the calls that started, without one call each."""
        self.counts: dict[EventKind, int] = dict.fromkeys(_COUNTED, 0)


_KEYS = 10_000
"""Number of keys whose entries are cached: a search may go through thousands of patterns."""
_OF_ONE_KEY = ("throttled", "backed_off")
"""Kinds of events that happen to one lane of a call, not to all."""


class LaneFigures(Follower):
    """The figures of each lane that has a name.

    Args:
        host: the queue's dispatcher.
        names: the keys and patterns that have limits.
    """

    __slots__ = ("_added", "_by_name", "_found", "_host", "_last_start", "_patterns", "_unseen")

    def __init__(self, host: Core, names: Iterable[Hashable]) -> None:
        self._host = host
        self._by_name = {name: _Figures(name, -math.inf) for name in names}
        self._added = -math.inf
        """The latest `since` of any entry."""
        self._last_start = -math.inf
        self._patterns = find_patterns(self._by_name)
        self._found: dict[Hashable, Sequence[_Figures]] = {}
        """Cache: the entries of a key."""
        self._unseen = 0
        """Number of waiting calls that the last recount did not find and that have not left yet."""

    def name_of(self, keys: Sequence[Hashable]) -> Hashable:
        """Return the name of the first entry that counts a call with these keys, or None."""
        for key in keys:
            found = self._found.get(key)
            for figures in self._find(key) if found is None else found:
                return figures.name
        return None

    @property
    def names(self) -> Collection[Hashable]:
        """The keys and patterns that have an entry."""
        return self._by_name

    def has_pattern(self, name: Hashable) -> bool:
        """Return whether this name is a pattern with an entry."""
        return name in self._patterns

    def add(self, name: Hashable, waiters: Collection[Call]) -> None:
        """Add an entry for a new name.

        Args:
            name: key or pattern.
            waiters: the waiting calls, as far as the wait queue finds them.
        """
        if name not in self._by_name:
            # Calls that the new name fits move to its entry. If some waiting calls cannot be found,
            # it is unknown which entries count them, so that all are counted again.
            all_found = len(waiters) == self._host.waiters.live and not self._unseen
            pattern = find_patterns((name,))  # empty for a key
            fitting = [
                call
                for call in (waiters if all_found else ())
                if name in call.keys or (pattern and any(fits(name, key) for key in call.keys))
            ]
            for call in fitting:  # from their present entries
                self._count_out(call)
            self._added = self._last_start
            self._by_name[name] = _Figures(name, self._added)
            self._patterns = find_patterns([*self._patterns, name])
            self._found.clear()  # the new name may come before the one that was found for a key
            for call in fitting:
                self.joining(call)
            if not all_found:
                self._count_waiters(waiters)

    def _count_waiters(self, waiters: Collection[Call]) -> None:
        """Recount the waiting calls that the wait queue finds.

        A cancelled call whose task has not resumed may not be in a line any more.
        """
        self._forget_waiters()
        for call in waiters:
            self.joining(call)
        self._unseen = self._host.waiters.live - len(waiters)

    def begin(self, now: float) -> None:
        """Exclude calls that have started by `now`."""
        self._last_start = now

    def loop_changed(self, *, clock_changed: bool) -> None:
        """Forget the waiting calls, which were on a closed loop, and instants of its clock."""
        self._forget_waiters()
        if clock_changed:
            self._added = self._last_start = -math.inf
            for figures in self._by_name.values():
                figures.since = -math.inf

    def _forget_waiters(self) -> None:
        self._unseen = 0
        for figures in self._by_name.values():
            figures.waiting = 0

    def _of(self, keys: Sequence[Hashable]) -> Sequence[_Figures]:
        """Return the entries that count these keys, each once."""
        each: list[_Figures] = []  # a loop, because this runs for each slot with several keys
        for key in keys:
            found = self._found.get(key)
            for figures in self._find(key) if found is None else found:
                if figures not in each:
                    each.append(figures)
        return each

    def _find(self, key: Hashable) -> Sequence[_Figures]:
        if len(self._found) >= _KEYS:  # the keys in use come back at their next call
            self._found.clear()
        found = self._found[key] = self._find_before(key, math.inf)
        return found

    def _find_before(self, key: Hashable, start: float) -> Sequence[_Figures]:
        for name in (key, *self._patterns):  # the longest pattern first, as limits are found
            figures = self._by_name.get(name)
            if figures is not None and fits(name, key) and figures.since < start:
                return (figures,)
        return ()

    def _of_started(self, call: Call) -> Sequence[_Figures]:
        """Return the entries that have counted the start of a call."""
        start = call.waited_until
        if start > self._added:  # most calls
            return self._of(call.keys)
        each = (figures for key in call.keys for figures in self._find_before(key, start))
        return list(dict.fromkeys(each))

    def joining(self, call: Call) -> None:
        """Count a call that begins to wait."""
        keys = call.keys
        found = self._found.get(keys[0]) if len(keys) == 1 else None  # `_of`, inlined for speed
        for figures in self._of(keys) if found is None else found:
            figures.waiting += 1

    def left(self, call: Call) -> None:
        """Count a call that left the queue without a slot."""
        self._count_out(call)
        if self._unseen:
            self._unseen -= 1  # it may have been another one; the recount below corrects that
            if not self._unseen:
                self._count_waiters(self._host.waiters.not_left())

    def _count_out(self, call: Call) -> None:
        for figures in self._of(call.keys):
            figures.waiting -= 1

    def started(self, call: Call, waited: float) -> None:
        """Count a call that starts after it waited these seconds."""
        self._last_start = start = call.waited_until
        keys = call.keys
        if start <= self._added:
            found: Sequence[_Figures] | None = self._move(call)
        else:
            found = self._found.get(keys[0]) if len(keys) == 1 else None  # as in `joining`
        for figures in self._of(keys) if found is None else found:
            figures.released += 1
            if call.state == GRANTED:  # a call that did not wait is HELD
                figures.waiting -= 1
                figures.waited += waited
                if waited > figures.longest_wait:  # noqa: PLR1730 - a call for each slot
                    figures.longest_wait = waited
            if call.costs is not ONE_CALL:
                figures.costs.add(call.costs)

    def _move(self, call: Call) -> Sequence[_Figures]:
        """Move a call that starts at the instant at which an entry was added.

        Its start counts in the older entries only, so the new one must not count its wait either.
        """
        found = self._of_started(call)
        if call.state == GRANTED:
            for figures in self._of(call.keys):
                figures.waiting -= 1
            for figures in found:
                figures.waiting += 1
        return found

    def happened(
        self,
        kind: EventKind,
        call: Call | None,
        key: Hashable,
        **_: Any,  # noqa: ANN401 - for observers
    ) -> None:
        """Count an event of a call, or (None) of some call with this key."""
        if kind not in _COUNTED:
            return
        keys: Sequence[Hashable] = (key,)
        if call is not None and (kind not in _OF_ONE_KEY or key == call.key):
            keys = call.keys
        for figures in self._of(keys):
            figures.counts[kind] += 1
            if kind in _OF_ONE_KEY:
                break  # the first key that has a lane

    def refunded(self, call: Call) -> None:
        """Undo the count of a call that started and was refunded."""
        for figures in self._of_started(call):  # not in entries that were added since
            figures.released -= 1
            figures.refunded += 1
            figures.waited -= call.waited
            if call.costs is not ONE_CALL:
                figures.costs.subtract(call.costs)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Replace the costs of a call by its true costs."""
        for figures in self._of_started(call):
            figures.costs.replace(call.costs, costs)

    def table(self) -> LaneTable:
        """Return the current figures."""
        from aioapiqueue._core.stats import LaneStats, LaneTable  # noqa: PLC0415 - late: see there

        units, snapshot = self._host.units, self._host.limiter.snapshot
        return LaneTable(
            {
                name: LaneStats(
                    waiting=one.waiting,
                    released=one.released,
                    refunded=one.refunded,
                    waited=one.waited,
                    longest_wait=one.longest_wait,
                    costs=one.costs.by_unit(units, one.released),
                    remaining={} if limits is None else limits.remaining,
                    budgets={} if limits is None else limits.budgets,
                    **one.counts,
                )
                for name, one in list(self._by_name.items())  # another thread may add one
                for limits in [None if name in self._patterns else snapshot(name)]
            }
        )
