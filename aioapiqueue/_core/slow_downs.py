"""Rounds of throttled calls: all throttled calls of one round slow a queue down once.

A burst of calls that the server throttles is one reason to slow down, not one for each call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

_FEW_ROUNDS = 32
"""Number of scopes that are kept even if their rounds are over: clearing them would cost more."""


class CallCounts(Protocol):
    """The counts of a dispatcher that rounds are told apart by."""

    started: int
    """Number of calls that have started, less those whose slot was refunded."""
    ended: int
    """Number of these calls that have ended."""


class SlowDownRounds:
    """Whether a throttled call that is not named belongs to a new round, which slows down again.

    It is assumed to have run at the last slow-down, until as many calls have ended as had started
    by then.

    Args:
        counts: counts the calls that have started and ended.
    """

    def __init__(self, counts: CallCounts) -> None:
        self._counts = counts
        self._started: dict[Hashable, int] = {}
        """Number of calls that had started when each scope slowed down."""
        self._prune_at = _FEW_ROUNDS

    def is_new(self, scope: Hashable) -> bool:
        """Return whether a throttled call of `scope` that is not named belongs to a new round."""
        # -1: a scope without an entry has never slowed down, so that a throttled call there begins
        # a round even before any call has ended.
        return self._counts.ended > self._started.get(scope, -1)

    def begin(self, scope: Hashable) -> None:
        """Note that `scope` has slowed down."""
        # Once as many calls have ended as had started by then, an entry makes no difference. Scopes
        # are keys of users, so that entries must not accumulate.
        ended = self._counts.ended
        if len(self._started) >= self._prune_at:  # so rarely that the total cost stays linear
            self._started = {of: n for of, n in self._started.items() if n >= ended}
            self._prune_at = 2 * len(self._started) + _FEW_ROUNDS
        self._started[scope] = self._counts.started
