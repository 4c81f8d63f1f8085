"""Until when nothing may start: by its users, by the other side, and by what the hub has said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._fleet.limits import key_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from aioapiqueue._fleet.limits import LimitTable
    from aioapiqueue._host.scopes import Scopes
    from aioapiqueue._limiter import Host
    from aioapiqueue._slot import Call

__all__ = ["Holds"]


class Holds:
    """The holds of one queue. Those it has begun itself count before the hub knows of them.

    Args:
        host: the queue's dispatcher.
        limits: the queue's own.
        scopes: the lanes of calls.
    """

    def __init__(self, host: Host, limits: LimitTable, scopes: Scopes) -> None:
        self._host = host
        self._limits = limits
        self._scopes = scopes
        self.reset()

    def reset(self) -> None:
        """Hold nothing."""
        self.paused = -math.inf
        """Until when users hold all."""
        self.held = -math.inf
        """Until when the other side does."""
        self._by_hub = -math.inf
        """Until when the hub does, for anybody."""
        self._lanes: dict[Hashable, float] = {}
        """Until when the other side holds single lanes."""

    def forget_hub(self) -> None:
        """Count nothing that the hub before this one has said."""
        self._by_hub = -math.inf

    @property
    def all_until(self) -> float:
        """The instant until which all is held, as far as is known."""
        return max(self.paused, self.held, self._by_hub)

    @property
    def paused_until(self) -> float:
        """The same without what this queue's own server has asked for."""
        return max(self.paused, self._by_hub)

    def own_until(self, call: Call) -> float:
        """Return until when a call is held that the hub may let go without knowing of it."""
        until = max(self.paused, self.held)
        if self._lanes:
            lanes = [self._scopes.lane_of(key) for key in call.keys]
            until = max([until, *(self._lanes.get(lane, -math.inf) for lane in lanes)])
        return until

    def of_lanes(self, now: float) -> Iterator[tuple[Hashable, float]]:
        """Yield the keys of lanes that are held, and for how long."""
        for lane, until in self._lanes.items():
            if until > now:
                yield key_of(lane), until - now

    def hold(self, lane: Hashable, seconds: float) -> None:
        """Hold a lane, or (None) all."""
        now = self._host.loop.now()
        until = now + seconds
        if lane is None:
            self.held = max(self.held, until)
        else:
            self._lanes = {one: at for one, at in self._lanes.items() if at > now}
            self._lanes[lane] = max(until, self._lanes.get(lane, until))
        self.apply()

    def pause(self, seconds: float | None) -> None:
        """Hold all for so long; None: until `resume`."""
        until = math.inf if seconds is None else self._host.loop.now() + seconds
        self.paused = max(self.paused, until)
        self.apply()

    def resume(self) -> None:
        """End a pause."""
        self.paused = min(self.paused, self._host.loop.now())
        self._by_hub = max(-math.inf, min(self._by_hub, self.held))
        self.apply()

    def hold_by_hub(self, seconds: float) -> None:
        """Note for how long the hub holds all."""
        self._by_hub = self._host.loop.now() + seconds
        self.apply()

    def end_pause(self) -> None:
        """Note that somebody else has ended all pauses: the hub says what holds then."""
        self.paused = min(self.paused, self._host.loop.now())
        self.apply()

    def apply(self) -> None:
        """Have the states of limits know, of which nothing that a hold has missed is made up."""
        until = self.all_until
        for state in self._limits.states:
            state.held = until
        for lane, held in self._lanes.items():
            its = self._limits.lanes.get(key_of(lane), self._host.loop.now())
            if its is not None:
                its.hold(held)
        self._host.wake()
