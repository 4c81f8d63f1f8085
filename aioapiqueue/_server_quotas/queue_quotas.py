"""The policy of one queue: what servers report about its quotas, and which limits were learnt.

It tracks calls in flight from the first report on, and passes reports on to the limiter, where they
take effect. See `_core/quota_policy.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from aioapiqueue._server_quotas.calls_in_flight import CallsInFlight
from aioapiqueue.spi import cost_units, lane_states, limit_types, quota_policy, statements

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit, Rate
    from aioapiqueue.spi import Call, seam

_MANY_LANES = 10_000
"""Largest number of keys with learnt limits. Beyond it, only remaining quotas are followed."""


class ServerQuotas(quota_policy.QueueQuotas):
    """What servers have reported about the quotas of one queue.

    Args:
        host: the queue's dispatcher.
        costs: total costs of the calls that have started.
    """

    def __init__(self, host: quota_policy.QuotaHost, costs: cost_units.CostTotals) -> None:
        self._host = host
        self._costs = costs
        running = host.started - host.ended  # of these, only the number is known
        self._in_flight = CallsInFlight(untracked=running, alone=host.limiter.traits.alone)
        self.learnt: dict[Hashable, tuple[limit_types.LearntRate, ...]] = {}
        self._replaced: set[Hashable] = set()
        """Keys whose learnt limits were all replaced by limits of their pattern; they follow the
        pattern from then on."""
        self.unaccounted = 0

    # What happens to calls: as a `Follower`.

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - for other followers
        """Note that a call has started."""
        self._in_flight.started(call, call.keys, call.costs)
        if self.learnt and self._is_unaccounted(call):
            self.unaccounted += 1

    def _is_unaccounted(self, call: Call) -> bool:
        place_of = self._host.units.place_of
        return any(
            not cost_units.is_stated(call.costs, place_of(limit.unit))
            for key in (None, *call.keys)
            for limit in self.learnt.get(key, ())
        )

    def ended(self, call: Call, raised: object) -> None:  # noqa: ARG002 - as above
        """Note that the body of a call has ended."""
        self._in_flight.ended(call, call.keys, self._host.loop.now())

    def refunded(self, call: Call) -> None:
        """Note that a granted call was never made."""
        self._in_flight.refunded(call, call.keys)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Note the true costs of a call."""
        self._in_flight.settled(call, call.keys, costs)

    def loop_changed(self, *, clock_changed: bool) -> None:  # noqa: ARG002 - as above
        """Forget all running calls: their loop was closed."""
        self._in_flight.forget_callers()

    # Reports.

    def sync(self, count: statements.ServerCount) -> None:
        host, call = self._host, count.call
        now = host.bind()
        if call is not None:  # first, so that the call does not count as in flight below
            self.answered(call)
        number = self._in_flight.number_of(call)
        released_at = now if call is None else call.waited_until
        host.limiter.apply(count._replace(number=number, released_at=released_at))
        host.find_fast_acquire()  # a new bound makes the step in advance invalid
        host.emit(
            "synced",
            call,
            key=count.key,
            remaining=count.remaining,
            unit=host.units.names[count.unit],
            reset=count.reset,
            limit=count.limit,
        )

    def answered(self, call: Call) -> None:
        runs, now = call.holds, self._host.loop.now()
        self._in_flight.answered(call, call.keys, call.waited_until, now, runs=runs)
        self._host.limiter.apply(statements.Answered(call))

    # Calls in flight: for limiters.

    def costs_uncounted(
        self, call: Call | None, key: Hashable, count: statements.ServerCount
    ) -> tuple[float, float]:
        out = self.cost_out(key, count.unit, with_ended=call is not None)
        return out, self._in_flight.cost_answered(key, count.unit, count.released_at)

    def cost_out(self, key: Hashable, unit: int, *, with_ended: bool = True) -> float:
        out = self._in_flight.cost_out(key, unit, with_ended=with_ended)
        untracked, started = self._in_flight.untracked, self._host.started
        if untracked <= 0 or not started:
            return out
        # Nothing is known of untracked calls: assume the average cost.
        return out + untracked * self._costs.of(unit, started) / started

    def outcome(self, call: Call) -> seam.CallOutcome:
        return self._in_flight.outcome(call, runs=call.holds)

    def counted(self, key: Hashable, at: float) -> None:
        self._in_flight.counted(key, at)

    # Learnt limits.

    def learn(self, units: Iterable[str]) -> None:
        host = self._host
        host.units.declare(units)
        host.unknown_keys.permit()  # a response may give a key without a lane limits later
        host.limiter.apply(statements.Learn())
        host.find_fast_acquire()

    def adopt(self, call: Call, limits: Sequence[Rate]) -> None:
        limits_of = self._host.limiter.limits_of
        key = next((key for key in call.keys if limits_of(key) is not None), None)
        known = limits_of(key) or ()
        # A limit that the user has set is never replaced by one that a server states.
        configured = [one for one in (*known, *(limits_of(None) or ())) if not _is_learnt(one)]
        units = {limit_types.unit_of(one) for one in configured}
        fresh = [
            limit_types.LearntRate(x.calls, x.per, x.burst, x.unit, ramp=x.ramp)
            for x in limits
            if x.unit not in units
        ]
        units = {one.unit for one in fresh}
        before = [one for one in known if _is_learnt(one)]
        after = [*(one for one in before if one.unit not in units), *fresh]
        if set(after) != set(before) and (before or len(self.learnt) < _MANY_LANES):
            self._adopt(key, tuple(after))

    def _adopt(self, key: Hashable, learnt: tuple[limit_types.LearntRate, ...]) -> None:
        # Not as `set_limits` does: the figures of the key stay under the name that the user gave,
        # which may be a pattern.
        host = self._host
        host.units.declare(one.unit for one in learnt)
        host.limiter.apply(statements.Learnt(key, learnt))
        limits = host.limiter.limits_of(key) or ()
        self.note_limits(key, limits)
        host.find_fast_acquire()
        host.emit("limits_changed", key=key, limits=limits, origin="learnt")

    def beside(
        self, pattern: Hashable, limits: tuple[Limit, ...]
    ) -> Mapping[Hashable, tuple[Limit, ...]]:
        if not lane_states.find_patterns((pattern,)):
            return {}
        limits_of = self._host.limiter.limits_of
        units = {limit_types.unit_of(one) for one in limits}
        # A key with learnt limits has an entry of its own, which hides its pattern. So it gets what
        # the pattern gets, as long as the user has set nothing else for it.
        learners = {**self.learnt, **dict.fromkeys(self._replaced, ())}
        before = limits_of(pattern) or ()
        return {
            name: (*limits, *(one for one in learnt if one.unit not in units))
            for name, learnt in learners.items()
            if name != pattern
            and lane_states.fits(pattern, name)
            and limits_of(name) == (*before, *learnt)
        }

    def note_limits(
        self, key: Hashable, limits: Iterable[Limit], *, of_pattern: bool = False
    ) -> None:
        learnt = tuple(filter(_is_learnt, limits))
        self._replaced.discard(key)
        if learnt:
            self.learnt[key] = learnt
        else:
            self.learnt.pop(key, None)
            if of_pattern:
                self._replaced.add(key)


def _is_learnt(limit: Limit) -> TypeGuard[limit_types.LearntRate]:
    return isinstance(limit, limit_types.LearntRate)
