"""What calls and limits count: the units of one queue, and the costs of its calls in them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

from aioapiqueue._grammar import CALLS
from aioapiqueue._rate import LARGEST, positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MANY", "ONE_CALL", "UNSTATED", "Cost", "CostTotals", "Units", "is_stated"]

Cost = float | Mapping[str, float]
"""What a call costs: a number of calls, or amounts by unit, in which `calls` is 1 by default."""
ONE_CALL: tuple[float, ...] = (1,)
"""The costs of a call that says nothing about them."""
_LARGEST = int(LARGEST)
"""To compare a whole number with a float takes longer."""
UNSTATED = math.nan
"""In costs: of this unit nothing is said. One object, so that `in` finds it."""


MANY = 256
"""So many costs are added up at once."""


def is_stated(costs: Sequence[float], unit: int) -> bool:
    """Return whether costs say how much of a unit they are."""
    return unit < len(costs) and costs[unit] == costs[unit]  # NaN is not itself


class Units:
    """The units that a queue knows, each with its place in tuples of costs. `calls` is the first.

    A unit is known from when a limit counts it, or an integration declares it, for good: costs that
    were stated keep their meaning.
    """

    __slots__ = ("_blank", "_places", "names")

    def __init__(self) -> None:
        self.names = [CALLS]
        self._places = {CALLS: 0}
        self._blank: list[float] = [1]
        """The costs of a call whose mapping names no unit."""

    def __len__(self) -> int:
        return len(self.names)

    def place_of(self, unit: str) -> int:
        """Return the place of a unit, which is known from now on."""
        place = self._places.get(unit)
        if place is None:
            place = self._places[unit] = len(self.names)
            self.names.append(unit)
            self._blank.append(UNSTATED)
        return place

    def forget(self, known: int) -> None:
        """Know only so many units, as before some were declared."""
        for unit in self.names[known:]:
            del self._places[unit]
        del self.names[known:], self._blank[known:]

    def declare(self, units: Iterable[str]) -> None:
        """Know these units."""
        for unit in units:
            self.place_of(unit)

    def costs_of(self, cost: Cost, *, of: str = "cost") -> tuple[float, ...]:
        """Return costs by place; NaN: of that unit, nothing is said.

        Args:
            cost: a number of calls, or amounts by unit.
            of: what it is, for messages.

        Raises:
            TypeError: neither; or an amount that is no number.
            ValueError: a unit that is not known; or a negative amount.
        """
        if type(cost) is not dict and not isinstance(cost, Mapping):  # the former is fast
            positive(cost, of=of, least=0)
            return (cost,) if cost != 1 else ONE_CALL
        # This is done for each slot: what takes few steps of the interpreter.
        costs, places = self._blank.copy(), self._places
        for unit in cost:
            amount = cost[unit]
            if type(amount) is not int or not 0 <= amount <= _LARGEST:  # else it is all right
                positive(amount, of=f"{of}[{unit!r}]", least=0)
            try:
                costs[places[unit]] = amount
            except KeyError:
                raise ValueError(f"{of} names {unit!r}, {self._remedy(unit)}") from None
        return tuple(costs)

    def settled(self, cost: Cost, before: Sequence[float]) -> tuple[float, ...]:
        """Return true costs by place: those that `cost` states, and the others as before.

        Args:
            cost: a number of calls, where nothing else is counted, or amounts by unit.
            before: the costs that the call has been charged.

        Raises:
            TypeError: as of `costs_of`.
            ValueError: as of `costs_of`; or a number which could be of any unit.
        """
        if not isinstance(cost, Mapping) and len(self.names) > 1:
            positive(cost, of="cost", least=0)
            forms = " or ".join(f'{{"{unit}": {cost!r}}}' for unit in self.names)
            raise ValueError(f"settle({cost!r}) could mean any unit of this queue: write {forms}")
        costs = list(self.costs_of(cost))
        if isinstance(cost, Mapping) and self.names[0] not in cost:
            costs[0] = before[0]
        for unit in range(len(costs)):
            if not is_stated(costs, unit) and is_stated(before, unit):
                costs[unit] = before[unit]
        return tuple(costs)

    def _remedy(self, unit: object) -> str:
        near = difflib.get_close_matches(str(unit), self.names, n=1)
        known = ", ".join(self.names)
        meant = f"did you mean {near[0]!r}? " if near else ""
        return f"which no limit of this queue counts: {meant}it knows {known}"


class CostTotals:
    """What calls cost together, by unit.

    Any thread may read it while calls start: reading changes nothing, and what is added up takes
    the place of what was there in one step of the interpreter.
    """

    __slots__ = ("_number", "_totals", "charged", "refunded")

    def __init__(self) -> None:
        self._number = 0
        """How many calls are in the totals."""
        self._totals: Sequence[float] = (0,)
        """In calls: beyond one for each call, so that those which cost one need not be added."""
        self.charged: list[tuple[float, ...]] = []
        """Costs to be added yet: each by itself would take a tenth of a slot's time."""
        self.refunded: list[tuple[float, ...]] = []
        """Costs to be taken off yet."""

    def add(self, costs: tuple[float, ...]) -> None:
        """Count what a call costs."""
        self.charged.append(costs)
        if len(self.charged) == MANY:
            self.add_up()

    def subtract(self, costs: tuple[float, ...]) -> None:
        """Take off what a call was counted with."""
        self.refunded.append(costs)
        if len(self.refunded) == MANY:
            self.add_up()

    def add_up(self) -> None:
        """Reckon with what was charged and refunded; to be called once there are `MANY`."""
        number, totals = self._now()
        self._number, self._totals, self.charged, self.refunded = number, totals, [], []

    def replace(self, costs: tuple[float, ...], by: tuple[float, ...]) -> None:
        """Count other costs of a call instead."""
        if costs is not ONE_CALL:  # which is counted nowhere
            self.subtract(costs)
        self.add(by)

    def of(self, unit: int, calls: int) -> float:
        """Return the total in one unit, of so many calls."""
        _, totals = self._now()
        return (totals[unit] if unit < len(totals) else 0) + (0 if unit else calls)

    def by_unit(self, units: Units, calls: int) -> dict[str, float]:
        """Return the totals by the units' names, of so many calls."""
        _, totals = self._now()
        found: dict[str, float] = dict.fromkeys(units.names, 0)
        found.update(zip(units.names, totals, strict=False))
        found[units.names[0]] += calls
        return found

    def _now(self) -> tuple[int, Sequence[float]]:
        number, totals, charged, refunded = (
            self._number,
            self._totals,
            self.charged,
            self.refunded,
        )
        plus, minus = tuple(charged), tuple(refunded)
        number += len(plus) - len(minus)
        if not number:  # whatever rounding would leave
            return 0, (0,)
        return number, _added(_added(totals, plus, 1), minus, -1)


def _added(
    totals: Sequence[float], charged: Sequence[tuple[float, ...]], sign: int
) -> Sequence[float]:
    """Return such totals with what calls have been charged, or without it."""
    sums = list(totals)
    sums[0] -= sign * len(charged)
    for unit, amounts in enumerate(zip_longest(*charged, fillvalue=UNSTATED)):
        if unit == len(sums):
            sums.append(0)
        stated = [one for one in amounts if one is not UNSTATED]
        sums[unit] += sign * sum(stated)
    return sums
