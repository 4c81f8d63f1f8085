"""Makes the states of limits, and changes them when a user or a server sets other limits.

A limit that replaces another one must count what the old one has counted. Otherwise, `set_rate`
would grant a second burst at once: from "10/s burst 10" to "10 in any 1s" and back, several times,
60 calls started where 10 may.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeAlias

from aioapiqueue._limits.algorithms import LearntBucket, TokenBucket
from aioapiqueue._limits.limit_types import (
    Budget,
    Calendar,
    Concurrency,
    LearntRate,
    Limit,
    Rate,
    Window,
    raises,
)
from aioapiqueue._limits.windows import CalendarWindow, Permits, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from aioapiqueue._limits.cost_units import Units
    from aioapiqueue._limits.limit_state import Charge, LimitState

__all__ = ["AdaptivePolicy", "StateMaker"]


LeftOut: TypeAlias = "dict[int, Sequence[Charge]]"
"""What was spent, by unit, of budgets that a change of limits has left out: they may come back."""


class AdaptivePolicy(Protocol):
    """The interface of `adaptive=`: `aioapiqueue.Adaptive`, which this layer must not import."""

    def govern(
        self,
        limits: Sequence[Limit],
        *,
        catch_up: float,
        concurrency: float,
        report: Callable[[str, Exception], None],
        units: Units,
    ) -> Sequence[LimitState]:
        """Return further states, which process `back_off`, for these limits."""


class StateMaker:
    """Makes the states of limits.

    Args:
        units: the units of the queue.
        catch_up: seconds of lateness that a rate makes up for.
        adaptive: slows down when the server throttles calls; default: nothing does.
        report: called with an error in `adaptive`.
        to_wall: converts an instant to seconds since the epoch.
        permits: makes the state of a `Concurrency`.
        concurrency: for the queue's own limits, the value of `concurrency=`. None: for a lane,
            where `adaptive` does not change how many bodies may run.
    """

    def __init__(
        self,
        units: Units,
        *,
        catch_up: float,
        adaptive: AdaptivePolicy | None = None,
        report: Callable[[str, Exception], None] = lambda *_: None,
        to_wall: Callable[[float], float] = float,
        permits: Callable[[Concurrency], Permits] = Permits,
        concurrency: float | None = None,
    ) -> None:
        self._units = units
        self.catch_up = catch_up
        self.adaptive = adaptive
        self._report = report
        self._to_wall = to_wall
        self._permits = permits
        self._concurrency = concurrency

    def states_of(self, limits: Sequence[Limit]) -> tuple[LimitState, ...]:
        """Return new states of limits that apply together.

        Raises:
            ValueError: the settings of `adaptive` do not fit them.
        """
        return (*map(self._state_of, limits), *self._adaptive_states(limits))

    def _state_of(self, limit: Limit) -> LimitState:
        if isinstance(limit, Concurrency):  # the only kind without a unit
            return self._permits(limit)
        unit = self._units.place_of(limit.unit)
        if isinstance(limit, Budget) or raises(limit):
            return self._raising(limit, unit)
        if isinstance(limit, Rate):
            if limit.ramp is not None:
                return self._ramped(limit, unit)
            bucket = LearntBucket if isinstance(limit, LearntRate) else TokenBucket
            return bucket(limit, catch_up=self.catch_up, unit=unit)
        if isinstance(limit, Calendar):
            return CalendarWindow(limit, to_wall=self._to_wall, unit=unit)
        return SlidingWindow(limit, unit=unit)

    def _ramped(self, limit: Rate, unit: int) -> LimitState:
        from aioapiqueue._limits import ramped  # noqa: PLC0415 - few queues have such limits

        learnt = isinstance(limit, LearntRate)
        bucket = ramped.LearntRampedBucket if learnt else ramped.RampedBucket
        return bucket(limit, catch_up=self.catch_up, unit=unit)

    def _raising(self, limit: Rate | Window | Calendar | Budget, unit: int) -> LimitState:
        from aioapiqueue._limits import raising  # noqa: PLC0415 - few queues have such limits

        match limit:
            case Rate():
                plain = limit.ramp is None
                bucket = raising.RaisingBucket if plain else raising.RaisingRampedBucket
                return bucket(limit, catch_up=self.catch_up, unit=unit)
            case Calendar():
                return raising.RaisingCalendar(limit, to_wall=self._to_wall, unit=unit)
            case Window():
                return raising.RaisingWindow(limit, unit=unit)
            case Budget():
                return raising.BudgetState(limit, unit=unit)

    def _adaptive_states(self, limits: Sequence[Limit]) -> Sequence[LimitState]:
        if self.adaptive is None:
            return ()
        most = math.inf  # of a lane: `adaptive` never changes how many of its bodies run
        if self._concurrency is not None:
            bodies = [limit.number for limit in limits if isinstance(limit, Concurrency)]
            most = min([self._concurrency, *bodies])
        return self.adaptive.govern(
            limits,
            catch_up=self.catch_up,
            concurrency=most,
            report=self._report,
            units=self._units,
        )

    def changed(
        self,
        old: Sequence[LimitState],
        limits: Sequence[Limit],
        now: float,
        left_out: LeftOut,
    ) -> tuple[LimitState, ...]:
        """Return the states of other limits, with the charges of the old ones.

        If there was a limit of the same kind and unit, its state is changed and stays the same
        object. A limit of a new kind takes over the charges of the old limits of its unit: all
        charges of those that it replaces, and of those that stay at most until it is used up. A
        budget also takes over what was spent of one that an earlier change has left out.

        Args:
            old: the states of the old limits.
            limits: the new limits.
            now: the instant of the change.
            left_out: updated here.
        """
        held = max((one.held for one in old), default=-math.inf)
        # Before any state changes: a window that becomes shorter forgets calls as it does so.
        charges_of = {one: one.charges(now) for one in old if one.counts}
        rest, states = list(old), [*map(self._state_of, limits)]
        # `kept` are the states of limits that count as before, `changed` those of the same kind but
        # other numbers; all others are fresh. Those that count as before are matched first, as two
        # limits of a kind may be given in another order.
        kept = _match(states, rest, limits)
        changed = _match(states, rest, but=kept)
        for state, limit in zip(states, limits, strict=True):
            if state in changed or (state in kept and isinstance(state, SlidingWindow)):
                state.change(limit, now)  # the log stays, but it may have room for more or fewer
            elif state not in kept:
                state.held = held
                state.on_idle(now)  # a new limit makes up for no time before it was set
        for state in states:
            is_fresh = state not in kept and state not in changed
            # A limit of which only the numbers change has counted its calls itself, except those
            # that another one forgets by its change. A calendar or budget that stays one forgets
            # none.
            stay = kept | {one for one in changed if not one.knows_instants}
            sources = charges_of if is_fresh else charges_of.keys() - stay - {state}
            for one in sources if state not in kept else ():
                if one.unit == state.unit:
                    # A calendar does not know when its calls started, nor does a budget. Charged
                    # now, all calls of a day would be hours of debt for a rate.
                    replaces = is_fresh and one in rest and one.knows_instants
                    state.take_over(charges_of[one], now, beside=not replaces)
        left_out.update({one.unit: its for one in rest if one.lasts and (its := charges_of[one])})
        _take_over_left_out(states, left_out, now)
        # Always new ones, as the limits are their ceilings; they keep what the old ones measured.
        for state in self._adaptive_states(limits):
            state.held = held
            for same in [x for x in rest if _alike(x, state)]:
                state.carry_over(same, now)
            state.on_idle(now)
            states.append(state)
        return tuple(states)


def _take_over_left_out(states: Iterable[LimitState], left_out: LeftOut, now: float) -> None:
    for state in states:
        if state.lasts:
            state.take_over(left_out.pop(state.unit, ()), now)


def _alike(one: LimitState, other: LimitState) -> bool:
    return (type(one), one.unit) == (type(other), other.unit)


def _match(
    states: list[LimitState],
    rest: list[LimitState],
    limits: Sequence[Limit] | None = None,
    *,
    but: Collection[LimitState] = (),
) -> set[LimitState]:
    """Replace new states by old ones of the same kind and unit; return the old ones.

    Args:
        states: the new states; some of them are replaced.
        rest: the old states that are left; those that are used are removed.
        limits: the new limits, if only a state that counts like them may be used; default: any.
        but: those of `states` that must stay.
    """
    found: set[LimitState] = set()
    for place, state in enumerate(states):
        for one in rest if state not in but else ():
            if _alike(one, state) and (limits is None or one.counts_like(limits[place])):
                rest.remove(one)
                found.add(one)
                states[place] = one
                break
    return found
