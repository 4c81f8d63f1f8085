"""What one process last knew of the budgets that an authority keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._shared.limit_table import NO_KEY
from aioapiqueue.spi import limit_types, seam

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from aioapiqueue import BudgetUse, Limit
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.redis.messages import Reply
    from aioapiqueue.spi import Host

_KEYS = 10_000
"""Number of keys that are remembered: a key may be a tenant's."""


class BudgetUses:
    """The use of budgets, by the last reply that had it; sends an event as shares are crossed.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
    """

    def __init__(self, host: Host, limits: LimitTable) -> None:
        self._host = host
        self._limits = limits
        self._epoch = 0
        self._forget()

    def _forget(self) -> None:
        self._thresholds = seam.Thresholds(self._host)
        self._by_key: dict[Hashable, Mapping[Limit, BudgetUse]] = {}
        """By key, the latest last; None: of the queue's own budgets."""

    def note(self, reply: Reply) -> None:
        """Note what a reply has of the queue and of lanes."""
        if reply.epoch != self._epoch:  # a user has reset the quota, or the authority lost its data
            self._epoch = reply.epoch
            self._forget()
        for key, status in reply.statuses.items():
            if key is NO_KEY:  # by the key None, a user gets the figures of the queue
                continue
            uses = self._in_force(key, status.budgets)
            self._by_key.pop(key, None)
            if uses:
                self._by_key[key] = uses
                if len(self._by_key) > _KEYS:
                    del self._by_key[next(iter(self._by_key))]
            self._thresholds.note(key, {str(limit): use for limit, use in uses.items()})

    def _in_force(self, key: Hashable, uses: Mapping[Limit, BudgetUse]) -> dict[Limit, BudgetUse]:
        """Return the uses without those of limits that have been replaced."""
        return {limit: uses[limit] for limit in self._limits.of_key(key) or () if limit in uses}

    def add_to(self, figures: seam.LimiterStats, key: Hashable) -> seam.LimiterStats:
        """Return figures with the use of a key's budgets, and what remains of them by unit.

        Any thread may call it.

        Args:
            figures: of the limiter.
            key: the key; None: the queue's own budgets.
        """
        uses = self._in_force(key, self._by_key.get(key, {}))
        remaining: dict[str, float] = {}
        for limit, use in uses.items():
            unit = limit_types.unit_of(limit)
            if unit is not None:  # a budget always counts one
                remaining[unit] = min(use.left, remaining.get(unit, use.left))
        budgets = {str(limit): use for limit, use in uses.items()}
        return figures._replace(budgets=budgets, remaining=remaining)
