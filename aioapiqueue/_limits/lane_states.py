"""The limits of single keys: which of them apply to a call, and their states.

A lane is made by the first call of its key, and evicted once it is in the same state as a new one,
so that there may be a key for each user. Both happen when calls look their lanes up: there is no
timer, and no step whose time grows with the number of lanes.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from aioapiqueue._limits.algorithms import LearntBucket
from aioapiqueue._limits.cost_units import is_stated
from aioapiqueue._limits.grammar import number_text
from aioapiqueue._limits.limit_state import LimitState
from aioapiqueue._limits.limit_types import Calendar, Window
from aioapiqueue._limits.state_maker import LeftOut, StateMaker
from aioapiqueue._limits.windows import Permits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
    from typing import NoReturn

    from aioapiqueue._limits.cost_units import Units
    from aioapiqueue._limits.limit_types import Limit

__all__ = [
    "Lane",
    "Lanes",
    "StateMaker",
    "bounds_of",
    "check_costs",
    "find_patterns",
    "fits",
    "name_of",
]


def fits(name: Hashable, key: Hashable) -> bool:
    """Return whether `name` is `key`, or a pattern that matches it."""
    if name in (key, "*"):  # "*" also matches keys that are not strings
        return True
    is_pattern = isinstance(name, str) and name.endswith("*")
    return is_pattern and isinstance(key, str) and key.startswith(str(name)[:-1])


def find_patterns(names: Iterable[Hashable]) -> list[str]:
    """Return the patterns among these names, the longest first."""
    patterns = [key for key in names if isinstance(key, str) and key.endswith("*")]
    return sorted(patterns, key=len, reverse=True)


def name_of(key: Hashable, names: Collection[Hashable], patterns: Iterable[str]) -> Hashable:
    """Return the name that gives `key` its limits: itself, or the longest pattern; else `key`."""
    if key not in names:
        for pattern in patterns:
            if fits(pattern, key):
                return pattern
    return key


Bounds = tuple[tuple[int, float], ...]
"""The units that a cost must name, each with the largest cost that can start."""


def bounds_of(states: Sequence[LimitState]) -> Bounds:
    """Return the units that a cost must name, each with the largest cost that can start."""
    largest: dict[int, float] = {}
    for state in states:
        if not state.optional:
            largest[state.unit] = min(state.largest, largest.get(state.unit, math.inf))
    return tuple(largest.items())


def limits_charged_by(
    states: tuple[LimitState, ...], costs: Sequence[float]
) -> tuple[LimitState, ...]:
    """Return the states that a call with these costs is charged to."""
    if 0 in costs or any([state.optional for state in states]):  # noqa: C419 - faster
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
        # Written so that NaN, an amount that is not stated, is refused as well.
        if unit >= len(costs) or not costs[unit] <= largest:
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
        named = ", ".join(list(units.named(costs))[1:])  # one of these may be a misspelling
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
    """The limits of one key, and their states.

    Args:
        name: the key or pattern that the limits were set for.
        limits: the limits.
        states: their states.
    """

    __slots__ = (
        "bounds",
        "extra",
        "gate",
        "held",
        "kept",
        "left_out",
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
        """`Lanes.version` at the last update."""
        self.left_out: LeftOut = {}
        self.extra: tuple[LimitState, ...] = ()
        """Further states, such as the reports of servers."""
        self.set(name, limits, states)
        self.held = -math.inf
        """The instant at which the latest hold ends."""
        self.gate: LimitState | None = None
        """The state for calls that use nothing of any limit here: only holds apply to them."""

    def set(self, name: Hashable, limits: Sequence[Limit], states: tuple[LimitState, ...]) -> None:
        """Replace the limits."""
        self.name = name
        self.limits = limits
        self.kept = states
        """The states of the limits; `states` also has `extra`."""
        self.states = states = states + self.extra
        self.own: tuple[LimitState, ...] = ()
        self.together = states
        """The states of the queue's own limits and these: one tuple for all calls, as the calls of
        a line are found by it."""
        self.bounds = bounds_of(states)
        self.takes_one = bool(states) and takes_one(states)
        """Whether there are any, and a call with the default cost fits and is charged to all."""

    def add(self, state: LimitState) -> None:
        """Add a state beside those of the limits."""
        state.held = max(state.held, self.held)
        # A new tuple through `set`: calls that wait keep the old one until they are sorted again.
        self.extra += (state,)
        self.set(self.name, self.limits, self.kept)

    def join(self, own: tuple[LimitState, ...]) -> None:
        """Have these states of the queue's own limits in `together`."""
        self.own, self.together = own, own + self.states

    def states_for(self, costs: Sequence[float]) -> tuple[LimitState, ...]:
        """Return the states for a call with these costs: at least one, because of holds."""
        states = limits_charged_by(self.states, costs)
        if states:
            return states
        # Without any state, a call that uses nothing of the lane would start during its hold.
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
        """Return the instant from which this is in the same state as a new lane."""
        latest = math.inf if self.left_out else self.held
        for state in self.states:
            latest = max(latest, state.idle_at(now))
        return latest


