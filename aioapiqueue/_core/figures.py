"""Figures of a queue, and of its lanes, for whichever limiter it has.

Those of lanes are counted here and not in the limiters: they have a state for each key while it is
in use, and some of them not in this process, whereas figures are to stay, and by the names that the
user gave. So there is one entry for each name, be it a key or a pattern. A call counts once in each
entry that one of its keys comes under. Queues without lanes have no `LaneFigures`, and pay nothing.

An entry may be added while bodies run (`set_rate` of a new key). They stay in those that they were
counted in, and are settled and refunded there, so that no figure is ever below zero: a call counts
in entries that are older than its start. One that starts at the instant of the calls before is
taken for one of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.slot import GRANTED
from aioapiqueue._limits.lanes import find_patterns, fits
from aioapiqueue._limits.units import ONE_CALL, CostTotals

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Sequence

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.limiter import Limiter
    from aioapiqueue._core.quota_policy import QueueQuotas
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.stats import LaneTable, Stats
    from aioapiqueue._core.wait_queue import WaitQueue
    from aioapiqueue._limits.units import Units

__all__ = ["LaneFigures", "QueueFigures"]


class FiguresHost(Protocol):
    """What figures ask of the dispatcher."""

    limiter: Limiter
    waiters: WaitQueue[Call]
    units: Units
    started: int

    @property
    def running(self) -> int:
        """How many bodies run."""


class QueueFigures:
    """The figures of a queue as a whole; the names are those of `Stats`.

    Attributes:
        counts: how many events of a kind there were, of those that are counted.
        waited: as of `Stats`.
        longest_wait: as of `Stats`.
        costs: of calls that started, beyond one call each.
    """

    __slots__ = ("costs", "counts", "longest_wait", "waited")

    def __init__(self) -> None:
        self.counts: dict[EventKind | str, int] = dict.fromkeys(
            (
                "refunded",
                "cancelled",
                "timed_out",
                "refused",
                "throttled",
                "backed_off",
                "refused_by_server",
                "malformed",
            ),
            0,
        )
        self.waited = 0.0
        self.longest_wait = 0.0
        self.costs = CostTotals()

    def refunded(self, call: Call) -> None:
        """Count a call that was released, and not used, as if it had not been."""
        self.counts["refunded"] += 1
        self.waited -= call.waited
        if call.costs is not ONE_CALL:
            self.costs.subtract(call.costs)

    def stats(
        self,
        host: FiguresHost,
        lanes: LaneFigures | None,
        server: QueueQuotas | None,
    ) -> Stats:
        """Return the figures of this moment, with those that others have.

        Args:
            host: the queue's dispatcher.
            lanes: the figures of its lanes, if it has any.
            server: the policy for servers' reports, if there was one.
        """
        from aioapiqueue._core.stats import LaneTable, Stats  # noqa: PLC0415 - late: see there

        limiter, started = host.limiter.snapshot(), host.started
        return Stats(
            waiting=host.waiters.live,
            running=host.running,
            lanes=LaneTable() if lanes is None else lanes.table(),
            remaining=limiter.remaining,
            lanes_in_memory=limiter.lanes,
            released=started,
            costs=self.costs.by_unit(host.units, started),
            rate=limiter.rate,
            unaccounted=0 if server is None else server.unaccounted,
            learnt={} if server is None else dict(server.learnt),
            asks=limiter.asks,
            faults=limiter.faults,
            fault=limiter.fault,
            waited=self.waited,
            longest_wait=self.longest_wait,
            **self.counts,
        )


class _Figures:
    """Those of one entry; the names are those of `LaneStats`."""

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
        """Calls that started then or earlier are not counted here."""
        self.waiting = 0
        self.released = 0
        self.refunded = 0
        self.waited = 0.0
        self.longest_wait = 0.0
        self.costs = CostTotals()
        """What its calls cost, by unit, beyond one call each."""
        self.counts: dict[EventKind, int] = dict.fromkeys(_COUNTED, 0)


_COUNTED: tuple[EventKind, ...] = ("cancelled", "timed_out", "refused", "throttled", "backed_off")
_KEYS = 10_000
"""So many keys are remembered with their entries: there may be thousands of patterns."""
_OF_ONE_KEY = ("throttled", "backed_off")
"""What happens to one lane, and not to all that a call comes under."""


class LaneFigures(Follower):
    """The figures of each lane that has a name.

    Args:
        host: the queue's dispatcher.
        names: the keys and patterns that have limits.
    """

    __slots__ = ("_added", "_by_name", "_found", "_host", "_last_start", "_patterns", "_unseen")

    def __init__(self, host: FiguresHost, names: Iterable[Hashable]) -> None:
        self._host = host
        self._by_name = {name: _Figures(name, -math.inf) for name in names}
        self._added = -math.inf
        """The latest `since` of all entries."""
        self._last_start = -math.inf
        self._patterns = find_patterns(self._by_name)
        self._found: dict[Hashable, Sequence[_Figures]] = {}
        """The entries of keys that were looked up lately."""
        self._unseen = 0
        """How many were not found, when all who wait were counted again, and have not left yet."""

    def name_of(self, keys: Sequence[Hashable]) -> Hashable:
        """Return the name of the first entry that a call with these keys comes under, or None."""
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
        """Return whether this is a pattern that some keys have their limits from."""
        return name in self._patterns

    def add(self, name: Hashable, waiters: Collection[Call]) -> None:
        """Have an entry for a name that was given later; these calls wait now, and were found."""
        if name not in self._by_name:
            all_found = len(waiters) == self._host.waiters.live and not self._unseen
            pattern = find_patterns((name,))
            fitting = [
                call
                for call in (waiters if all_found else ())
                if name in call.keys or (pattern and any(fits(name, key) for key in call.keys))
            ]
            for call in fitting:  # from the entries that they come under now
                self._count_out(call)
            self._added = self._last_start
            self._by_name[name] = _Figures(name, self._added)
            self._patterns = find_patterns([*self._patterns, name])
            self._found.clear()
            for call in fitting:
                self.joining(call)
            if not all_found:
                self._count_waiters(waiters)

    def _count_waiters(self, waiters: Collection[Call]) -> None:
        """Count again all who wait, as far as they are found.

        One that was cancelled, and whose task has not resumed, may be in no line any more.
        """
        self._forget_waiters()
        for call in waiters:
            self.joining(call)
        self._unseen = self._host.waiters.live - len(waiters)

    def begin(self, now: float) -> None:
        """Take calls that have started by `now` for started before all that is counted here."""
        self._last_start = now

    def loop_changed(self, *, clock_changed: bool) -> None:
        """Forget who waits: it was on a loop that is gone, as may be its clock."""
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
        """Return the entries that these keys come under, each of them once."""
        each: list[_Figures] = []  # in a loop, not by what takes fewer lines: done for each slot
        for key in keys:
            found = self._found.get(key)
            for figures in self._find(key) if found is None else found:
                if figures not in each:
                    each.append(figures)
        return each

    def _find(self, key: Hashable) -> Sequence[_Figures]:
        if len(self._found) >= _KEYS:
            self._found.clear()
        found = self._found[key] = self._find_before(key, math.inf)
        return found

    def _find_before(self, key: Hashable, start: float) -> Sequence[_Figures]:
        for name in (key, *self._patterns):
            figures = self._by_name.get(name)
            if figures is not None and fits(name, key) and figures.since < start:
                return (figures,)
        return ()

    def _of_started(self, call: Call) -> Sequence[_Figures]:
        """Return the entries that a call which has started is counted in."""
        start = call.waited_until
        if start > self._added:  # most
            return self._of(call.keys)
        each = (figures for key in call.keys for figures in self._find_before(key, start))
        return list(dict.fromkeys(each))

    def joining(self, call: Call) -> None:
        """Count a call that waits from now on."""
        keys = call.keys
        found = self._found.get(keys[0]) if len(keys) == 1 else None  # as `_of`: done for each slot
        for figures in self._of(keys) if found is None else found:
            figures.waiting += 1

    def left(self, call: Call) -> None:
        """Count a call that waits no more, and was not granted."""
        self._count_out(call)
        if self._unseen:
            self._unseen -= 1  # or it was another one: counted again, that comes to light
            if not self._unseen:
                self._count_waiters(self._host.waiters.not_left())

    def _count_out(self, call: Call) -> None:
        for figures in self._of(call.keys):
            figures.waiting -= 1

    def started(self, call: Call, waited: float) -> None:
        """Count a call that starts after so many seconds."""
        self._last_start = start = call.waited_until
        keys = call.keys
        if start <= self._added:
            found: Sequence[_Figures] | None = self._move(call)
        else:
            found = self._found.get(keys[0]) if len(keys) == 1 else None  # as in `joining`
        for figures in self._of(keys) if found is None else found:
            figures.released += 1
            if call.state == GRANTED:  # else it starts at once
                figures.waiting -= 1
                figures.waited += waited
                if waited > figures.longest_wait:  # noqa: PLR1730 - a call for each slot
                    figures.longest_wait = waited
            if call.costs is not ONE_CALL:
                figures.costs.add(call.costs)

    def _move(self, call: Call) -> Sequence[_Figures]:
        """Have a call that starts at the instant of those before wait where these are counted."""
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
        """Count what happened to a call, or (where it is not known) to a call of a key."""
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
        """Count a call that was released, and not used, as if it had not been."""
        for figures in self._of_started(call):
            figures.released -= 1
            figures.refunded += 1
            figures.waited -= call.waited
            if call.costs is not ONE_CALL:
                figures.costs.subtract(call.costs)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Count the true costs of a call, which are known now."""
        for figures in self._of_started(call):
            figures.costs.replace(call.costs, costs)

    def table(self) -> LaneTable:
        """Return the figures of this moment."""
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
                    remaining={} if name in self._patterns else snapshot(name).remaining,
                    **one.counts,
                )
                for name, one in list(self._by_name.items())  # the loop may add one meanwhile
            }
        )
