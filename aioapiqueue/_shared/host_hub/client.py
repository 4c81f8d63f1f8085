"""One queue of one process, as the hub knows it: what waits and runs there, and what it says."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.decisions import Decision, newest_from
from aioapiqueue._shared.host.messages import grant_text, text_of, transit
from aioapiqueue._shared.host_hub.client_queue import ClientCall
from aioapiqueue._shared.host_hub.quota import is_real_time
from aioapiqueue._shared.statement_json import from_json, key_from, span_to
from aioapiqueue.spi import CALLS, Call, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from aioapiqueue._shared.host.messages import Message, Terms
    from aioapiqueue._shared.host_hub.quota import HubQuota

__all__ = ["HubClient"]

_ENDED = 1000
"""Calls that are over and may still be settled, or answered: the last ones of each client."""
_NO_NAMES: list[tuple[list[Hashable], None]] = [([], None)]


class HubClient:
    """A queue that has part in a quota.

    Args:
        quota: which.
        terms: the limits that it brings along.
        newest: what the hub need not send it of decisions: see `Decisions.newest`.
        flush: called when what is in `outbox` is to be sent.
        whose: the program and its process, for others.

    Attributes:
        told: what it need not send the hub.
    """

    def __init__(
        self,
        quota: HubQuota,
        terms: Terms,
        newest: dict[str, int],
        flush: Callable[[HubClient], None],
        *,
        whose: str,
    ) -> None:
        self.terms = terms
        self.whose = whose
        self.outbox: list[str] = []
        self._quota = quota
        self._flush = flush
        self._waiting: dict[int, ClientCall] = {}
        self._running: dict[int, ClientCall] = {}
        self._ended: OrderedDict[int, ClientCall] = OrderedDict()
        self._backed_off: list[ClientCall] = []
        self._granted_at = (-math.inf, "")
        """The instant of the last grant, and its text."""
        self._rate = math.inf
        self._names_known = -1
        """The number of the last change of names that the queue has been told of; -1: of none."""
        self._gone = False
        self._others = 0
        """How many wait at the client that have not asked, as it has last said."""
        self.started = 0
        """How many of its calls the hub has let go."""
        self.lateness = transit(terms.catch_up, on_real_time=is_real_time())
        quota.join(self)
        if quota.name[0] == "run":  # whose clients are few: one of each run
            for other in quota.clients:
                if other is not self:
                    other.send("shared", whose)
                    self.send("shared", other.whose)
        self.told = quota.exchange.welcome(self, newest)
        self.tell_status()
        self.tell_names()

    @property
    def waiting(self) -> int:
        """How many of its calls wait: here, and behind them there."""
        here = len(self._waiting)
        return here + (self._others if here else 0)

    @property
    def running(self) -> int:
        """How many of its calls run."""
        return len(self._running)

    @property
    def quota_name(self) -> tuple[str, str]:
        """The kind and the name of its quota."""
        return self._quota.name

    def now(self) -> float:
        """Return the present instant on the hub's clock."""
        return self._quota.dispatcher.loop.now()

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message by the end of this pass of the loop."""
        self.send_text(text_of(*message))

    def send_text(self, text: str) -> None:
        """Send the text of a message by the end of this pass of the loop."""
        if not self.outbox and not self._gone:
            self._quota.flush_later(self)
        self.outbox.append(text)

    def flush(self) -> None:
        """Send now what there is."""
        self._flush(self)

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the queue has sent.

        Raises:
            KeyError: a message of an unknown kind.
            TypeError: one with other parts than it should have.
            ValueError: one with an invalid part.
        """
        self._quota.hold_messages()
        try:
            for kind, *parts in messages:
                handler = getattr(self, f"on_{kind}", None)
                if handler is None:
                    raise KeyError(f"unknown message {kind!r}")
                handler(*parts)
            if len(self._quota.clients) > 1:  # one that is alone knows what it has used itself
                self._estimate(messages)
        finally:
            self._quota.flush()  # now, not in the loop's next pass: somebody waits for it

    def leave(self) -> None:
        """End what waits and runs: the queue is gone."""
        self._gone = True
        dispatcher = self._quota.dispatcher
        for call in list(self._waiting.values()):
            dispatcher.leave(call, "cancelled")
        for call in list(self._running.values()):
            call.release()
        self._waiting.clear()
        self._running.clear()
        self._quota.leave(self)

    # From arrival to the end.

    def on_join(  # noqa: PLR0917 - the parts of a message
        self,
        ticket: int,
        keys: list[Any],
        amounts: Mapping[str, float] | None,
        priority: float,
        waited: float = 0.0,
        others: int = 0,
    ) -> None:
        """Let a call start or wait."""
        several = tuple(map(key_from, keys)) if keys else Call.keys
        self._others = others
        call = self._quota.enter(self, ticket, several, amounts, priority, waited=waited)
        if call is not None:
            self._waiting[ticket] = call

    def granted(self, call: ClientCall) -> None:
        """Let a call start."""
        call.claim()
        self.started += 1
        self._waiting.pop(call.ticket, None)
        self._running[call.ticket] = call
        self._quota.note(call)
        if call.delayed_by is not None:
            self.send("delayed", *call.delayed_by, round(call.waited, 6))
        at = call.waited_until
        if at != self._granted_at[0]:  # once for all that one step grants
            self._granted_at = at, repr(at)
        self.send_text(grant_text(call.ticket, self._granted_at[1], self._quota.latest_start(call)))
        if self._quota.is_adaptive:
            self._tell_rate()

    def refused(self, call: ClientCall, error: BaseException) -> None:
        """Tell the queue that a call never will start."""
        self._waiting.pop(call.ticket, None)
        self.send("refuse", call.ticket, str(error))

    def entered(self, call: ClientCall) -> None:
        """Note that a call waits again, under other limits."""
        self._waiting[call.ticket] = call

    def backed_off(self, call: ClientCall) -> None:
        """Note that the rate is lowered for push-back on a call: what that means is told then."""
        self._backed_off.append(call)

    def on_leave(self, ticket: int) -> None:
        """Let a call go that waits, or that was let go and never used."""
        dispatcher = self._quota.dispatcher
        call = self._waiting.pop(ticket, None)
        if call is not None:
            dispatcher.leave(call, "cancelled")
            return
        call = self._running.pop(ticket, None)
        if call is not None:  # it was granted meanwhile, and never used
            dispatcher.refund(call)

    def on_end(self, ticket: int) -> None:
        """Note that a call is over."""
        call = self._running.pop(ticket, None)
        if call is not None:
            call.release()
            self._ended[ticket] = call
            if len(self._ended) > _ENDED:
                self._ended.popitem(last=False)

    def on_running(self, ticket: int, keys: list[Any], amounts: Mapping[str, float] | None) -> None:
        """Count a call that another hub has let go: it takes permits, and nothing else."""
        units = dict.fromkeys(amounts or (), 0)
        several = tuple(map(key_from, keys)) if keys else Call.keys
        self._running[ticket] = self._quota.count_running(
            self, ticket, several, {CALLS: 0, **units}
        )

    def on_late(self, seconds: float) -> None:
        """Let what is granted be used so late: the queue's loop is always as late as that."""
        self.lateness = max(self.lateness, seconds)
        self._quota.note_lateness(self)

    def _started(self, ticket: int) -> ClientCall | None:
        return self._running.get(ticket) or self._ended.get(ticket)

    # What users decide, and what the server says.

    def on_decided(
        self,
        decisions: list[Any],
        newest: dict[str, int],
        asked: bool = False,  # noqa: FBT001, FBT002 - a part of a message
    ) -> None:
        """Have decisions hold for all clients."""
        found = [Decision.from_json(one) for one in decisions]
        self._quota.decide(self, found, newest_from(newest), asked=bool(asked))

    def on_reported(self, message: list[Any]) -> None:
        """Process what the server has said."""
        quota, dispatcher = self._quota, self._quota.dispatcher
        match from_json(message, dispatcher.units, self._started):
            case statements.Settled(ClientCall() as call, _):
                call.settle(message[-1])
                quota.note_settled(call)
            case statements.ServerCount() as count:
                dispatcher.server_quotas().sync(
                    count.call,
                    count.remaining,
                    unit=dispatcher.units.names[count.unit],
                    reset=count.reset,
                    limit=count.limit,
                    key=count.key,
                    period=count.period,
                    refills=count.refills,
                    period_is_minimum=count.period_is_minimum,
                )
            case statements.Answered(call):
                dispatcher.answered(call)
            case statements.Learn():
                dispatcher.server_quotas().learn(())
            case statements.Throttled(call, key, seconds):
                self._throttle(call, key, seconds)

    def _throttle(self, call: Call | None, key: Hashable, seconds: float | None) -> None:
        self._quota.dispatcher.throttled(seconds, call, key)
        while self._backed_off:
            slowed = self._backed_off.pop()
            self.send("backed_off", slowed.ticket, [], span_to(self._quota.wait_like(slowed)))
        self._quota.tell_status()

    # What it tells its queue.

    def tell_names(self) -> None:
        """Tell the queue which keys have limits, unless its own terms have all of them."""
        names = self._quota.limits.names
        if names.are_all_in(self.terms.lanes):
            if self._names_known >= 0:
                self.send("lanes", _NO_NAMES)
            self._names_known = -1
        elif self._names_known != names.number:
            self.send_text(names.since(self._names_known))
            self._names_known = names.number

    def tell_status(self) -> None:
        """Tell the queue what push-back has left."""
        if self._quota.is_adaptive:
            self._tell_rate()

    def _tell_rate(self) -> None:
        rate = self._quota.limiter.snapshot().rate
        if rate != self._rate:
            self._rate = rate
            self.send("rate", span_to(rate))

    def _estimate(self, messages: Sequence[Message]) -> None:
        """Tell the queue how long a newcomer would wait behind those that have just joined."""
        last: dict[Any, ClientCall] = {}
        for kind, *parts in messages:
            if kind == "join" and (call := self._waiting.get(parts[0])) is not None:
                last[call.limits] = call
        for call in last.values():
            wait = self._quota.wait_like(call)
            if wait < math.inf:
                self.send("due", call.ticket, wait)