def takes_one(states: Sequence[LimitState]) -> bool:
    """Return whether a call with the default cost is charged to all of these, and fits all."""
    # Unit 0 is `calls`. (Permits have it, too.)
    return all(state.unit == 0 and state.largest >= 1 for state in states)


def with_spent(old: Sequence[LimitState], new: tuple[LimitState, ...]) -> tuple[LimitState, ...]:
    """Return new states of the same limits; those of budgets stay, as they know no instants."""
    pairs = zip(old, new, strict=False)  # some of the old ones are not of these limits
    kept = [before if before.lasts else state for before, state in pairs]
    for state in kept:
        state.held = -math.inf  # a hold ends at an instant of the old clock
    return (*kept, *new[len(kept) :])


def _without_callers(states: Sequence[LimitState]) -> tuple[LimitState, ...]:
    return tuple(one.empty_copy() if isinstance(one, Permits) else one for one in states)


_LOOKS = 32
"""Number of lanes that a call checks at most, to evict idle ones: some 30 microseconds of work. An
idle lane needs two checks to be evicted, and a call makes one lane, so that two would keep up."""
_LOOK_AGAIN = 1.0
"""Seconds until the next check of a lane in which a call waits or holds a permit."""
_CHANGES = 8
"""Number of changes to a pattern's limits that a lane replays at its next call."""
_LOOK_AGAIN_AT_LEARNT = 60.0
"""Seconds until the next check of a lane with learnt limits. It is not evicted while it has them: a
new lane would not know that the server counts in windows."""


