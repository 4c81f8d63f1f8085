"""Until when calls are held, by decisions of users."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioapiqueue._shared.decisions import Decisions
    from aioapiqueue._shared.host.scopes import Scopes
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue.spi import Call, Host


class Holds:
    """The holds of one queue, which take effect here before the hub knows them.

    Args:
        host: the queue's dispatcher.
        limits: the queue's own.
        scopes: the lanes of calls.
        decisions: the holds and pauses.

    Attributes:
        all_until: the end of the last hold or pause of everything.
    """

    def __init__(
        self, host: Host, limits: LimitTable, scopes: Scopes, decisions: Decisions
    ) -> None:
        self._host = host
        self._limits = limits
        self._scopes = scopes
        self._decisions = decisions
        self.reset()

    def reset(self) -> None:
        """Hold nothing."""
        self.all_until = -math.inf
        self._by_key = self._decisions.holds()

    def own_until(self, call: Call) -> float:
        """Return until when a call is held, which the hub may not know yet."""
        until = self.all_until
        for key in call.keys if self._by_key else ():
            if self._scopes.lane_of(key) is not None:
                until = max(until, self._by_key.get(key, until))
        return until

    def apply(self) -> None:
        """Have the states of limits know the holds: afterwards, they make up for nothing missed."""
        now = self._host.loop.now()
        self._by_key = self._decisions.holds()
        users = max(self._decisions.paused_until, self._by_key.get(None, -math.inf))
        self.all_until = max(users, min(self.all_until, now))
        for state in self._limits.states:
            state.held = self.all_until
        for key, held in self._by_key.items():
            its = None if key is None else self._limits.lanes.get(key, now)
            if its is not None:
                its.hold(held)
        self._host.wake()
