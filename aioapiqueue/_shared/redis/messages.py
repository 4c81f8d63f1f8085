"""Defines the messages and replies between a queue and the authority over its quota.

They are plain data; the `Transport` decides how they travel. A lane is a key (`NO_KEY`: the key
None) that has limits of its own; the lane None is the whole queue. Costs are by unit, in the order
of the queue's `Units`. Timestamps are the authority's, in microseconds; all other times are in
seconds, on the queue's clock.
"""

from __future__ import annotations

import math
from collections.abc import Hashable  # noqa: TC003 - of a NamedTuple
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue import BudgetUse, Limit, Rate
    from aioapiqueue._shared.decisions import Decision, Decisions
    from aioapiqueue._shared.limit_table import Scope
    from aioapiqueue.spi import Call


@dataclass(frozen=True)
class Message:
    """A message to the authority."""

    numbered: ClassVar[bool] = False
    """Whether it has a number, so that it counts only once: it changes a sum."""
    reports_permits: ClassVar[bool] = False
    """Whether the authority notes how many permits this queue has in use when it receives it."""

    @property
    def lanes(self) -> Sequence[Hashable]:
        """The lanes that it concerns."""
        return ()

    def without_refunds(self) -> Message:
        """Return it without refunds, for when it may have been processed: they must count once."""
        return self


@dataclass(frozen=True)
class Renew(Message):
    """A message that consists only of what every request contains.

    Attributes:
        lanes: the lanes whose reservations it reports.
    """

    reports_permits = True
    lanes: Sequence[Hashable] = ()


class Count(NamedTuple):
    """A server's count of what is left of one of its quotas.

    Attributes:
        lane: the lane whose calls the quota counts; None: all calls.
        unit: what it counts: a place in costs.
        limit: its size, which tells quotas of one unit apart; None: unknown.
        left: what remains, less calls in flight and leases of this process.
        until: the instant at which it is full again.
        released_at: the timestamp of the slot of the call that was answered; if that is unknown,
            that of the answer; None: now.
        received_at: the timestamp of the answer; None: the authority's clock is not known yet.
    """

    lane: Hashable
    unit: int
    limit: float | None
    left: float
    until: float
    released_at: float | None
    received_at: float | None

    @property
    def quota(self) -> Hashable:
        """The identity of the quota."""
        return self.lane, self.unit, self.limit

    @property
    def rank(self) -> tuple[float, float]:
        """The greater rank of two counts of one quota is the later count, or else the lower one."""
        # The server may answer calls in any order: the later call has a count of the earlier one.
        return (math.inf if self.released_at is None else self.released_at, -self.left)


@dataclass(frozen=True)
class Sync(Message):
    """Servers' own counts.

    Attributes:
        counts: by quota. More are added while the message waits to be sent.
    """

    counts: dict[Hashable, Count]

    @property
    def lanes(self) -> Sequence[Hashable]:
        lanes = dict.fromkeys(one.lane for one in self.counts.values())
        return [lane for lane in lanes if lane is not None]

    def charge(self, costs: Mapping[Hashable, Sequence[float]]) -> None:
        """Subtract leases since then.

        Args:
            costs: of the leases, by lane (None: in the queue) and unit.
        """
        for quota, one in self.counts.items():
            its = costs.get(one.lane, ())
            if one.unit < len(its):
                self.counts[quota] = one._replace(left=one.left - its[one.unit])


@dataclass(frozen=True)
class FirstEnded(Message):
    """The first call of these lanes (or of the queue) has ended.

    Attributes:
        lanes: the lanes.
        answered: whether it has an answer, so that more calls may be in flight from now on.
    """

    lanes: Sequence[Hashable] = ()
    answered: bool = False


class Leave(Message):
    """This queue is gone."""

    numbered = True


@dataclass(frozen=True)
class Decide(Message):
    """Decisions of users.

    Attributes:
        decisions: more of them are added while the message waits to be sent.
    """

    decisions: Decisions

    @property
    def lanes(self) -> Sequence[Hashable]:
        return [lane for lane in self.decisions.holds() if lane is not None]


class CostChange(NamedTuple):
    """The true costs of a slot, less what it was charged, in all its lanes and units at once."""

    lanes: tuple[Hashable, ...]
    timestamp: int
    costs: tuple[float, ...]
    charged: tuple[float, ...]
    started: tuple[float, ...] = ()
    """What it was charged when it started; (): as much as `charged`."""
    late: float = 0.0
    """Seconds after its slot at which it started, at most."""


