"""What a queue and the authority over its quota send each other, and the way between them.

Messages and replies are plain data: how they travel is the transport's business. A lane is a key
(`NO_KEY`: the key None) that has limits of its own; the lane None is the whole queue. Costs are by
unit, in the places that the queue's `Units` give them. Timestamps are the authority's, in
microseconds; everything else is in seconds on the queue's clock.
"""

from __future__ import annotations

import math
from collections.abc import Hashable  # noqa: TC003 - of a NamedTuple
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from aioapiqueue.spi import cost_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue import Limit, Rate
    from aioapiqueue._shared.decisions import Decision, Decisions
    from aioapiqueue._shared.scope import Scope
    from aioapiqueue.spi import Call


def plain_costs(costs: Sequence[float]) -> tuple[float, ...]:
    """Return costs with 0 of each unit of which they say nothing: no limit counts that."""
    return tuple(
        cost if cost_units.is_stated(costs, unit) else 0 for unit, cost in enumerate(costs)
    )


@dataclass(frozen=True)
class Message:
    """Something that the authority is to know."""

    numbered: ClassVar[bool] = False
    """Whether it may count only once, however often it arrives: it changes a sum."""
    reports_permits: ClassVar[bool] = False
    """Whether the authority learns from it how many permits this queue has in use."""

    @property
    def lanes(self) -> Sequence[Hashable]:
        """The lanes that it concerns."""
        return ()

    def without_refunds(self) -> Message:
        """Return this without refunds, which must not count twice: it may have been processed."""
        return self


class Renew(Message):
    """Nothing but what every request contains."""

    reports_permits = True


class Count(NamedTuple):
    """What an answer of the other side says is left of one of its quotas.

    Attributes:
        lane: which calls it counts; None: all.
        unit: what it counts: the place of that in costs.
        limit: its size, by which those of one unit are told apart; None: not said.
        left: what remains, less what is out or leased here without an answer.
        until: when it is full again.
        released_at: the timestamp of the slot of the call that was answered; of no call, that of
            the answer; None: now.
        heard_at: the timestamp of the answer; None: the authority's clock is not known yet.
    """

    lane: Hashable
    unit: int
    limit: float | None
    left: float
    until: float
    released_at: float | None
    heard_at: float | None

    @property
    def quota(self) -> Hashable:
        """Of which quota it is."""
        return self.lane, self.unit, self.limit

    @property
    def rank(self) -> tuple[float, float]:
        """The greatest of one quota holds: the latest, or (one instant) that which leaves least."""
        return (math.inf if self.released_at is None else self.released_at, -self.left)


@dataclass(frozen=True)
class Sync(Message):
    """Answers of the other side say what is left.

    Attributes:
        counts: one of each quota. More of them are added to a message that waits to be sent.
    """

    counts: dict[Hashable, Count]

    @property
    def lanes(self) -> Sequence[Hashable]:
        lanes = dict.fromkeys(one.lane for one in self.counts.values())
        return [lane for lane in lanes if lane is not None]

    def charge(self, costs: Mapping[Hashable, Sequence[float]]) -> None:
        """Take off what has been leased since, by lane (None: in all) and unit."""
        for quota, one in self.counts.items():
            its = costs.get(one.lane, ())
            if one.unit < len(its):
                self.counts[quota] = one._replace(left=one.left - its[one.unit])


@dataclass(frozen=True)
class FirstEnded(Message):
    """The first call of these lanes (or of the queue) has ended.

    Attributes:
        lanes: which.
        answered: whether it has an answer, so that more calls may be out from now on.
    """

    lanes: Sequence[Hashable] = ()
    answered: bool = False


class Leave(Message):
    """This queue is gone."""

    numbered = True


@dataclass(frozen=True)
class Decide(Message):
    """Users have decided something.

    Attributes:
        decisions: what. More of them are added to a message that waits to be sent.
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
    """What it was charged when it started; (): the same."""
    late: float = 0.0
    """It started at most so many seconds after its slot."""


@dataclass(frozen=True)
class Adjust(Message):
    """Calls that have started cost more, or less.

    Attributes:
        changes: more of them are added to the last message that waits to be sent.
    """

    numbered = True
    reports_permits = True
    changes: list[CostChange]

    @property
    def lanes(self) -> Sequence[Hashable]:
        return list(dict.fromkeys(lane for one in self.changes for lane in one.lanes))

    def without_refunds(self) -> Message:
        charges = [one._replace(costs=tuple(max(0, c) for c in one.costs)) for one in self.changes]
        return replace(self, changes=[one for one in charges if any(one.costs)])


class Return(Adjust):
    """Slots will not be used: their costs are given back."""


@dataclass(frozen=True)
class PushBack(Message):
    """The other side has refused a call.

    Attributes:
        lane: in which; None: the queue.
        until: it wants no call there before; -inf: it has not said.
        released_at: the timestamp of the call's slot; inf: the push-back counts whenever it is
            heard; -inf: it does not.
        call: which, if that is known.
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
    """Slots to be granted for calls of one scope, of these costs each.

    Attributes:
        scope: which.
        costs: of each.
        number: of calls.
        first: priority, and place among those of that priority, of the first of these calls.
        last: those of the last.
    """

    scope: Scope
    costs: tuple[float, ...]
    number: int
    first: tuple[float, float]
    last: tuple[float, float]


class LineStanding(NamedTuple):
    """Where the calls of one scope stand.

    Attributes:
        scope: which.
        stands_with: that of its lanes for which it waited, by the last reply; None: for none.
    """

    scope: Scope
    stands_with: Hashable


class Standing(NamedTuple):
    """Where this queue stands among those that wait for one lane (None: among all).

    Attributes:
        lane: which.
        waited: seconds for which there has always been a waiter.
        round_position: its place, by the last reply: a timestamp; 0: it has none.
    """

    lane: Hashable
    waited: float
    round_position: int


