"""Which limits calls come under, if their state is kept elsewhere."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aioapiqueue._fleet.grants import NO_KEY
from aioapiqueue._lanes import Lanes, fits, limit_state_for
from aioapiqueue._rate import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._lanes import AdaptivePolicy
    from aioapiqueue._rate import Limit
    from aioapiqueue._slot import Call

__all__ = ["LimitTable", "key_of"]


class LimitTable:
    """The limits of a queue and of its lanes. Their states only refuse what cannot be.

    Args:
        limits: of the queue.
        lanes: of keys and patterns.
        concurrency: how many bodies may run at once; inf: any number.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how the authority slows down on push-back.
        report: called with an error in `adaptive`.

    Raises:
        ValueError: what `adaptive` wants does not fit the limits.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        *,
        concurrency: float,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
        report: Callable[[str, Exception], None],
    ) -> None:
        new_lane = partial(limit_state_for, catch_up=catch_up, adaptive=adaptive, report=report)
        self._new_state = partial(new_lane, concurrency=concurrency)
        self.limits, self._state = tuple(limits), self._new_state(limits)
        self.concurrency = concurrency
        for limits_of_lane in lanes.values():
            new_lane(limits_of_lane)  # refuses now what it would refuse at the first call
        self.lanes = Lanes(lanes, new_lane)

    def forget_lanes(self) -> None:
        """Forget which keys have called."""
        self.lanes = self.lanes.empty_copy()

    def lane_of(self, key: Hashable) -> Hashable:
        """Return the lane of a key; None: it has no limits of its own."""
        # The state of a key that has not called for long is forgotten.
        if key not in self.lanes.states and self.lanes.limits_of(key) is None:
            return None
        return NO_KEY if key is None else key

    def limits_of(self, lane: Hashable) -> Sequence[Limit]:
        """Return the limits of a lane; None: of the queue."""
        return self.limits if lane is None else self.lanes.limits_of(key_of(lane)) or ()

    def has_window(self, lanes: Iterable[Hashable]) -> bool:
        """Return whether a `Window` is among the limits of these lanes."""
        return any(isinstance(limit, Window) for lane in lanes for limit in self.limits_of(lane))

    def check(self, cost: float) -> None:
        """Refuse a cost that could never start.

        Raises:
            ValueError: one of the queue's limits is too small for it.
        """
        self._state.check(cost)

    def check_change(self, key: Hashable, limits: Sequence[Limit], waiting: Iterable[Call]) -> None:
        """Refuse limits that are too small for a call that waits.

        Raises:
            ValueError: they are.
        """
        state = self._new_state(limits)
        for call in waiting:
            if key is None or fits(key, call.key):
                state.check(call.cost)

    def change(self, key: Hashable, limits: tuple[Limit, ...], now: float) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        if key is None:
            self.limits, self._state = limits, self._new_state(limits)
        else:
            self.lanes.set_limits(key, limits, now)


def key_of(lane: Hashable) -> Hashable:
    """Return the key of a lane."""
    return None if lane is NO_KEY else lane
