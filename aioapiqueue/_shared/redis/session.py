"""The exchange with an authority: what is sent, in which order, and what happens when it fails.

One task runs while there is something to send. What has happened here goes first, in its order
(the outbox); then slots are asked for. While the authority cannot be reached, callers wait.
"""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.decisions import Decision, Decisions
from aioapiqueue._shared.outage import Unreachable
from aioapiqueue._shared.redis import messages
from aioapiqueue._shared.redis.key_queues import key_queues
from aioapiqueue._shared.redis.known_decisions import is_of_lane
from aioapiqueue.exceptions import SharedError
from aioapiqueue.spi import events, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.outage import Outage
    from aioapiqueue._shared.redis.known_decisions import KnownDecisions
    from aioapiqueue.spi import Host

__all__ = ["REFUNDABLE", "RedisSession", "RedisSessionOwner"]

REFUNDABLE = 5.0
"""Seconds after which nothing is given back that may have been given back already: so long a
transport has to remember what it has counted. Longer than a server usually takes to come back."""
_BACKOFF = (0.05, 2.0)
"""Seconds between attempts, at least and at most. A round trip of a near server is over in the
former; the latter is as long as callers may wait after a server has come back."""
_OUTBOX = 1000
"""Messages that wait to be sent, at most, but for what users have set: trouble may last."""
_MOST_CHANGES, _MOST_LANES = 128, 32
"""Changed costs in one message, and lanes of one limit each that they are of. A server reads and
writes back a lane in some 20 microseconds, and answers others between two messages."""
_MOST_COUNTS = 16
"""Quotas in one message that answers say something of: for each, a server reads what all processes
have out in its lane."""
_ROUNDS = 10
"""Replies in a row about other decisions: so often others have decided since the one before."""


class RedisSessionOwner(Protocol):
    """What a session asks of its limiter."""

    @property
    def permits(self) -> int:
        """How many bodies run, or may start without asking."""

    def next_ask(self) -> messages.Ask | None:
        """Return what to ask for now; None: nothing."""

    def processed(
        self, message: messages.Message, reply: messages.Reply, *, forgotten: bool
    ) -> None:
        """Apply a reply. `forgotten`: the authority knows nothing of what it leased before."""

    def adopt(self, decisions: Sequence[Decision], *, whole: bool) -> None:
        """Adopt what others have decided; `whole`: that is all that the authority knows."""

    @property
    def follows(self) -> bool:
        """Whether it notes which calls have no answer yet."""

    def report(self, lanes: Sequence[Hashable]) -> Mapping[Hashable, messages.LaneReport]:
        """Return what is out in all (None) and, if that is noted, in each of these lanes."""


@dataclass(eq=False, slots=True)
class _Outgoing:
    """A message that is to be sent, or was sent and had no reply."""

    message: messages.Message
    number: int
    first_sent: float = math.inf
    under_way: bool = False
    """It is being sent: nothing can be added to it."""