@dataclass(frozen=True)
class Ask(Message):
    """Slots are wanted.

    Attributes:
        requests: for whom, in their order.
        most: the cost that may be granted at most.
        slots: as many may be granted at most.
        jitter: seconds by which the reply may be late: no slot is to be earlier than that.
        lateness: seconds after its instant within which a slot is likely to be used.
        standings: of the queue, then of each lane.
        lines: of each scope that has lanes.
    """

    requests: Sequence[SlotRequest]
    most: float
    slots: int
    jitter: float
    lateness: float
    standings: Sequence[Standing]
    lines: Sequence[LineStanding] = ()

    @property
    def asked(self) -> int:
        """How many slots are wanted."""
        return sum(one.number for one in self.requests)

    @property
    def lanes(self) -> Sequence[Hashable]:
        return [one.lane for one in self.standings[1:]]


class LaneReport(NamedTuple):
    """What this queue has out in a lane (None: in all).

    Attributes:
        out: what calls cost, by unit, that are leased, or out without an answer.
        first: how many these are, where only one may be until the first answer; None: any number.
    """

    out: tuple[float, ...]
    first: int | None = None


@dataclass(frozen=True)
class Envelope:
    """A message, and what every request contains.

    Attributes:
        message: what is sent.
        number: of the message, if that is `numbered`: counted from 1 by each sender; else 0.
        sender: a random name of the queue, another one on each event loop.
        now: when it is sent.
        permits: how many bodies run, or may start without asking.
        concurrency: how many may run at once in all queues together; inf: any number.
        revision: of what it knows to be decided, as of the last reply; 0: nothing; -1: it is not
            certain that the authority knows it, too.
        limits: those in force of the queue (None), then of each lane of the message.
        follows: whether it notes which of its calls have no answer yet.
        reports: of the queue (None) and, if it does, of each lane of the message.
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


class BoundStatus(NamedTuple):
    """How much of one of the server's quotas may start.

    Attributes:
        unit: the place of what it counts.
        left: how much; below 0 where more is out.
        until: the timestamp at which it is full again.
    """

    unit: int
    left: float
    until: float


class LimitStatus(NamedTuple):
    """How the limits of the queue, or of a lane, stand.

    Attributes:
        held_until: the timestamp at which a hold or pause ends; inf: without end; -inf: none.
        rate: calls per second that push-back has left; inf: whatever the limits allow.
        ready_at: the timestamps at which each limit has room for the next call, in their order, and
            last what push-back has left, if that may be less; -inf: unknown.
        counted: the timestamp of the latest call that the other side has answered, and so counted;
            -inf: nobody notes which calls have an answer.
        bounds: what it has said of its quotas, of those units that this queue knows.
    """

    held_until: float
    rate: float
    ready_at: tuple[float, ...]
    counted: float = -math.inf
    bounds: tuple[BoundStatus, ...] = ()


@dataclass(frozen=True)
class Reply:
    """The message was processed.

    Attributes:
        timestamp: when.
        epoch: another one whenever the authority has lost what it knew.
        statuses: of the queue (None) and of each lane of the message.
        revision: to `Decide`: of what is decided now; -1: not all was as late as it seemed.
        backed_off: to `PushBack`: whether the rate was lowered for it.
        granted: to `Ask`.
    """

    timestamp: int
    epoch: int
    statuses: Mapping[Hashable, LimitStatus]
    revision: int | None = None
    backed_off: bool = False
    granted: Granted | None = None


class GrantedSlot(NamedTuple):
    """A slot for a request: its timestamp, and until when it may be used."""

    request: SlotRequest
    timestamp: int
    until: int


class Postponement(NamedTuple):
    """A scope whose next slot is due later.

    Attributes:
        scope: which.
        lane: that of its lanes for which it has to wait.
        round_position: this queue's place there.
        ask_at: the timestamp from which to ask.
    """

    scope: Scope
    lane: Hashable
    round_position: int
    ask_at: int


@dataclass(frozen=True)
class Granted:
    """The answer to `Ask`.

    Attributes:
        share: how many slots this queue may ask for at once.
        grants: in the order of their timestamps.
        postponements: of what is to be asked for later.
        short_of_permits: what is missing are permits: ask when one may be free.
        round_position: the timestamp from which to ask for what was not granted; 0: when what was
            granted is nearly used up.
    """

    share: int
    grants: Sequence[GrantedSlot]
    postponements: Sequence[Postponement]
    short_of_permits: bool
    round_position: int


class Differing(NamedTuple):
    """Instead of a reply: the sender does not know what is decided, or the authority does not.

    Attributes:
        timestamp: when.
        revision: of what the authority knows.
        whole: whether `decisions` are all that; else only what is newer than what the sender knows,
            all of which the authority knows, too.
        decisions: these.
    """

    timestamp: int
    revision: int
    whole: bool
    decisions: Sequence[Decision]


class Transport(Protocol):
    """The way to an authority, for one queue."""

    timeout: float
    """Seconds that a reply may take."""
    ahead: float
    """Seconds by which slots are taken ahead of their time, at most."""
    lease: float
    """Seconds for which the permits of a queue that has gone silent are kept."""
    fallback: Rate | None
    """The local rate while there is no authority."""

    def check_key(self, key: Hashable) -> None:
        """Refuse the key of a lane that cannot be sent.

        Raises:
            TypeError: it has no text of its own.
        """

    async def send(self, envelope: Envelope) -> Reply | Differing:
        """Send a message once; a `numbered` one counts once, even if it is sent again within 5 s.

        Raises:
            Unreachable: no reply, for now.
            SharedError: the authority refuses, and will until somebody puts it right.
        """
