"""The least that the first call of any line costs: when it falls, a call may have room at once."""

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

__all__ = ["FirstCosts"]

_MANY = 64
"""Stale entries of a heap that stay in it until they are reached."""


class FirstCosts:
    """The least that the first call of any line costs, by unit.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
        waiting: the lines of its waiting calls.
    """

    def __init__(self, host: Host, limits: LimitTable, waiting: WaitingScopes) -> None:
        self._host = host
        self._limits = limits
        self._waiting = waiting
        self._cheapest: tuple[float, ...] = ()
        """The least as of the last `fall`."""
        self._firsts: list[list[tuple[float, int, Call]]] = []
        """For each unit, a heap of calls by cost; entries of calls that are not first are stale."""
        self._costs: tuple[float, ...] | None = None
        """The costs of every call that joined since no call waited; None: they differ."""
        self._numbers = count()

    def arrives(self, call: Call) -> None:
        """Note a newcomer before it joins."""
        if not self._host.waiters.live:
            self._costs = call.costs
        elif call.costs != self._costs:
            self._costs = None

    def fall(self) -> bool:
        """Return whether the least cost has fallen in any unit since the last time."""
        waiters = self._host.waiters
        firsts, cheapest = self._waiting.drain_changed_firsts(), self._costs
        if cheapest is None and waiters.live:
            cheapest = self._find_cheapest(firsts)
        else:  # all calls cost the same
            self._firsts = []
            cheapest = plain_costs(cheapest) if cheapest and waiters.live else ()
        known, self._cheapest = self._cheapest, cheapest
        return bool(cheapest and not known) or any(map(lt, cheapest, known))

    def _find_cheapest(self, new: Sequence[Call]) -> tuple[float, ...]:
        """Return the least cost by unit; `new`: calls that may be first since the last time."""
        lines, units = self._host.waiters.lines, len(self._limits.units)
        most = 2 * len(lines) + _MANY
        if len(self._firsts) != units or len(self._firsts[0]) > most:  # linear, but rare
            self._firsts = [[] for _ in range(units)]
            new = [first for line in lines.values() if (first := line.first()) is not None]
        for first in new:
            number, costs = next(self._numbers), plain_costs(first.costs)
            for unit, heap in enumerate(self._firsts):
                heappush(heap, (costs[unit] if unit < len(costs) else 0, number, first))
        for heap in self._firsts:
            while heap and not ((first := heap[0][2]).waits and first.line.first() is first):
                heappop(heap)
        # inf: all calls were cancelled, and have not left yet.
        return tuple(heap[0][0] if heap else math.inf for heap in self._firsts)
