"""Which limits a call comes under: a state for each key that has limits of its own."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._limits.algorithms import LearntBucket, LimitState, TokenBucket
from aioapiqueue._limits.grammar import number_text
from aioapiqueue._limits.rates import Calendar, Concurrency, LearntRate, Limit, Rate, Window
from aioapiqueue._limits.units import is_stated
from aioapiqueue._limits.windows import CalendarWindow, Permits, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
    from typing import NoReturn

    from aioapiqueue._limits.units import Units

__all__ = [
    "AdaptivePolicy",
    "Bounds",
    "Lane",
    "Lanes",
    "StateMaker",
    "bounds_of",
    "check_costs",
    "find_patterns",
    "fits",
    "limits_charged_by",
    "name_of",
    "takes_one",
]


class AdaptivePolicy(Protocol):
    """What `adaptive=` takes: `aioapiqueue.Adaptive`, which the core need not know."""

    def govern(
        self,
        limits: Sequence[Limit],
        *,
        catch_up: float,
        concurrency: float,
        report: Callable[[str, Exception], None],
        units: Units,
    ) -> Sequence[LimitState]:
        """Return states that process `push_back`, beside those of these limits."""


class StateMaker:
    """Makes the states of limits.

    Args:
        units: the places of units in costs.
        catch_up: seconds of lateness that a rate makes up for.
        adaptive: processes push-back; default: it changes nothing.
        report: called with an error in `adaptive`.
        to_wall: converts an instant to seconds since the epoch.
        permits: makes the state of a `Concurrency`.
        concurrency: of the queue's own limits: how many bodies may run at once besides; None: of a
            lane, where `adaptive` leaves their number alone.
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
        """Return new states of limits that all hold at once.

        Raises:
            ValueError: what `adaptive` wants does not fit them.
        """
        return (*map(self._state_of, limits), *self._adaptive_states(limits))

    def _state_of(self, limit: Limit) -> LimitState:
        if isinstance(limit, Concurrency):
            return self._permits(limit)
        unit = self._units.place_of(limit.unit)
        if isinstance(limit, Rate):
            bucket = LearntBucket if isinstance(limit, LearntRate) else TokenBucket
            return bucket(limit, catch_up=self.catch_up, unit=unit)
        if isinstance(limit, Calendar):
            return CalendarWindow(limit, to_wall=self._to_wall, unit=unit)
        return SlidingWindow(limit, unit=unit)

    def _adaptive_states(self, limits: Sequence[Limit]) -> Sequence[LimitState]:
        if self.adaptive is None:
            return ()
        most = math.inf
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
        self, old: Sequence[LimitState], limits: Sequence[Limit], now: float
    ) -> tuple[LimitState, ...]:
        """Return the states of other limits, with what the old ones have let through.

        One of a kind and unit that was there before is the same object. A limit of another kind
        starts with the charges of the limits of its unit: of those that it replaces in full, of
        those that stay at most until it is used up.
        """
        held = max((one.held for one in old), default=-math.inf)
        charges_of = {one: one.charges(now) for one in old if type(one) in _COUNTING}
        rest, states = list(old), [*map(self._state_of, limits)]
        # An equal limit first: two of a kind may be given in another order.
        kept = _match(states, rest, limits)
        changed = _match(states, rest, but=kept)
        for state, limit in zip(states, limits, strict=True):
            if state in changed:
                state.change(limit, now)
            elif state not in kept:
                state.held = held
                state.on_idle(now)
        for state in states:
            is_fresh = state not in kept and state not in changed
            # A limit that only changes its numbers has its own calls, but for those that another
            # one forgets as it changes. A calendar that stays one forgets none.
            stay = kept | {one for one in changed if isinstance(one, CalendarWindow)}
            sources = charges_of if is_fresh else charges_of.keys() - stay - {state}
            for one in sources if state not in kept else ():
                if one.unit == state.unit:
                    # A calendar does not know when its calls started: as of now, all calls of a day
                    # would be hours of debt for a rate.
                    replaces = is_fresh and one in rest and not isinstance(one, CalendarWindow)
                    state.take_over(charges_of[one], now, beside=not replaces)
        for state in self._adaptive_states(limits):
            state.held = held
            for same in [x for x in rest if _alike(x, state)]:
                state.carry_over(same, now)
            state.on_idle(now)
            states.append(state)
        return tuple(states)


