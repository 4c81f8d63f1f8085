"""Raises `LimitExceeded` in the calls for which a budget, or a limit with `or raise`, has no room.

A call is looked at when it joins, and whenever it is the first of its line and has to wait. What it
must wait for, and when it must raise, is up to the states of the limits (`_limits/raising.py`).

This is attached to a limiter by the first limit that raises, and stands before some of its methods.
A queue without such a limit does nothing for it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._limits.cost_units import is_stated
from aioapiqueue._limits.grammar import CALLS, MONEY, duration_text, number_text
from aioapiqueue._limits.limit_types import Budget, Concurrency, Rate, unit_of
from aioapiqueue.exceptions import ApiQueueError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from typing import Any

    from aioapiqueue._core.resorting import Sorter
    from aioapiqueue._core.seam import Host
    from aioapiqueue._core.slot import Call
    from aioapiqueue._limits.lane_states import Lanes
    from aioapiqueue._limits.limit_state import LimitState
    from aioapiqueue._limits.limit_types import Limit
    from aioapiqueue._limits.own_limits import OwnLimits
__all__ = ["LimitExceeded", "Refusals"]

_AT_ONCE = 200
"""Largest number of looks in one step; each refuses one call, or several of other lines."""


class LimitExceeded(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised by a call for which a budget, or a limit with `or raise`, has no room.

    The call has not started, and was charged to no limit.

    Attributes:
        limit: the limit, such as `Budget(5, "usd")`.
        cost: what the call would have cost, in the unit of the limit.
        remaining: how much the limit has left.
        resets_in: seconds until the limit has room for the call, if no other call starts; None for
            a `Budget` and a `Concurrency`, which do not recover by themselves, and for a cost
            that the limit can never admit.
        key: key of the lane that has the limit; None: the queue itself has it.

    Args:
        message: the text of the error.
        limit: see the attribute.
        cost: see the attribute.
        remaining: see the attribute.
        resets_in: see the attribute.
        key: see the attribute.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: Limit,
        cost: float,
        remaining: float,
        resets_in: float | None = None,
        key: Hashable = None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.cost = cost
        self.remaining = remaining
        self.resets_in = resets_in
        self.key = key

    @classmethod
    def of(
        cls,
        limit: Limit,
        *,
        cost: float,
        remaining: float,
        resets_in: float | None,
        key: Hashable = None,
    ) -> LimitExceeded:
        """Return the error with a message that says what is wrong, and what to do.

        Args:
            limit: see the attribute.
            cost: see the attribute.
            remaining: see the attribute.
            resets_in: see the attribute.
            key: see the attribute.
        """
        message = f"{_problem(limit, key, cost, remaining)}: {_remedy(limit, key, cost, resets_in)}"
        remaining = round(remaining, 9)  # without errors of sums: 0.2, not 0.19999999999999996
        return cls(
            message, limit=limit, cost=cost, remaining=remaining, resets_in=resets_in, key=key
        )

    # As of `WouldWait`.
    def __reduce__(self) -> tuple[Callable[..., LimitExceeded], tuple[Any, ...], dict[str, Any]]:
        made = partial(type(self), limit=self.limit, cost=self.cost, remaining=self.remaining)
        return made, self.args, self.__dict__


class RaisingLimiter(Protocol):
    """The part of a local limiter that is used here."""

    own: OwnLimits
    lanes: Lanes

    @property
    def sorter(self) -> Sorter:
        """Sorts the waiting calls into lines."""

    def find_limits(self, call: Call, now: float) -> Sequence[LimitState]:
        """Find the limits of a new call."""

    def states_of(self, call: Call) -> Sequence[LimitState]:
        """Return the limits of a call that were found before."""

    def charged(self, call: Call) -> Sequence[LimitState]:
        """Return the states that a call was charged to."""

    # The methods that it stands before; see `Limiter`.

    def try_acquire(self, call: Call, now: float) -> bool: ...

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float: ...

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None: ...

    def ended(self, call: Call, *, used: bool) -> None: ...


class Refusals:
    """Refuses calls for which there is no room.

    Args:
        limiter: the limiter.
        host: the queue's dispatcher.
    """

    def __init__(self, limiter: RaisingLimiter, host: Host) -> None:
        self._limiter = limiter
        self._host = host
        self._settled: set[Call] = set()
        """The running calls that have settled: they are no reservations any more."""
        # Before they are replaced by the methods of this class.
        self._try_acquire, self._estimate = limiter.try_acquire, limiter.estimate
        self._release_due, self._ended = limiter.release_due, limiter.ended

    def reset(self) -> None:
        """Note that all calls have ended with their loop."""
        self._settled.clear()

    # In front of methods of the limiter.

    def try_acquire(self, call: Call, now: float) -> bool:
        """Do what the limiter does, unless there is no room for the call.

        Raises:
            LimitExceeded: there is no room for the call.
        """
        state = self._without_room(self._limiter.find_limits(call, now), call, now)
        if state is not None:
            self._host.emit("refused", call)
            raise self._error(state, call, now)
        return self._try_acquire(call, now)

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return what the limiter does; inf: the call would be refused."""
        if call is not None and not alone:
            limits = self._limiter.find_limits(call, now)
            if self._without_room(limits, call, now) is not None:
                return math.inf
        return self._estimate(call, now, alone=alone)

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:
        """Do what the limiter does, and refuse the first calls for which there is no room."""
        for _ in range(_AT_ONCE):
            wake = self._release_due(now, planned=planned)
            if wake is None or not self._refuse_first(now):
                return wake
        return now  # other tasks run before the next ones are refused

    def ended(self, call: Call, *, used: bool) -> None:
        """Do what the limiter does, after the reservation of the call has ended."""
        if call in self._settled:
            self._settled.remove(call)
        else:
            self._end_reservations(call, self._limiter.charged(call))
        self._ended(call, used=used)

    # Refusing.

    @staticmethod
    def _without_room(limits: Iterable[LimitState], call: Call, now: float) -> LimitState | None:
        """Return the first of these limits at which a call has to raise."""
        for state in limits:
            if state.raises and state.lacks_room(now, call.costs):
                return state
        return None

    def _refuse_first(self, now: float) -> bool:
        """Refuse calls that are first in their lines; return whether any was."""
        sorter = self._limiter.sorter
        if not sorter.is_settled:
            return False  # the limits of some calls are not known yet
        scheduler, refused = sorter.scheduler, False
        if not scheduler.active:
            for line in list(self._host.waiters.lines.values()):  # there is at most one
                if (call := line.first()) is not None:
                    refused = self._refuse(call, self._limiter.states_of(call), now)
            return refused
        while scheduler.without_room:
            wait_list, _ = scheduler.without_room.popitem()
            first = wait_list.first_line()
            if first is not None and first.head is not None:
                refused |= self._refuse(first.head, (wait_list.limit,), now)
        return refused

    def _refuse(self, call: Call, limits: Iterable[LimitState], now: float) -> bool:
        """Refuse a waiting call, if one of these limits has no room for it."""
        state = self._without_room(limits, call, now)
        if state is None:
            return False
        self._host.fail(call, "refused", self._error(state, call, now))
        return True

    # Reservations.

    def settled(self, call: Call, charged: Iterable[LimitState]) -> None:
        """Note that a call has settled; `call.costs` are still what it was charged before."""
        if call.holds and call not in self._settled:
            self._settled.add(call)
            self._end_reservations(call, charged)

    def _end_reservations(self, call: Call, charged: Iterable[LimitState]) -> None:
        own, at = self._limiter.own, call.waited_until
        # A limit that was set at the very instant of the start may have been charged or not. In
        # doubt, its reservation ends: else calls could wait for it for ever.
        in_doubt = [one for one in own.states if own.since(one) == at and call.limits is None]
        for state in (*charged, *in_doubt):
            if state.raises and is_stated(call.costs, state.unit):
                state.end_reservation(at, call.costs[state.unit])
                # A call that has waited for it may have to raise now.
                self._limiter.sorter.scheduler.changed(state)
        self._host.wake()

    # Errors.

    def _error(self, state: LimitState, call: Call, now: float) -> LimitExceeded:
        limit, key = self._limit_of(state, call, now)
        return LimitExceeded.of(
            limit,
            cost=1 if isinstance(limit, Concurrency) else call.costs[state.unit],
            remaining=state.room(now),
            resets_in=state.resets_in(now, call.costs),
            key=key,
        )

    def _limit_of(self, state: LimitState, call: Call, now: float) -> tuple[Limit, Hashable]:
        """Return the limit of a state, and the key of its lane; None: it is the queue's own."""
        own, lanes = self._limiter.own, self._limiter.lanes
        found = {key: lane for key in call.keys if (lane := lanes.get(key, now)) is not None}
        tables: list[tuple[Hashable, Sequence[Limit], Sequence[LimitState]]]
        tables = [(None, own.limits, own.states)]
        tables += [(key, lane.limits, lane.kept) for key, lane in found.items()]
        return next(
            (limit, key)
            for key, limits, states in tables
            for limit, one in zip(limits, states, strict=False)
            if one is state
        )


