"""Finds the limits of each call when an authority in another process keeps their state.

The lanes and units whose limits count a call are its scope.
"""

from __future__ import annotations

from collections.abc import Hashable  # noqa: TC003 - of a NamedTuple
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aioapiqueue import Budget, Calendar, Concurrency, Window
from aioapiqueue._shared.options import yielding
from aioapiqueue._shared.statement_json import check_key
from aioapiqueue.spi import CALLS, cost_units, lane_states, limit_types, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import Call, Host, seam

NO_KEY = object()
"""The lane of the key None, if that key has limits of its own: the lane None is the whole queue."""


class Scope(NamedTuple):
    """The limits of a call: those of its lanes, in addition to the queue's own.

    Calls of one scope wait in one line (with `order="fair"`: in one for each first key).

    Attributes:
        lanes: each once, in an order that does not depend on the order of the call's keys.
        unused: the places of units that the call does not use.
    """

    lanes: tuple[Hashable, ...]
    unused: tuple[int, ...]


NO_LANES = Scope((), ())
"""The scope of calls that come under all of the queue's own limits, and under no lane."""


def key_of(lane: Hashable) -> Hashable:
    """Return the key of a lane."""
    return None if lane is NO_KEY else lane


LaneOf: TypeAlias = "Callable[[Hashable], Hashable]"
"""Returns the lane of a key; None: it has none."""


def key_to_send(key: Hashable, lane_of: LaneOf) -> Hashable:
    """Return a key that has a lane; None: a statement about it concerns the whole queue.

    Raises:
        TypeError: the key cannot be sent.
    """
    # The key None means "no key", even if "*" has limits.
    if key is None or lane_of(key) is None:
        return None
    check_key(key)
    return key


def throttled_key(throttled: statements.Throttled, lane_of: LaneOf) -> Hashable:
    """Return the key whose lane slows down."""
    call, key = throttled.call, throttled.key
    # Its first key may have no limits of its own; then a lane that has some is slowed down.
    if call is not None and key == call.key:
        return next((one for one in call.keys if lane_of(one) is not None), None)
    return key


