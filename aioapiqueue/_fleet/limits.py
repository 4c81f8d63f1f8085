"""Which limits calls come under, if their state is kept elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._fleet.grants import NO_KEY
from aioapiqueue._grammar import CALLS
from aioapiqueue._lanes import Lanes, StateMaker, fits
from aioapiqueue._rate import Calendar, Concurrency, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._lanes import AdaptivePolicy, Lane
    from aioapiqueue._rate import Limit
    from aioapiqueue._slot import Call
    from aioapiqueue._units import Units

__all__ = ["LimitTable", "check", "key_of"]


class LimitTable:
    """The limits of a queue and of its lanes. Their states only refuse what cannot be.

    Args:
        limits: of the queue.
        lanes: of keys and patterns.
        concurrency: how many bodies may run at once; inf: any number.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how the authority slows down on push-back.
        report: called with an error in `adaptive`.
        units: the places of units in costs.

    Raises:
        ValueError: what `adaptive` wants does not fit the limits; or a limit that is not shared.
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
        units: Units,
    ) -> None:
        for own in (limits, *lanes.values()):
            _refuse_unshared(own)
        self._maker = StateMaker(
            units, catch_up=catch_up, adaptive=adaptive, report=report, concurrency=concurrency
        )
        self.limits, self._states = tuple(limits), self._maker.states_of(limits)
        self.concurrency = concurrency
        lane_maker = StateMaker(units, catch_up=catch_up, adaptive=adaptive, report=report)
        for limits_of_lane in lanes.values():
            lane_maker.states_of(limits_of_lane)  # refuses now what it would at the first call
        self.lanes = Lanes(lanes, lane_maker, in_use=lambda key, lane: self.in_use(key, lane))
        self.in_use: Callable[[Hashable, Lane], bool] = lambda *_: False
        """Whether somebody waits in a lane."""

    def forget_lanes(self) -> None:
        """Forget which keys have called."""
        self.lanes = self.lanes.empty_copy()

    def lane_of(self, key: Hashable) -> Hashable:
        """Return the lane of a key; None: it has no limits of its own."""
        # The state of a key that has not called for long is forgotten.
        if key not in self.lanes.by_key and self.lanes.limits_of(key) is None:
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
        check(self._states, cost)

    def check_change(self, key: Hashable, limits: Sequence[Limit], waiting: Iterable[Call]) -> None:
        """Refuse limits that are too small for a call that waits.

        Raises:
            ValueError: they are.
        """
        _refuse_unshared(limits)
        states = self._maker.states_of(limits)
        for call in waiting:
            if key is None or fits(key, call.key):
                check(states, call.cost)

    def change(self, key: Hashable, limits: tuple[Limit, ...], now: float) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        if key is None:
            self.limits, self._states = limits, self._maker.states_of(limits)
        else:
            self.lanes.set_limits(key, limits)
            for one in self.lanes.by_key:
                self.lanes.refresh(one, now)


def check(states: Sequence[LimitState], cost: float) -> None:
    """Refuse a cost that is too large for one of these limits."""
    largest = min((state.largest for state in states), default=math.inf)
    if cost > largest:
        raise ValueError(
            f"a cost of {cost:g} never fits a window of {largest:g}: split the call, or raise the "
            "limit"
        )


def _refuse_unshared(limits: Iterable[Limit]) -> None:
    for limit in limits:
        if isinstance(limit, Calendar | Concurrency) or limit.unit != CALLS:
            raise ValueError(
                f"{str(limit)!r} cannot be shared yet: a shared quota takes rates and windows of "
                "calls, and concurrency= of the whole queue; leave out schedule=, or the limit"
            )


def key_of(lane: Hashable) -> Hashable:
    """Return the key of a lane."""
    return None if lane is NO_KEY else lane
