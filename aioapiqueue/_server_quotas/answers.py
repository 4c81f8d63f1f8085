"""Which calls the other side has yet to answer, and what they cost.

Of a call that is out without an answer, nobody knows whether a server that tells its own count had
counted it by then (`server_bound.py`). Whether one that ended without an answer (cancelled, or its
connection broke) was counted is not known either: the answer to a call that was released after that
end counts it, if it is counted. So does what is read elsewhere, which is of no call.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue._limits.units import is_stated

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue._core.limiter import CallOutcome

__all__ = ["Answers"]

_MOST_TOLD_APART = 64
"""So many calls that ended are told apart; of more, the oldest two count as one that ended with the
later of them. While nothing at all is answered, they would be without end."""

_KEPT = 60.0
"""Seconds after which a call that ended without an answer is no longer told others, if nobody makes
calls of its key: the server had counted it long before."""


class _Past(NamedTuple):
    """A call that is out no more, and that an answer under way may not have counted."""

    at: float
    costs: tuple[float, ...]
    call: Hashable = None
    number: int = 0


class _Scope:
    """The calls of one key, or all calls."""

    __slots__ = ("answered", "ended", "out", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        """How many run."""
        self.waiting = 0
        """How many of them have no answer yet."""
        self.out: list[float] = []
        """What those cost, by unit."""
        self.ended: deque[_Past] = deque()
        """Those that ended without an answer."""
        self.answered: deque[_Past] = deque()
        """Those that were answered."""

    def start(self, costs: Sequence[float]) -> None:
        self.running += 1
        self.waiting += 1
        _add(self.out, costs, 1)

    def _take_off(self, costs: Sequence[float]) -> None:
        self.waiting -= 1
        if self.waiting:
            _add(self.out, costs, -1)
        else:  # fractions of cost do not add up
            self.out.clear()

    def answer(self, past: _Past, released_at: float) -> None:
        self._take_off(past.costs)
        self._note_answer(past, released_at)

    def answer_late(self, call: Hashable, released_at: float, now: float) -> None:
        """Note that a call which has ended has its answer all the same."""
        past = next((one for one in self.ended if one.call is call), None)
        if past is not None:
            self.ended.remove(past)
            self._note_answer(past._replace(at=now), released_at)

    def counted(self, at: float) -> None:
        """Forget those that ended without an answer until then."""
        while self.ended and self.ended[0].at <= at:
            self.ended.popleft()

    def _note_answer(self, past: _Past, released_at: float) -> None:
        for log in (self.ended, self.answered):
            # Of what happens at one and the same instant, nobody knows what came first.
            while log and log[0].at < released_at:
                log.popleft()
        _note(self.answered, past)

    def settle(self, before: Sequence[float], costs: Sequence[float]) -> None:
        _add(self.out, before, -1)
        _add(self.out, costs, 1)

    def settle_late(self, call: Hashable, costs: tuple[float, ...]) -> None:
        """Settle a call that has ended, perhaps without an answer."""
        for place, past in enumerate(self.ended):
            if past.call is call:
                self.ended[place] = past._replace(costs=costs)

    def end(self, past: _Past | None) -> None:
        """Note that a call has ended; None: with an answer, or before it was made."""
        self.running -= 1
        if past is not None:
            self._take_off(past.costs)
            _note(self.ended, past)

    def refund(self, costs: Sequence[float]) -> None:
        self.running -= 1
        self._take_off(costs)


class _Sent:
    """A call that runs."""

    __slots__ = ("answered_at", "costs", "number")

    def __init__(
        self, number: int, costs: tuple[float, ...] | None, answered_at: float | None = None
    ) -> None:
        self.number = number
        self.costs = costs
        """None: it has been answered."""
        self.answered_at = answered_at


class Answers:
    """Which calls the server has yet to answer, and what they cost, by key.

    Args:
        untracked: how many run already. Nothing else is known of them.
        alone: whether nobody else makes calls that the same limits count.
    """

    __slots__ = ("_alone", "_calls", "_idle", "_number", "_scopes", "untracked")

    def __init__(self, *, untracked: int = 0, alone: bool = True) -> None:
        self._alone = alone
        self.forget_callers()
        self.untracked = untracked

    def forget_callers(self) -> None:
        """Forget who runs: they were on a loop that is gone."""
        self.untracked = 0
        self._calls: dict[Hashable, _Sent] = {}
        """Those that run."""
        self._number = 0
        self._scopes: dict[Hashable, _Scope] = {}
        self._idle: dict[Hashable, float] = {}
        """Of scopes in which nobody runs, and that others may have to hear of: since when, in this
        order."""

    def started(self, call: Hashable, keys: Sequence[Hashable], costs: tuple[float, ...]) -> None:
        """Note that a call is out."""
        self._number += 1
        self._calls[call] = _Sent(self._number, costs)
        for key in _with_all(keys):
            scope = self._scopes.get(key)
            if scope is None:
                scope = self._scopes[key] = _Scope()
            scope.start(costs)

    def number_of(self, call: Hashable) -> int:
        """Return the number of a call by the order of release; 0: it is not known.

        Of no call (None): the next one.
        """
        if call is None:
            return self._number + 1
        sent = self._calls.get(call)
        if sent is not None:
            return sent.number
        scope = self._scopes.get(None)
        past = () if scope is None else (*scope.ended, *scope.answered)
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
        """Note that a call which was released then has its answer.

        Args:
            call: which one.
            keys: its own.
            released_at: when it was released.
            now: the present instant.
            runs: whether its body runs still.
        """
        sent = self._calls.get(call)
        if sent is None and runs and self.untracked:
            self.untracked -= 1
            self._calls[call] = _Sent(0, None, now)
        elif sent is None:  # its body has ended
            for scope in self._scopes_of(keys):
                scope.answer_late(call, released_at, now)
        elif sent.costs is not None:
            past, sent.costs = _Past(now, sent.costs, call, sent.number), None
            sent.answered_at = now
            for scope in self._scopes_of(keys):
                scope.answer(past, released_at)

    def outcome(self, call: Hashable, *, runs: bool) -> CallOutcome:
        """Return what has become of a call.

        Args:
            call: which one.
            runs: whether its body runs still.
        """
        sent = self._calls.get(call)
        if sent is not None:
            return sent.answered_at, None
        if runs:
            return None, None
        scope = self._scopes.get(None)
        for one in () if scope is None else scope.ended:
            if one.call is call:
                return None, one.at
        for one in () if scope is None else scope.answered:
            if one.call is call:
                return one.at, None
        return -math.inf, None  # long ago, where nothing is known of it any more

    def settled(self, call: Hashable, keys: Sequence[Hashable], costs: tuple[float, ...]) -> None:
        """Note that a call costs something else than was thought."""
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
        """Note that the server has counted all calls of a key (None: of any) that ended by then."""
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
        for key in _with_all(keys) if sent.number else ():  # else it was untracked
            scope = self._scopes[key]
            scope.end(None if sent.costs is None else _Past(at, sent.costs, call, sent.number))
            self._drop_if_over(key, scope)
            if not scope.running and key in self._scopes:
                self._idle.pop(key, None)
                self._idle[key] = at
        self._forget_idle(at)

    def _forget_idle(self, now: float) -> None:
        while self._idle:
            key, since = next(iter(self._idle.items()))
            if now - since < _KEPT:
                break
            del self._idle[key]
            scope = self._scopes.get(key)
            if scope is not None and scope.running:
                self._idle[key] = now
            elif scope is not None:
                del self._scopes[key]

    def refunded(self, call: Hashable, keys: Sequence[Hashable]) -> None:
        """Note that a call which was granted will not be made."""
        sent = self._calls.pop(call, None)
        if sent is None:
            self.untracked = max(0, self.untracked - 1)
        elif sent.costs is not None:
            for key in _with_all(keys):
                scope = self._scopes[key]
                scope.refund(sent.costs)
                self._drop_if_over(key, scope)

    def _drop_if_over(self, key: Hashable, scope: _Scope) -> None:
        # If none runs, all answers to come are to calls that are released after those that ended:
        # answers that are heard here, and not by others.
        if not scope.running and (self._alone or not scope.ended):
            del self._scopes[key]

    def cost_out(self, key: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return what may be out that the server has not counted, in one unit.

        Args:
            key: of the calls; None: of all.
            unit: the place of it in costs.
            with_ended: whether those are to be added that ended without an answer.
        """
        scope = self._scopes.get(key)
        if scope is None:
            return 0
        out = scope.out[unit] if unit < len(scope.out) else 0
        ended = scope.ended if with_ended else ()
        return out + sum(one.costs[unit] for one in ended if is_stated(one.costs, unit))

    def cost_answered(self, key: Hashable, unit: int, since: float) -> float:
        """Return what calls cost that were answered since an instant, in one unit.

        Args:
            key: as of `cost_out`.
            unit: as of `cost_out`.
            since: when a call was released that has just been answered, itself among them.
        """
        scope = self._scopes.get(key)
        return sum(
            one.costs[unit]
            for one in (() if scope is None else scope.answered)
            if one.at >= since and is_stated(one.costs, unit)
        )


def _add(sums: list[float], costs: Sequence[float], sign: int) -> None:
    while len(sums) < len(costs):
        sums.append(0)
    for unit, cost in enumerate(costs):
        if is_stated(costs, unit):
            sums[unit] += sign * cost


def _note(log: deque[_Past], past: _Past) -> None:
    log.append(past)
    if len(log) > _MOST_TOLD_APART:
        one, other = log.popleft(), log.popleft()
        both: list[float] = []
        _add(both, one.costs, 1)
        _add(both, other.costs, 1)
        log.appendleft(_Past(other.at, tuple(both)))


def _with_all(keys: Sequence[Hashable]) -> dict[Hashable, None]:
    return dict.fromkeys((None, *keys))
