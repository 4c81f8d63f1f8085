"""The states of several limits of calls, asked together: by a single cost, at given instants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.spi import algorithms, cost_units, lane_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue import Limit

__all__ = ["States", "maker"]


def maker(catch_up: float = 0.0) -> lane_states.StateMaker:
    """Return what makes the states of limits."""
    return lane_states.StateMaker(cost_units.Units(), catch_up=catch_up)


class States:
    """Limits that all hold at once."""

    def __init__(self, limits: Sequence[Limit], *, catch_up: float) -> None:
        self._maker = maker(catch_up)
        self.limits = limits
        self.states = self._maker.states_of(limits)

    def on_idle(self, now: float) -> None:
        """Note that a caller comes while nobody waits."""
        for state in self.states:
            state.on_idle(now)

    def next_at(self, now: float, cost: float) -> float:
        """Return the first instant at which `cost` may start."""
        return max((state.next_at(now, (cost,)) for state in self.states), default=now)

    def consume(self, now: float, cost: float) -> None:
        """Charge `cost`."""
        for state in self.states:
            state.consume(now, (cost,))

    def try_consume(self, now: float, cost: float) -> float:
        """Note a newcomer, and charge it if due."""
        if len(self.states) == 1 and cost == 1 and type(self.states[0]) is algorithms.TokenBucket:
            return self.states[0].try_consume_one(now)
        self.on_idle(now)
        if (due := self.next_at(now, cost)) <= now:
            self.consume(now, cost)
        return due

    def adjust(self, at: float, charged: float, cost: float, *, now: float | None = None) -> None:
        """Charge `cost` instead of what was charged for the call that started `at`."""
        for state in self.states:
            state.adjust(at if now is None else now, at, charged, cost)

    def hold(self, until: float) -> None:
        """Let nothing start before `until`."""
        for state in self.states:
            state.held = until

    def estimate(self, now: float, cost: float) -> float:
        """Return when the last of `cost` may start."""
        return max((state.estimate(now, cost) for state in self.states), default=now)

    def idle_at(self, now: float) -> float:
        """Return the instant from which they are as new."""
        return max((state.idle_at(now) for state in self.states), default=float("-inf"))

    def check(self, cost: float) -> None:
        """Refuse what could never start."""
        lane_states.check_costs(
            lane_states.bounds_of(self.states), (cost,), cost_units.Units(), self.limits, None
        )

    def change(self, limits: Sequence[Limit], now: float) -> None:
        """Become the states of other limits."""
        self.states = self._maker.changed(self.states, limits, now, {})
