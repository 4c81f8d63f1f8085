"""What a client library reports to the queue that paces its calls.

An integration makes one `Reporter` for each queue, and calls it on the loop of that queue. What a
program may do itself, such as `Slot.settle` and `Slot.throttled`, is not repeated here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, cast

from aioapiqueue._core.double_pacing import made_by
from aioapiqueue._core.options import check_place
from aioapiqueue._core.queue import dispatcher_of, watch_double_pacing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.queue import ApiQueue
    from aioapiqueue._core.slot import Call, Slot
    from aioapiqueue._limits.rates import Limit, Rate
    from aioapiqueue._limits.units import Cost

P = ParamSpec("P")
T = TypeVar("T")


class Reporter:
    """Reports the responses to a queue's calls, for one client of an API.

    Args:
        queue: paces the calls.
    """

    def __init__(self, queue: ApiQueue) -> None:
        self._queue = queue
        self._dispatcher = dispatcher_of(queue)

    @property
    def name(self) -> str | None:
        """Name of the queue."""
        return self._dispatcher.name

    @property
    def units(self) -> Sequence[str]:
        """The units that limits of the queue count, or that were declared; `calls` is the first."""
        return self._dispatcher.units.names

    def now(self) -> float:
        """Return the present instant on the clock of the queue's loop."""
        return self._dispatcher.loop.now()

    # Before a call.

    def watch(self) -> None:
        """Look for slots that are held around requests, which would then be paced twice."""
        watch_double_pacing(self._queue)

    @staticmethod
    def request(take: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Take a slot for a request of a client: call `take`, and return its result."""
        return made_by("client", take, *args, **kwargs)

    def declare(self, units: Iterable[str]) -> None:
        """Accept costs that name these units, whether or not a limit counts them."""
        self._dispatcher.units.declare(units)

    def check(self, *, cost: Cost = 1, priority: float = 0) -> None:
        """Refuse what no call of this queue may pass to `slot`.

        Raises:
            TypeError: an amount or the priority is not a number.
            ValueError: an amount is negative, or of an unknown unit; or the priority is NaN.
        """
        self._dispatcher.units.costs_of(cost)
        check_place(priority, None)

    def check_limits(self, cost: Cost) -> None:
        """Refuse a cost that the queue's own limits can never allow.

        Raises:
            ValueError: a limit is too small, or counts a unit that the cost does not name.
        """
        self._dispatcher.limiter.check(self._dispatcher.units.costs_of(cost))

    def limits_concurrency(self, keys: Iterable[Hashable]) -> bool:
        """Return whether a call with these keys takes a permit."""
        return self._dispatcher.nesting.concerns(keys)

    def track(self) -> None:
        """Track calls in flight from now on, so that a later report can be compared with them."""
        self._dispatcher.server_quotas()

    def learn(self, units: Iterable[str]) -> None:
        """Learn limits of these units: until a lane's first response, one call of it is sent."""
        self._dispatcher.server_quotas().learn(units)

    # After it.

    def answered(self, slot: Slot) -> None:
        """Report that a call has its response; reports about other calls then include it."""
        self._dispatcher.answered(_call_of(slot))

    def count(self, kind: Literal["malformed", "refused_by_server"], slot: Slot) -> None:
        """Count an unusable response, or a permanent refusal."""
        self._dispatcher.emit(kind, _call_of(slot))

    def hold(self, slot: Slot, seconds: float) -> None:
        """Start no calls of the slot's lane for some seconds."""
        self._dispatcher.hold(seconds, _call_of(slot), slot.key)

    def sync(
        self,
        slot: Slot,
        remaining: float,
        *,
        unit: str,
        reset: float | None,
        limit: float | None,
        period: float | None = None,
        refills: bool = False,
        period_is_minimum: bool = False,
    ) -> None:
        """Report a remaining quota, with what `Slot.sync` cannot say.

        Args:
            slot: the call with this response.
            remaining: as in `Slot.sync`.
            unit: as in `Slot.sync`.
            reset: as in `Slot.sync`.
            limit: as in `Slot.sync`.
            period: seconds in which the server allows `limit`, if that was learnt.
            refills: whether the quota is known to be a token bucket.
            period_is_minimum: whether the period may be longer, because only the reset is known.
        """
        self._dispatcher.server_quotas().sync(
            _call_of(slot),
            remaining,
            unit=unit,
            reset=reset,
            limit=limit,
            period=period,
            refills=refills,
            period_is_minimum=period_is_minimum,
        )

    def adopt(self, slot: Slot, limits: Sequence[Rate]) -> None:
        """Adopt limits that a response states, for units without a configured limit."""
        self._dispatcher.server_quotas().adopt(_call_of(slot), limits)

    # What a call is charged.

    def costs_of(self, slot: Slot) -> dict[str, float]:
        """Return what a call is charged now, by unit; units that it does not name are left out."""
        return self._dispatcher.units.named(_call_of(slot).costs)

    def settled(self, slot: Slot, cost: Cost) -> dict[str, float]:
        """Return what a call would be charged after `slot.settle(cost)`, by unit.

        Raises:
            TypeError: as in `Slot.settle`.
            ValueError: as in `Slot.settle`.
        """
        units = self._dispatcher.units
        return units.named(units.settled(cost, _call_of(slot).costs))

    def limits_of(self, slot: Slot) -> list[Limit]:
        """Return all limits that a call is subject to."""
        limits_of = self._dispatcher.limiter.limits_of
        keys = dict.fromkeys((None, *_call_of(slot).keys))
        return [limit for key in keys for limit in limits_of(key) or ()]


def _call_of(slot: Slot) -> Call:
    """Return the call behind a slot, which each slot of a queue is."""
    return cast("Call", slot)
