"""The shares of keys in the calls of a whole queue, by their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue._core.virtual_time import MANY_FLOWS, ONE, Flow, VirtualClock
from aioapiqueue._limits.cost_units import is_stated
from aioapiqueue._limits.lane_states import find_patterns, name_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue._core.orders import Waiter

_UNKNOWN = 0.001
"""What a call counts that costs nothing, as long as no call has cost anything."""
_RECENT = 8
"""Number of calls by which the average cost is known."""


class Share(Flow):
    """The waiting calls of one key and priority in the whole queue.

    Args:
        weight: of the key.
        turn: the turn of its next call.
        sorting: as attribute.

    Attributes:
        sorting: number of the sorting in which its calls were counted.
        parts: its calls in each line, in the order in which they began to wait there.
        given: turns that first calls of its lines will take.
    """

    __slots__ = ("given", "parts", "sorting")

    def __init__(self, weight: float, turn: int, sorting: int) -> None:
        super().__init__(weight, turn)
        self.sorting = sorting
        self.parts: dict[Any, None] = {}
        self.given = 0


class _OfPriority:
    """The shares in the calls of one priority."""

    __slots__ = ("by_key", "clock", "most")

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.by_key: dict[Hashable, Share] = {}
        """Those with waiting calls, and those whose next turn is yet to come."""
        self.most = MANY_FLOWS
        """Number of keys beyond which the others are dropped."""

    def drop_over(self, sorting: int) -> None:
        """Drop keys without calls whose next turn is not later than that of a new key."""
        if len(self.by_key) > self.most:
            self._keep(sorting)
            if len(self.by_key) > self.most:
                # Thousands of keys may start a call each while those that wait cannot start: their
                # turns are then taken for over.
                done = (one.turn for one in self.by_key.values() if not one.waiting)
                self.clock.now = max((self.clock.now, *done))  # none may be left
                self._keep(sorting)
            self.most = 2 * len(self.by_key) + MANY_FLOWS

    def _keep(self, sorting: int) -> None:
        now = self.clock.now
        self.by_key = {
            key: one
            for key, one in self.by_key.items()
            if one.waiting or one.keeps or one.turn > now or one.sorting != sorting
        }


class KeyShares:
    """The shares of keys in the calls of one queue: of the first key of each call.

    Urgent calls have a virtual time of their own. Otherwise they would move the turns of their keys
    among the less urgent calls.

    Args:
        weights: by key or pattern; keys that are not named have the weight 1.
        unit: place of the unit in which a turn is charged.
    """

    __slots__ = ("_average", "_by_priority", "_patterns", "_unit", "_weights", "sorting")

    def __init__(self, weights: Mapping[Hashable, float], unit: int) -> None:
        self._weights = weights
        self._patterns = find_patterns(weights)
        self._unit = unit
        self._by_priority: dict[float, _OfPriority] = {}
        self._average = _UNKNOWN
        """The average cost of recent calls; those that cost nothing are left out."""
        self.sorting = 0
        """Number of times that all waiting calls were sorted again."""

    def empty_copy(self) -> KeyShares:
        """Return the same weights, without calls."""
        return KeyShares(self._weights, self._unit)

    def turns_for(self, costs: Sequence[float], weight: float) -> int:
        """Return the turns that costs take: at least 1."""
        # Calls that cost nothing would otherwise start without end while others wait.
        cost = costs[self._unit] if is_stated(costs, self._unit) else 0
        return max(1, round((cost or self._average) / weight * ONE))

    def of(self, call: Waiter) -> Share:
        """Return the share of a call's key; made if needed."""
        shares = self._by_priority.get(call.priority)
        if shares is None:
            shares = self._by_priority[call.priority] = _OfPriority()
        key = call.keys[0]
        share = shares.by_key.get(key)
        if share is None:
            weight = self._weights.get(name_of(key, self._weights, self._patterns), 1)
            share = shares.by_key[key] = Share(weight, shares.clock.now, self.sorting)
        elif share.sorting != self.sorting:  # its calls are counted again
            share.sorting, share.parts = self.sorting, {}
            share.waiting, share.keeps = 0, share.waiting > 0
        return share

    def knows(self, priority: float) -> bool:
        """Return whether calls of a priority wait."""
        return priority in self._by_priority

    def lead_of(self, share: Share, priority: float) -> int:
        """Return how far a key is ahead of virtual time."""
        return max(0, share.turn - self._by_priority[priority].clock.now)

    def now(self, priority: float) -> int:
        """Return the latest turn in which a call of a priority has started, while others wait."""
        shares = self._by_priority.get(priority)
        return 0 if shares is None else shares.clock.now

    def next_turn(self, call: Waiter, waiting: int | None = None) -> int:
        """Return the turn of a newcomer.

        Args:
            call: the newcomer.
            waiting: the number of calls of its key, as expensive as it, that go first; None: those
                that are the first of a line.
        """
        shares = self._by_priority.get(call.priority)
        if shares is None:
            return 0
        share = self.of(call)
        each = self.turns_for(call.costs, share.weight)
        behind = share.given if waiting is None else waiting * each
        return shares.clock.next_turn(share) + behind

    # Calls.

    def join(self, call: Waiter) -> None:
        """Count a call that waits."""
        share = self.of(call)
        self._by_priority[call.priority].clock.join(share)

    def charge(self, call: Waiter) -> None:
        """Charge a call that starts to its key."""
        cost = call.costs[self._unit] if is_stated(call.costs, self._unit) else 0
        if cost:
            number = 1 if self._average == _UNKNOWN else _RECENT
            self._average += (cost - self._average) / number
        share = self.of(call)
        clock = self._by_priority[call.priority].clock
        clock.charge(share, self.turns_for(call.costs, share.weight))

    def give_back(self, call: Waiter, turns: int) -> Share:
        """Move the turn of a key back, because a call of it has cost less than charged."""
        share = self.of(call)
        self._by_priority[call.priority].clock.give_back(share, turns)
        return share

    def leave(self, call: Waiter) -> None:
        """Count a call no longer."""
        share = self.of(call)
        shares = self._by_priority[call.priority]
        shares.clock.leave(share)
        if not shares.clock.waiting:
            del self._by_priority[call.priority]  # there may be any number of priorities
        elif not share.waiting:
            shares.drop_over(self.sorting)

    def leave_line(self, priority: float, part: Any) -> None:  # noqa: ANN401 - of a line's own type
        """Count all calls of a part no longer: they join other lines, and keep its turn."""
        share: Share = part.share
        share.parts.pop(part, None)
        self._by_priority[priority].clock.leave(share, part.waiting)
        share.keeps = not share.waiting

    def count_again(self) -> None:
        """Have all calls counted again; keys keep their turns."""
        self.sorting += 1
        for shares in self._by_priority.values():
            shares.clock.waiting = 0

    def forget(self) -> None:
        """Forget all turns: no call waits."""
        self._by_priority.clear()
