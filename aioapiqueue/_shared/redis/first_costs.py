"""The costs of the first calls of all lines: a cheaper one may have room at once."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import count
from operator import lt
from typing import TYPE_CHECKING

from aioapiqueue._shared.redis.messages import plain_costs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes
    from aioapiqueue.spi import Call, Host

_MANY = 64
"""Stale entries of a heap that are never cleared away before they are met."""


class FirstCosts:
    """The lowest costs of these calls.

    Args:
        host: whose calls wait.
        limits: that they come under.
        waiting: their lines.
    """

    def __init__(self, host: Host, limits: LimitTable, waiting: WaitingScopes) -> None:
        self._host = host
        self._limits = limits
        self._waiting = waiting
        self._cheapest: tuple[float, ...] = ()
        """The lowest cost, by unit."""
        self._firsts: list[list[tuple[float, int, Call]]] = []
        """For each unit, a heap of the calls by cost; those that are no longer first are stale."""
        self._costs: tuple[float, ...] | None = None
        """The costs of each call since none was waiting; None: they differ."""
        self._numbers = count()

    def arrives(self, call: Call) -> None:
        """Note a newcomer, before it waits."""
        if not self._host.waiters.live:
            self._costs = call.costs
        elif call.costs != self._costs:
            self._costs = None

    def fall(self) -> bool:
        """Return whether a call is now first that costs less than all that were, in some unit."""
        waiters = self._host.waiters
        firsts, cheapest = self._waiting.drain_changed_firsts(), self._costs
        if cheapest is None and waiters.live:
            cheapest = self._find_cheapest(firsts)
        else:  # every first costs the same
            self._firsts = []
            cheapest = plain_costs(cheapest) if cheapest and waiters.live else ()
        known, self._cheapest = self._cheapest, cheapest
        return bool(cheapest and not known) or any(map(lt, cheapest, known))

    def _find_cheapest(self, new: Sequence[Call]) -> tuple[float, ...]:
        """Return the least that they cost, by unit.

        Args:
            new: those that were not first when it was called before.
        """
        lines, units = self._host.waiters.lines, len(self._limits.units)
        most = 2 * len(lines) + _MANY
        if len(self._firsts) != units or len(self._firsts[0]) > most:  # so seldom that it is linear
            self._firsts = [[] for _ in range(units)]
            new = [first for line in lines.values() if (first := line.first()) is not None]
        for first in new:
            number, costs = next(self._numbers), plain_costs(first.costs)
            for unit, heap in enumerate(self._firsts):
                heappush(heap, (costs[unit] if unit < len(costs) else 0, number, first))
        for heap in self._firsts:
            while heap and not ((first := heap[0][2]).waits and first.line.first() is first):
                heappop(heap)
        # inf: those who were first are cancelled, and have yet to leave.
        return tuple(heap[0][0] if heap else math.inf for heap in self._firsts)
