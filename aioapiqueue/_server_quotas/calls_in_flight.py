"""Calls without a response, and their costs.

When a server reports its own count, it may or may not have counted a call that is in flight
(`server_bound.py`). The same holds for a call that has ended without a response, because it was
cancelled or its connection broke. If the server counts that call at all, the response to any call
released after that end includes it. A report that belongs to no call includes it, too.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue.spi import cost_units

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue.spi import seam

_MAX_ENDED = 64
"""Largest number of ended calls that are remembered one by one. Beyond it, the oldest two count as
one, which ended with the later of them. Without it, the log would grow if no response arrived."""

_KEPT = 60.0
"""Seconds for which a call that ended without a response still counts for other processes, while
no call of its key is running. By then, the server has counted it."""


class _PastCall(NamedTuple):
    """A call that has ended or has its response, but that a response may not include yet."""

    at: float
    costs: tuple[float, ...]
    call: Hashable = None
    number: int = 0


class _Scope:
    """The calls of one key, or all calls, and their costs."""

    __slots__ = ("answered", "ended", "out", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        """Number of running calls."""
        self.waiting = 0
        """Number of running calls without a response."""
        self.out: list[float] = []
        """Costs of the running calls without a response, by unit."""
        self.ended: deque[_PastCall] = deque()
        """Calls that ended without a response, oldest first."""
        self.answered: deque[_PastCall] = deque()
        """Calls with a response, oldest first."""

    def start(self, costs: Sequence[float]) -> None:
        self.running += 1
        self.waiting += 1
        _add(self.out, costs, 1)

    def _subtract(self, costs: Sequence[float]) -> None:
        self.waiting -= 1
        if self.waiting:
            _add(self.out, costs, -1)
        else:  # exactly 0, which sums of fractions may miss
            self.out.clear()

    def answer(self, past: _PastCall, released_at: float) -> None:
        self._subtract(past.costs)
        self._note_answer(past, released_at)

    def answer_late(self, call: Hashable, released_at: float, now: float) -> None:
        """Note the response of a call that has ended."""
        past = next((one for one in self.ended if one.call is call), None)
        if past is not None:
            self.ended.remove(past)
            self._note_answer(past._replace(at=now), released_at)

    def counted(self, at: float) -> None:
        """Forget calls that ended by then without a response: the server has counted them."""
        while self.ended and self.ended[0].at <= at:
            self.ended.popleft()

    def _note_answer(self, past: _PastCall, released_at: float) -> None:
        # The server had seen these calls before it saw this one, so its response includes them.
        for log in (self.ended, self.answered):
            # Not `<=`: two events at the same instant may have happened in either order.
            while log and log[0].at < released_at:
                log.popleft()
        _note(self.answered, past)

    def settle(self, before: Sequence[float], costs: Sequence[float]) -> None:
        _add(self.out, before, -1)
        _add(self.out, costs, 1)

    def settle_late(self, call: Hashable, costs: tuple[float, ...]) -> None:
        """Settle a call that has ended, perhaps without a response."""
        for place, past in enumerate(self.ended):
            if past.call is call:
                self.ended[place] = past._replace(costs=costs)

    def end(self, past: _PastCall | None) -> None:
        """Note the end of a running call, with its costs if it has no response (else None)."""
        self.running -= 1
        if past is not None:
            self._subtract(past.costs)
            _note(self.ended, past)

    def refund(self, costs: Sequence[float]) -> None:
        self.running -= 1
        self._subtract(costs)


_NO_CALLS = _Scope()
"""Read in place of a scope that does not exist; never changed."""


class _RunningCall:
    """A running call."""

    __slots__ = ("answered_at", "costs", "number")

    def __init__(
        self, number: int, costs: tuple[float, ...] | None, answered_at: float | None = None
    ) -> None:
        self.number = number
        self.costs = costs
        """None: the call has its response."""
        self.answered_at = answered_at


class CallsInFlight:
    """Calls without a response, and their costs, by key.

    Args:
        untracked: number of calls that are running already, and that nothing else is known about.
        alone: whether no other process makes calls that count for the same limits.
    """

    __slots__ = ("_alone", "_calls", "_idle", "_number", "_scopes", "untracked")

    def __init__(self, *, untracked: int = 0, alone: bool = True) -> None:
        self._alone = alone
        self.forget_callers()
        self.untracked = untracked

    def forget_callers(self) -> None:
        """Forget all running calls: their loop was closed."""
        self.untracked = 0
        self._calls: dict[Hashable, _RunningCall] = {}
        """The running calls."""
        self._number = 0
        self._scopes: dict[Hashable, _Scope] = {}
        self._idle: dict[Hashable, float] = {}
        """Scopes without a running call whose costs other processes may still need: since when, in
        this order."""

    def started(self, call: Hashable, keys: Sequence[Hashable], costs: tuple[float, ...]) -> None:
        """Note that a call has started."""
        self._number += 1
        self._calls[call] = _RunningCall(self._number, costs)
        for key in _with_all(keys):
            scope = self._scopes.get(key)
            if scope is None:
                scope = self._scopes[key] = _Scope()
            scope.start(costs)

    def number_of(self, call: Hashable) -> int:
        """Return the number of a call in order of release; 0: unknown.

        For no call (None), return the next number.
        """
        if call is None:
            return self._number + 1
        sent = self._calls.get(call)
        if sent is not None:
            return sent.number
        scope = self._scopes.get(None, _NO_CALLS)  # that of all calls
        past = (*scope.ended, *scope.answered)
        return next((one.number for one in past if one.call is call), 0)

    def answered(
        self,
        call: Hashable,
        keys: Sequence[Hashable],
        released_at: float,
        now: float,
        *,
        runs: bool = True,
    ) -> None:
        """Note that a call has its response.

        Args:
            call: the call.
            keys: its keys.
            released_at: instant at which it was released.
            now: the present instant.
            runs: whether its body is still running.
        """
        sent = self._calls.get(call)
        if sent is None and runs and self.untracked:
            # It started before the first report, so nothing was noted of it.
            self.untracked -= 1
            self._calls[call] = _RunningCall(0, None, now)
        elif sent is None:  # its body has ended
            for scope in self._scopes_of(keys):
                scope.answer_late(call, released_at, now)
        elif sent.costs is not None:
            past, sent.costs = _PastCall(now, sent.costs, call, sent.number), None
            sent.answered_at = now
            for scope in self._scopes_of(keys):
                scope.answer(past, released_at)

    def outcome(self, call: Hashable, *, runs: bool) -> seam.CallOutcome:
        """Return what has become of a call.

        Args:
            call: the call.
            runs: whether its body is still running.
        """
        sent = self._calls.get(call)
        if sent is not None:
            return sent.answered_at, None
        if runs:
            return None, None
        scope = self._scopes.get(None, _NO_CALLS)
        for one in scope.ended:
            if one.call is call:
                return None, one.at
        for one in scope.answered:
            if one.call is call:
                return one.at, None
        return -math.inf, None  # it is forgotten, so it had its response long ago

    def settled(self, call: Hashable, keys: Sequence[Hashable], costs: tuple[float, ...]) -> None:
        """Note the true costs of a call."""
        sent = self._calls.get(call)
        if sent is None:
            for scope in self._scopes_of(keys):
                scope.settle_late(call, costs)
        elif sent.costs is not None:
            for scope in self._scopes_of(keys):
                scope.settle(sent.costs, costs)
            sent.costs = costs

    def _scopes_of(self, keys: Sequence[Hashable]) -> list[_Scope]:
        return [self._scopes[key] for key in _with_all(keys) if key in self._scopes]

    def counted(self, key: Hashable, at: float) -> None:
        """Note that the server has counted all calls of a key (None: all) that ended by then."""
        scope = self._scopes.get(key)
        if scope is not None:
            scope.counted(at)
            self._drop_if_over(key, scope)

    def ended(self, call: Hashable, keys: Sequence[Hashable], at: float) -> None:
        """Note that the body of a call has ended."""
        sent = self._calls.pop(call, None)
        if sent is None:
            self.untracked = max(0, self.untracked - 1)
            return
        for key in _with_all(keys) if sent.number else ():  # 0: it was untracked
            scope = self._scopes[key]
            scope.end(None if sent.costs is None else _PastCall(at, sent.costs, call, sent.number))
            self._drop_if_over(key, scope)
            if not scope.running and key in self._scopes:
                self._idle.pop(key, None)  # so that it is added last: the oldest come first
                self._idle[key] = at
        self._forget_idle(at)

    def _forget_idle(self, now: float) -> None:
        while self._idle:
            key, since = next(iter(self._idle.items()))
            if now - since < _KEPT:
                break
            del self._idle[key]
            scope = self._scopes.get(key)
            # In use again: its last call may be refunded, which does not note it here.
            if scope is not None and scope.running:
                self._idle[key] = now
            elif scope is not None:
                del self._scopes[key]

    def refunded(self, call: Hashable, keys: Sequence[Hashable]) -> None:
        """Note that a granted call was never made."""
        sent = self._calls.pop(call, None)
        if sent is None:
            self.untracked = max(0, self.untracked - 1)
        elif sent.costs is not None:  # it has no response: it was never made
            for key in _with_all(keys):
                scope = self._scopes[key]
                scope.refund(sent.costs)
                self._drop_if_over(key, scope)

    def _drop_if_over(self, key: Hashable, scope: _Scope) -> None:
        # Without running calls, every later response is to a call released after those ends, so it
        # includes them. Other processes do not receive it, and still need the scope.
        if not scope.running and (self._alone or not scope.ended):
            del self._scopes[key]

    def cost_out(self, key: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return the cost of calls that the server may not have counted, in one unit.

        Args:
            key: key of the calls; None: all calls.
            unit: place of the unit in costs.
            with_ended: include calls that ended without a response.
        """
        scope = self._scopes.get(key, _NO_CALLS)
        out = scope.out[unit] if unit < len(scope.out) else 0
        ended = scope.ended if with_ended else ()
        return out + sum(one.costs[unit] for one in ended if cost_units.is_stated(one.costs, unit))

    def cost_answered(self, key: Hashable, unit: int, since: float) -> float:
        """Return the cost of calls whose response came since an instant, in one unit.

        Args:
            key: as in `cost_out`.
            unit: as in `cost_out`.
            since: instant at which the call with the latest response was released. That call is
                included.
        """
        return sum(
            one.costs[unit]
            for one in self._scopes.get(key, _NO_CALLS).answered
            if one.at >= since and cost_units.is_stated(one.costs, unit)
        )


def _add(sums: list[float], costs: Sequence[float], sign: int) -> None:
    while len(sums) < len(costs):
        sums.append(0)
    for unit, cost in enumerate(costs):
        if cost_units.is_stated(costs, unit):
            sums[unit] += sign * cost


def _note(log: deque[_PastCall], past: _PastCall) -> None:
    log.append(past)
    if len(log) > _MAX_ENDED:
        one, other = log.popleft(), log.popleft()
        both: list[float] = []
        _add(both, one.costs, 1)
        _add(both, other.costs, 1)
        log.appendleft(_PastCall(other.at, tuple(both)))


def _with_all(keys: Sequence[Hashable]) -> dict[Hashable, None]:
    return dict.fromkeys((None, *keys))
