"""The limits of a call: the queue's own, and those that other processes have given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from aioapiqueue._shared.limit_table import NO_KEY, NO_LANES
from aioapiqueue.spi import DetailedCall, cost_units, lane_states, windows

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue.spi import Call, Line, algorithms


class HostCall(DetailedCall):
    """A call that needs a grant from the hub."""

    __slots__ = ("counted", "ticket")

    ticket: int
    """Its number at the hub; 0: it has no request, and no grant."""
    counted: int
    """Generation of the count of waiting calls that includes it (see `Scopes`); 0: none."""

    @classmethod
    def new(cls, *details: Any) -> Self:  # noqa: ANN401 - as of `DetailedCall`
        """Make a call without a grant; see `DetailedCall.new`."""
        call = super().new(*details)
        call.ticket = call.counted = 0
        return call


def line_of(call: Call) -> Line[Call] | None:
    """Return the line in which a call waits, if any."""
    return call.line  # typed as the line of any call, not only of a `HostCall`


class Scopes:
    """Finds the scopes of calls, and counts the waiting calls of each lane.

    Args:
        limits: the queue's own.
    """

    def __init__(self, limits: LimitTable) -> None:
        self._limits = limits
        self._foreign: dict[Hashable, None] = {}
        """Keys and patterns to which other processes, perhaps among others, have given limits."""
        self._foreign_patterns: list[str] = []
        self._waiting: dict[Hashable, int] = {}
        """Number of calls that wait in each lane; None: in the whole queue."""
        self._count_number = 1
        """Generation of the count: a call that was counted in an older one is ignored."""
        limits.waits_in = self.waits_in
        self.find_plain()

    def forget_callers(self) -> None:
        """Stop counting all calls, as they have ended."""
        self._waiting = {}
        self._count_number += 1  # so that `left` ignores calls of the old loop

    def change_foreign(
        self, changes: Iterable[tuple[Iterable[Hashable], Iterable[Hashable] | None]]
    ) -> None:
        """Note which keys and patterns have limits of other processes.

        Args:
            changes: pairs of names that have limits now, and names that no longer have any; None:
                all that were named before.
        """
        has_patterns = bool(self._foreign_patterns)
        for added, removed in changes:
            if removed is None:
                self._foreign.clear()
            for name in removed or ():
                self._foreign.pop(name, None)
            new = dict.fromkeys(added)
            self._foreign |= new
            has_patterns |= bool(lane_states.find_patterns(new))
        # Only then: hundreds of programs with hundreds of lanes each change a few of many names.
        if has_patterns:
            self._foreign_patterns = lane_states.find_patterns(self._foreign)
        self.find_plain()

    def find_plain(self) -> None:
        """Update `is_plain`: the limits in force have changed."""
        self.is_plain = not (self._limits.lanes.limits or self._foreign) and not any(
            state.unit or state.optional for state in self._limits.states
        )
        """Whether a call with the default cost is subject only to the queue's own limits."""

    def _has_foreign(self, key: Hashable) -> bool:
        return lane_states.name_of(key, self._foreign, self._foreign_patterns) in self._foreign

    def of(self, call: Call) -> Scope | None:
        """Return the scope of a call; calls of one scope start in order. None: no lanes."""
        scope = self._limits.scope_of(call.keys, call.costs)
        # Lanes that only other processes know must make a line of their own, too: the hub may close
        # one of them, and calls of other lanes must not wait behind it.
        if self._foreign:
            foreign = [key for key in call.keys if self._has_foreign(key)]
            lanes = dict.fromkeys((*scope.lanes, *foreign))
            scope = scope._replace(lanes=tuple(sorted(lanes, key=repr)))
        return None if scope == NO_LANES else scope

    def lane_of(self, key: Hashable) -> Hashable:
        """Return the lane of a key, given here or by other processes; None: it has none."""
        lane = self._limits.lane_of(key)
        if lane is None and self._has_foreign(key):
            return NO_KEY if key is None else key
        return lane

    def states(self, call: Call, now: float) -> Iterator[algorithms.LimitState]:
        """Yield the local states of the limits that a call is charged to."""
        return (state for _, state in self.states_by_lane(call, now))

    def states_by_lane(
        self, call: Call, now: float
    ) -> Iterator[tuple[Hashable, algorithms.LimitState]]:
        """Yield them with their lanes; None: the whole queue."""
        costs = call.costs
        if self.is_plain and costs is cost_units.ONE_CALL:
            for state in self._limits.states:
                if not isinstance(state, windows.Permits):  # the hub counts those
                    yield None, state
            return
        found: list[tuple[Hashable, algorithms.LimitState]] = [
            (None, one) for one in self._limits.states
        ]
        for key in call.keys:
            lane = self._limits.lanes.get(key, now)
            if lane is not None:
                found += [(self._limits.lane_of(key), state) for state in lane.states]
        for lane_of_state, state in found:
            used = cost_units.is_stated(costs, state.unit) and costs[state.unit]
            if used and not isinstance(state, windows.Permits):
                yield lane_of_state, state

    # Waiting calls.

    def waits_in(self, lane: Hashable) -> bool:
        """Return whether a call waits in a lane; None: in the whole queue."""
        return lane in self._waiting

    def joined(self, call: HostCall) -> None:
        """Count a call that waits."""
        if call.counted != self._count_number:
            call.counted = self._count_number
            self._count(call, 1)

    def left(self, call: HostCall) -> None:
        """Stop counting a call, if it was counted."""
        if call.counted == self._count_number:
            call.counted = 0
            self._count(call, -1)

    def _count(self, call: Call, more: int) -> None:
        lanes = () if call.limits is None else call.limits.lanes
        for lane in (None, *lanes):
            waiting = self._waiting.get(lane, 0) + more
            if waiting:
                self._waiting[lane] = waiting
            else:
                del self._waiting[lane]

    def find_again(self, calls: Iterable[HostCall]) -> None:
        """Find the scopes of all waiting calls again, and count them."""
        self.forget_callers()
        for one in calls:
            one.limits = self.of(one)
            self.joined(one)
