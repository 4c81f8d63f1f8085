"""Figures by lane and by unit, counted by the dispatcher, for whichever limiter it has.

Counted here and not in the limiters: they have a state for each key while it is in use, and some of
them not in this process, whereas figures are to stay, and by the names that the user gave. So there
is one entry for each name, be it a key or a pattern. A call counts once in each entry that one of
its keys comes under. Queues without lanes have no `LaneFigures`, and pay nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._events import LaneStats, LaneTable
from aioapiqueue._lanes import find_patterns, name_of
from aioapiqueue._slot import GRANTED
from aioapiqueue._units import ONE_CALL, UNSTATED, is_stated

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._events import EventKind
    from aioapiqueue._slot import Call
    from aioapiqueue._units import Units

__all__ = ["LaneFigures", "add_costs", "costs_by_unit"]


def add_costs(totals: list[float], costs: Sequence[float], sign: int) -> None:
    """Add to totals by unit what a call costs, beyond one call."""
    number = len(costs)
    if len(totals) < number:
        totals.extend([0] * (number - len(totals)))
    if UNSTATED in costs:
        costs = [cost if is_stated(costs, unit) else 0 for unit, cost in enumerate(costs)]
    totals[0] += sign * (costs[0] - 1)
    for unit in range(1, number):
        totals[unit] += sign * costs[unit]


def costs_by_unit(units: Units, totals: Sequence[float], calls: int) -> dict[str, float]:
    """Return such totals by the units' names, for so many calls."""
    found: dict[str, float] = dict.fromkeys(units.names, 0)
    found.update(zip(units.names, totals, strict=False))
    found[units.names[0]] += calls
    return found


class _Figures:
    """Those of one entry; the names are those of `LaneStats`."""

    __slots__ = ("costs", "counts", "longest_wait", "released", "waited", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.released = 0
        self.waited = 0.0
        self.longest_wait = 0.0
        self.costs: list[float] = [0]
        """What its calls cost, by unit, beyond one call each."""
        self.counts: dict[EventKind, int] = dict.fromkeys(_COUNTED, 0)


_COUNTED: tuple[EventKind, ...] = ("cancelled", "timed_out", "refused", "throttled", "backed_off")
_KEYS = 10_000
"""So many keys are remembered with their entries: there may be thousands of patterns."""
_OF_ONE_KEY = ("throttled", "backed_off")
"""What happens to one lane, and not to all that a call comes under."""


class LaneFigures:
    """The figures of each lane that has a name.

    Args:
        names: the keys and patterns that have limits.
    """

    __slots__ = ("_by_name", "_found", "_patterns")

    def __init__(self, names: Iterable[Hashable]) -> None:
        self._by_name = {name: _Figures() for name in names}
        self._patterns = find_patterns(self._by_name)
        self._found: dict[Hashable, Sequence[_Figures]] = {}
        """The entries of keys that were looked up lately."""

    def has_pattern(self, name: Hashable) -> bool:
        """Return whether this is a pattern that some keys have their limits from."""
        return name in self._patterns

    def add(self, name: Hashable, waiters: Iterable[Call]) -> None:
        """Have an entry for a name that was given later; these calls wait now."""
        if name not in self._by_name:
            self._by_name[name] = _Figures()
            self._patterns = find_patterns(self._by_name)
            self._found.clear()
            self.forget_callers()
            for call in waiters:
                self.joined(call)

    def forget_callers(self) -> None:
        """Forget who waits: it was on a loop that is gone."""
        for figures in self._by_name.values():
            figures.waiting = 0

    def _of(self, keys: Sequence[Hashable]) -> Sequence[_Figures]:
        """Return the entries that these keys come under, each of them once."""
        if len(keys) == 1:
            found = self._found.get(keys[0])
            return self._find(keys[0]) if found is None else found
        each = (figures for key in keys for figures in self._of((key,)))
        return list(dict.fromkeys(each))

    def _find(self, key: Hashable) -> Sequence[_Figures]:
        if len(self._found) >= _KEYS:
            self._found.clear()
        figures = self._by_name.get(name_of(key, self._by_name, self._patterns))
        found = self._found[key] = () if figures is None else (figures,)
        return found

    def joined(self, call: Call) -> None:
        """Count a call that waits from now on."""
        for figures in self._of(call.keys):
            figures.waiting += 1

    def left(self, call: Call) -> None:
        """Count a call that waits no more, and was not granted."""
        for figures in self._of(call.keys):
            figures.waiting -= 1

    def started(self, call: Call, waited: float) -> None:
        """Count a call that starts after so many seconds."""
        for figures in self._of(call.keys):
            figures.released += 1
            if call.state == GRANTED:  # else it starts at once
                figures.waiting -= 1
                figures.waited += waited
                if waited > figures.longest_wait:  # noqa: PLR1730 - a call for each slot
                    figures.longest_wait = waited
            if call.costs is not ONE_CALL:
                add_costs(figures.costs, call.costs, 1)

    def count(self, kind: EventKind, call: Call | None, key: Hashable) -> None:
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
        for figures in self._of(call.keys):
            figures.released -= 1
            figures.waited -= call.waited
        self.add_costs(call, -1)

    def add_costs(self, call: Call, sign: int) -> None:
        """Add what a call costs beyond one call, or take it away."""
        if call.costs is not ONE_CALL:
            for figures in self._of(call.keys):
                add_costs(figures.costs, call.costs, sign)

    def table(self, units: Units) -> LaneTable:
        """Return the figures of this moment."""
        return LaneTable(
            {
                name: LaneStats(
                    waiting=one.waiting,
                    released=one.released,
                    waited=one.waited,
                    longest_wait=one.longest_wait,
                    costs=costs_by_unit(units, one.costs, one.released),
                    **one.counts,
                )
                for name, one in self._by_name.items()
            }
        )