def _alike(one: LimitState, other: LimitState) -> bool:
    return (type(one), one.unit) == (type(other), other.unit)


def _match(
    states: list[LimitState],
    rest: list[LimitState],
    limits: Sequence[Limit] | None = None,
    *,
    but: Collection[LimitState] = (),
) -> set[LimitState]:
    """Put old states of the same kind and unit in the place of new ones; return them.

    Args:
        states: the new ones.
        rest: the old ones that are left.
        limits: of the new ones, if an old one has to be of an equal limit.
        but: those of `states` that stay.
    """
    found: set[LimitState] = set()
    for place, state in enumerate(states):
        for one in rest if state not in but else ():
            if _alike(one, state) and (limits is None or one.is_of(limits[place])):
                rest.remove(one)
                found.add(one)
                states[place] = one
                break
    return found


_COUNTING = (TokenBucket, LearntBucket, SlidingWindow, CalendarWindow)
"""The states of limits that count. (Those of `adaptive` are not the state of a limit.)"""


def fits(name: Hashable, key: Hashable) -> bool:
    """Return whether the limits under `name`, which may be a pattern, could be those of `key`."""
    if name in (key, "*"):
        return True
    is_pattern = isinstance(name, str) and name.endswith("*")
    return is_pattern and isinstance(key, str) and key.startswith(str(name)[:-1])


def find_patterns(names: Iterable[Hashable]) -> list[str]:
    """Return those of these names that are patterns, the longest first."""
    patterns = [key for key in names if isinstance(key, str) and key.endswith("*")]
    return sorted(patterns, key=len, reverse=True)


def name_of(key: Hashable, names: Collection[Hashable], patterns: Iterable[str]) -> Hashable:
    """Return under which of these names the limits of `key` are; `key` itself where under none."""
    if key not in names:
        for pattern in patterns:
            if fits(pattern, key):
                return pattern
    return key


Bounds = tuple[tuple[int, float], ...]
"""Units of which calls have to say something, and the largest cost in each that can start."""


def bounds_of(states: Sequence[LimitState]) -> Bounds:
    """Return of which units a call has to say something, and the largest cost in each."""
    largest: dict[int, float] = {}
    for state in states:
        if not state.optional:
            largest[state.unit] = min(state.largest, largest.get(state.unit, math.inf))
    return tuple(largest.items())


def limits_charged_by(
    states: tuple[LimitState, ...], costs: Sequence[float]
) -> tuple[LimitState, ...]:
    """Return those of these that a call of these costs comes under."""
    if 0 in costs or any([state.optional for state in states]):  # noqa: C419 - for each slot
        return tuple([state for state in states if state.concerns(costs)])
    return states


def check_costs(
    bounds: Bounds,
    costs: Sequence[float],
    units: Units,
    limits: Iterable[Limit],
    name: Hashable,
) -> None:
    """Refuse costs that could never start, or that do not name a unit which a limit counts.

    Args:
        bounds: the bounds of the limits.
        costs: the costs of a call.
        units: the units of the queue.
        limits: the limits of the queue, or of a lane.
        name: the name of the lane; None: the limits are the queue's.

    Raises:
        ValueError: one of the limits is too small, or counts a unit that the costs do not name.
    """
    for unit, largest in bounds:
        if unit >= len(costs) or not costs[unit] <= largest:  # NaN is neither
            _refuse_cost(unit, costs, units, limits, name)