class RedisSession:
    """One queue's side of the exchange.

    Args:
        host: the queue's dispatcher.
        transport: to the authority.
        limits: of the queue and its lanes.
        owner: the limiter.
        known: what is decided.
        outage: the fallback, and what is reported, while the authority cannot be reached.
    """

    def __init__(
        self,
        host: Host,
        transport: messages.Transport,
        limits: LimitTable,
        owner: RedisSessionOwner,
        known: KnownDecisions,
        *,
        outage: Outage,
    ) -> None:
        self.asks = 0
        self._host = host
        self._transport = transport
        self._limits = limits
        self._owner = owner
        self._known = known
        self._outage = outage
        self._revision = 0
        """Of what is decided, as of the last reply; 0: nothing was; -1: unknown."""
        self._outbox: deque[_Outgoing] = deque()
        self._lacking: messages.Decide | None = None
        """What the authority lacks of what is known here: it is sent before anything else."""
        self._closed = False

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: what was under way on the old one is gone."""
        if self.has_unsent or (clock_changed and self._revision):
            self._revision = -1
        self.retry_at = -math.inf
        """After trouble, nothing is sent before."""
        self.ask_in_doubt = False
        """The last `Ask` had no reply: permits may have been granted."""
        self._sender = uuid.uuid4().hex[:16]
        self._epoch = 0
        self._delay = 0.0
        self._outbox = deque()
        self._numbered = 0
        """How many messages had a number."""
        self._task: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle | None] = {}
        self._outage.reset()

    @property
    def busy(self) -> bool:
        """Whether something is being sent; `Host.wake` is called when it ends."""
        return self._task is not None

    # What to send.

    def send(self, message: messages.Message) -> None:
        """Send a message after those before it; nothing once closed."""
        if self._closed:
            return
        self._enqueue(message)
        self.start()

    def send_changes(self, kind: type[messages.Adjust], changes: list[messages.CostChange]) -> None:
        """Send changed costs, together with others that wait to be sent."""
        last = self._outbox[-1].message if len(self._outbox) > 1 else None  # the first may be sent
        part = last.changes if isinstance(last, messages.Adjust) and type(last) is kind else None
        lanes = {lane for one in part or () for lane in one.lanes}
        work_of = self._limits.work_of
        work = sum(map(work_of, lanes))
        parts: list[list[messages.CostChange]] = []
        for change in changes:
            work += sum(work_of(lane) for lane in change.lanes if lane not in lanes)
            if part is None or len(part) >= _MOST_CHANGES or work > _MOST_LANES:
                part, lanes, work = [], set(), sum(map(work_of, change.lanes))
                parts.append(part)
            lanes.update(change.lanes)
            part.append(change)
        for one in parts:
            self.send(kind(one))

    def send_count(self, count: messages.Count) -> None:
        """Send what an answer says is left, together with others that wait to be sent."""
        waiting: list[messages.Sync] = []
        for one in self._outbox:
            if isinstance(one.message, messages.Return):
                waiting = []  # what that gives back was not taken off any more: it has to be first
            elif isinstance(one.message, messages.Sync) and not one.under_way:
                earlier = one.message.counts.pop(count.quota, count)
                count = max(count, earlier, key=lambda count: count.rank)
                waiting.append(one.message)
        self._outbox = deque(one for one in self._outbox if one.message != messages.Sync({}))
        for message in waiting[-1:]:
            lanes = {*message.lanes, count.lane}
            work = sum(map(self._limits.work_of, lanes))
            if len(message.counts) < _MOST_COUNTS and work <= _MOST_LANES and message.counts:
                message.counts[count.quota] = count
                return
        self.send(messages.Sync({count.quota: count}))

    def send_permits(self) -> None:
        """Report how many permits are in use, unless a message that is to be sent will."""
        last = self._outbox[-1] if self._outbox else None
        if last is None or last.under_way or not last.message.reports_permits:
            self.send(messages.Renew())

    def keep_alive(self) -> None:
        """Renew the lease of the permits that are in use, as long as there are any."""
        # Three times in each lease, so that two lost requests in a row do no harm.
        self._set_timer("lease", self._transport.lease / 3, self._renew)

    def _renew(self) -> None:
        if self._host.started > self._host.ended:
            self.send_permits()
            self.keep_alive()

    def charge_unsent(self, costs: Mapping[Hashable, Sequence[float]]) -> None:
        """Take what was leased off what is left by answers that were heard before.

        Args:
            costs: what was leased, by lane (None: in all) and unit.
        """
        for one in self._outbox:
            if isinstance(one.message, messages.Sync):
                one.message.charge(costs)

    def send_soon(self, name: str, make: Callable[[], messages.Message]) -> None:
        """Send a message in the next pass of the loop: after what is sent in this one.

        Args:
            name: until it is sent, no other one of this name is.
            make: returns it.
        """
        self._set_timer(name, 0, lambda: self.send(make()))

    def decide(self, news: Sequence[Decision]) -> None:
        """Send what users have decided, together with what waits to be sent."""
        if self._closed or not news:
            return
        parts: list[list[Decision]] = [[]]
        for one in news:
            if is_of_lane(one) and sum(map(is_of_lane, parts[-1])) == _MOST_LANES:
                parts.append([])
            parts[-1].append(one)
        for part in parts:
            self._add(part)
        self.start()

    def _add(self, news: Sequence[Decision]) -> None:
        for one in self._outbox:
            if isinstance(one.message, messages.Decide) and not one.under_way:
                lanes = {*one.message.lanes, *messages.Decide(_together(news)).lanes}
                if len(lanes) <= _MOST_LANES:
                    self._outbox.remove(one)
                    one.message.decisions.merge(news)
                    self._outbox.append(one)  # after what was charged by the limits before it
                    return
        self._enqueue(messages.Decide(_together(news)))

    def _enqueue(self, message: messages.Message) -> None:
        if message.numbered:
            self._numbered += 1
        if len(self._outbox) < _OUTBOX or isinstance(message, messages.Decide):
            number = self._numbered if message.numbered else 0
            self._outbox.append(_Outgoing(message, number))

    # Sending.

    def start(self) -> None:
        """Send what there is to send, and ask for slots, if the loop runs."""
        if self._task is None:
            self._task = self._host.loop.spawn(
                self._run, name="aioapiqueue leases", on_end=self._ended
            )

    def _ended(self, task: asyncio.Task[None] | None) -> None:
        # If it was cancelled by somebody who cancels every task: what was to be sent waits for the
        # next occasion, and slots in a reply that was under way are lost.
        if self._task is task:
            self._task = None
            self._host.wake()

    async def _run(self) -> None:
        sender, loop = self._sender, asyncio.get_running_loop()
        # If the loop was closed with this task in it, the garbage collector ends it some time, when
        # all here may be of another loop; a client may turn that into any error.
        try:
            while await self._step():
                pass
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody is to wait for ever
            if not loop.is_closed():
                self._failed(error)
        finally:
            if sender == self._sender and not loop.is_closed():
                self._ended(self._task)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Unreachable):
            self._disconnected(str(error))
        elif isinstance(error, SharedError):
            self._drop_refused()
            self._refused(error)
        else:
            events.report_error(f"{self._transport!r} failed", error)
            self._outbox.clear()  # what cannot be sent at all would be in the way for ever
            self._refused(SharedError(f"{self._transport!r} failed: {error!r}"))

    async def _step(self) -> bool:
        """Send one message; return whether there may be another."""
        delay = self.retry_at - self._host.loop.now()
        if delay > ROUNDING:
            if self._outbox:  # it is tried again even if nobody waits
                self._set_timer("outbox", delay, self.start)
            return False
        undated = not self._epoch and self._outbox and self._outbox[0].message
        if isinstance(undated, messages.Decide):
            await self._exchange(messages.Renew())  # by what clock, has to be known before
        elif self._outbox:
            await self._send_first()
        elif self._outage.fallback is not None:
            await self._exchange(messages.Renew())
        elif (ask := self._owner.next_ask()) is None:
            return False
        elif not self._epoch:
            await self._exchange(messages.Renew())  # the authority's clock has to be known before
        else:
            self.ask_in_doubt = True
            await self._exchange(ask)
        return True

    async def _send_first(self) -> None:
        first, now = self._outbox[0], self._host.loop.now()
        first.first_sent = min(now, first.first_sent)
        message = first.message
        if now - first.first_sent > REFUNDABLE:  # whether it was processed, nobody knows by now
            message = message.without_refunds()
        first.under_way = True
        try:
            await self._exchange(message, first.number)
        finally:
            first.under_way = False
        if self._outbox and self._outbox[0] is first:
            self._outbox.popleft()

    async def _exchange(self, message: messages.Message, number: int = 0) -> None:
        """Send a message until it has been processed, and apply the reply.

        Raises:
            Unreachable: no reply for now, or others change the limits more often than it takes.
            SharedError: the authority refuses, or disagrees about the limits whatever it receives.
        """
        for _ in range(_ROUNDS):
            sent, revision = self._host.loop.now(), self._revision
            lacking = self._lacking
            answer = await (self._send(message, number) if lacking is None else self._send(lacking))
            self._read_clock(sent, answer.timestamp)
            if isinstance(answer, messages.Reply):
                if answer.revision is not None:
                    self._revision = answer.revision
                if lacking is None:
                    break
                self._lacking = None
            elif answer.revision != revision:
                self._adopt(answer)
                if isinstance(message, messages.Decide):
                    message = _without_known(message, answer.decisions)
            else:
                self._outage.faults += 1
                raise SharedError(
                    f"{self._transport!r}: the limits stored on the server differ from the "
                    "limits that this process just sent or received. Find out what else writes "
                    "to the keys of this quota, then delete the keys"
                )
        else:
            self._outage.faults += 1
            raise Unreachable("other processes change the limits faster than the server responds")
        forgotten, self._epoch = answer.epoch != self._epoch, answer.epoch
        self._delay, self.retry_at = 0.0, -math.inf
        self._outage.end()
        if isinstance(message, messages.Ask):
            self.ask_in_doubt = False
        self._owner.processed(message, answer, forgotten=forgotten)

    async def _send(
        self, message: messages.Message, number: int = 0
    ) -> messages.Reply | messages.Differing:
        if self._closed:  # cancelled, too; but a client may have swallowed that
            raise asyncio.CancelledError
        self.asks += 1
        envelope = messages.Envelope(
            message,
            number,
            self._sender,
            self._host.loop.now(),
            self._owner.permits,
            self._limits.concurrency,
            self._revision,
            {lane: self._limits.limits_of(lane) for lane in (None, *message.lanes)},
            self._owner.follows,
            self._owner.report(message.lanes),
        )
        try:
            return await self._transport.send(envelope)
        except (Unreachable, SharedError):
            self._outage.faults += 1
            raise

    def _read_clock(self, sent: float, timestamp: int) -> None:
        moved = self._known.read_clock(sent, timestamp)
        for one in self._outbox:
            if moved is not None and isinstance(one.message, messages.Decide):
                one.message = messages.Decide(_together(map(moved, one.message.decisions)))

    def _adopt(self, answer: messages.Differing) -> None:
        """Take over what others have decided, and note what the authority lacks."""
        self._revision = answer.revision
        self._owner.adopt(answer.decisions, whole=answer.whole)
        if answer.whole:
            lacking = self._known.unknown_to(answer.decisions)
            self._lacking = messages.Decide(_together(lacking)) if lacking else None
        else:
            self.decide(self._known.later_than(answer.decisions))

    @property
    def has_unsent(self) -> bool:
        """Whether the authority may lack what users have decided here."""
        kinds = messages.Decide, messages.PushBack
        return self._lacking is not None or any(isinstance(x.message, kinds) for x in self._outbox)

    # Trouble, and the end.

    def _disconnected(self, why: str) -> None:
        self._retry_later()
        lost = f"the server of a shared quota cannot be reached ({why})"
        self._outage.begin(why, lost=lost, until="the server can be reached")
        if self._outage.fallback is not None:
            key_queues(self._host).wake_all()

    def _refused(self, error: SharedError) -> None:
        self._retry_later()
        self._outage.refuse(error)

    def _retry_later(self) -> None:
        self._delay = min(_BACKOFF[1], max(_BACKOFF[0], 2 * self._delay))
        delay = self._delay * random.uniform(0.5, 1)  # noqa: S311 - so that not all come at once
        self.retry_at = self._host.loop.now() + delay
        if self._outbox:
            self._set_timer("outbox", delay, self.start)

    def _drop_refused(self) -> None:
        """Keep only what users have decided, for when somebody has put it right."""
        unsent, self._outbox, self._lacking = self.has_unsent, deque(), None
        if unsent:
            # Then all that is known is compared; but a hold of a lane is not sent again: it may be
            # what the server refuses, and would block everything.
            self._revision = -1
            self._enqueue(messages.Decide(_together(())))

    def _set_timer(self, name: str, delay: float, action: Callable[[], None]) -> None:
        def run() -> None:
            del self._timers[name]
            action()

        if not self._closed and self._timers.get(name) is None:
            self._timers[name] = self._host.loop.call_later(delay, run)

    async def aclose(self, *last: messages.Message) -> None:
        """Send what is left to send, then these, then nothing any more.

        Takes one `timeout` of the transport at most, and as much again if a request ends late
        although it is cancelled. If cancelled itself, sends nothing more, and leaves no task
        behind that would.

        Args:
            last: of no use to an authority that was never reached.
        """
        try:
            if self._epoch:
                for message in last:
                    self.send(message)
                if self._task is not None:
                    await asyncio.wait([self._task], timeout=self._transport.timeout)
            self._closed = True
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task], timeout=self._transport.timeout)
        finally:  # cancelled or not
            self._closed = True
            for timer in self._timers.values():
                if timer is not None:
                    timer.cancel()
            self._timers = {}
            if self._task is not None:
                self._task.cancel()


def _without_known(
    message: messages.Decide, decisions: Iterable[Decision]
) -> messages.Decide | messages.Renew:
    """Return what is left to send if the authority has these: not what others have set alike.

    It would be news to all, where many learn the same. That it was set later matters only once
    others turn out to have set something else meanwhile: see `KnownDecisions.later_than`.
    """
    known = {one.statement for one in decisions if isinstance(one.statement, statements.SetLimits)}
    left = [one for one in message.decisions if one.statement not in known]
    return messages.Decide(_together(left)) if left else messages.Renew()


def _together(decisions: Iterable[Decision]) -> Decisions:
    """Return decisions as one, without those that others of them replace."""
    together = Decisions(lambda: -math.inf)
    together.merge(decisions)
    return together