class LimitTable:
    """The limits of a queue and of its lanes.

    Their states do no pacing: they reject impossible costs and, on a host, serve estimates.

    Args:
        host: the queue's dispatcher.
        settings: the queue's limits.
        shares_all: whether the authority can keep a `Calendar`, and a `Concurrency` of a lane.

    Raises:
        ValueError: `adaptive` does not fit the limits, or the authority cannot keep a limit.
    """

    def __init__(self, host: Host, settings: seam.LimitSettings, *, shares_all: bool) -> None:
        self._host = host
        limits, lanes, concurrency = settings.limits, settings.lanes, settings.concurrency
        self._shares_all = shares_all
        self._check_shared(None, limits)
        for key, own in lanes.items():
            self._check_shared(key, own)
        self.units = host.units
        self._maker = settings.state_maker(host, concurrency=concurrency)
        self._strict_maker = settings.state_maker(host, concurrency=concurrency)
        """Refuses limits that do not fit this queue's own `adaptive`."""
        self.limits, self.states = tuple(limits), self._maker.states_of(limits)
        self._bounds = lane_states.bounds_of(self.states)
        self._fixed_concurrency = concurrency
        lane_maker = settings.state_maker(host)
        for limits_of_lane in lanes.values():
            lane_maker.states_of(limits_of_lane)  # raises now, not at the first call of the lane
        # From here on, limits may come from other processes. They must not fail here: the user of
        # this queue could not correct them.
        self._maker.adaptive = lane_maker.adaptive = yielding(settings.adaptive)
        self.lanes = lane_states.Lanes(lanes, lane_maker, in_use=self._in_use)
        self.reports_lanes = False
        """Whether requests report the calls in flight of each lane."""
        self._learnt = False
        """Whether there may be learnt limits."""
        self.waits_in: Callable[[Hashable], bool] = lambda _: False
        """Tells whether a call waits in a lane."""

    def _in_use(self, key: Hashable, _: lane_states.Lane) -> bool:
        return self.waits_in(self.lane_of(key))

    @property
    def concurrency(self) -> float:
        """Number of bodies that may run at once; inf: any number."""
        numbers = [one.number for one in self.limits if isinstance(one, Concurrency)]
        return min([self._fixed_concurrency, *numbers])

    def forget_lanes(self) -> None:
        """Forget the lanes of keys that were called."""
        self.lanes = self.lanes.empty_copy()

    def lane_of(self, key: Hashable) -> Hashable:
        """Return the lane of a key; None: it has no limits of its own."""
        # A lane may have been dropped from memory because it was idle: ask its limits, too.
        if key not in self.lanes.by_key and self.lanes.limits_of(key) is None:
            return None
        return NO_KEY if key is None else key

    def scope_of(self, keys: Sequence[Hashable], costs: Sequence[float]) -> Scope:
        """Return the scope of calls with these keys and costs."""
        lanes = tuple(
            dict.fromkeys(lane for key in keys if (lane := self.lane_of(key)) is not None)
        )
        if len(lanes) > 1:
            # So that calls of the same lanes wait in one line, whatever the order of their keys.
            # By type and `repr`, as keys of several types cannot be compared.
            lanes = tuple(sorted(lanes, key=lambda lane: (repr(type(lane)), repr(lane))))
        unused: tuple[int, ...] = ()
        if costs is not cost_units.ONE_CALL:  # the object of most calls: spares them the loop
            unused = tuple(unit for unit, cost in enumerate(costs) if cost == 0)
        if self._learnt:
            unused = tuple(sorted((*unused, *self._unstated_in((None, *lanes), costs))))
        return Scope(lanes, unused) if lanes or unused else NO_LANES

    def limits_of(self, lane: Hashable) -> Sequence[Limit]:
        """Return the limits of a lane; None: of the queue."""
        return self.limits if lane is None else self.lanes.limits_of(key_of(lane)) or ()

    def of_key(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        if key is None:
            return self.limits
        limits = self.lanes.limits_of(key)
        return None if limits is None else tuple(limits)

    def given(self, key: Hashable) -> tuple[Limit, ...]:
        """Return the limits of a key's lane (None: the queue's) that were not learnt."""
        return tuple(
            one for one in self.of_key(key) or () if not isinstance(one, limit_types.LearntRate)
        )

    def has_learnt(self, lane: Hashable) -> bool:
        """Return whether a limit of a lane (None: of the queue) was learnt."""
        return self._learnt and any(
            isinstance(one, limit_types.LearntRate) for one in self.limits_of(lane)
        )

    def _unstated_in(self, lanes: Iterable[Hashable], costs: Sequence[float]) -> set[int]:
        """Return the units that learnt limits of these lanes count, and that costs do not state.

        These limits do not apply to such calls.
        """
        learnt = (
            self.units.place_of(limit.unit)
            for lane in lanes
            for limit in self.limits_of(lane)
            if isinstance(limit, limit_types.LearntRate)
        )
        return {unit for unit in learnt if not cost_units.is_stated(costs, unit)}

    def has(self, lanes: Iterable[Hashable], kind: type[Limit]) -> bool:
        """Return whether these lanes have a limit of a kind."""
        return any(isinstance(limit, kind) for lane in lanes for limit in self.limits_of(lane))

    def has_budget(self, keys: Iterable[Hashable]) -> bool:
        """Return whether a call with these keys comes under a `Budget`."""
        return self.has(
            (None, *(lane for lane in map(self.lane_of, keys) if lane is not None)), Budget
        )

    def keeps_charges(self, lanes: Iterable[Hashable]) -> bool:
        """Return whether a slot that was missed stays charged to a limit of these lanes."""
        lanes = tuple(lanes)
        return self.has(lanes, Window) or self.has(lanes, Budget)

    def work_of(self, lane: Hashable) -> float:
        """Return how much work a lane (None: the queue) causes the authority, in lanes of one rate.

        Each further limit, each log of a `Window`, and the report of calls in flight count half.
        """
        limits = self.limits_of(lane)
        windows = sum(isinstance(limit, Window) for limit in limits)
        return (1 + len(limits) + windows + self.reports_lanes) / 2

    def check_own(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's own limits could never admit.

        Raises:
            ValueError: one of them is too small, or counts a unit that the costs do not state.
        """
        lane_states.check_costs(self._bounds, costs, self.units, self.limits, None)

    def check(self, keys: Sequence[Hashable], costs: Sequence[float], now: float) -> None:
        """Refuse costs that could never start; note that these keys are called.

        Raises:
            ValueError: one of the limits is too small, or counts a unit that the costs do not
                state.
        """
        self.check_own(costs)
        for lane in self.lanes.find_all(keys, now):
            lane_states.check_costs(lane.bounds, costs, self.units, lane.limits, lane.name)

    def check_call(self, call: Call, now: float) -> None:
        """Refuse a call that could never start; note that its keys are called.

        Raises:
            ValueError: as of `check`.
            TypeError: the key of one of its lanes cannot be sent.
        """
        self.check(call.keys, call.costs, now)
        for key in call.keys:
            if self.lane_of(key) is not None:
                check_key(key)

    def checked(self, change: statements.SetLimits | statements.Learnt) -> statements.SetLimits:
        """Return a change with all limits that the key will have; those that were learnt are last.

        Raises:
            ValueError: limits are too small for a call that waits, are not shared, or do not fit
                `adaptive`.
            TypeError: the key cannot be sent.
        """
        key, limits = change.key, change.limits
        if isinstance(change, statements.Learnt):
            limits = (*self.given(key), *limits)  # learnt limits replace only learnt ones
        self._check_shared(key, limits)
        bounds = lane_states.bounds_of(self._strict_maker.states_of(limits))
        for call in self._host.waiters:
            if key is None or any(lane_states.fits(key, one) for one in call.keys):
                lane_states.check_costs(bounds, call.costs, self.units, limits, key)
        check_key(key)
        return statements.SetLimits(key, limits)

    def changed_elsewhere(self, changed: Mapping[Hashable, Sequence[Limit]]) -> None:
        """Fail the waiting calls that limits of other processes never admit; inform observers.

        Args:
            changed: the limits in force, by the keys whose limits have changed.
        """
        host, now = self._host, self._host.loop.now()
        for call in list(host.waiters) if changed else ():  # a copy: `fail` removes calls
            try:
                self.check_call(call, now)
            except (ValueError, TypeError) as error:
                host.fail(call, "refused", error)
        for key, limits in changed.items():
            host.emit("limits_changed", key=key, limits=limits, origin="others")

    def _check_shared(self, key: Hashable, limits: Iterable[Limit]) -> None:
        for limit in () if self._shares_all else limits:
            problem = _problem_of(key, limit)
            if problem is not None:
                raise ValueError(
                    f"{str(limit)!r} cannot be shared: {problem}, or leave out schedule="
                )

    def change(self, key: Hashable, limits: tuple[Limit, ...], now: float) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        self._learnt |= any(isinstance(one, limit_types.LearntRate) for one in limits)
        if key is None:
            self.limits, self.states = limits, self._maker.changed(self.states, limits, now, {})
            self._bounds = lane_states.bounds_of(self.states)
        else:
            self.lanes.set_limits(key, limits, now)
            self.lanes.refresh(key)  # lanes of a pattern are refreshed when they are called


def _problem_of(key: Hashable, limit: Limit) -> str | None:
    """Return why a limit of the queue (None) or of a lane cannot be shared, and what to do."""
    if isinstance(limit, Calendar):
        return (
            "the server has no time zone data. Write a window that is at least as strict "
            f"({_window_for(limit)})"
        )
    if isinstance(limit, Concurrency) and key is not None:
        return (
            "the server limits concurrency only for a whole quota. Give the calls of "
            f"{key!r} their own queue, whose SharedSchedule has another name"
        )
    return None


def _window_for(limit: Calendar) -> str:
    # The longest that each period can be: a day on which clocks are set back has 25 hours.
    day = "1d" if limit.zone == "UTC" else "25h"
    per = {"hour": "1h", "day": day, "month": "31d"}[limit.each]
    unit = "" if limit.unit == CALLS else f" {limit.unit}"
    return f'"{limit.calls}{unit} in any {per}"'
