"""What servers report about the quotas of one queue: what remains, and which limits apply.

A queue gets this policy with the first report. It tracks which calls have no response yet, and
passes reports on to the limiter, where they take effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from aioapiqueue._core.quota_policy import QueueQuotas
from aioapiqueue._core.slot import HELD
from aioapiqueue._core.statements import Answered, Learn, Learnt, ServerCount
from aioapiqueue._limits.lanes import find_patterns, fits
from aioapiqueue._limits.rates import LearntRate, unit_of
from aioapiqueue._limits.units import is_stated
from aioapiqueue._server_quotas.answers import Answers

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._core.limiter import CallOutcome
    from aioapiqueue._core.quota_policy import QuotaHost
    from aioapiqueue._core.slot import Call
    from aioapiqueue._limits.rates import Limit, Rate
    from aioapiqueue._limits.units import CostTotals

__all__ = ["ServerQuotas"]

_MANY_LANES = 10_000
"""Keys and patterns with limits of their own. Beyond that, no more limits are learnt: only what the
server says remains is obeyed."""


class ServerQuotas(QueueQuotas):
    """What servers have said of the quotas of one queue.

    Args:
        host: the queue's dispatcher.
        costs: what its calls cost that have started.
    """

    def __init__(self, host: QuotaHost, costs: CostTotals) -> None:
        self._host = host
        self._costs = costs
        running = host.started - host.ended
        self._answers = Answers(untracked=running, alone=host.limiter.traits.alone)
        self.learnt: dict[Hashable, tuple[LearntRate, ...]] = {}
        """The limits that servers have stated, by key; None: the queue's own."""
        self._replaced: set[Hashable] = set()
        """Keys of which all that was learnt has been replaced by limits of their pattern, which
        they go by from then on."""
        self.unaccounted = 0
        """How many calls have said nothing of a unit that a learnt limit of theirs counts."""

    # What happens to calls.

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - of others
        """Note that a call is out."""
        self._answers.started(call, call.keys, call.costs)
        if self.learnt and self._says_too_little(call):
            self.unaccounted += 1

    def _says_too_little(self, call: Call) -> bool:
        place_of = self._host.units.place_of
        return any(
            not is_stated(call.costs, place_of(limit.unit))
            for key in (None, *call.keys)
            for limit in self.learnt.get(key, ())
        )

    def ended(self, call: Call, raised: object) -> None:  # noqa: ARG002 - as above
        """Note that the body of a call has ended."""
        self._answers.ended(call, call.keys, self._host.loop.now())

    def refunded(self, call: Call) -> None:
        """Note that a call which was granted will not be made."""
        self._answers.refunded(call, call.keys)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Note that a call costs something else than was thought."""
        self._answers.settled(call, call.keys, costs)

    def loop_changed(self, *, clock_changed: bool) -> None:  # noqa: ARG002 - as above
        """Forget who runs: they were on a loop that is gone."""
        self._answers.forget_callers()

    # What servers say.

    def sync(
        self,
        call: Call | None,
        remaining: float,
        *,
        unit: str,
        reset: float | None,
        limit: float | None,
        key: Hashable = None,
        period: float | None = None,
        refills: bool = False,
        period_is_minimum: bool = False,
    ) -> None:
        """Let no more start than the server says: in the answer to a call, or (None) of a key.

        Args:
            call: the one that was answered.
            remaining: as of `Slot.sync`, like those that follow.
            unit: as above.
            reset: as above.
            limit: as above.
            key: whose lane, if no call was answered.
            period: seconds in which `limit` is let through, where that was learnt.
            refills: whether the quota is known to be a bucket.
            period_is_minimum: whether the period may be longer, as it is known by the reset alone.
        """
        host = self._host
        host.unknown_keys.refuse_pattern(key)
        now = host.bind()
        place = host.units.known_place_of(unit)
        if call is not None:
            self.answered(call)
        count = ServerCount(
            place,
            remaining,
            reset,
            limit,
            number=self._answers.number_of(call),
            released_at=now if call is None else call.waited_until,
            period=period,
            refills=refills,
            period_is_minimum=period_is_minimum,
            call=call,
            key=key,
        )
        host.limiter.apply(count)
        host.find_fast_acquire()
        host.emit("synced", call, key=key, remaining=remaining, unit=unit, reset=reset, limit=limit)

    def answered(self, call: Call) -> None:
        """Note that the server has answered a call."""
        runs, now = call.state == HELD, self._host.loop.now()
        self._answers.answered(call, call.keys, call.waited_until, now, runs=runs)
        self._host.limiter.apply(Answered(call))

    # Which calls are out: for limiters.

    def costs_uncounted(
        self, call: Call | None, key: Hashable, count: ServerCount
    ) -> tuple[float, float]:
        """Return what calls of a key (None: of any) cost that a server's count may not contain."""
        out = self.cost_out(key, count.unit, with_ended=call is not None)
        return out, self._answers.cost_answered(key, count.unit, count.released_at)

    def cost_out(self, key: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return what calls of a key (None: of any) cost that are out without an answer."""
        out = self._answers.cost_out(key, unit, with_ended=with_ended)
        untracked, started = self._answers.untracked, self._host.started
        if untracked <= 0 or not started:
            return out
        # Of those, nothing is known: each has cost as much as others.
        return out + untracked * self._costs.of(unit, started) / started

    def outcome(self, call: Call) -> CallOutcome:
        """Return what has become of a call that was sent, as far as is known."""
        return self._answers.outcome(call, runs=call.state == HELD)

    def counted(self, key: Hashable, at: float) -> None:
        """Note that the server has counted all calls of a key (None: of any) that ended by then."""
        self._answers.counted(key, at)

    # Limits that are learnt.

    def learn(self, units: Iterable[str]) -> None:
        """Have limits of these units learnt: until a lane's first answer, one call of it is out."""
        host = self._host
        host.units.declare(units)
        host.unknown_keys.permit()  # a key without a lane may have some limits later
        host.limiter.apply(Learn())
        host.find_fast_acquire()

    def adopt(self, call: Call, limits: Sequence[Rate]) -> None:
        """Adopt limits that the answer to a call states, of units that nobody has configured.

        They replace all those of these units that were learnt before.
        """
        limits_of = self._host.limiter.limits_of
        key = next((key for key in call.keys if limits_of(key) is not None), None)
        known = limits_of(key) or ()
        configured = [one for one in (*known, *(limits_of(None) or ())) if not _is_learnt(one)]
        units = {unit_of(one) for one in configured}
        fresh = [LearntRate(x.calls, x.per, x.burst, x.unit) for x in limits if x.unit not in units]
        units = {one.unit for one in fresh}
        before = [one for one in known if _is_learnt(one)]
        after = [*(one for one in before if one.unit not in units), *fresh]
        if set(after) != set(before) and (before or len(self.learnt) < _MANY_LANES):
            self._adopt(key, tuple(after))

    def _adopt(self, key: Hashable, learnt: tuple[LearntRate, ...]) -> None:
        # Its figures stay those of the name that it has from its user, which may be a pattern.
        host = self._host
        host.units.declare(one.unit for one in learnt)
        host.limiter.apply(Learnt(key, learnt))
        limits = host.limiter.limits_of(key) or ()
        self.note_limits(key, limits)
        host.find_fast_acquire()
        host.emit("limits_changed", key=key, limits=limits, origin="learnt")

    def beside(
        self, pattern: Hashable, limits: tuple[Limit, ...]
    ) -> Mapping[Hashable, tuple[Limit, ...]]:
        """Return the limits of keys that have learnt some, beside the new ones of their pattern."""
        if not find_patterns((pattern,)):
            return {}
        limits_of, units = self._host.limiter.limits_of, {unit_of(one) for one in limits}
        learners = {**self.learnt, **dict.fromkeys(self._replaced, ())}
        before = limits_of(pattern) or ()
        return {
            name: (*limits, *(one for one in learnt if one.unit not in units))
            for name, learnt in learners.items()
            if name != pattern and fits(pattern, name) and limits_of(name) == (*before, *learnt)
        }

    def note_limits(
        self, key: Hashable, limits: Iterable[Limit], *, of_pattern: bool = False
    ) -> None:
        """Note limits of the queue (None), or of a key or pattern, that hold from now on.

        Args:
            key: whose.
            limits: which.
            of_pattern: whether it has them from a pattern whose limits were set.
        """
        learnt = tuple(filter(_is_learnt, limits))
        self._replaced.discard(key)
        if learnt:
            self.learnt[key] = learnt
        else:
            self.learnt.pop(key, None)
            if of_pattern:
                self._replaced.add(key)


def _is_learnt(limit: Limit) -> TypeGuard[LearntRate]:
    return isinstance(limit, LearntRate)
