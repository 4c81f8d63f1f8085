"""The exchange of one queue with the hub: what is sent, received, and repeated to a new hub."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue._shared.decisions import newest_from
from aioapiqueue._shared.host.messages import end_text, keys_to, text_of
from aioapiqueue._shared.host.scopes import HostCall
from aioapiqueue._shared.statement_json import amounts_to, span_from, to_json
from aioapiqueue.spi import cost_units, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioapiqueue._shared.decisions import Decided, Decision, Decisions
    from aioapiqueue._shared.host.connection import HubLink
    from aioapiqueue._shared.host.messages import Message
    from aioapiqueue._shared.outage import Outage
    from aioapiqueue._shared.statement_json import Report
    from aioapiqueue.exceptions import SharedError
    from aioapiqueue.spi import Call, Host

_MOST_SETTLED = 10_000
"""Number of calls whose settlements are kept while there is no hub."""
_MOST_DELAYS = 1000
"""Most limits of other programs whose delays are counted, and most other runs that are listed. With
a lane for each user id, there would be as many as users, and a person reads a few."""


class Delay(NamedTuple):
    """A limit that another program gave.

    Attributes:
        lane: the key of its lane, as text; "": the limit is one of the whole queue.
        limit: as text.
        whose: the program that gave it, and its process.
    """

    lane: str
    limit: str
    whose: str


class HubSession:
    """Sends while a hub is connected, and sends each new hub what the previous one knew.

    Args:
        host: the queue's dispatcher.
        link: to the hub.
        decisions: that the queue knows of.
        outage: the fallback, and what is reported, while there is no hub.
        delays: counts the calls that limits of other programs delayed.
        shared_with: collects the other runs that use the quota.
        handlers: process the hub's messages about decisions, calls and lanes, by kind.
        on_connected: called when a hub knows everything but the waiting calls.
        on_lost: called when the hub, and with it all requests, is lost.
    """

    def __init__(
        self,
        host: Host,
        link: HubLink,
        decisions: Decisions,
        outage: Outage,
        *,
        delays: dict[Delay, tuple[int, float]],
        shared_with: dict[str, None],
        handlers: Mapping[str, Callable[..., None]],
        on_connected: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._host = host
        self._link = link
        self._decisions = decisions
        self._outage = outage
        self._delays = delays
        self._shared_with = shared_with
        self._on_connected = on_connected
        self._on_lost = on_lost
        self.is_up = False
        """Whether a hub is connected."""
        self.running_calls: dict[int, HostCall] = {}
        """The calls that a hub granted and that run, by ticket: the next hub has to know them."""
        self.rate = math.inf
        """Calls per second after slow-downs; inf: the limits apply unchanged."""
        self._settled: dict[int, tuple[HostCall, dict[str, float] | None]] = {}
        """The calls that have settled while there was no hub, by ticket, and what they had been
        charged before. A hub that was killed may have counted settlements that were sent to it, so
        those are not sent again: it would give back twice."""
        self._learns = False
        self._made = self._sent = self._read = 0
        """Number of decisions made here, of those sent, and of those that a hub has surely read."""
        self._handlers: dict[str, Callable[..., None]] = {
            "delayed": self._count_delay,
            "shared": self._note_run,
            "rate": self._note_rate,
            **handlers,
        }
        link.attach(self)

    def reset(self) -> None:
        """Forget the connection: it belongs to another loop or process."""
        self._link.drop()
        self.is_up = False
        self.running_calls = {}
        self._settled.clear()

    async def aclose(self) -> None:
        """Close the connection: the hub takes back unused grants, and forgets these limits."""
        try:
            await self._link.aclose()
        finally:
            self.is_up = False

    @property
    def has_callers(self) -> bool:
        """Whether the hub is needed: calls wait or run."""
        return bool(self._host.waiters.live or self.running_calls)

    @property
    def is_needed(self) -> bool:
        """Whether calls wait or run, a decision is unsent, or a pause must outlast this hub."""
        # A pause ends with the last queue at a hub. So a paused queue without calls connects again.
        is_paused = self._decisions.paused_until > self._host.loop.now()
        return self._made > self._read or is_paused or self.has_callers

    @property
    def newest(self) -> dict[str, int]:
        """By maker, the instant up to which this queue knows all; see `Decisions.newest`."""
        return self._decisions.newest()

    # What is sent.

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message, if a hub is connected."""
        if self.is_up:
            self._link.send(text_of(*message))

    def send_text(self, text: str, *, at_once: bool = False) -> None:
        """Send the text of a message, if a hub is connected; see `HubLink.send`."""
        if self.is_up:
            self._link.send(text, at_once=at_once)

    def amounts(self, call: Call) -> dict[str, float] | None:
        """Return the cost of a call in the form that is sent."""
        if call.costs is cost_units.ONE_CALL:
            return None
        return amounts_to(call.costs, self._host.units)

    def decide(self, *given: Decided) -> list[Decision]:
        """Make decisions for all processes; return those that have an effect."""
        made = self._decisions.make(*given)
        self._made += bool(made)
        if self.is_up and made:
            self._send_decisions(made, {one.stamp.maker: one.stamp.at for one in made})
        elif made:  # `connected` sends what the next hub lacks
            self._link.open()
        return made

    def _send_decisions(self, decisions: Sequence[Decision], newest: Mapping[str, int]) -> None:
        self.send("decided", [one.as_json() for one in decisions], newest)
        self._sent = self._made

    def report(self, report: Report) -> None:
        """Pass on what a server reports."""
        if isinstance(report, statements.Learn):  # the next hub has to know that, too
            self._learns = True
        self.send("reported", to_json(report, self._host.units, _ticket_of))

    def settle(self, settled: statements.Settled) -> None:
        """Pass on the true costs of a call, now or to the next hub."""
        if self.is_up:
            self.report(settled)
        elif len(self._settled) < _MOST_SETTLED:
            call = HostCall.of(settled.call)
            self._settled.setdefault(call.ticket, (call, self.amounts(call)))

    # The connection.

    def connected(self, newest: Mapping[str, int]) -> None:
        """Send a new hub the decisions that it lacks, and the calls that run and wait.

        Args:
            newest: by maker, the instant up to which the hub knows all decisions.
        """
        self.is_up = True
        self._outage.end()
        # First: a pause must reach the hub before a request.
        lacking = self._decisions.newer_than(newest_from(newest))
        if lacking or self._decisions.newest():
            self._send_decisions(lacking, self._decisions.newest())
        self._sent = self._made  # even if there was nothing: a change of clocks forgets decisions
        if self._learns:
            self.report(statements.Learn())
        # Before the requests: a running call holds permits of the new hub, too.
        for ticket, call in self.running_calls.items():
            if ticket not in self._settled:
                self.send("running", ticket, keys_to(call.keys), self.amounts(call))
        settled, self._settled = self._settled, {}
        for ticket, (call, charged) in settled.items():
            self.send("running", ticket, keys_to(call.keys), charged)
            self.report(statements.Settled(call, call.costs))
            if ticket not in self.running_calls:
                self.send_text(end_text(ticket))
        self._on_connected()

    def _lose(self) -> None:
        self.is_up = False
        self._outage.faults += 1
        self._on_lost()

    def disconnected(self, why: str) -> None:
        """Note that there is no hub, or that the connection is lost."""
        self._lose()
        self._outage.begin(why, lost=why, until="another hub has started")
        self._host.wake()  # `release_due` starts calls at the fallback rate, if there is one

    def refused(self, error: SharedError) -> None:
        """Note that the hub refuses this queue until the user corrects its options."""
        self._lose()
        self._outage.refuse(error)

    # What is received.

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the hub has sent."""
        # The hub is alive, and reads in order: so it reads what was sent, unless it is killed now.
        self._read = self._sent
        for kind, *parts in messages:
            handler = self._handlers.get(kind)
            if handler is not None:  # a newer build may send more kinds
                handler(*parts)

    def _count_delay(self, lane: str, limit: str, whose: str, seconds: float) -> None:
        delay = Delay(lane, limit, whose)
        calls, before = self._delays.get(delay, (0, 0.0))
        if calls or len(self._delays) < _MOST_DELAYS:
            self._delays[delay] = calls + 1, before + seconds

    def _note_run(self, whose: str) -> None:
        if len(self._shared_with) < _MOST_DELAYS:
            self._shared_with[whose] = None

    def _note_rate(self, rate: float | None) -> None:
        self.rate = span_from(rate)


def _ticket_of(call: Call) -> int | None:
    return HostCall.of(call).ticket or None
