"""Keeps the decisions on a quota that a queue knows, on the clock of the authority.

Before the first reply, that clock is unknown. Until then, decisions are stamped with the machine's
clock; the first reply moves them to the authority's clock, before they are sent. Afterwards, a
stamp is the authority's clock as last read, plus the time that has passed here since.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aioapiqueue._shared.decisions import Closing, Decided, Decision, Decisions, Stamp
from aioapiqueue.spi import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from aioapiqueue._shared.clock import Clock
    from aioapiqueue.spi import Host

_MOST_AHEAD = 60_000_000
"""Microseconds by which a stamp may be ahead of the authority's clock, as in gcra_decisions.lua. It
is more only if that clock was set back; then later decisions must be able to replace it."""


class KnownDecisions:
    """The decisions on one quota. A hold is of a lane, or of everything (None).

    Args:
        host: the queue's dispatcher, on whose clock instants are given and returned.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._decisions = self._new()
        self._ahead: float | None = None
        """Seconds by which the authority's clock is ahead of the machine's; None: not known yet."""
        self._guessed: set[Stamp] = set()
        """Stamps that were made with the machine's clock."""

    def _new(self) -> Decisions:
        return Decisions(lambda: self._timestamp(self._host.loop.now()) / 1e6)

    def reset(self, clock: Clock, *, clock_changed: bool) -> None:
        """Start on another event loop, in a process that may be a copy of the one before."""
        self._clock = clock
        self._decisions.begin()
        if clock_changed:
            self._decisions.forget_instants()
            self._ahead = None

    # Between the two clocks.

    def _timestamp(self, at: float) -> int:
        known = self._clock.to_timestamp(at)
        if known is not None:
            return int(known)
        # No reply on this loop yet. An earlier loop's reading is still better than none.
        return math.floor((self._host.loop.to_wall(at) + (self._ahead or 0.0)) * 1e6)

    def _to_theirs(self, until: float) -> float:
        """Return the end of a pause or hold on the authority's clock, in seconds; never early."""
        if math.isinf(until):
            return until
        return (self._timestamp(until) + math.ceil(self._clock.uncertainty * 1e6)) / 1e6

    def _to_local(self, until: float) -> float:
        if math.isinf(until):
            return until
        timestamp, now = timestamp_of(until), self._host.loop.now()
        if self._clock.to_timestamp(now) is not None:
            return self._clock.to_local(timestamp)
        return now + (timestamp - self._timestamp(now)) / 1e6

    def read_clock(self, sent: float, timestamp: float) -> Callable[[Decision], Decision] | None:
        """Read the authority's clock by a reply.

        Returns:
            A function that moves a decision from before the first reply, or from before that clock
            was set back; None: there is no such decision.
        """
        now, guessed = self._host.loop.now(), self._guessed
        before = self._clock.to_timestamp(now)
        # By as much as a stamp may be ahead: less is no reason to move anything.
        set_back = before is not None and timestamp < before - _MOST_AHEAD
        # Before the update, so that expired ones are dropped by the old clock.
        decisions = list(self._decisions) if guessed or set_back else []
        self._clock.update(sent, now, timestamp)
        self._ahead = self._timestamp(now) / 1e6 - self._host.loop.to_wall(now)
        if not (guessed or set_back):
            return None
        lead = round(self._ahead * 1e6) if before is None else self._timestamp(now) - int(before)
        self._guessed = set()

        def moved(decision: Decision) -> Decision:
            stamp, statement = decision
            if not set_back and stamp not in guessed:
                return decision
            if isinstance(statement, Closing):
                until = (timestamp_of(statement.until) + lead) / 1e6
                statement = statement._replace(until=until)
            # Other processes may know a sent decision by its stamp, so that stays: see `_catch_up`.
            at = stamp.at + lead if stamp in guessed else stamp.at
            return Decision(Stamp(at, stamp.maker), statement)

        self._decisions = self._new()
        self._decisions.merge(map(moved, decisions))
        return moved

    def _catch_up(self) -> None:
        """Move stamps that are far ahead of the authority's clock back to it, in their order.

        The authority does the same when it receives them.
        """
        latest = self._timestamp(self._host.loop.now())
        most, before, self._decisions = latest + _MOST_AHEAD, self._decisions, self._new()
        for one in before:
            if one.stamp.at > most:
                latest += 1  # so that their order stays
            at = latest if one.stamp.at > most else one.stamp.at
            self._decisions.merge([one._replace(stamp=one.stamp._replace(at=at))])

    # Decisions.

    def make(self, *given: Decided) -> list[Decision]:
        """Record decisions that are made here; return those to send."""
        made = self._decisions.make(
            *(
                one._replace(until=self._to_theirs(one.until)) if isinstance(one, Closing) else one
                for one in given
            )
        )
        if self._ahead is None:
            self._guessed.update(one.stamp for one in made)
        return made

    def merge(self, decisions: Iterable[Decision], *, whole: bool) -> list[statements.Statement]:
        """Merge decisions of the authority; return the statements that change what holds here.

        Args:
            decisions: the authority's.
            whole: whether these are all that it has.
        """
        # All decisions are compared if the authority has changed stamps (or has lost its data).
        # Then this process changes its own in the same way.
        if whole:
            self._catch_up()
        # Limits that are set again to the same are left out: nothing changes for the calls here.
        before = {
            one.statement
            for one in self._decisions
            if isinstance(one.statement, statements.SetLimits)
        }
        given = [one.statement for one in self._decisions.merge(decisions)]
        return [one for one in given if one not in before]

    def unknown_to(self, decisions: Iterable[Decision]) -> list[Decision]:
        """Return the decisions that are not among these, except holds of single lanes."""
        theirs = {one.stamp for one in decisions}
        return [one for one in self._decisions if one.stamp not in theirs and not is_of_lane(one)]

    def later_than(self, decisions: Iterable[Decision]) -> list[Decision]:
        """Return limits that replace some of these here, which the authority does not know."""
        mine = {
            x.statement.key: x
            for x in self._decisions
            if isinstance(x.statement, statements.SetLimits)
        }
        theirs = [
            one.statement for one in decisions if isinstance(one.statement, statements.SetLimits)
        ]
        return [mine[x.key] for x in theirs if x.key in mine and mine[x.key].statement != x]

    def note_end(self, lane: Hashable, timestamp: float) -> None:
        """Note the end of a hold of the authority (lane None: of everything); ignore pauses."""
        paused_until = self._decisions.paused_until
        if lane is not None or timestamp_of(paused_until) < timestamp:
            # Of holds, only the end matters; the stamp only has to differ from those of real ones.
            stamp = Stamp(-int(timestamp), "")
            self._decisions.merge([Decision(stamp, statements.Hold(lane, timestamp / 1e6))])

    def holds(self) -> list[Decision]:
        """Return the holds that still last."""
        return [one for one in self._decisions if isinstance(one.statement, statements.Hold)]

    @property
    def paused_until(self) -> float:
        """The end of a pause."""
        return self._to_local(self._decisions.paused_until)

    @property
    def held_until(self) -> float:
        """The end of a pause or hold of everything."""
        return self._to_local(max(self._decisions.paused_until, self._decisions.held_until(None)))


def timestamp_of(seconds: float) -> float:
    """Return an instant of the authority's clock in microseconds: a whole number, or infinite."""
    return seconds if math.isinf(seconds) else round(seconds * 1e6)


def is_of_lane(decision: Decision) -> bool:
    """Return whether a decision holds a single lane."""
    return isinstance(decision.statement, statements.Hold) and decision.statement.key is not None
