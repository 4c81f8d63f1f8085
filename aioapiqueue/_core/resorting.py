"""Keeps waiting calls in the lines of the limits that apply to them, also when limits change.

As long as there is one line, there is nothing to keep. From the second one on, each line is
registered with its limits and with the scheduler, until no call waits any more.

When limits change, lanes are updated and all waiting calls are sorted again, as many in one step as
there is time for; no call starts before all are sorted. If only one lane has changed, only its
lines are sorted.
"""

from __future__ import annotations

import math
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from aioapiqueue._core.scheduler import BUDGET, Scheduler
from aioapiqueue._core.wait_lists import add_line, is_waited_for, lines_under, remove_line
from aioapiqueue._limits.lane_states import bounds_of, check_costs, find_patterns, fits, name_of

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Collection,
        Generator,
        Hashable,
        Iterator,
        Mapping,
        Sequence,
    )

    from aioapiqueue._core.seam import Host
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.lane_states import Bounds, Lane, Lanes
    from aioapiqueue._limits.limit_state import LimitState
    from aioapiqueue._limits.limit_types import Limit
    from aioapiqueue._limits.own_limits import OwnLimits

_QUICK = 8
"""Number of operations of a microsecond or two that count as one look of a step's budget."""


class Sorter:
    """Keeps the lines of one wait queue.

    Args:
        host: the dispatcher, which has the wait queue.
        own: the queue's own limits.
        lanes: the limits of single keys.
        find_limits: finds again which limits apply to a waiting call, and notes them in the call.
    """

    __slots__ = (
        "_find_limits",
        "_host",
        "_lanes",
        "_own",
        "_partial",
        "_waiters",
        "outdated",
        "scheduler",
        "steps",
    )

    def __init__(
        self,
        host: Host,
        own: OwnLimits,
        lanes: Lanes,
        find_limits: Callable[[Call, float], object],
    ) -> None:
        self._host = host
        self._waiters = host.waiters
        self._own = own
        self._lanes = lanes
        self._find_limits = find_limits
        self.scheduler = Scheduler(
            host.waiters,
            own=own,
            unreserved=self._unreserved,
            grant=host.grant,
            on_end=self.drop,
        )
        """Decides which line is next, where there are several."""
        self._partial = 0
        """Number of registered lines to which not all of the queue's own limits apply."""
        self.outdated: dict[Hashable, None] = {}
        """Keys whose lanes may have other limits by now."""
        self.steps: Iterator[None] | None = None
        """The sorting of all waiting calls, while it is under way."""

    @property
    def is_settled(self) -> bool:
        """Whether each waiting call is in the line of the limits that apply to it."""
        return not (self.outdated or self.steps or self._lanes.states_replaced)

    def _unreserved(self) -> Sequence[LimitState]:
        """Return the limits of all calls: the first call by rank needs no reservation there."""
        # If some calls use nothing of one of them, another call may be first there than by rank.
        return () if self._partial else self._own.states

    # One line.

    def note(self, line: Line[Call], now: float) -> None:
        """Note a line that is new, or whose first call may be another one."""
        if self.scheduler.active:
            self._register(line)
            self.scheduler.joined(line, now)
        elif len(self._waiters.lines) > 1:
            self.schedule(now)

    def schedule(self, now: float) -> None:
        """Have the scheduler decide which line is next, from now on."""
        if not self.scheduler.active:
            self.scheduler.begin()
            for line in list(self._waiters.lines.values()):
                self._register(line)
                self.scheduler.joined(line, now)

    def _register(self, line: Line[Call]) -> None:
        if not line.counted:
            line.counted = True
            if line.limits is not None:
                add_line(line)
                line.partial = not set(self._own.states).issubset(line.limits)
                self._partial += line.partial

    def drop(self, line: Line[Call]) -> None:
        """Note that no call is left in a line."""
        if line.counted:
            line.counted = False
            if line.limits is not None:
                remove_line(line)
                self._partial -= line.partial
        if not self._waiters.live:
            self.scheduler.end()
            self.steps = None
            if self._waiters.unsorted is not None:  # also after a step that has failed
                self._waiters.end_sorting()

    def is_waited_for(self, limit: LimitState) -> bool:
        """Return whether a limit applies to a line, or a call has reserved it."""
        if self.scheduler.active:
            return is_waited_for(limit)
        # Without a scheduler, lines are not registered with their limits. While all calls are being
        # sorted, there are thousands of lines: `LocalLimiter` then takes each lane for used anyway.
        return len(self._waiters.lines) == 1 and bool(self.lines_under(limit))

    def lines_under(self, limit: LimitState) -> Collection[Line[Call]]:
        """Return the lines to which a limit applies, except that of calls without lanes."""
        if self.scheduler.active:
            return lines_under(limit)
        return [line for line in self._waiters.lines.values() if limit in (line.limits or ())]

    # Limits that change.

    def check(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Refuse limits that are too small for a waiting call.

        Args:
            changes: the new limits of the queue (None), keys and patterns.

        Raises:
            ValueError: one of them is too small, or counts a unit that a call does not name.
        """
        lanes = self._lanes
        bounds: dict[Hashable, Bounds] = {}
        for key, limits in changes.items():
            maker = self._own.maker if key is None else lanes.maker
            its = bounds_of(maker.states_of(limits))
            # A key that a pattern matches may have had the limits of another one, so only the
            # pattern's own can be compared.
            if key is None:
                before: Sequence[Limit] = self._own.limits
            elif find_patterns((key,)):
                before = lanes.limits.get(key, ())
            else:
                before = lanes.limits_of(key) or ()
            # Usually no cost is too large, or the bounds are those in force because only learnt
            # limits have changed. Then no waiting call has to be looked at.
            if any(bound != (0, math.inf) for bound in its) and its != bounds_of(
                maker.states_of(before)
            ):
                bounds[key] = its
        if bounds:
            self._check_waiting(bounds, changes)

    def _check_waiting(
        self, bounds: Mapping[Hashable, Bounds], changes: Mapping[Hashable, tuple[Limit, ...]]
    ) -> None:
        tightest = [bound for its in bounds.values() for bound in its]
        names = {*self._lanes.limits, *changes}
        patterns = find_patterns(names)
        fit: Sequence[float] = ()
        for call in self._waiters:
            costs = call.costs
            if costs is fit or all(
                unit < len(costs) and costs[unit] <= largest for unit, largest in tightest
            ):
                fit = costs  # most calls share one tuple
                continue
            for key in (None, *(name_of(one, names, patterns) for one in call.keys)):
                if key in bounds:
                    check_costs(bounds[key], costs, self._host.units, changes[key], key)

    def set_limits(self, key: Hashable, limits: tuple[Limit, ...], now: float) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        own, lanes = self._own, self._lanes
        # If an observer of a grant calls this, the step that granted must look at all limits again.
        lanes.altered = self.scheduler.disturbed = True
        sorts_all = False
        if key is None:
            sorts_all = own.set(limits, now)
        elif key in lanes.by_key and not find_patterns((key,)):
            self._set_limits_in_use(key, limits, now)
        else:
            # A new name gives a lane to calls that have waited without one. For a known name, the
            # lanes report whether their states are replaced.
            sorts_all = key not in lanes.limits
            lanes.set_limits(key, limits, now)
            if self._waiters.live:  # else each lane is updated when it is looked up
                self.outdated.update(dict.fromkeys(lanes.keys_matching(key)))
        self._note_terms()
        self._refresh_lanes(now)
        if sorts_all:
            self._sort_again(now, key)
        elif self.steps is not None:  # some of the calls are sorted by the limits of before
            self._sort_again(now)
        for state in own.states:
            self.scheduler.changed(state)

    def _set_limits_in_use(self, key: Hashable, limits: tuple[Limit, ...], now: float) -> None:
        """Replace the limits of one key whose lane is in memory: only its own calls are sorted."""
        # The flag may be set for other lanes; this one is dealt with here.
        lane, others_replaced = self._lanes.by_key[key], self._lanes.states_replaced
        lines, states = self._lines_in(lane), lane.states
        self._lanes.set_limits(key, limits, now)
        for state in self._lanes.refresh(key):
            self.scheduler.changed(state)
        self._lanes.states_replaced = others_replaced
        if lane.states != states:
            self._sort_lines_again(lines, now)

    def add_state(self, lane: Lane | None, state: LimitState, now: float) -> None:
        """Add a state beside those of the limits, to a lane or (None) to the queue."""
        self.scheduler.disturbed = True
        if lane is not None:
            lines = self._lines_in(lane)
            lane.add(state)
            self._sort_lines_again(lines, now)
        else:
            self._own.add(state)
            self._note_terms()
            self._sort_again(now)

    def _note_terms(self) -> None:
        self._own.note_terms(len(self._host.units), has_lanes=bool(self._lanes.limits))

    # The lines of one lane.

    def _lines_in(self, lane: Lane) -> list[Line[Call]]:
        return list(dict.fromkeys(x for one in lane.all_states() for x in self.lines_under(one)))

    def _sort_lines_again(self, lines: Sequence[Line[Call]], now: float) -> None:
        """Sort the calls of these lines again: their lane has other states."""
        # Too many for one step: `_refresh_lanes` will have all calls sorted, over many steps.
        if self.steps is not None or sum(line.live for line in lines) > BUDGET:
            self._lanes.states_replaced = True
            return
        waiting: list[Call] = []
        for line in lines:
            self.scheduler.close(line)
            waiting += self._waiters.dissolve(line)
            self.drop(line)
        changed: dict[Line[Call], None] = {}
        # By number, as calls of several lines may belong to one now.
        for call in sorted(waiting, key=attrgetter("arrival")):
            self._find_limits(call, now)
            self._waiters.add_to_line(call)
            changed[call.line] = None
        for line in changed:
            self.note(line, now)

    # All lines.

    def _refresh_lanes(self, now: float) -> bool:
        """Update as many lanes as one step has time for.

        Returns:
            Whether all are up to date and have other states, so that calls are being sorted.
        """
        for key in list(islice(self.outdated, BUDGET)):
            del self.outdated[key]
            for state in self._lanes.refresh(key):
                self.scheduler.changed(state)
        if self.outdated or not self._lanes.states_replaced:
            return False
        self._lanes.states_replaced = False  # sorting all calls once is enough for all lanes
        self._sort_again(now)
        return True

    def _sort_again(self, now: float, key: Hashable = None) -> None:
        """Sort all waiting calls into lines again: other limits may apply to them.

        Args:
            now: the present instant.
            key: sort only if a call has this key, or one that this pattern matches; None: always.
        """
        if self._waiters.live:
            # A sorting that is interrupted has left calls unsorted, whatever their keys are.
            self.steps = self._sort(now, None if self.steps is not None else key)
            self._take_steps(self.steps)

    def go_on(self, now: float) -> bool:
        """Update as many lanes, and sort as many calls, as one step has time for.

        Returns:
            Whether none is left.
        """
        if not self._refresh_lanes(now) and self.steps is not None and not self.outdated:
            self._take_steps(self.steps)
        return not (self.outdated or self.steps)

    def _take_steps(self, steps: Iterator[None]) -> None:
        """Sort as many calls as one step has time for."""
        # None starts until all are sorted: the first by rank may still be among the unsorted.
        for _ in islice(steps, BUDGET):
            pass
        if next(steps, self) is self:
            self.steps = None

    def _sort(self, now: float, key: Hashable) -> Iterator[None]:
        """Do the work of `_sort_again`; it yields after each look that the budget counts."""
        waiters, scheduler = self._waiters, self.scheduler
        if key is not None and not (yield from self._has(key)):
            return
        # From here on, calls that join are unsorted, too, so that nothing is missed between steps.
        unsorted = waiters.begin_sorting()
        for line in unsorted.former:
            scheduler.close(line)
            self.drop(line)
            yield
        scheduler.end()
        for line in unsorted.former:
            for number, _ in enumerate(unsorted.take_out(line)):
                if number % _QUICK == 0:
                    yield
        for call in iter(unsorted.next, None):
            self._find_limits(call, now)
            waiters.add_to_line(call)
            yield
        waiters.end_sorting()
        if len(waiters.lines) > 1:
            scheduler.begin()
        for line in list(waiters.lines.values()):
            if line.live:  # else all its calls have left meanwhile
                self.note(line, now)
            yield

    def _has(self, key: Hashable) -> Generator[None, None, bool]:
        """Return whether a waiting call has this key, or one that this pattern matches."""
        for number, call in enumerate(self._waiters):
            if any(fits(key, one) for one in call.keys):
                return True
            if number % _QUICK == 0:
                yield
        return False
