"""The states of limits at which a call raises `LimitExceeded` instead of waiting for room.

A call that has started, and has neither ended nor settled, is a reservation: it may still settle at
a lower cost, which makes room. So a call waits while the reservations of a limit together could
make enough room for it, and raises when they could not. In the unit `calls`, a reservation never
changes, and the call raises at once. Nothing comes back of what a limit does not count any more: of
a call of an earlier day, of one that has left the window, of what a rate has recovered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._limits.algorithms import TokenBucket
from aioapiqueue._limits.cost_units import BILLIONTHS, use_of
from aioapiqueue._limits.grammar import MONEY
from aioapiqueue._limits.limit_state import ROUNDING, LimitState
from aioapiqueue._limits.ramped import RampedBucket
from aioapiqueue._limits.windows import CalendarWindow, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._limits.budget_use import BudgetUse
    from aioapiqueue._limits.limit_state import Charge
    from aioapiqueue._limits.limit_types import Budget

__all__ = [
    "BudgetState",
    "RaisingBucket",
    "RaisingCalendar",
    "RaisingRampedBucket",
    "RaisingWindow",
]


def _rounding(amount: float) -> float:
    """Return by how much a sum may exceed an amount: never by a whole call, as of windows."""
    return min(0.5, ROUNDING * amount)


class _Reservations(LimitState):
    """Raises where there is no room, unless the calls that have started could still make room."""

    # No `__slots__`: a class with two bases cannot have those of both. These states are few.

    raises = True
    largest = math.inf  # a larger cost than it could ever admit raises, too, but as `LimitExceeded`
    _reservations: dict[float, float] | None = None
    """The costs of the calls that have started, and have neither ended nor settled, by instant."""

    def reserved(self, now: float) -> float:
        found = self._reservations
        if not found:
            return 0
        # `tuple` copies them in one step of the interpreter: any thread may ask.
        return sum([self.could_return(now, *each) for each in tuple(found.items())])

    @property
    def whole(self) -> float:
        """The largest cost for which it ever has room at once."""
        raise NotImplementedError

    def could_fit(self, now: float, cost: float) -> bool:
        """Return whether there is room for a cost; below 0: other calls give back more."""
        raise NotImplementedError

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        if now < self.held:
            return self.held
        # A call that has to raise starts at no instant: see `lacks_room`.
        return math.inf if self.lacks_room(now, costs) else super().next_at(now, costs)

    def lacks_room(self, now: float, costs: Sequence[float]) -> bool:
        cost = costs[self.unit]
        if cost > self.whole + _rounding(self.whole):
            return True
        # During a hold, what there will be room for at its end is not known.
        if now < self.held or super().next_at(now, costs) <= now:
            return False
        return not (self.unit and self.could_fit(now, cost - self.reserved(now)))

    def resets_in(self, now: float, costs: Sequence[float]) -> float | None:
        if costs[self.unit] > self.whole + _rounding(self.whole):
            return None
        due = super().next_at(now, costs)
        return None if due == math.inf else max(0, due - now)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        super().consume(now, costs)
        self.begin_reservation(now, costs[self.unit])

    def begin_reservation(self, at: float, cost: float) -> None:
        if not self.unit:  # a reservation of calls makes no room: their number is known
            return
        if self._reservations is None:
            self._reservations = {}
        self._reservations[at] = self._reservations.get(at, 0) + cost

    def end_reservation(self, at: float, cost: float) -> None:
        if not self._reservations or at not in self._reservations:
            return
        left = self._reservations.pop(at) - cost
        if left > _rounding(cost):
            self._reservations[at] = left

    def forget_callers(self) -> None:
        super().forget_callers()
        self._reservations = None

    def estimate(self, now: float, cost: float) -> float:
        return math.inf if cost > self.whole else super().estimate(now, cost)


class _Spending(LimitState):
    """A sum that only settlements and refunds lower.

    Of money, it counts whole billionths, so that no rounding errors add up.
    """

    __slots__ = ("amount", "scale", "since", "spent")

    counts = True
    knows_instants = False
    lasts = True

    def __init__(self, budget: Budget, *, unit: int = 0) -> None:
        super().__init__(unit)
        self.scale = BILLIONTHS if budget.unit == MONEY else 1
        """Number of the parts of a unit that are counted."""
        self.amount = self._parts_in(budget)
        self.spent: float = 0
        """Both in these parts."""
        self.since = -math.inf
        """The instant of the last reset: nothing comes back of what was charged before."""

    def _parts_in(self, budget: Budget) -> float:
        if self.scale == 1:
            return budget.amount
        return math.floor(round(budget.amount * self.scale, 3))

    def _parts(self, cost: float) -> float:
        return cost if self.scale == 1 else round(cost * self.scale)

    def concerns(self, costs: Sequence[float]) -> bool:
        return costs[self.unit] != 0

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - it never recovers
        return self.held if self.fits(costs[self.unit]) else math.inf

    def fits(self, cost: float) -> bool:
        """Return whether there is room for a cost."""
        after = self.spent + self._parts(cost)
        # A sum of whole parts is exact; that of fractions of another unit is not.
        return after <= self.amount + (0 if self.scale > 1 else _rounding(self.amount))

    def consume(self, now: float, costs: Sequence[float]) -> None:  # noqa: ARG002 - as above
        self.spent += self._parts(costs[self.unit])

    def leaves_room(
        self,
        now: float,  # noqa: ARG002 - as above
        charge: Sequence[float],
        costs: Sequence[float],
        by: float,  # noqa: ARG002 - as above
    ) -> bool:
        return self.fits(charge[self.unit] + costs[self.unit])

    def forget_spent(self, now: float) -> None:
        self.spent, self.since = 0, now

    def could_return(self, now: float, at: float, amount: float) -> float:  # noqa: ARG002 - as above
        return amount if at > self.since else 0

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:  # noqa: ARG002 - as above
        if cost < charged and at <= self.since:
            return
        self.spent = max(0, self.spent + self._parts(cost) - self._parts(charged))

    def estimate(self, now: float, cost: float) -> float:
        return max(now, self.held) if self.fits(cost) else math.inf

    def room(self, now: float) -> float:
        if self.held > now:
            return 0
        left = max(0, self.amount - self.spent)
        return left if self.scale == 1 else left / self.scale

    def reserved(self, now: float) -> float:  # noqa: ARG002 - see `_Reservations`
        return 0

    def use(self, now: float) -> BudgetUse:
        charged, whole = self.spent / self.scale, self.amount / self.scale
        return use_of(whole, charged, self.reserved(now))

    def idle_at(self, now: float) -> float:  # noqa: ARG002 - only a calendar needs it
        return math.inf if self.spent else self.held

    def counts_like(self, limit: Budget) -> bool:
        return self.amount == self._parts_in(limit)

    def change(self, limit: Budget, now: float) -> None:  # noqa: ARG002 - as above
        """Keep what was spent."""
        self.amount = self._parts_in(limit)

    def charges(self, now: float) -> Sequence[Charge]:
        """Return what was spent, as charged now: the true instants are not known."""
        return [(now, self.spent / self.scale)] if self.spent else ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:  # noqa: ARG002 - it counts everything
        # Not the sum: both may have counted the same calls.
        self.spent = max(self.spent, self._parts(sum(amount for _, amount in charges)))


class BudgetState(_Reservations, _Spending):
    """A `Budget`."""

    @property
    def whole(self) -> float:
        """The largest cost for which it ever has room at once."""
        return self.amount / self.scale

    def could_fit(self, now: float, cost: float) -> bool:  # noqa: ARG002 - it never recovers
        """Return whether there is room for a cost; below 0: other calls give back more."""
        return self.fits(cost)


class RaisingBucket(_Reservations, TokenBucket):
    """A `Rate` with `or raise`."""

    @property
    def whole(self) -> float:
        """The largest cost for which it ever has room at once."""
        return self.burst

    def could_fit(self, now: float, cost: float) -> bool:
        """Return whether there is room for a cost; below 0: other calls give back more."""
        return self.anchor + (self.used + cost - self.burst) * self.interval <= now


class RaisingRampedBucket(_Reservations, RampedBucket):
    """A `Rate` with a `Ramp`, and with `or raise`."""

    @property
    def whole(self) -> float:
        """The largest cost for which it ever has room at once."""
        return self.burst  # that of the present ceiling

    def could_fit(self, now: float, cost: float) -> bool:
        """Return whether there is room for a cost; below 0: other calls give back more."""
        return cost <= self.left(now)


class RaisingWindow(_Reservations, SlidingWindow):
    """A `Window` with `or raise`."""

    @property
    def whole(self) -> float:
        """The largest cost for which it ever has room at once."""
        return self.calls

    def could_fit(self, now: float, cost: float) -> bool:  # noqa: ARG002 - `next_at` was asked before
        """Return whether there is room for a cost; below 0: other calls give back more."""
        return self.total + cost <= self.calls + _rounding(self.calls)


class RaisingCalendar(_Reservations, CalendarWindow):
    """A `Calendar` with `or raise`."""

    @property
    def whole(self) -> float:
        """The largest cost for which it ever has room at once."""
        return self.calendar.calls

    def could_fit(self, now: float, cost: float) -> bool:  # noqa: ARG002 - as above
        """Return whether there is room for a cost; below 0: other calls give back more."""
        return self.used + cost <= self.calendar.calls + _rounding(self.calendar.calls)
