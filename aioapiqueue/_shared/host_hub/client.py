"""The hub's side of one queue of one process: its waiting and running calls, and its messages."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue import LimitExceeded
from aioapiqueue._shared.decisions import newest_from
from aioapiqueue._shared.host.messages import FARTHEST, grant_text, text_of, transit
from aioapiqueue._shared.host_hub.client_turns import ClientCall
from aioapiqueue._shared.host_hub.exchange import read_unknown, welcome
from aioapiqueue._shared.host_hub.quota import is_real_time
from aioapiqueue._shared.statement_json import amounts_to, as_key, from_json, key_to, span_to
from aioapiqueue.spi import Call, checks, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from aioapiqueue._shared.host.messages import Message, Terms
    from aioapiqueue._shared.host_hub.quota import HubQuota

_ENDED = 1000
"""Ended calls of each client that can still be settled or answered: the latest ones."""
_NO_NAMES: list[tuple[list[Hashable], None]] = [([], None)]
"""The message part that takes back all names sent before."""


class HubClient:
    """A queue that uses a quota.

    Args:
        quota: the quota.
        terms: the limits that the queue gives.
        newest: by maker, the instant up to which it knows all decisions.
        flush: called to send what is in `outbox`.
        whose: the program and its process, as other clients see it.
    """

    def __init__(
        self,
        quota: HubQuota,
        terms: Terms,
        newest: Mapping[str, int],
        flush: Callable[[HubClient], None],
        *,
        whose: str,
    ) -> None:
        self.terms = terms
        self.newest = newest
        self.whose = whose
        self.quota_name = quota.name
        self.outbox: list[str] = []
        self._quota = quota
        self._flush = flush
        self._waiting: dict[int, ClientCall] = {}
        self._running: dict[int, ClientCall] = {}
        self._ended: OrderedDict[int, ClientCall] = OrderedDict()
        self._granted_at = (-math.inf, "")
        """The instant of the last grant, and its text."""
        self._rate = math.inf
        self._names_known = -1
        """Number of the last change of names that the queue has been sent; -1: none."""
        self._has_left = False
        self._others = 0
        """Number of calls that wait at the client without a request, as it last reported."""
        self.started = 0
        """Number of its calls that have started, here or under the hub before."""
        self.lateness = transit(terms.catch_up, on_real_time=is_real_time())
        quota.join(self)
        if quota.name[0] == "run":  # such a quota has few clients: one for each run
            for other in quota.clients:
                if other is not self:
                    other.send("shared", whose)
                    self.send("shared", other.whose)
        welcome(self, quota.decisions)
        self.send_rate()
        self.send_names()

    @property
    def waiting(self) -> int:
        """Number of its calls that wait: here, and behind these at the client."""
        here = len(self._waiting)  # if 0, the last request that stated `_others` is gone, too
        return here + (self._others if here else 0)

    @property
    def running(self) -> int:
        """Number of its calls that run."""
        return len(self._running)

    def hello(self) -> dict[str, Any]:
        """Return the hub's clock, and which decisions it knows, for the welcome."""
        quota = self._quota
        return {"now": quota.dispatcher.loop.now(), "newest": quota.decisions.newest()}

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message by the end of this pass of the loop."""
        self.send_text(text_of(*message))

    def send_text(self, text: str) -> None:
        """Send the text of a message by the end of this pass of the loop."""
        if not self.outbox and not self._has_left:
            self._quota.flush_later(self)
        self.outbox.append(text)

    def flush(self) -> None:
        """Send now what has been queued."""
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
                handler = self._handlers.get(kind)
                if handler is None:
                    raise KeyError(f"unknown message {kind!r}")
                handler(self, *parts)
            if len(self._quota.clients) > 1:  # a single client can estimate by itself
                self._estimate(messages)
        finally:
            self._quota.flush()  # now, not in the loop's next pass, as a caller waits for it

    def leave(self) -> None:
        """End all calls of the queue, which has left."""
        self._has_left = True  # first: what follows would send it messages
        dispatcher = self._quota.dispatcher
        for call in list(self._waiting.values()):
            dispatcher.leave(call, "cancelled")
        for call in list(self._running.values()):
            call.release()
        self._waiting.clear()
        self._running.clear()
        self._quota.leave(self)

    # From arrival to the end.

    def _on_join(  # noqa: PLR0917 - the parts of a message
        self,
        ticket: int,
        keys: list[Any],
        amounts: Mapping[str, float] | None,
        priority: float,
        waited: float = 0.0,
        others: int = 0,
        after: int | None = None,
    ) -> None:
        """Start a call, or let it wait."""
        self._check_new(ticket)
        # Checked now: an error when they are used would affect other clients.
        if not (0 <= waited <= checks.LONGEST and 0 <= others <= checks.LONGEST):
            raise ValueError("a malformed join")
        if after is not None and not (type(after) is int and 0 <= after <= FARTHEST):
            raise ValueError("a malformed join")
        several = tuple(map(as_key, keys)) if keys else Call.keys
        self._others = others
        call = self._quota.enter(
            self, ticket, several, amounts, priority, waited=waited, after=after
        )
        if call is not None:
            self._waiting[ticket] = call

    def _check_new(self, ticket: int) -> None:
        """Raise `ValueError` if a call has this ticket: it would be replaced, and never end."""
        if ticket in self._waiting or ticket in self._running:
            raise ValueError(f"ticket {ticket} is in use")

    def granted(self, call: ClientCall) -> None:
        """Grant a call."""
        call.claim()
        self.started += 1
        self._waiting.pop(call.ticket, None)
        self._running[call.ticket] = call
        self._quota.note(call)  # before the grant is queued: `flush` commits what is noted by then
        if call.delayed_by is not None:
            self.send("delayed", *call.delayed_by, round(call.waited, 6))
        at = call.waited_until
        if at != self._granted_at[0]:  # one step grants many calls at one instant
            self._granted_at = at, repr(at)
        text = "null" if self._quota.is_timeless(call) else self._granted_at[1]
        self.send_text(grant_text(call.ticket, text, self._quota.latest_start(call)))
        if self._quota.is_adaptive:
            self.send_rate()

    def refused(self, call: ClientCall, error: BaseException) -> None:
        """Report to the queue that a call can never start."""
        self._waiting.pop(call.ticket, None)
        exceeded: list[Any] | None = None
        if isinstance(error, LimitExceeded):
            limit = str(self._quota.limits.as_given(error.limit))
            exceeded = [limit, error.cost, error.remaining, error.resets_in, key_to(error.key)]
        self.send("refuse", call.ticket, str(error), exceeded)

    def entered(self, call: ClientCall) -> None:
        """Note that a call waits again, under other limits."""
        self._waiting[call.ticket] = call

    def backed_off(self, call: ClientCall) -> None:
        """Report to the queue that the rate was lowered because a call was throttled."""
        self.send("backed_off", call.ticket, [], span_to(self._quota.wait_like(call)))

    def _on_leave(self, ticket: int) -> None:
        """Take back a request, or a grant that was never used."""
        dispatcher = self._quota.dispatcher
        call = self._waiting.pop(ticket, None)
        if call is not None:
            dispatcher.leave(call, "cancelled")
            return
        call = self._running.pop(ticket, None)
        if call is not None:  # it was granted, and never used
            self.started -= 1
            states = self._quota.limiter.states_of(call)
            dispatcher.refund(call)
            self._quota.records.note_returned(states)

    def _on_end(self, ticket: int) -> None:
        """Note that a call has ended."""
        call = self._running.pop(ticket, None)
        if call is not None:
            call.release()
            self._ended[ticket] = call  # it may be settled or answered later
            if len(self._ended) > _ENDED:
                self._ended.popitem(last=False)

    def _on_running(
        self, ticket: int, keys: list[Any], amounts: Mapping[str, float] | None
    ) -> None:
        """Count a call that an earlier hub has granted: it takes permits, and uses nothing else."""
        self._check_new(ticket)
        several = tuple(map(as_key, keys)) if keys else Call.keys
        self.started += 1
        self._running[ticket] = self._quota.count_running(self, ticket, several, amounts)

    def _on_late(self, seconds: float) -> None:
        """Note how late the queue uses its grants, as its loop is too busy to use them in time."""
        self.lateness = max(self.lateness, seconds)
        self._quota.note_lateness(self)

    def _started(self, ticket: int) -> ClientCall | None:
        return self._running.get(ticket) or self._ended.get(ticket)

    # What users decide, and what servers report.

    def _on_decided(self, decisions: list[Any], newest: dict[str, int]) -> None:
        """Apply decisions, for all clients."""
        quota = self._quota
        quota.decide(self, read_unknown(decisions, quota.decisions), newest_from(newest))

    def _on_reported(self, message: list[Any]) -> None:
        """Process what a server reports."""
        report = from_json(message, self._quota.dispatcher.units, self._started)
        if report is not None:  # else it is about a call that ended too long ago
            self._reports[type(report)](self, report)

    def _settle(self, settled: statements.Settled) -> None:
        call = settled.call
        assert isinstance(call, ClientCall)  # noqa: S101 - as `_started` returns it
        call.settle(amounts_to(settled.costs, self._quota.dispatcher.units))
        self._quota.records.note_settled(call)

    def _throttled(self, throttled: statements.Throttled) -> None:
        call, key, seconds = throttled.call, throttled.key, throttled.retry_after
        self._quota.dispatcher.throttled(seconds, call, key)
        self._quota.send_rate()

    def _sync(self, count: statements.ServerCount) -> None:
        self._quota.dispatcher.find_server_quotas().sync(count)

    def _answered(self, answered: statements.Answered) -> None:
        self._quota.dispatcher.answered(answered.call)

    def _learn(self, _: statements.Learn) -> None:
        self._quota.dispatcher.find_server_quotas().learn(())

    # What it sends its queue.

    def send_names(self) -> None:
        """Send the queue the names that have limits, unless its own terms contain them all."""
        names = self._quota.limits.names
        if names.are_all_in(self.terms.lanes):
            if self._names_known >= 0:  # it knows names of clients that have left since
                self.send("lanes", _NO_NAMES)
            self._names_known = -1
        elif self._names_known != names.number:
            self.send_text(names.since(self._names_known))
            self._names_known = names.number

    def send_rate(self) -> None:
        """Send the queue the rate after slow-downs, if it has changed."""
        rate = self._quota.limiter.snapshot().rate if self._quota.is_adaptive else math.inf
        if rate != self._rate:
            self._rate = rate
            self.send("rate", span_to(rate))

    def _estimate(self, messages: Sequence[Message]) -> None:
        """Send the queue how long a newcomer would wait behind the calls that have just joined."""
        # Only for the last call with each set of limits: a newcomer waits behind all of them.
        last: dict[Any, ClientCall] = {}
        for kind, *parts in messages:
            if kind == "join" and (call := self._waiting.get(parts[0])) is not None:
                last[call.limits] = call
        for call in last.values():
            wait = self._quota.wait_like(call)
            if wait < math.inf:
                self.send("due", call.ticket, wait)

    _handlers: ClassVar[dict[str, Callable[..., None]]] = {
        "join": _on_join,
        "leave": _on_leave,
        "end": _on_end,
        "running": _on_running,
        "late": _on_late,
        "decided": _on_decided,
        "reported": _on_reported,
    }
    """Handlers of messages, by kind."""
    _reports: ClassVar[dict[type[statements.Statement], Callable[[HubClient, Any], None]]] = {
        statements.Throttled: _throttled,
        statements.ServerCount: _sync,
        statements.Answered: _answered,
        statements.Settled: _settle,
        statements.Learn: _learn,
    }
    """Handlers of servers' reports."""
