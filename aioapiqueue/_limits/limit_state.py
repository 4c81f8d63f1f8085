"""When may the next call start? The interface that the state of each limit has.

States are pure arithmetic: every method gets `now`, and none reads a clock. The queue calls them in
this order: `on_idle` when a call joins while none waits, `next_at` for the first in line, `consume`
when it starts, `adjust` when its true cost is known. They get the costs of a call in all units, and
use the amount of their own unit.

A call that is subject to several limits is charged to all of them at one instant, or to none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._limits.budget_use import BudgetUse

__all__ = ["ROUNDING", "Charge", "LimitState"]

Charge = tuple[float, float]
"""A cost that a limit counts: the instant at which it was charged, and the amount."""

ROUNDING = 1e-9
"""Tolerance for sums of costs, as a share of the limit: fractions like 0.1 do not add up exactly.
Whole calls do, so it never amounts to one."""


class LimitState:
    """Base class of the states of limits: it never refuses a call; only a hold closes it.

    Args:
        unit: the index of the unit that it counts.
    """

    __slots__ = ("held", "unit", "wait_list")

    largest: float = math.inf
    """The largest cost that could ever start."""
    optional: bool = False
    """Whether a call that does not name the unit is not charged."""
    counts: bool = False
    """Whether it counts what calls cost, for a limit that users or servers have stated."""
    knows_instants: bool = True
    """Whether it knows when the calls that it counts have started."""
    lasts: bool = False
    """Whether what it counts never recovers."""
    raises: bool = False
    """Whether a call for which it has no room raises `LimitExceeded`, instead of waiting."""

    def __init__(self, unit: int = 0) -> None:
        self.unit = unit
        self.held = -math.inf
        """The latest end of a hold or pause: nothing starts before."""
        self.wait_list: Any = None
        """The calls that wait for this limit. The scheduler keeps it here to save a look-up."""

    def concerns(self, costs: Sequence[float]) -> bool:  # noqa: ARG002 - only a hold counts here
        """Return whether a call with these costs uses some of this limit, so that it applies."""
        return True

    def on_idle(self, now: float) -> None:
        """Note that a call joins while none waits: idle time is not made up for."""

    def next_at(self, now: float, costs: Sequence[float]) -> float:  # noqa: ARG002 - only a hold counts here
        """Return the first instant at which `costs` may start; any past instant means now.

        The result is infinite if a body has to end first.
        """
        return self.held

    def lacks_room(self, now: float, costs: Sequence[float]) -> bool:  # noqa: ARG002 - if it `raises`
        """Return whether a call with these costs must raise `LimitExceeded` now."""
        return False

    def resets_in(self, now: float, costs: Sequence[float]) -> float | None:  # noqa: ARG002 - as above
        """Return the seconds until there is room for `costs`; None: time alone makes no room."""
        return None

    def consume(self, now: float, costs: Sequence[float]) -> None:
        """Charge `costs`, which start now; the caller has checked that they are due."""

    def leaves_room(
        self,
        now: float,  # noqa: ARG002 - only a hold counts here
        charge: Sequence[float],  # noqa: ARG002 - as above
        costs: Sequence[float],  # noqa: ARG002 - as above
        by: float,  # noqa: ARG002 - as above
    ) -> bool:
        """Return whether `costs` will have room at the instant `by` if `charge` starts now."""
        return True

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        """Charge or give back the difference for a call that started at the instant `at`."""

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        """Give back all that a call was charged at the instant `at`, as it was not made."""
        self.adjust(now, at, costs[self.unit], 0)

    def release(self, at: float) -> bool:  # noqa: ARG002 - only a hold counts here
        """Note that the body of a call has ended; return whether another call may start sooner."""
        return False

    def could_return(self, now: float, at: float, amount: float) -> float:  # noqa: ARG002 - what has a sum knows it
        """Return how much may come back of what was charged at the instant `at`.

        Any thread may call it, as it does not change the state.
        """
        return 0

    def begin_reservation(self, at: float, cost: float) -> None:
        """Note that a call which was charged this cost at the instant `at` may settle lower."""

    def end_reservation(self, at: float, cost: float) -> None:
        """Note that such a call has ended, or has settled for the first time."""

    def forget_spent(self, now: float) -> None:
        """Forget what was charged to a budget, because its user has reset the quota."""

    def forget_callers(self) -> None:
        """Note that all waiting and running calls ended with their loop."""
        # Its lines hold futures of the old loop; the next loop has a scheduler of its own.
        self.wait_list = None

    def estimate(self, now: float, cost: float) -> float:  # noqa: ARG002 - only a hold counts here
        """Return when the last unit of `cost` may start if all of it queues up now."""
        return max(now, self.held)

    def all_started(self, now: float, cost: float, first: float) -> float:  # noqa: ARG002 - a bucket needs it
        """Return when the last of the waiting calls may start.

        Args:
            now: the present instant.
            cost: the cost of all waiting calls together.
            first: the cost of the call that starts first; of several candidates, the largest.
        """
        return self.estimate(now, cost)

    def room(self, now: float) -> float:
        """Return how much could start now, without a change of the state.

        Any thread may call it; the result was true a moment ago.
        """
        # A plain `LimitState` stands for no limit, so its amounts are never read. A default here,
        # and below, would hide a new kind of limit that forgot to define it.
        raise NotImplementedError

    def use(self, now: float) -> BudgetUse | None:  # noqa: ARG002 - only what has a sum knows it
        """Return how much is used of a budget or of the present period; None: it is neither.

        As for `room`, any thread may call it. A hold does not count.
        """
        return None

    def idle_at(self, now: float) -> float:
        """Return the instant from which this is in the same state as a new one.

        Any thread may call it, as it does not change the state.
        """
        raise NotImplementedError

    def counts_like(self, limit: Any) -> bool:  # noqa: ANN401 - as of `change`
        """Return whether another limit of its kind counts the same calls, for as long."""
        raise NotImplementedError

    def change(self, limit: Any, now: float) -> None:  # noqa: ANN401 - of the kind that it is made from
        """Become the state of another limit of the same kind and unit, and keep the charges.

        The object stays the same, because running bodies will give their permits back to it.
        """

    def charges(self, now: float) -> Sequence[Charge]:  # noqa: ARG002 - only a hold counts here
        """Return the charges that this limit still counts, the oldest first."""
        return ()

    def take_over(self, charges: Sequence[Charge], now: float, *, beside: bool = False) -> None:
        """Count the charges of another limit of this unit, unless more is counted already.

        Args:
            charges: the charges of the other limit.
            now: the present instant.
            beside: whether the other limit stays, or is replaced by a third one. If so, this limit
                starts used up at worst, and never in debt.
        """

    def carry_over(self, old: LimitState, now: float) -> None:
        """Take over what another state of this kind has learnt under other limits."""

    def back_off(self, now: float, since: float, running: int) -> bool:  # noqa: ARG002 - a plain limit ignores it
        """Process a throttled call; return whether this limit slows down.

        Args:
            now: the present instant.
            since: the instant at which the call started.
            running: number of running bodies.
        """
        return False

    def allowed(self) -> float:
        """Return the calls per second that a slow-down has left; inf: whatever the limits say."""
        return math.inf

    def permits(self) -> float:
        """Return how many bodies may run after a slow-down; inf: as many as the limits say."""
        return math.inf