@dataclass(frozen=True)
class Adjust(Message):
    """Calls that have started cost more, or less.

    Attributes:
        changes: more of them are added while the message is the last one that waits.
    """

    numbered = True
    reports_permits = True
    changes: list[CostChange]

    @property
    def lanes(self) -> Sequence[Hashable]:
        return list(dict.fromkeys(lane for one in self.changes for lane in one.lanes))

    def without_refunds(self) -> Message:
        # Higher costs are sent again: charged twice, a limit only recovers later.
        charges = [one._replace(costs=tuple(max(0, c) for c in one.costs)) for one in self.changes]
        return replace(self, changes=[one for one in charges if any(one.costs)])


class Return(Adjust):
    """Slots that will not be used: their costs are returned."""


@dataclass(frozen=True)
class SlowDown(Message):
    """A throttled call.

    Attributes:
        lane: the lane to slow down; None: the queue.
        until: the instant before which the server wants no call there; -inf: it named none.
        released_at: the timestamp of the call's slot; inf: lower the rate in any case; -inf: do not
            lower it.
        call: the call, if it is known.
        key: its key.
    """

    numbered = True
    lane: Hashable
    until: float
    released_at: float
    call: Call | None
    key: Hashable

    @property
    def lanes(self) -> Sequence[Hashable]:
        return () if self.lane is None else (self.lane,)


class SlotRequest(NamedTuple):
    """Slots to grant to calls of one scope, with the same costs.

    Attributes:
        scope: the scope.
        costs: of each call.
        number: of calls.
        first: priority, and place among calls of that priority, of the first of these calls.
        last: the same of the last of them.
    """

    scope: Scope
    costs: tuple[float, ...]
    number: int
    first: tuple[float, float]
    last: tuple[float, float]


class ScopeWait(NamedTuple):
    """The lane for which the calls of one scope wait.

    Attributes:
        scope: the scope.
        waits_for: the lane for which it waited, by the last reply; None: it waited for no lane.
    """

    scope: Scope
    waits_for: Hashable


class LanePlace(NamedTuple):
    """The place of this queue among the queues that wait for one lane.

    Attributes:
        lane: the lane; None: the whole quota.
        waited: seconds for which a call has always been waiting.
        round_position: its place, by the last reply: a timestamp; 0: it has none.
    """

    lane: Hashable
    waited: float
    round_position: int


@dataclass(frozen=True)
class Ask(Message):
    """A request for slots.

    Attributes:
        requests: requests, in the order of the calls.
        most: the highest total cost to grant.
        slots: the highest number of slots to grant.
        jitter: seconds by which the reply may be late: no slot may be earlier than that.
        lateness: seconds after its instant within which a slot is likely to be used.
        places: the queue's place in the whole quota, then in each lane.
        lines: an entry for each scope that has lanes.
    """

    requests: Sequence[SlotRequest]
    most: float
    slots: int
    jitter: float
    lateness: float
    places: Sequence[LanePlace]
    lines: Sequence[ScopeWait] = ()

    @property
    def asked(self) -> int:
        """Number of slots requested."""
        return sum(one.number for one in self.requests)

    @property
    def lanes(self) -> Sequence[Hashable]:
        return [one.lane for one in self.places[1:]]


class LaneReport(NamedTuple):
    """The calls of one queue that are in flight or leased, in a lane.

    Attributes:
        in_flight: their cost, by unit.
        first: their number, if the lane may have only one until its first answer; else None.
    """

    in_flight: tuple[float, ...]
    first: int | None = None


class Reserved(NamedTuple):
    """What every request contains if a limit raises `LimitExceeded`.

    Attributes:
        costs: the cost, by unit, of running calls that have not settled, and of unused slots: in
            the queue (None) and the lanes of the message that have such a limit.
        sequence: the number of this request; a later one has a higher number.
        answered: the number of the last request whose reply has arrived.
        lasts: whether a limit is a `Budget`: what is spent of it must not be lost.
    """

    costs: Mapping[Hashable, Sequence[float]]
    sequence: int
    answered: int
    lasts: bool


@dataclass(frozen=True)
class Envelope:
    """A message, and what every request contains.

    Attributes:
        message: the message.
        number: of the message, if that is `numbered`: counted from 1 by each sender; else 0.
        sender: a random name of the queue, a new one on each event loop.
        now: when it is sent.
        permits: number of bodies that run, or may start without another request.
        concurrency: number that may run at once in all queues together; inf: any number.
        revision: of the decisions that the queue knows, as of the last reply; 0: it knows none; -1:
            the authority may lack some of them.
        limits: in force, of the queue (None), then of each lane of the message.
        follows: whether calls in flight are counted by lane.
        reports: of the queue (None) and, if `follows`, of each lane of the message.
        reserved: what limits that raise need; None: no limit raises.
    """

    message: Message
    number: int
    sender: str
    now: float
    permits: int
    concurrency: float
    revision: int
    limits: Mapping[Hashable, Sequence[Limit]]
    follows: bool
    reports: Mapping[Hashable, LaneReport]
    reserved: Reserved | None = None


