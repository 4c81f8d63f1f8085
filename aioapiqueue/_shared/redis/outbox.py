"""Collects messages for an authority, in order, and merges them into as few as possible.

A waiting message absorbs later ones of its kind. Its size is bounded, because the server answers no
other client while it processes the message.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioapiqueue._shared.decisions import Decision, Decisions
from aioapiqueue._shared.redis.known_decisions import is_of_lane
from aioapiqueue._shared.redis.messages import (
    Adjust,
    CostChange,
    Count,
    Decide,
    Message,
    Renew,
    Return,
    SlowDown,
    Sync,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._shared.limit_table import LimitTable

_MOST = 1000
"""Waiting messages, apart from decisions: an outage may last for hours."""
_MOST_CHANGES, _MOST_LANES = 128, 32
"""Changed costs in one message, and lanes of one limit each that they concern. A server reads and
writes back a lane in some 20 microseconds, and answers other clients between two messages."""
_MOST_COUNTS = 16
"""Servers' counts in one message. For each, the authority reads what all processes have in flight
in its lane."""


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message that waits to be sent or, after it was sent, for its reply."""

    message: Message
    number: int
    first_sent: float = math.inf
    under_way: bool = False
    """Whether it is being sent, so that nothing can be added to it."""


class Outbox:
    """The messages that one queue has not sent yet, oldest first.

    Args:
        limits: of the queue and its lanes.
        on_added: called when there is another message to send.

    Attributes:
        is_closed: whether messages are ignored from now on.
    """

    def __init__(self, limits: LimitTable, on_added: Callable[[], None]) -> None:
        self.is_closed = False
        self._limits = limits
        self._on_added = on_added
        self.reset()

    def reset(self) -> None:
        """Start again, for another sender."""
        self.waiting: deque[Outgoing] = deque()
        self._numbered = 0
        """Number of messages that had a number."""

    def add(self, message: Message) -> None:
        """Add a message; if too many wait, ignore it unless it is a decision."""
        if self.is_closed:
            return
        if message.numbered:
            self._numbered += 1
        # The effect of any other message would wear off: limits recover, permits expire. Without a
        # decision, this process would keep limits that no other process has.
        if len(self.waiting) < _MOST or isinstance(message, Decide):
            number = self._numbered if message.numbered else 0
            self.waiting.append(Outgoing(message, number))
        self._on_added()

    def add_permits(self) -> None:
        """Add a report of how many permits are in use, unless the last message reports that."""
        # Every message states the number as it is sent, but only some kinds store it. So during an
        # outage, the renewals of permits do not add up.
        last = self.waiting[-1] if self.waiting else None
        if last is None or last.under_way or not last.message.reports_permits:
            self.add(Renew())

    def add_report(self, lanes: Sequence[Hashable]) -> None:
        """Add a report of what is reserved in the queue and in these lanes."""
        # As of permits: every message reports that of its lanes, as it is sent.
        last = self.waiting[-1] if self.waiting else None
        if last is not None and not last.under_way:
            named = {*last.message.lanes, *lanes}
            if len(named) == len(last.message.lanes):
                return
            if type(last.message) is Renew and sum(map(self._limits.work_of, named)) <= _MOST_LANES:
                last.message = Renew(tuple(named))
                return
        self.add(Renew(tuple(lanes)))

    def add_changes(self, kind: type[Adjust], changes: Iterable[CostChange]) -> None:
        """Add changed costs; the last message absorbs those that it has room for."""
        # The first message may be under way, or have been sent without a reply. Under the same
        # number, what is added to it would then not count.
        last = self.waiting[-1].message if len(self.waiting) > 1 else None
        part = last.changes if isinstance(last, Adjust) and type(last) is kind else None
        lanes = {lane for one in part or () for lane in one.lanes}
        work_of = self._limits.work_of
        work = sum(map(work_of, lanes))
        parts: list[list[CostChange]] = []
        for change in changes:
            work += sum(work_of(lane) for lane in change.lanes if lane not in lanes)
            if part is None or len(part) >= _MOST_CHANGES or work > _MOST_LANES:
                part, lanes, work = [], set(), sum(map(work_of, change.lanes))
                parts.append(part)
            lanes.update(change.lanes)
            part.append(change)
        for one in parts:  # only now: an eager task would send a part that is incomplete
            self.add(kind(one))

    def add_count(self, count: Count) -> None:
        """Add a server's count of one of its quotas; only the later of two is sent."""
        waiting: list[Sync] = []
        for one in self.waiting:
            if isinstance(one.message, Return):
                # The new count no longer includes these leases, so they have to be returned first:
                # it cannot join a message before this one.
                waiting = []
            elif isinstance(one.message, Sync) and not one.under_way:
                earlier = one.message.counts.pop(count.quota, count)
                count = max(count, earlier, key=lambda count: count.rank)
                waiting.append(one.message)
        # A message whose only count was replaced would be sent for nothing.
        self.waiting = deque(one for one in self.waiting if one.message != Sync({}))
        for message in waiting[-1:]:
            work = sum(map(self._limits.work_of, {*message.lanes, count.lane}))
            if len(message.counts) < _MOST_COUNTS and work <= _MOST_LANES and message.counts:
                message.counts[count.quota] = count
                return
        self.add(Sync({count.quota: count}))

    def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Add decisions of users, in messages of a bounded number of lanes."""
        parts: list[list[Decision]] = []
        for one in decisions:
            if not parts or (is_of_lane(one) and sum(map(is_of_lane, parts[-1])) == _MOST_LANES):
                parts.append([])
            parts[-1].append(one)
        for part in parts:
            self._add_decisions(part)

    def _add_decisions(self, decisions: Sequence[Decision]) -> None:
        for one in self.waiting:
            if isinstance(one.message, Decide) and not one.under_way:
                lanes = {*one.message.lanes, *Decide(merged(decisions)).lanes}
                if len(lanes) <= _MOST_LANES:
                    self.waiting.remove(one)
                    one.message.decisions.merge(decisions)
                    # Last: what was charged by the old limits has to arrive before the new ones.
                    self.waiting.append(one)
                    return
        self.add(Decide(merged(decisions)))

    def charge(self, costs: Mapping[Hashable, Sequence[float]]) -> None:
        """Subtract leases from the counts that were reported before they were granted.

        Args:
            costs: of the leases, by lane (None: in the queue) and unit.
        """
        for one in self.waiting:
            if isinstance(one.message, Sync):
                one.message.charge(costs)

    def move_decisions(self, moved: Callable[[Decision], Decision]) -> None:
        """Move all decisions to another clock."""
        for one in self.waiting:
            if isinstance(one.message, Decide):
                one.message = Decide(merged(map(moved, one.message.decisions)))

    @property
    def has_decisions(self) -> bool:
        """Whether a message waits that contains a user's decision, or a hold."""
        return any(isinstance(one.message, Decide | SlowDown) for one in self.waiting)


def merged(decisions: Iterable[Decision]) -> Decisions:
    """Return decisions without those that are replaced by others among them."""
    together = Decisions(lambda: -math.inf)
    together.merge(decisions)
    return together
