"""The limits of all calls of a queue, and what follows from them for a new call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._limits.lane_states import bounds_of, takes_one, with_spent
from aioapiqueue._limits.windows import Permits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._limits.limit_state import LimitState
    from aioapiqueue._limits.limit_types import Limit
    from aioapiqueue._limits.state_maker import LeftOut, StateMaker


class OwnLimits:
    """The limits that every call of a queue is subject to; `Lanes` has those of single keys.

    Args:
        limits: the limits.
        maker: makes their states.
        permanent: states that stay when limits are set, such as the permits of `concurrency=`.

    Raises:
        ValueError: the settings of `adaptive` do not fit the limits.
    """

    def __init__(
        self, limits: Sequence[Limit], maker: StateMaker, permanent: tuple[LimitState, ...] = ()
    ) -> None:
        self.maker = maker
        self.permanent = permanent
        self.limits = tuple(limits)
        self.states = (*maker.states_of(self.limits), *permanent)
        """The states of the limits in their order, then those of `adaptive` and the permanent."""
        self.held = -math.inf
        """The instant until which nothing starts."""
        self.left_out: LeftOut = {}
        self._since: dict[LimitState, float] = {}
        """The instant at which each state was added; empty until limits are set."""
        self.note_terms()

    def note_terms(self, units: int = 1, *, has_lanes: bool = False) -> None:
        """Note what the limits in force mean for new calls.

        Args:
            units: number of units that the queue counts.
            has_lanes: whether any key has limits of its own.
        """
        self.bounds = bounds_of(self.states)
        self.has_optional = any(state.optional for state in self.states)
        self.takes_one = takes_one(self.states)
        """Whether a call with the default cost is charged to all of them, and fits all."""
        self.decide_one = self.takes_one and not has_lanes
        """Whether, in addition, no lane can apply to such a call: it needs no look at its keys."""
        unbounded = not has_lanes and all(largest == math.inf for _, largest in self.bounds)
        self.decide_any = units if unbounded else -1
        """The same for an explicit cost with this many units, all positive; -1: for none."""

    def start_over(self) -> None:
        """Forget all charges and holds: their instants are those of another clock."""
        self.held = -math.inf
        # The other permanent states are reports of servers, which are not valid any more.
        self.permanent = tuple(one for one in self.permanent if isinstance(one, Permits))
        new = with_spent(self.states, self.maker.states_of(self.limits))
        self.states = (*new, *self.permanent)
        self._since = {}

    def set(self, limits: tuple[Limit, ...], now: float) -> bool:
        """Replace the limits; return whether calls are subject to other states from now on."""
        old = self.states
        replaced = [state for state in old if state not in self.permanent]
        states = (*self.maker.changed(replaced, limits, now, self.left_out), *self.permanent)
        self.limits, self.states = limits, states  # together: another thread may read figures
        # Calls that have started refer to "the own limits", not to states. A new state must not get
        # a refund of what only its predecessor was charged: see `charged`.
        kept = {state: self._since.get(state, -math.inf) for state in old}
        self._since = {state: kept.get(state, now) for state in self.states}
        # `changed` gives new states the holds of old ones. If there were no limits at all, only
        # this object knows of the hold.
        self.hold(self.held)
        self.adapt_permits()
        return self.states != old

    def add(self, state: LimitState) -> None:
        """Add a permanent state."""
        state.held = self.held
        self.permanent += (state,)
        # A new tuple: waiting calls keep the old one until they are sorted again.
        self.states += (state,)

    def hold(self, until: float) -> None:
        """Start nothing before `until`."""
        self.held = until
        for state in self.states:
            state.held = until

    def since(self, state: LimitState) -> float:
        """Return the instant from which a state has been one of these; -inf: from the start."""
        return self._since.get(state, -math.inf)

    def charged(self, at: float) -> tuple[LimitState, ...]:
        """Return the states that a call which started at this instant was charged to.

        A state that was added at the very same instant is left out: which came first is not known,
        and a state that never was charged must not get anything back.
        """
        if not self._since:  # most queues keep their first limits
            return self.states
        return tuple([state for state in self.states if self.since(state) < at])

    def adapt_permits(self) -> None:
        """Have as many permits as a slow-down has left."""
        # A state of `adaptive` has the number and `Permits` enforce it; neither knows the other.
        most = min((state.permits() for state in self.states), default=math.inf)
        for state in self.states:
            if isinstance(state, Permits):
                state.most = min(state.number, most)

    def idle_at(self, now: float) -> float:
        """Return the instant from which these are in the same state as new ones."""
        return max([self.held, *(state.idle_at(now) for state in self.states)])