def _refuse_cost(
    unit: int,
    costs: Sequence[float],
    units: Units,
    limits: Iterable[Limit],
    name: Hashable,
) -> NoReturn:
    word = units.names[unit]
    where = "the queue" if name is None else f"the lane {name!r}"
    if not is_stated(costs, unit):
        named = ", ".join(list(units.named(costs))[1:])  # what it says: one of these may be meant
        names = f"names {named} instead of" if named else "does not name"
        raise ValueError(
            f"the cost of this call {names} {word}, but a limit of {where} counts {word}: write "
            f'cost={{"{word}": amount}} (the amount may be 0)'
        )
    small = [one for one in limits if isinstance(one, Window | Calendar) and one.unit == word]
    smallest = min(small, key=lambda one: one.calls)
    amount = f"{number_text(costs[unit])} {word}"
    raise ValueError(
        f'a cost of {amount} never fits the limit "{smallest}" of {where}: split the call, or '
        "raise the limit"
    )


class Lane:
    """The limits of one key, as they stand.

    Args:
        name: the key or pattern that it has them from.
        states: theirs.
    """

    __slots__ = (
        "bounds",
        "extra",
        "gate",
        "held",
        "kept",
        "limits",
        "name",
        "own",
        "states",
        "takes_one",
        "together",
        "version",
    )

    def __init__(
        self, name: Hashable, limits: Sequence[Limit], states: tuple[LimitState, ...]
    ) -> None:
        self.version = 0
        """Of the limits, when it was last brought up to date."""
        self.extra: tuple[LimitState, ...] = ()
        """What holds besides the limits."""
        self.set(name, limits, states)
        self.held = -math.inf
        """When the latest hold ends."""
        self.gate: LimitState | None = None
        """What a call comes under that uses nothing of any limit here: holds, and nothing else."""

    def set(self, name: Hashable, limits: Sequence[Limit], states: tuple[LimitState, ...]) -> None:
        """Have these limits from now on."""
        self.name = name
        self.limits = limits
        self.kept = states
        """The states of the limits; `states` has those of what holds besides, too."""
        self.states = states = states + self.extra
        self.own: tuple[LimitState, ...] = ()
        self.together = states
        """The queue's own limits and these: one tuple for all calls."""
        self.bounds = bounds_of(states)
        self.takes_one = takes_one(states)
        """Whether a call that says nothing of its cost comes under all, and they take it."""

    def add(self, state: LimitState) -> None:
        """Have one more, which is not that of a limit."""
        state.held = max(state.held, self.held)
        self.extra += (state,)
        self.set(self.name, self.limits, self.kept)

    def join(self, own: tuple[LimitState, ...]) -> None:
        """Have these limits of the queue in `together`."""
        self.own, self.together = own, own + self.states

    def states_for(self, costs: Sequence[float]) -> tuple[LimitState, ...]:
        """Return what a call of these costs comes under: at least one, as it may be held."""
        states = limits_charged_by(self.states, costs)
        if states:
            return states
        if self.gate is None:
            self.gate = LimitState()
            self.gate.held = self.held
        return (self.gate,)

    def all_states(self) -> Sequence[LimitState]:
        """Return the states of its limits, and its gate if it has one."""
        return self.states if self.gate is None else (*self.states, self.gate)

    def hold(self, until: float) -> None:
        """Start nothing before `until`; a hold in force is only extended."""
        self.held = max(self.held, until)
        for state in self.all_states():
            state.held = max(state.held, until)

    def idle_at(self, now: float) -> float:
        """Return the instant from which this cannot be told from a new lane."""
        for state in self.states:
            state.look(now)
        return self.counts_until()

    def counts_until(self) -> float:
        """Return the same as `idle_at`, as of the latest look."""
        return max((state.idle_at() for state in self.states), default=self.held)


def takes_one(states: Sequence[LimitState]) -> bool:
    """Return whether a call that says nothing of its cost comes under all of these, and fits."""
    return all(state.unit == 0 and state.largest >= 1 for state in states)


def _without_callers(states: Sequence[LimitState]) -> tuple[LimitState, ...]:
    return tuple(one.empty_copy() if isinstance(one, Permits) else one for one in states)


