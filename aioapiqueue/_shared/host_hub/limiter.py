"""The limiter of a quota: a local one whose grants and slow-downs are reported to the quota."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._shared.host_hub.client_turns import ClientTurns
from aioapiqueue._shared.options import yielding
from aioapiqueue.spi import Follower, LocalLimiter, algorithms, seam, windows

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.spi import Call, Host, cost_units, events, lane_states


class QuotaOwner(Protocol):
    """What a limiter asks of its quota."""

    def lane_made(self, key: Hashable, lane: lane_states.Lane) -> None:
        """Note that a lane is in memory from now on."""

    def hold_messages(self) -> None:
        """Send nothing before `flush`, which the caller calls at the end of its step."""

    def flush(self) -> None:
        """Send all messages that are waiting to be sent."""

    def backed_off(self, call: Call | None, key: Hashable) -> None:
        """Note that the rate was lowered."""


class QuotaLimiter:
    """A local limiter, and what its quota needs to know and change of it.

    Args:
        local: the limiter.
        quota: the quota.
    """

    traits = LocalLimiter.traits._replace(order=ClientTurns)

    def __init__(self, local: LocalLimiter, quota: QuotaOwner) -> None:
        self._local = local
        self._quota = quota
        local.lanes.on_new.append(quota.lane_made)
        # The rest of a `Limiter` is the local one's own, without a further call for each slot.
        self.limits_of = local.limits_of
        self.check = local.check
        self.try_acquire = local.try_acquire
        self.joined = local.joined
        self.left = local.left
        self.estimate = local.estimate
        self.ended = local.ended
        self.apply = local.apply
        self.snapshot = local.snapshot
        self.reset = local.reset
        self.aclose = local.aclose
        self.states_of = local.states_of
        self.idle_at = local.idle_at

    def fast_acquire(self, totals: cost_units.CostTotals) -> seam.FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: limits change while they are in use."""
        return seam.FastAcquire(follows_ends=self._local.counts_permits)

    def release_due(self, now: float) -> float | None:
        """Grant all due calls, then send the grants of each client in one message."""
        self._quota.hold_messages()
        try:
            return self._local.release_due(now)
        finally:
            self._quota.flush()

    # What only a quota asks.

    def take_permits(self, call: Call, now: float) -> None:
        """Charge a call that runs already: it takes permits, even if none is free."""
        # Only permits: what the call was charged to rates and windows is in the journal.
        for state in self._local.find_limits(call, now):
            if isinstance(state, windows.Permits):
                state.consume(now, call.costs)

    def set_adaptive(self, adaptive: Adaptive | None) -> None:
        """Slow down like this, once limits are set again."""
        # `Quota` sets all limits again after this; new states then carry over what was learnt.
        for maker in (self._local.own.maker, self._local.lanes.maker):
            maker.adaptive = yielding(adaptive)

    def set_catch_up(self, catch_up: float) -> None:
        """Make up for at most so many seconds of lateness, from now on."""
        local = self._local
        for maker in (local.own.maker, local.lanes.maker):
            maker.catch_up = catch_up
        of_lanes = [state for lane in local.lanes.by_key.values() for state in lane.kept]
        for state in (*local.own.states, *of_lanes):
            if isinstance(state, algorithms.TokenBucket):
                state.catch_up = catch_up

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits of all calls."""
        return self._local.own.limits

    @property
    def own_states(self) -> tuple[algorithms.LimitState, ...]:
        """Their states, in the same order, and others after them."""
        return self._local.own.states

    def lane_of(self, key: Hashable, now: float) -> lane_states.Lane | None:
        """Return the lane of a key, if it has one."""
        return self._local.lanes.get(key, now)

    @property
    def has_lanes(self) -> bool:
        """Whether any key has limits of its own."""
        return bool(self._local.lanes.limits)

    @property
    def keys(self) -> Collection[Hashable]:
        """The keys whose lanes are in memory."""
        return self._local.lanes.by_key

    @property
    def held_until(self) -> float:
        """The instant until which no call starts."""
        return self._local.own.held


class LimiterFactory:
    """Makes the limiter of a quota.

    Args:
        quota: the quota.
        own: the limits of all its calls.
        lanes: the limits of keys and patterns.
    """

    def __init__(
        self,
        quota: QuotaOwner,
        own: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
    ) -> None:
        self._quota = quota
        self._own = own
        self._lanes = lanes

    def make_limiter(
        self,
        host: Host,
        limits: Sequence[Limit],  # noqa: ARG002 - the dispatcher must know none, like this
        lanes: Mapping[Hashable, Sequence[Limit]],  # noqa: ARG002 - as above
        **options: Any,  # noqa: ANN401 - as of LocalLimiter
    ) -> QuotaLimiter:
        """Return the limiter."""
        return QuotaLimiter(LocalLimiter(host, self._own, self._lanes, **options), self._quota)


class SlowDowns(Follower):
    """Reports to a quota each time that its rate is lowered.

    Args:
        quota: the quota.
    """

    __slots__ = ("_quota",)

    def __init__(self, quota: QuotaOwner) -> None:
        self._quota = quota

    def happened(
        self,
        kind: events.EventKind,
        call: Call | None,
        key: Hashable,
        **details: Any,  # noqa: ANN401, ARG002 - of `Event`, each of its own type
    ) -> None:
        """Report that the rate was lowered, if this happened."""
        if kind == "backed_off":
            self._quota.backed_off(call, key)
