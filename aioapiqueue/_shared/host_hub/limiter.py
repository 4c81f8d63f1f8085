"""The limiter of a quota, and the dispatcher that lets its calls go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from aioapiqueue._shared.host_hub.client_turns import ClientTurns
from aioapiqueue._shared.options import yielding
from aioapiqueue.spi import Dispatcher, LocalLimiter, algorithms, seam, windows

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.spi import Call, Host, cost_units, events, lane_states

__all__ = ["LimiterFactory", "QuotaDispatcher", "QuotaLimiter"]


class QuotaOwner(Protocol):
    """What both ask of their quota."""

    def lane_made(self, key: Hashable, lane: lane_states.Lane) -> None:
        """Note that a lane is in memory from now on."""

    def hold_messages(self) -> None:
        """Have nothing sent before `flush`, which the caller calls at the end of its step."""

    def flush(self) -> None:
        """Send all clients what there is for them."""

    def backed_off(self, call: Call | None, key: Hashable) -> None:
        """Note that the rate was lowered."""


class QuotaLimiter(LocalLimiter):
    """The limits of a quota, kept here."""

    traits = LocalLimiter.traits._replace(order=ClientTurns)

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - as LocalLimiter's
        quota: QuotaOwner,
        **options: Any,  # noqa: ANN401 - as above
    ) -> None:
        self.quota = quota
        super().__init__(*arguments, **options)
        self._lanes.on_new.append(quota.lane_made)

    def release_due(self, now: float) -> float | None:
        """Grant all that are due, and tell their clients; as `LocalLimiter.release_due`."""
        self.quota.hold_messages()
        try:
            return super().release_due(now)
        finally:
            self.quota.flush()

    def take_permits(self, call: Call, now: float) -> None:
        """Charge a call that runs already: it takes permits, whether they are free or not."""
        for state in self._find_limits(call, now):
            if isinstance(state, windows.Permits):
                state.consume(now, call.costs)

    def set_adaptive(self, adaptive: Adaptive | None) -> None:
        """Process push-back so, once limits are set again."""
        self._maker.adaptive = self._lane_maker.adaptive = yielding(adaptive)

    def fast_acquire(self, totals: cost_units.CostTotals) -> seam.FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: which limits there are changes while they are in use."""
        return seam.FastAcquire(follows_ends=self.counts_permits)

    def set_catch_up(self, catch_up: float) -> None:
        """Make up for so much lateness, from now on."""
        states = [state for lane in self._lanes.by_key.values() for state in lane.kept]
        for maker in (self._maker, self._lane_maker):
            maker.catch_up = catch_up
        for state in (*self._own, *states):
            if isinstance(state, algorithms.TokenBucket):
                state.catch_up = catch_up

    def lane_of(self, key: Hashable, now: float) -> lane_states.Lane | None:
        """Return the lane of a key, if it has one."""
        return self._lanes.get(key, now)

    @property
    def has_lanes(self) -> bool:
        """Whether any key has limits of its own."""
        return bool(self._lanes.limits)

    @property
    def keys(self) -> Collection[Hashable]:
        """The keys whose lanes are in memory."""
        return self._lanes.by_key

    @property
    def held_until(self) -> float:
        """The instant until which everything is held."""
        return self._held_until


class LimiterFactory:
    """Makes the limiter of a quota.

    Args:
        quota: whose.
        own: the limits of the queue.
        lanes: those of keys and patterns.
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
        limits: Sequence[Limit],  # noqa: ARG002 - the dispatcher is to know none, like this
        lanes: Mapping[Hashable, Sequence[Limit]],  # noqa: ARG002 - as above
        **options: Any,  # noqa: ANN401 - as of LocalLimiter
    ) -> QuotaLimiter:
        """Return it."""
        return QuotaLimiter(host, self._own, self._lanes, quota=self._quota, **options)


class QuotaDispatcher(Dispatcher):
    """The dispatcher of a quota: reports slow-downs to it."""

    def emit(
        self,
        kind: events.EventKind,
        call: Call | None = None,
        *,
        key: Hashable = None,
        **details: Any,  # noqa: ANN401 - as of `Host`
    ) -> None:
        """Count an event."""
        super().emit(kind, call, key=key, **details)
        if kind == "backed_off":
            limiter = cast("QuotaLimiter", self.limiter)  # as `LimiterFactory` makes it
            limiter.quota.backed_off(call, key)
