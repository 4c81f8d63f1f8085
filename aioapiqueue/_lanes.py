"""Which limits a call comes under: a state for each key that has limits of its own."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._algorithms import LimitState, SlidingWindow, TokenBucket
from aioapiqueue._rate import Limit, Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Mapping, Sequence

__all__ = ["AdaptivePolicy", "Lanes", "fits", "limit_state_for"]


class AdaptivePolicy(Protocol):
    """What `adaptive=` takes: `aioapiqueue.Adaptive`, which the core need not know."""

    def govern(
        self,
        limits: Sequence[Limit],
        *,
        catch_up: float,
        concurrency: float,
        report: Callable[[str, Exception], None],
    ) -> LimitState:
        """Return a state that processes `push_back`, beside those of these limits."""


def limit_state_for(
    limits: Sequence[Limit],
    *,
    catch_up: float,
    adaptive: AdaptivePolicy | None = None,
    concurrency: float = math.inf,
    report: Callable[[str, Exception], None] = lambda *_: None,
) -> LimitState:
    """Return the state of these limits, which all hold at once.

    Args:
        limits: any number of `Rate` and `Window`.
        catch_up: seconds of lateness that a rate makes up for.
        adaptive: processes push-back; default: it changes nothing.
        concurrency: how many bodies may run at once, for `adaptive`.
        report: called with an error in `adaptive`.
    """
    parts: list[LimitState] = [
        TokenBucket(limit, catch_up=catch_up) if isinstance(limit, Rate) else SlidingWindow(limit)
        for limit in limits
    ]
    if adaptive is not None:
        parts.append(
            adaptive.govern(limits, catch_up=catch_up, concurrency=concurrency, report=report)
        )
    return parts[0] if len(parts) == 1 else LimitState(parts)


def fits(name: Hashable, key: Hashable) -> bool:
    """Return whether the limits under `name`, which may be a pattern, could be those of `key`."""
    if name in (key, "*"):
        return True
    is_pattern = isinstance(name, str) and name.endswith("*")
    return is_pattern and isinstance(key, str) and key.startswith(str(name)[:-1])


_LOOKS = 32
"""How many lanes a call looks at, at most, to forget those that are idle: some 30 microseconds of
work. A lane comes with one call and goes at the second look at it, so that two would keep up."""
_LOOK_AGAIN = 1.0
"""Seconds after which a lane that somebody waits in is looked at again."""


class Lanes:
    """The limits that single keys have of their own, under the queue's.

    A lane exists from its key's first call until nobody waits in it and it is in the same state as
    a new one. Evicting it earlier would grant its key a fresh limit. A key without limits of its
    own has those of the longest pattern that fits: `"Describe*"`, or `"*"`, which fits all.
    """

    def __init__(
        self,
        limits: Mapping[Hashable, Sequence[Limit]],
        new_state: Callable[[Sequence[Limit]], LimitState],
    ) -> None:
        self.limits = dict(limits)
        self.altered = False
        """Whether limits, of lanes or of the queue, were set since the queue was made."""
        self._find_patterns()
        self.new_state = new_state
        self.in_use: Container[Hashable] = ()
        """The keys that somebody waits for."""
        self.states: dict[Hashable, LimitState] = {}
        self._idle: list[tuple[float, int, Hashable]] = []
        """A heap of (look then, sequence number, key), one entry for each lane."""
        self._count = 0

    def empty_copy(self) -> Lanes:
        """Return one with the same limits, of which nothing has been used."""
        lanes = Lanes(self.limits, self.new_state)
        lanes.altered = self.altered
        return lanes

    def find(self, key: Hashable, now: float) -> LimitState | None:
        """Return the state of `key`, made if need be; None where the key has no limit."""
        looks = _LOOKS
        while looks and self._idle and self._idle[0][0] < now:
            self._evict(heappop(self._idle)[2], now)
            looks -= 1
        lane = self.states.get(key)
        if lane is None:
            limits = self.limits_of(key)
            if limits is None:
                return None
            lane = self.states[key] = self.new_state(limits)
            lane.on_idle(now)
            self._watch(key, now)
        return lane

    def idle_at(self) -> float:
        """Return the instant from which every lane is as good as new."""
        return max((lane.idle_at() for lane in self.states.values()), default=-math.inf)

    def limits_of(self, key: Hashable) -> Sequence[Limit] | None:
        """Return the limits of `key`; None if it has no limits of its own."""
        return self.limits.get(self._name_for(key))

    def set_limits(self, key: Hashable, limits: Sequence[Limit], now: float) -> None:
        """Give `key` (or, with a pattern, every key that has them from it) these limits."""
        self.limits[key] = limits
        self._find_patterns()
        for one, old in self.states.items():
            if self._name_for(one) == key:
                self.states[one] = self.new_state(limits)
                self.states[one].carry_over(old, now)

    def _name_for(self, key: Hashable) -> Hashable:
        """Return under which name the limits of `key` are, if they are."""
        if key not in self.limits:
            for pattern in self._patterns:
                if fits(pattern, key):
                    return pattern
        return key

    def _find_patterns(self) -> None:
        names = [key for key in self.limits if isinstance(key, str) and key.endswith("*")]
        self._patterns = sorted(names, key=len, reverse=True)

    def _watch(self, key: Hashable, at: float) -> None:
        self._count += 1
        heappush(self._idle, (at, self._count, key))

    def _evict(self, key: Hashable, now: float) -> None:
        if key in self.in_use:
            self._watch(key, now + _LOOK_AGAIN)
        elif (idle_at := self.states[key].idle_at()) >= now:
            self._watch(key, idle_at)
        else:
            del self.states[key]