def _amount(limit: Limit, amount: float) -> str:
    """Return an amount as text, rounded down to a billionth, or a hundredth of a call."""
    unit = unit_of(limit)
    parts = 100 if unit is None or unit == CALLS else 1e9
    number = number_text(math.floor(round(amount * parts, 3)) / parts)
    if unit is None or unit == CALLS:
        return f"{number} call" + "s" * (number != "1")
    if unit == MONEY and "e" in number:  # many LLM calls cost less than 0.0001 USD
        number = f"{float(number):.9f}".rstrip("0")
    return f"{number} {unit}"


def _problem(limit: Limit, key: Hashable, cost: float, remaining: float) -> str:
    """Return why a call is refused."""
    whose = "" if key is None else f" of the lane {key!r}"
    if isinstance(limit, Concurrency):
        return f'the limit "{limit}"{whose} is used up'
    what = "budget" if isinstance(limit, Budget) else "limit"
    left, needed = _amount(limit, remaining), _amount(limit, cost)
    return f'the {what} "{limit}"{whose} has {left} left, and this call would cost {needed}'


def _remedy(limit: Limit, key: Hashable, cost: float, resets_in: float | None) -> str:
    """Return what a user can do."""
    if isinstance(limit, Concurrency):
        return 'call again when a running call has ended, or remove "or raise" to wait'
    if isinstance(limit, Budget):
        first = "split the call" if cost > limit.amount else "make no further calls"
        where = "" if key is None else f", key={key!r}"
        return f"{first}, or pass all limits with a larger budget to set_rate(...{where})"
    if resets_in is None and isinstance(limit, Rate):
        burst = f"burst {number_text(cost)}"
        return f'split the call, or give the limit a burst that has room for it: "{burst}"'
    if resets_in is None:
        return "split the call, or raise the limit: it never has room for so much"
    return f'call again in {duration_text(resets_in)}, or remove "or raise" to wait'
