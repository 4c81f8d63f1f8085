"""The units that calls and limits count, and the costs of calls by unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

from aioapiqueue._limits.checks import LARGEST, positive
from aioapiqueue._limits.grammar import CALLS, MONEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioapiqueue._limits.budget_use import BudgetUse

__all__ = ["ONE_CALL", "CostTotals", "Units", "is_stated", "use_of"]

Cost = float | Mapping[str, float]
"""What a call costs: a number of calls, or amounts by unit, in which `calls` is 1 by default."""
ONE_CALL: tuple[float, ...] = (1,)
"""The costs of a call that does not state any."""
_LARGEST = int(LARGEST)
"""The same as an integer: comparing an integer with a float takes longer."""
_NO_UNIT = object()
"""A placeholder that no cost names."""
BILLIONTHS = 10**9
"""The parts of a unit of money that are counted."""
UNSTATED = math.nan
"""The amount of a unit that a cost does not name. It is one object, so that `in` finds it."""


def is_stated(costs: Sequence[float], unit: int) -> bool:
    """Return whether costs state the amount of a unit."""
    return unit < len(costs) and costs[unit] == costs[unit]  # NaN is not itself


def whole_billionths(amount: float) -> float:
    """Return an amount rounded up to a whole number of billionths, but for its rounding error."""
    scaled = amount * BILLIONTHS
    whole = round(scaled)
    is_whole = abs(scaled - whole) <= max(1e-3, scaled * 1e-15)
    return (whole if is_whole else math.ceil(scaled)) / BILLIONTHS


class Units:
    """The units that a queue knows, each with its place in tuples of costs. `calls` is the first.

    A unit is known from the moment at which a limit counts it or an integration declares it. It is
    never forgotten, so that costs keep their meaning.
    """

    __slots__ = ("_blank", "_only", "_places", "names")

    def __init__(self) -> None:
        self.names = [CALLS]
        self._places = {CALLS: 0}
        self._blank: list[float] = [1]
        """The costs of a call whose mapping names no unit."""
        self._only: object = _NO_UNIT
        """The unit beside `calls`, if there is exactly one."""

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, unit: object) -> bool:
        return unit in self._places

    def place_of(self, unit: str) -> int:
        """Return the place of a unit, which is added if it is new."""
        place = self._places.get(unit)
        if place is None:
            place = self._places[unit] = len(self.names)
            self.names.append(unit)
            self._blank.append(UNSTATED)
            self._note_only()
        return place

    def _note_only(self) -> None:
        self._only = self.names[1] if len(self.names) == 2 else _NO_UNIT  # noqa: PLR2004 - with `calls`

    def known_place_of(self, unit: str) -> int:
        """Return the place of a known unit.

        Raises:
            ValueError: the unit is unknown; the message names the known ones.
        """
        try:
            return self._places[unit]
        except KeyError:
            raise ValueError(f"{unit!r} is a unit that {self._remedy(unit)}") from None

    def forget(self, known: int) -> None:
        """Forget all units but the first `known`: the limits that declared others were refused."""
        for unit in self.names[known:]:
            del self._places[unit]
        del self.names[known:], self._blank[known:]
        self._note_only()

    def declare(self, units: Iterable[str]) -> None:
        """Add units that are not known yet."""
        for unit in units:
            self.place_of(unit)

    def costs_of(self, cost: Cost) -> tuple[float, ...]:
        """Return costs by place; NaN: the cost does not name that unit.

        Args:
            cost: a number of calls, or amounts by unit.

        Raises:
            TypeError: the cost is neither, or an amount is not a number.
            ValueError: a unit is unknown, or an amount is negative.
        """
        # This runs for each slot, so it takes as few steps as possible. Most costs are a dict with
        # the one unit beside calls, and an int that needs no further check.
        if type(cost) is dict:
            only = self._only
            if only in cost and len(cost) == 1:  # most
                amount = cost[only]
                if type(amount) is int and 0 <= amount <= _LARGEST:
                    return 1, amount
        elif not isinstance(cost, Mapping):
            positive(cost, of="cost", least=0)
            return (cost,) if cost != 1 else ONE_CALL
        costs, places = self._blank.copy(), self._places
        for unit in cost:
            amount = cost[unit]
            if type(amount) is not int or not 0 <= amount <= _LARGEST:  # else it is valid
                positive(amount, of=f"cost[{unit!r}]", least=0)
                if unit == MONEY:
                    amount = whole_billionths(amount)
            try:
                costs[places[unit]] = amount
            except KeyError:
                raise ValueError(f"cost names {unit!r}, which {self._remedy(unit)}") from None
        return tuple(costs)

    def named(self, costs: Sequence[float]) -> dict[str, float]:
        """Return the stated costs by unit."""
        return {name: cost for name, cost in zip(self.names, costs, strict=False) if cost == cost}  # noqa: PLR0124 - NaN is not itself

    def settled(self, cost: Cost, before: Sequence[float]) -> tuple[float, ...]:
        """Return true costs by place: those that `cost` states, and the former ones of other units.

        Args:
            cost: a number of calls, if no other unit is known, or amounts by unit.
            before: the costs that the call has been charged.

        Raises:
            TypeError: as in `costs_of`.
            ValueError: as in `costs_of`; or a number could be of any unit.
        """
        if not isinstance(cost, Mapping) and len(self.names) > 1:
            positive(cost, of="cost", least=0)
            forms = " or ".join(f'{{"{unit}": {cost!r}}}' for unit in self.names)
            raise ValueError(f"settle({cost!r}) is ambiguous on a queue with units: write {forms}")
        costs = list(self.costs_of(cost))
        if isinstance(cost, Mapping) and self.names[0] not in cost:
            costs[0] = before[0]  # not the default of 1: the mapping does not mention it
        for unit in range(len(costs)):
            if not is_stated(costs, unit) and is_stated(before, unit):
                costs[unit] = before[unit]
        return tuple(costs)

    def _remedy(self, unit: object) -> str:
        import difflib  # noqa: PLC0415 - only a refusal needs it

        near = difflib.get_close_matches(str(unit), self.names, n=1)
        known = ", ".join(self.names)
        meant = f": did you mean {near[0]!r}?" if near else ""
        return f"no limit of this queue counts (the limits count {known}){meant}"


class LateCosts(tuple[float, ...]):  # noqa: SLOT001 - a tuple with a note can have none
    """Costs of a call that settled above what it was charged when it started.

    Attributes:
        late: by unit, what it was charged at first, and when more was charged.
    """

    late: Mapping[int, tuple[float, float]]

    @classmethod
    def noted(
        cls, before: tuple[float, ...], costs: tuple[float, ...], now: float
    ) -> tuple[float, ...]:
        """Return true costs, with a note of the units in which more has just been charged."""
        late = dict(before.late) if isinstance(before, cls) else {}
        for unit, cost in enumerate(costs):
            first = before[unit] if is_stated(before, unit) else 0
            if is_stated(costs, unit) and cost > first:
                late.setdefault(unit, (first, now))
            elif unit in late and cost <= late[unit][0]:
                del late[unit]  # nothing of the late charge is left
        if not late:  # a plain tuple, so that most calls pay nothing for the note
            return costs
        noted = cls(costs)
        noted.late = late
        return noted


class CostTotals:
    """Total costs of calls, by unit.

    Any thread may read it while calls start: each sum by itself was true at some moment.
    """

    __slots__ = ("sums",)

    def __init__(self) -> None:
        self.sums: list[float] = [0]
        """Sums by unit. The sum of calls leaves out one for each call, so that the default cost
        adds nothing."""

    # Each sum changes in one step, so another thread reads the old or the new value.

    def add(self, costs: tuple[float, ...]) -> None:
        """Add the costs of a call."""
        sums = self.sums
        if len(sums) < len(costs):
            self.sums_of(len(costs))
        for unit, cost in enumerate(costs):
            if not unit:
                if cost != 1:
                    sums[0] += cost - 1
            elif cost is not UNSTATED:
                sums[unit] += cost

    def subtract(self, costs: tuple[float, ...]) -> None:
        """Subtract costs that were added for a call."""
        sums = self.sums
        for unit, cost in enumerate(costs):
            if not unit:
                if cost != 1:
                    sums[0] -= cost - 1
            elif cost is not UNSTATED:
                sums[unit] -= cost

    def replace(self, costs: tuple[float, ...], by: tuple[float, ...]) -> None:
        """Replace the costs of a call by others."""
        sums = self.sums_of(max(len(costs), len(by)))
        for unit, (before, cost) in enumerate(zip_longest(costs, by, fillvalue=UNSTATED)):
            more = (0 if cost is UNSTATED else cost) - (0 if before is UNSTATED else before)
            if more:
                sums[unit] += more

    def sums_of(self, units: int) -> list[float]:
        """Return the sums of at least this many units."""
        sums = self.sums
        while len(sums) < units:
            sums.append(0)
        return sums

    def of(self, unit: int, calls: int) -> float:
        """Return the total in one unit; `calls` is the number of calls."""
        if not calls:  # drops rounding errors
            return 0
        return (self.sums[unit] if unit < len(self.sums) else 0) + (0 if unit else calls)

    def by_unit(self, units: Units, calls: int) -> dict[str, float]:
        """Return the totals by name of unit; `calls` is the number of calls."""
        # `or`: rounding may leave -0.0 of costs that were subtracted again.
        return {name: round(self.of(unit, calls), 9) or 0 for unit, name in enumerate(units.names)}


def use_of(
    whole: float, charged: float, reserved: float, resets_at: float | None = None
) -> BudgetUse:
    """Return the use of a limit of `whole`, of which these amounts are charged and reserved."""
    from aioapiqueue._limits.budget_use import BudgetUse  # noqa: PLC0415 - only figures need it

    # A call that started in an earlier period is a reservation, but is not charged any more.
    reserved = min(reserved, charged)
    left = _exact(max(0, whole - charged))
    return BudgetUse(_exact(charged - reserved), _exact(reserved), left, resets_at)


def _exact(amount: float) -> float:
    """Return an amount without the rounding errors of a sum, for people to read."""
    return round(amount, 9)