class Lanes:
    """The limits that single keys have of their own, under the queue's.

    A lane exists from its key's first call until no call waits in it and it is in the same state as
    a new one. Evicting it earlier would grant its key a fresh limit. A lane with learnt limits is
    not evicted. A key without limits of its own has those of the longest pattern that matches:
    `"Describe*"`, or `"*"`, which matches every key.

    Args:
        limits: the limits by key or pattern.
        maker: makes the states.
        in_use: returns whether a call waits in a lane.
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
        """Functions that are called with a key and its lane, once the lane is made."""
        self.version = 0
        """Number of changes of limits."""
        self._changes: dict[Hashable, deque[tuple[int, float, Sequence[Limit]]]] = {}
        """The latest changes by name: (version, instant, limits). A lane replays those that it has
        missed."""
        self.states_replaced = False
        """Whether a lane has other states than when this was last set to False."""
        self.by_key: dict[Hashable, Lane] = {}
        self._idle: list[tuple[float, int, Hashable]] = []
        """A heap of (instant of the next check, sequence number, key), one entry for each lane."""
        self._count = 0

    def empty_copy(self) -> Lanes:
        """Return the same limits, with no lane in memory but those of budgets."""
        lanes = Lanes(self.limits, self.maker, in_use=self.in_use)
        lanes.on_new = self.on_new
        lanes.altered = self.altered
        for key in self.by_key:
            before = self.get(key, -math.inf)  # as of the latest limits
            if before is None:
                continue
            if before.left_out or any(state.lasts for state in before.kept):
                lane = lanes.get(key, -math.inf)
                assert lane is not None  # noqa: S101 - the key had one
                lane.set(lane.name, lane.limits, with_spent(before.kept, lane.kept))
                lane.left_out = before.left_out
        return lanes

    def find(self, key: Hashable, now: float) -> Lane | None:
        """Do the same as `get`, and evict some of the other lanes that are idle."""
        if self._idle and self._idle[0][0] < now:
            self.evict_idle(now, (key,))
        lane = self.by_key.get(key)
        if lane is not None and lane.version == self.version:  # the same as `get`, inlined
            return lane
        return self.get(key, now)

    def find_all(self, keys: Sequence[Hashable], now: float, *, evicts: bool = True) -> list[Lane]:
        """Return the lanes of a call's keys, and evict some of the others."""
        if evicts:
            self.evict_idle(now, keys)
        return [lane for key in keys if (lane := self.get(key, now)) is not None]

    def evict_idle(self, now: float, kept: Sequence[Hashable] = ()) -> None:
        """Evict some of the idle lanes, except those of some keys."""
        looks = _LOOKS
        while looks and self._idle and self._idle[0][0] < now:
            self._evict(heappop(self._idle)[2], now, kept)
            looks -= 1

    def get(self, key: Hashable, now: float) -> Lane | None:
        """Return the lane of `key`, made if needed; None: the key has no limits."""
        lane = self.by_key.get(key)
        if lane is not None:
            if lane.version != self.version:
                self.refresh(key)
        else:
            name = self.name_of(key)
            limits = self.limits.get(name)
            if limits is None:
                return None
            states = self.maker.states_of(limits)  # each lane of a pattern has its own
            # A key that comes for the first time is not late, so there is nothing to make up for.
            for state in states:
                state.on_idle(now)
            lane = self.by_key[key] = Lane(name, limits, states)
            lane.version = self.version
            for note in self.on_new:
                note(key, lane)
            self._watch(key, now)  # at the next look, it will say when it is idle
        return lane

    def forget_callers(self) -> None:
        """Forget all waiting and running calls: their loop is closed."""
        for lane in self.by_key.values():
            # The copies are other objects, so that bodies which still end do not change them.
            lane.extra = _without_callers(lane.extra)
            lane.set(lane.name, lane.limits, _without_callers(lane.kept))
            for state in lane.all_states():
                state.forget_callers()

    def idle_at(self, now: float) -> float:
        """Return the instant from which every lane is fully recovered."""
        for key in self.by_key:
            self.get(key, now)
        return max((lane.idle_at(now) for lane in self.by_key.values()), default=-math.inf)

    def limits_of(self, key: Hashable) -> Sequence[Limit] | None:
        """Return the limits of `key`; None: it has no lane."""
        return self.limits.get(self.name_of(key))

    def first_with_limits(self, keys: Iterable[Hashable]) -> Hashable:
        """Return the first of these keys that has a lane; None if none has."""
        return next((key for key in keys if self.limits_of(key) is not None), None)

    def set_limits(self, key: Hashable, limits: Sequence[Limit], now: float) -> None:
        """Set the limits of a key, or of all keys that have their limits from a pattern.

        Lanes are updated when they are looked up, or by `refresh`, because an update of thousands
        at once would take too long. Each then replays the change as of `now`.
        """
        self.limits[key] = limits
        self.altered = True
        self.version += 1
        # The lane of a single key is updated at once, so that the latest change is enough. Of the
        # lanes of a pattern, some have had no call for several changes.
        if key not in self._changes:
            self._changes[key] = deque(maxlen=_CHANGES if find_patterns((key,)) else 1)
        self._changes[key].append((self.version, now, limits))
        # Looking for patterns among thousands of keys again would take too long.
        if key not in self._patterns:
            self._patterns = find_patterns([*self._patterns, key])

    def keys_matching(self, name: Hashable) -> Iterable[Hashable]:
        """Return the keys in memory that may have their limits from this name."""
        if isinstance(name, str) and name.endswith("*"):
            return self.by_key
        return (name,) if name in self.by_key else ()

    def refresh(self, key: Hashable) -> Sequence[LimitState]:
        """Update one lane; return its states."""
        lane = self.by_key.get(key)
        if lane is None:
            return ()
        name = self.name_of(key)
        # A replay is exact: no call of this lane has started since the first of these changes, as
        # it would have looked the lane up.
        for version, set_at, limits in self._changes.get(name, ()):
            if version > lane.version and lane.limits is not limits:
                states = self.maker.changed(lane.kept, limits, set_at, lane.left_out)
                for state in states:
                    state.held = max(state.held, lane.held)
                self.states_replaced |= states != lane.kept
                lane.set(name, limits, states)
        lane.version = self.version
        return lane.states

    def name_of(self, key: Hashable) -> Hashable:
        """Return the name from which `key` has its limits, if it has any."""
        return name_of(key, self.limits, self._patterns)

    def _watch(self, key: Hashable, at: float) -> None:
        # The number decides between equal instants, as keys need not be comparable.
        self._count += 1
        heappush(self._idle, (at, self._count, key))

    def _evict(self, key: Hashable, now: float, kept: Sequence[Hashable]) -> None:
        lane = self.by_key[key]
        # Not at the next call: a look at each busy lane for each call would be quadratic.
        if self.in_use(key, lane):
            self._watch(key, now + _LOOK_AGAIN)
            return
        if lane.version != self.version:
            changes = self._changes.get(self.name_of(key), ())
            set_at = next((at for version, at, _ in changes if version > lane.version), None)
            # The new limits, if it has any, may count earlier calls for longer.
            if set_at is not None and lane.idle_at(set_at) > set_at:
                replaced = self.states_replaced
                self.refresh(key)
                self.states_replaced = replaced  # no call waits in it that would have to be sorted
        # Not known (inf) while a body holds a permit: its end would be lost with the lane.
        if (idle_at := lane.idle_at(now)) >= now:
            self._watch(key, idle_at if idle_at < math.inf else now + _LOOK_AGAIN)
        elif any(isinstance(one, LearntBucket) for one in lane.kept):
            self._watch(key, now + _LOOK_AGAIN_AT_LEARNT)
        elif key in kept and lane.version == self.version:  # a new one would be in the same state
            for state in lane.kept:
                state.on_idle(now)
            self._watch(key, now + _LOOK_AGAIN)
        else:
            del self.by_key[key]