class BoundStatus(NamedTuple):
    """The rest of one of a server's own quotas.

    Attributes:
        unit: what it counts: a place in costs.
        left: the cost that may start; below 0 if too much is in flight.
        until: the timestamp at which it is full again.
    """

    unit: int
    left: float
    until: float


class LimitStatus(NamedTuple):
    """The status of the limits of the queue, or of a lane.

    Attributes:
        held_until: the timestamp at which a hold or pause ends; inf: never; -inf: nothing is held.
        rate: calls per second after slow-downs; inf: whatever the limits allow.
        ready_at: the timestamps at which each limit has room for the next call, in their order, and
            last that of the rate after slow-downs, if there is one; -inf: unknown.
        counted: the timestamp of the latest call that the server has answered, and so counted;
            -inf: calls in flight are not counted.
        bounds: the server's own quotas, of the units that this queue knows.
        budgets: how much is used of each `Budget` that was in force when the message was sent. Its
            `reserved` is the sum of what the processes last reported, and includes slots that they
            have not used yet. Reservations of a process that dies become spent within twice the
            `lease`.
    """

    held_until: float
    rate: float
    ready_at: tuple[float, ...]
    counted: float = -math.inf
    bounds: tuple[BoundStatus, ...] = ()
    budgets: Mapping[Limit, BudgetUse] = MappingProxyType({})


@dataclass(frozen=True)
class Reply:
    """The reply to a message that was processed.

    Attributes:
        timestamp: when it was processed.
        epoch: the instant at which the authority's data began: a new one after a loss of data.
        statuses: of the queue (None) and of each lane of the message.
        revision: to `Decide`: the new revision of the decisions; -1: some stamps were changed.
        backed_off: to `SlowDown`: whether the rate was lowered.
        granted: to `Ask`: the slots.
    """

    timestamp: int
    epoch: int
    statuses: Mapping[Hashable, LimitStatus]
    revision: int | None = None
    backed_off: bool = False
    granted: Granted | None = None


class GrantedSlot(NamedTuple):
    """A slot for a request: its timestamp, and the timestamp until which it may be used."""

    request: SlotRequest
    timestamp: int
    until: int


class Postponement(NamedTuple):
    """A scope whose next slot is due later.

    Attributes:
        scope: the scope.
        lane: the lane for which it has to wait.
        round_position: this queue's place there.
        ask_at: the timestamp from which to ask.
    """

    scope: Scope
    lane: Hashable
    round_position: int
    ask_at: int


class Refusal(NamedTuple):
    """A request whose calls have to raise `LimitExceeded`.

    Attributes:
        request: the request; calls that were granted a slot are not refused.
        lane: the lane that has the limit; None: the queue.
        limit: the limit that has no room.
        remaining: what it has left.
        resets_in: seconds until it has room; None: unknown, or never.
    """

    request: SlotRequest
    lane: Hashable
    limit: Limit
    remaining: float
    resets_in: float | None


@dataclass(frozen=True)
class Granted:
    """The answer to `Ask`.

    Attributes:
        share: number of slots that this queue may ask for at once.
        grants: in the order of their timestamps.
        postponements: scopes to ask for later.
        short_of_permits: whether permits are missing: ask when one may be free.
        round_position: the timestamp from which to ask for what was not granted; 0: when what was
            granted is nearly used up.
        refusals: requests for which there is no room.
    """

    share: int
    grants: Sequence[GrantedSlot]
    postponements: Sequence[Postponement]
    short_of_permits: bool
    round_position: int
    refusals: Sequence[Refusal] = ()


class Differing(NamedTuple):
    """The answer to a message that was not processed, because decisions have to be exchanged first.

    Attributes:
        timestamp: of the answer.
        revision: of the decisions that the authority knows.
        whole: whether `decisions` are all of them. Otherwise they are only those that are new to
            the sender, and the authority lacks none of the sender's.
        decisions: decisions of the authority.
    """

    timestamp: int
    revision: int
    whole: bool
    decisions: Sequence[Decision]


@dataclass(frozen=True)
class SharedSettings:
    """The options of a schedule on an authority.

    Attributes:
        name: of the quota.
        ahead: seconds by which slots are fetched ahead of their time, at most.
        timeout: seconds to wait for a reply.
        lease: seconds for which the permits of a silent queue are kept.
        fallback: the local rate while the authority cannot be reached; None: calls wait.
    """

    name: str
    ahead: float
    timeout: float
    lease: float
    fallback: Rate | None


class Transport(Protocol):
    """The connection to an authority, for one queue."""

    settings: SharedSettings

    async def send(self, envelope: Envelope) -> Reply | Differing:
        """Send a message once; a `numbered` one counts once, even if it is sent again within 5 s.

        Raises:
            Unreachable: no reply at present.
            SharedError: the authority refuses until the user corrects the cause.
        """
