"""Exchanges messages with an authority, in order, and handles failures.

One task runs while there is something to send. It sends the outbox, in its order, then requests
slots. While the authority cannot be reached, calls wait.
"""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.outage import Unreachable
from aioapiqueue._shared.redis import messages
from aioapiqueue._shared.redis.outbox import Outbox, merged
from aioapiqueue.exceptions import SharedError
from aioapiqueue.spi import loops, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioapiqueue._shared.decisions import Decision
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue._shared.outage import Outage
    from aioapiqueue._shared.redis.known_decisions import KnownDecisions
    from aioapiqueue._shared.redis.refusals import SharedRefusals
    from aioapiqueue._shared.redis.server_counts import ServerCounts
    from aioapiqueue.spi import Host

REFUNDABLE = 5.0
"""Seconds after which a refund is not sent again: it may have been processed. For so long, an
authority remembers which messages it has counted. Servers usually restart faster."""
LASTING = 86_400.0
"""The same if there is a budget, which never recovers a refund that is lost. For so long, it makes
the authority remember the number of each queue's last message."""
_ALIVE = 20.0
"""Seconds between two reports that this process lives, at most. An authority removes what it knows
of a process that is silent for three times as long."""
_BACKOFF = (0.05, 2.0)
"""Seconds between attempts, at least and at most. A nearby server answers within the former; calls
wait up to the latter after a server is back."""
_ROUNDS = 10
"""Replies in a row that only report new decisions of other processes, before this counts as a
failure."""


class RedisSessionOwner(Protocol):
    """What a session asks of its limiter."""

    @property
    def permits(self) -> int:
        """Number of bodies that run, or may start without another request."""

    def next_ask(self) -> messages.Ask | None:
        """Return what to ask for now; None: no slot is needed."""

    def processed(
        self, message: messages.Message, reply: messages.Reply, *, forgotten: bool
    ) -> None:
        """Apply a reply; `forgotten`: the authority has lost all that it knew."""

    def adopt(self, decisions: Sequence[Decision], *, whole: bool) -> None:
        """Apply what other processes have decided; `whole`: that is all the authority knows."""

    def unpark_all(self) -> None:
        """Look at all waiting calls again: instants at which they are due have changed."""


