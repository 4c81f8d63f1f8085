"""The limiter of a quota: a local one whose grants and slow-downs are reported to the quota."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.host_hub.client_turns import ClientTurns
from aioapiqueue._shared.options import yielding
from aioapiqueue.spi import Follower, LocalLimiter, algorithms, seam, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.spi import Call, cost_units, events, lane_states, statements


class QuotaLimiter:
    """A local limiter whose grants are sent in groups, and whose options its quota can change.

    Args:
        local: the limiter.
        hold_messages: has the quota send nothing before `flush`.
        flush: has the quota send all messages.
    """

    traits = LocalLimiter.traits._replace(order=ClientTurns)

    def __init__(
        self,
        local: LocalLimiter,
        *,
        hold_messages: Callable[[], None],
        flush: Callable[[], None],
    ) -> None:
        self._local = local
        self._hold_messages = hold_messages
        self._flush = flush
        self.own = local.own
        """The limits of all calls, and their states."""
        # The rest of a `Limiter` is the local one's own, without a further call for each slot.
        self.limits_of = local.limits_of
        self.check = local.check
        self.joined = local.joined
        self.left = local.left
        self.snapshot = local.snapshot
        self.reset = local.reset
        self.aclose = local.aclose
        self.states_of = local.states_of
        self.idle_at = local.idle_at
        self._find_methods()

    def _find_methods(self) -> None:
        """Use the methods that the local limiter has now: a limit that raises replaces them."""
        local = self._local
        self.try_acquire = local.try_acquire
        self.estimate = local.estimate
        self.ended = local.ended

    def apply(self, *given: statements.Statement) -> None:
        """Apply statements, as the local limiter does."""
        self._local.apply(*given)
        self._find_methods()

    def fast_acquire(self, totals: cost_units.CostTotals) -> seam.FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: a quota's limits change while they are in use."""
        return None, None, self._local.follows_ends

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:
        """Grant all due calls, then send the grants of each client in one message."""
        self._hold_messages()
        try:
            return self._local.release_due(now, planned=planned)
        finally:
            self._flush()

    # What only a quota calls.

    def count_running(self, call: Call, now: float) -> None:
        """Note a call that runs already: it takes permits, even if none is free."""
        # What it was charged to all other limits is in the journal. A settlement can give back only
        # what has not recovered since: that is known of budgets alone.
        lanes = self.lanes.find_all(call.keys, now)
        states = (*self.own.states, *(state for lane in lanes for state in lane.states))
        kept: list[algorithms.LimitState] = []
        for state in states:
            if isinstance(state, windows.Permits):
                state.consume(now, call.costs)
                kept.append(state)
            elif state.lasts:
                state.begin_reservation(now, call.costs[state.unit])
                kept.append(state)
        call.limits = tuple(kept)

    def set_adaptive(self, adaptive: Adaptive | None) -> None:
        """Set the slow-down of states that are made from now on."""
        # The quota sets all limits again after this. The new states carry over the measured rate.
        for maker in (self.own.maker, self.lanes.maker):
            maker.adaptive = yielding(adaptive)

    def set_catch_up(self, catch_up: float) -> None:
        """Set the most seconds of lateness to make up for."""
        for maker in (self.own.maker, self.lanes.maker):
            maker.catch_up = catch_up
        # Existing states change in place, as their limits stay the same and keep what was used.
        of_lanes = [state for lane in self.lanes.by_key.values() for state in lane.kept]
        for state in (*self.own.states, *of_lanes):
            if isinstance(state, algorithms.TokenBucket):
                state.catch_up = catch_up

    @property
    def lanes(self) -> lane_states.Lanes:
        """The lanes of keys."""
        return self._local.lanes  # `reset` may replace the object


class SlowDowns(Follower):
    """Reports to a quota each time that its rate is lowered.

    Args:
        report: called with the throttled call, if it is known, and its key.
    """

    __slots__ = ("_report",)

    def __init__(self, report: Callable[[Call | None, Hashable], None]) -> None:
        self._report = report

    def happened(
        self,
        kind: events.EventKind,
        call: Call | None,
        key: Hashable,
        **details: Any,  # noqa: ANN401, ARG002 - of `Event`, each of its own type
    ) -> None:
        """Report that the rate was lowered, if this happened."""
        if kind == "backed_off":
            self._report(call, key)