_LOOKS = 32
"""How many lanes a call looks at, at most, to forget those that are idle: some 30 microseconds of
work. A lane comes with one call and goes at the second look at it, so that two would keep up."""
_LOOK_AGAIN = 1.0
"""Seconds after which a lane is looked at again that somebody waits in, or has a permit of."""
_CHANGES = 8
"""How many of the limits that were set for a pattern a lane goes through at its next call."""
_LOOK_AGAIN_AT_LEARNT = 60.0
"""Seconds after which a lane is looked at again whose limits are learnt. As long as they are, it is
kept: a new one would not know that the server counts in windows."""


class Lanes:
    """The limits that single keys have of their own, under the queue's.

    A lane exists from its key's first call until nobody waits in it and it is in the same state as
    a new one. Evicting it earlier would grant its key a fresh limit. One that has learnt its limits
    is kept. A key without limits of its own has those of the longest pattern that fits:
    `"Describe*"`, or `"*"`, which fits all.

    Args:
        limits: by key or pattern.
        maker: makes the states.
        in_use: returns whether somebody waits in a lane.
    """

    def __init__(
        self,
        limits: Mapping[Hashable, Sequence[Limit]],
        maker: StateMaker,
        *,
        in_use: Callable[[Hashable, Lane], bool] = lambda *_: False,
    ) -> None:
        self.limits = dict(limits)
        self.altered = False
        """Whether limits, of lanes or of the queue, were set since the queue was made."""
        self._patterns = find_patterns(self.limits)
        self.maker = maker
        self.in_use = in_use
        self.on_new: list[Callable[[Hashable, Lane], None]] = []
        """Each is called with a key and its lane, which has just been made."""
        self.version = 0
        """How often limits were set."""
        self._changes: dict[Hashable, deque[tuple[int, float, Sequence[Limit]]]] = {}
        """By name, the limits that were set last: which version it was, when, and which."""
        self.states_replaced = False
        """Whether a lane has got other states since this was last set to False."""
        self.by_key: dict[Hashable, Lane] = {}
        self._idle: list[tuple[float, int, Hashable]] = []
        """A heap of (look then, sequence number, key), one entry for each lane."""
        self._count = 0

    def empty_copy(self) -> Lanes:
        """Return one with the same limits, of which nothing has been used."""
        lanes = Lanes(self.limits, self.maker, in_use=self.in_use)
        lanes.on_new = self.on_new
        lanes.altered = self.altered
        return lanes

    def find(self, key: Hashable, now: float) -> Lane | None:
        """Return the lane of `key`, made if need be; None where the key has no limits."""
        if self._idle and self._idle[0][0] < now:
            self.evict_idle(now)
        lane = self.by_key.get(key)
        if lane is not None and lane.version == self.version:  # as `get`: done for each call
            return lane
        return self.get(key, now)

    def find_all(self, keys: Iterable[Hashable], now: float, *, evicts: bool = True) -> list[Lane]:
        """Return the lanes of a call's keys."""
        if evicts:  # first: the second look-up must not evict what the first has made
            self.evict_idle(now)
        return [lane for key in keys if (lane := self.get(key, now)) is not None]

    def evict_idle(self, now: float) -> None:
        """Forget some of the lanes that are idle."""
        looks = _LOOKS
        while looks and self._idle and self._idle[0][0] < now:
            self._evict(heappop(self._idle)[2], now)
            looks -= 1

    def get(self, key: Hashable, now: float) -> Lane | None:
        """Return the lane of `key`, made if need be; None where the key has no limits."""
        lane = self.by_key.get(key)
        if lane is not None:
            if lane.version != self.version:
                self.refresh(key)
        else:
            name = self.name_of(key)
            limits = self.limits.get(name)
            if limits is None:
                return None
            states = self.maker.states_of(limits)
            for state in states:
                state.on_idle(now)
            lane = self.by_key[key] = Lane(name, limits, states)
            lane.version = self.version
            for note in self.on_new:
                note(key, lane)
            self._watch(key, now)
        return lane

    def forget_callers(self) -> None:
        """Forget who waits and whose bodies run: they were on a loop that is gone."""
        for lane in self.by_key.values():
            # Another object: bodies that end all the same give back what nobody counts any more.
            lane.extra = _without_callers(lane.extra)
            lane.set(lane.name, lane.limits, _without_callers(lane.kept))
            for state in lane.all_states():
                state.forget_callers()

    def idle_at(self, now: float) -> float:
        """Return the instant from which every lane is as good as new."""
        for key in self.by_key:
            self.get(key, now)
        return max((lane.idle_at(now) for lane in self.by_key.values()), default=-math.inf)

    def limits_of(self, key: Hashable) -> Sequence[Limit] | None:
        """Return the limits of `key`; None if it has no limits of its own."""
        return self.limits.get(self.name_of(key))

    def first_with_limits(self, keys: Iterable[Hashable]) -> Hashable:
        """Return the first of these keys that has a lane; None if none has."""
        return next((key for key in keys if self.limits_of(key) is not None), None)

    def set_limits(self, key: Hashable, limits: Sequence[Limit], now: float) -> None:
        """Give `key` (or, with a pattern, every key that has them from it) these limits.

        Lanes are brought up to date when they are looked up, or by `refresh`: to do so with
        thousands at once would take too long. They then count what they had let through `now`.
        """
        self.limits[key] = limits
        self.altered = True
        self.version += 1
        if key not in self._changes:  # that of a single key is brought up to date at once
            self._changes[key] = deque(maxlen=_CHANGES if find_patterns((key,)) else 1)
        self._changes[key].append((self.version, now, limits))
        self._note_pattern(key)

    def keys_matching(self, name: Hashable) -> Iterable[Hashable]:
        """Return the keys, of those in memory, whose limits may be under this name."""
        if isinstance(name, str) and name.endswith("*"):
            return self.by_key
        return (name,) if name in self.by_key else ()

    def refresh(self, key: Hashable) -> Sequence[LimitState]:
        """Bring one lane up to date; return its states."""
        lane = self.by_key.get(key)
        if lane is None:
            return ()
        name = self.name_of(key)
        # Nothing has started in this lane since the first of them, or it would have been looked up.
        for version, set_at, limits in self._changes.get(name, ()):
            if version > lane.version and lane.limits is not limits:
                states = self.maker.changed(lane.kept, limits, set_at)
                for state in states:
                    state.held = max(state.held, lane.held)
                self.states_replaced |= states != lane.kept
                lane.set(name, limits, states)
        lane.version = self.version
        return lane.states

    def name_of(self, key: Hashable) -> Hashable:
        """Return under which name the limits of `key` are, if they are."""
        return name_of(key, self.limits, self._patterns)

    def _note_pattern(self, name: Hashable) -> None:
        # To look at all of thousands would take too long.
        if name not in self._patterns:
            self._patterns = find_patterns([*self._patterns, name])

    def _watch(self, key: Hashable, at: float) -> None:
        self._count += 1
        heappush(self._idle, (at, self._count, key))

    def _evict(self, key: Hashable, now: float) -> None:
        lane = self.by_key[key]
        if self.in_use(key, lane):
            self._watch(key, now + _LOOK_AGAIN)
            return
        if lane.version != self.version:
            changes = self._changes.get(self.name_of(key), ())
            set_at = next((at for version, at, _ in changes if version > lane.version), math.inf)
            if lane.counts_until() > set_at:  # new limits may count earlier calls for longer
                replaced = self.states_replaced
                self.refresh(key)
                self.states_replaced = replaced  # no call waits in it
        if (idle_at := lane.idle_at(now)) >= now:
            self._watch(key, idle_at if idle_at < math.inf else now + _LOOK_AGAIN)
        elif any(isinstance(one, LearntBucket) for one in lane.kept):
            self._watch(key, now + _LOOK_AGAIN_AT_LEARNT)
        else:
            del self.by_key[key]
