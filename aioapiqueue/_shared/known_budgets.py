"""What a process last knew of budgets and calendar limits that an authority elsewhere keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue import Budget, BudgetUse, Calendar
from aioapiqueue._shared.statement_json import key_from, limits_from
from aioapiqueue.spi import events, limit_types

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import Host, seam

_SUMS = (Budget, Calendar)
"""The limits of which the authority sends figures."""
_KEYS = 10_000
"""Number of keys that are remembered: a key may be a tenant's."""


class KnownBudgets:
    """The latest figures that the authority has sent, by key; None: the queue's own limits.

    Args:
        host: the queue's dispatcher, whose observers receive `threshold` events.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._thresholds = events.Thresholds(host)
        self._by_key: dict[Hashable, dict[str, BudgetUse]] = {}

    def note(self, key: Hashable, budgets: dict[str, BudgetUse]) -> None:
        """Note figures of a key's lane, and send events of the shares that they have reached.

        Args:
            key: the key; None: the queue's own limits.
            budgets: how much is used of each budget and calendar limit, by the text of the limit.
        """
        self._by_key.pop(key, None)  # so that the key becomes the latest
        if budgets:
            self._by_key[key] = budgets
            if len(self._by_key) > _KEYS:
                del self._by_key[next(one for one in self._by_key if one is not None)]
        self._thresholds.note(key, budgets)

    def note_sent(
        self,
        news: Iterable[tuple[Sequence[Any], Mapping[str, Sequence[Any]]]],
        was_reset: bool = False,  # noqa: FBT001, FBT002 - a part of a message
    ) -> None:
        """Note figures as a hub sends them; see `host/messages.py`."""
        if was_reset:  # the events of each share come again
            self._thresholds = events.Thresholds(self._host)
        for key, uses in news:
            self.note(key_from(key), {limit: BudgetUse(*use) for limit, use in uses.items()})

    def forget(self, key: Hashable, before: Iterable[Limit], limits: Iterable[Limit]) -> None:
        """Forget the figures of limits that are no longer in force, until others are sent.

        Args:
            key: the key whose limits have changed; None: the queue. Nothing to do for a pattern:
                users see no figures of its lanes.
            before: its limits before the change.
            limits: those that are in force now.
        """
        if key in self._by_key:
            gone = set(map(str, before)).difference(map(str, limits))
            known = self._by_key[key].items()
            self._by_key[key] = {limit: use for limit, use in known if limit not in gone}

    def with_budgets(
        self,
        figures: seam.LimiterStats,
        key: Hashable,
        limits: Iterable[Limit],
        *,
        only_these: bool = False,
    ) -> seam.LimiterStats:
        """Add `budgets` and `remaining` of a key's lane, or (None) of the queue's own limits.

        Any thread may call it.

        Args:
            figures: the other figures.
            key: the key; None: the queue's own limits.
            limits: the limits of the lane that are known here. Of a unit that others than budgets
                and calendar limits count, what could start now is not known.
            only_these: whether no other limits are in force.
        """
        known = self._by_key.get(key)
        if not known:
            return figures
        limits = tuple(limits)
        if only_these:
            texts = set(map(str, limits))
            known = {limit: use for limit, use in known.items() if limit in texts}
        unknown = {limit_types.unit_of(one) for one in limits if not isinstance(one, _SUMS)}
        loop = self._host.loop
        wall = loop.to_wall(loop.now())
        budgets: dict[str, BudgetUse] = {}
        remaining: dict[str, float] = {}
        for (text, last), limit in zip(known.items(), limits_from(known), strict=True):
            use = budgets[text] = _use_at(wall, limit, last)
            unit = limit_types.unit_of(limit)
            if unit is not None and unit not in unknown:  # only a `Concurrency` counts none
                remaining[unit] = min(use.left, remaining.get(unit, use.left))
        return figures._replace(budgets=budgets, remaining=remaining)


def _use_at(wall: float, limit: Limit, last: BudgetUse) -> BudgetUse:
    """Return how much is used at an instant of the wall clock, if no call was charged since."""
    if last.resets_at is None or wall < last.resets_at or not isinstance(limit, Calendar):
        return last
    # A new period. The authority sends nothing as it begins, but when it is used.
    return BudgetUse(0, 0, limit.calls, limit.period(wall)[1])