class RedisSession:
    """One queue's side of the exchange.

    Args:
        host: the queue's dispatcher.
        transport: to the authority.
        limits: of the queue and its lanes.
        owner: the limiter.
        known: what is decided.
        counts: reports the calls in flight.
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
        counts: ServerCounts,
        outage: Outage,
    ) -> None:
        self.asks = 0
        self.refusals: SharedRefusals | None = None
        """Reports reservations; None: no limit raises."""
        self._host = host
        self._transport = transport
        self._limits = limits
        self._owner = owner
        self._known = known
        self._counts = counts
        self._outage = outage
        self._revision = 0
        """Revision of the decisions, as of the last reply; 0: there are none; -1: unknown."""
        self.outbox = Outbox(limits, self.start)
        self._lacking: messages.Decide | None = None
        """Decisions that the authority lacks, which are sent before anything else."""

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: what was under way on the old one is gone."""
        # Unsent messages are dropped, but decisions must not be: with an unknown revision, the
        # authority's are compared with all that are known here.
        if self.has_unsent or (clock_changed and self._revision):
            self._revision = -1
        self.retry_at = -math.inf
        """The instant before which nothing is sent, after a failure."""
        self.ask_unanswered = False
        """Whether the last `Ask` had no reply, so that permits may have been granted."""
        # A new name: messages are numbered from 1 again, and permits of the old loop may expire.
        self._sender = uuid.uuid4().hex[:16]
        self._answered = 0
        """Number of the last request with a reply."""
        self._has_lost_ask = False
        """Whether the last `Ask` had no reply: what it was granted is taken back."""
        self._epoch = 0
        self._delay = 0.0
        self.outbox.reset()
        self._task: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle | None] = {}
        self._outage.reset()

    @property
    def busy(self) -> bool:
        """Whether a message is being sent; `Host.wake` is called afterwards."""
        return self._task is not None

    # What is sent by itself.

    def keep_alive(self) -> None:
        """Renew the lease of permits and reservations, as long as a body runs."""
        # Three times in each lease, so that two lost requests in a row free no permit.
        seconds = min(self._transport.settings.lease / 3, _ALIVE)
        self._set_timer("lease", seconds, self._renew)

    def _renew(self) -> None:
        if self._host.started > self._host.ended:
            self.outbox.add_permits()
            self.keep_alive()

    def send_soon(self, name: str, make: Callable[[], messages.Message]) -> None:
        """Send a message in the next pass of the loop: after what is sent in this one.

        Args:
            name: until it is sent, no other message of this name is.
            make: returns the message.
        """
        self._set_timer(name, 0, lambda: self.outbox.add(make()))

    # Sending.

    def start(self) -> None:
        """Send the outbox, and ask for slots, if the loop runs."""
        if self._task is None:
            self._task = self._host.loop.spawn(
                self._run, name="aioapiqueue leases", on_end=self._ended
            )

    def _ended(self, task: asyncio.Task[None] | None) -> None:
        # A program may cancel all tasks: then the outbox waits for the next occasion, and slots in
        # a reply that was under way are lost.
        if self._task is task:
            self._task = None
            self._host.wake()

    async def _run(self) -> None:
        sender, loop = self._sender, asyncio.get_running_loop()
        # If the loop was closed with this task in it, the garbage collector ends the task later,
        # when this session may be used on another loop; a client may turn that into any error.
        try:
            while await self._step():
                pass
        except Exception as error:  # noqa: BLE001 - whatever it is, no call may wait for ever
            if not loop.is_closed():
                self._failed(error)
        finally:
            # Not only in `on_end`, which runs a pass later: a message that is added before that
            # must start another task.
            if sender == self._sender and not loop.is_closed():
                self._ended(self._task)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Unreachable):
            self._disconnected(str(error))
        elif isinstance(error, SharedError):
            # Before calls fail and observers are informed: their code may add messages.
            self._drop_refused()
            self._refused(error)
        else:
            loops.report_error(f"{self._transport!r} failed", error)
            self.outbox.waiting.clear()  # a message that cannot be sent would block all later ones
            self._refused(SharedError(f"{self._transport!r} failed: {error!r}"))

    async def _step(self) -> bool:
        """Send one message; return whether there may be another."""
        delay = self.retry_at - self._host.loop.now()
        if delay > ROUNDING:
            if self.outbox.waiting:  # try again even if no call waits
                self._set_timer("outbox", delay, self.start)
            return False
        # The order: first the outbox, as the grants of an `Ask` must account for all that was
        # returned and decided before. One message at a time, as each reply may change the next.
        waiting = self.outbox.waiting
        undated = not self._epoch and waiting and waiting[0].message
        if isinstance(undated, messages.Decide):
            await self._exchange(messages.Renew())  # decisions are stamped with its clock
        elif self.outbox.waiting:
            await self._send_first()
        elif self._outage.fallback is not None:
            await self._exchange(messages.Renew())  # only to find out whether the authority is back
        elif (ask := self._owner.next_ask()) is None:
            return False
        elif not self._epoch:
            await self._exchange(messages.Renew())  # slots are timed by its clock
        else:
            # Until a reply arrives: this task may be cancelled, or the request fail, after the
            # authority has granted slots and their permits.
            self.ask_unanswered = True
            try:
                await self._exchange(ask)
            except (Exception, asyncio.CancelledError):
                self._has_lost_ask = True
                if self.refusals is not None:
                    self.refusals.unanswered(ask)
                raise
        return True

    async def _send_first(self) -> None:
        first, now = self.outbox.waiting[0], self._host.loop.now()
        first.first_sent = min(now, first.first_sent)
        message = first.message
        lasts = self.refusals is not None and self.refusals.lasts
        # Later, the authority no longer knows if it counted it.
        if now - first.first_sent > (LASTING if lasts else REFUNDABLE):
            message = message.without_refunds()
        # It stays first in the outbox until its reply: if this is cancelled, or fails, it is sent
        # again. Its number makes the authority count it once.
        first.under_way = True
        try:
            await self._exchange(message, first.number)
        finally:
            first.under_way = False
        waiting = self.outbox.waiting  # another one, if messages were merged meanwhile
        if waiting and waiting[0] is first:
            waiting.popleft()

    async def _exchange(self, message: messages.Message, number: int = 0) -> None:
        """Send a message until it has been processed, and apply the reply.

        Raises:
            Unreachable: no reply at present, or other processes change the limits faster than the
                authority replies.
            SharedError: the authority refuses, or has other limits than it just received.
        """
        # The authority processes nothing from a process that has another revision than its own. So
        # decisions are exchanged first, and the message is sent again.
        for _ in range(_ROUNDS):
            sent, revision = self._host.loop.now(), self._revision
            lacking = self._lacking
            answer = await (self._send(message, number) if lacking is None else self._send(lacking))
            if (moved := self._known.read_clock(sent, answer.timestamp)) is not None:
                self.outbox.move_decisions(moved)
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
            else:  # the authority names the revision that it was sent, and yet finds it different
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
        # The messages after a lost `Ask` are granted nothing, and the first of them may concern
        # other lanes: until the next `Ask`, each says that this one had no reply.
        if isinstance(message, messages.Ask) or not self._has_lost_ask:
            self._answered, self._has_lost_ask = self.asks, False
        self._outage.end()
        if isinstance(message, messages.Ask):
            self.ask_unanswered = False
        self._owner.processed(message, answer, forgotten=forgotten)

    async def _send(
        self, message: messages.Message, number: int = 0
    ) -> messages.Reply | messages.Differing:
        if self.outbox.is_closed:  # redis-py on Python 3.11 may swallow the cancellation
            raise asyncio.CancelledError
        self.asks += 1
        reserved: messages.Reserved | None = None
        if self.refusals is not None:
            reserved = self.refusals.report(
                message, self.outbox.waiting, sequence=self.asks, answered=self._answered
            )
        envelope = messages.Envelope(
            message,
            number,
            self._sender,
            self._host.loop.now(),
            self._owner.permits,
            self._limits.concurrency,
            self._revision,
            {lane: self._limits.limits_of(lane) for lane in (None, *message.lanes)},
            self._counts.follows,
            self._counts.report(message.lanes),
            reserved,
        )
        try:
            return await self._transport.send(envelope)
        except (Unreachable, SharedError):
            self._outage.faults += 1
            raise

    def _adopt(self, answer: messages.Differing) -> None:
        """Apply decisions of other processes, and note which decisions the authority lacks."""
        self._revision = answer.revision
        self._owner.adopt(answer.decisions, whole=answer.whole)
        if answer.whole:
            lacking = self._known.unknown_to(answer.decisions)
            self._lacking = messages.Decide(merged(lacking)) if lacking else None
        else:
            self.outbox.add_decisions(self._known.later_than(answer.decisions))

    @property
    def has_unsent(self) -> bool:
        """Whether the authority may lack decisions that users made here."""
        return self._lacking is not None or self.outbox.has_decisions

    # Failures, and the end.

    def _disconnected(self, why: str) -> None:
        self._retry_later()
        lost = f"the server of a shared quota cannot be reached ({why})"
        self._outage.begin(why, lost=lost, until="the server can be reached")
        if self._outage.fallback is not None:
            self._owner.unpark_all()

    def _refused(self, error: SharedError) -> None:
        self._retry_later()
        self._outage.refuse(error)

    def _retry_later(self) -> None:
        self._delay = min(_BACKOFF[1], max(_BACKOFF[0], 2 * self._delay))
        delay = self._delay * random.uniform(0.5, 1)  # noqa: S311 - so that not all processes retry at once
        self.retry_at = self._host.loop.now() + delay
        if self.outbox.waiting:
            self._set_timer("outbox", delay, self.start)

    def _drop_refused(self) -> None:
        """Keep only decisions of users, which are sent once the fault is corrected."""
        unsent, self._lacking = self.has_unsent, None
        self.outbox.waiting.clear()
        if unsent:
            # With an unknown revision, all decisions are compared. The empty message only causes
            # that. A hold of a lane is not sent again: it may be what the server refuses, and would
            # block the queue.
            self._revision = -1
            self.outbox.add(messages.Decide(merged(())))

    def _set_timer(self, name: str, delay: float, action: Callable[[], None]) -> None:
        def run() -> None:
            del self._timers[name]  # first: the action may set it again
            action()

        # None: there was no loop yet when it was to be set.
        if not self.outbox.is_closed and self._timers.get(name) is None:
            self._timers[name] = self._host.loop.call_later(delay, run)

    async def aclose(self, *last: messages.Message) -> None:
        """Send the outbox, then these messages, then nothing more.

        Takes one `timeout` of the transport at most, and as much again if a request ends late
        although it is cancelled. If this is cancelled itself, nothing more is sent, and no task
        is left behind.

        Args:
            last: not sent to an authority that was never reached.
        """
        try:
            if self._epoch:  # else the server may be down: closing must not wait for it
                for message in last:
                    self.outbox.add(message)
                if self._task is not None:
                    await asyncio.wait([self._task], timeout=self._transport.settings.timeout)
            self.outbox.is_closed = True
            if self._task is not None:
                self._task.cancel()
                # Awaited, so that the user may close the client right after the queue.
                await asyncio.wait([self._task], timeout=self._transport.settings.timeout)
        finally:  # cancelled or not
            self.outbox.is_closed = True
            for timer in self._timers.values():
                if timer is not None:
                    timer.cancel()
            self._timers = {}
            if self._task is not None:
                self._task.cancel()


def _without_known(
    message: messages.Decide, decisions: Iterable[Decision]
) -> messages.Decide | messages.Renew:
    """Return a message without the limits that other processes have set to the same.

    If many processes learn the same limits, each message would be new to all other processes. That
    the limits were set later here matters only if another process has set different ones meanwhile:
    see `KnownDecisions.later_than`.
    """
    known = {one.statement for one in decisions if isinstance(one.statement, statements.SetLimits)}
    left = [one for one in message.decisions if one.statement not in known]
    return messages.Decide(merged(left)) if left else messages.Renew()
