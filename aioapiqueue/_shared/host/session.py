"""The exchange of one queue with the hub: what is sent and received, and what a new hub is told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aioapiqueue._shared.decisions import Decision, newest_from
from aioapiqueue._shared.host.call import HostCall
from aioapiqueue._shared.host.messages import keys_to, text_of
from aioapiqueue.spi import ONE_CALL, Learn, is_stated, key_from, span_from, to_json

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue import Rate
    from aioapiqueue._shared.decisions import Decided, Decisions
    from aioapiqueue._shared.host.link import HubLink
    from aioapiqueue._shared.host.messages import Message
    from aioapiqueue._shared.host.scopes import NameChanges
    from aioapiqueue.exceptions import SharedError
    from aioapiqueue.spi import Call, Host, Statement

__all__ = ["Delay", "HubSession", "HubSessionOwner"]

_MOST_DELAYS = 1000
"""Limits of others that calls are counted for, and other runs: a person reads a few."""


class Delay(NamedTuple):
    """A limit of others.

    Attributes:
        lane: the key of its lane, as text; "": it is one of the whole queue.
        limit: as text.
        whose: the program that has given it, and its process.
    """

    lane: str
    limit: str
    whose: str


class HubSessionOwner(Protocol):
    """What a session asks of its limiter."""

    @property
    def has_callers(self) -> bool:
        """Whether somebody waits for the hub, or runs, so that it is to know."""

    @property
    def running_calls(self) -> Mapping[int, Call]:
        """Those that a hub has let go, by ticket."""

    @property
    def fallback(self) -> Rate | None:
        """The local rate while there is no hub; None: calls wait."""

    def hub_is_there(self) -> None:
        """Let all ask who wait: the hub knows the rest."""

    def hub_is_lost(self) -> None:
        """Let those who wait go by the fallback, or wait for the next hub."""

    def hub_refuses(self, error: SharedError) -> None:
        """Refuse all who wait."""

    def granted(self, ticket: int, at: float, until: float) -> None:
        """Let a call start that was let go at an instant, and may start until another one."""

    def call_refused(self, ticket: int, text: str) -> None:
        """Let a call go that never will start."""

    def slowed_down(self, ticket: int | None, key: Hashable, seconds: float | None) -> None:
        """Count a slow-down; a newcomer like that call would start in so long."""

    def others_decided(self, news: Sequence[Decision]) -> None:
        """Go by what others have decided."""

    def others_limit(self, changes: NameChanges) -> None:
        """Tell calls apart that come under different limits of others."""

    def newcomer_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""


class HubSession:
    """Sends while a hub is there, and has each new one know what the last one knew.

    Args:
        host: the queue's dispatcher.
        link: to the hub.
        owner: its limiter.
        decisions: that the queue knows of.
        delays: where the calls are counted that limits of others made wait.
        shared_with: where the other runs are noted that use the quota.
    """

    def __init__(
        self,
        host: Host,
        link: HubLink,
        owner: HubSessionOwner,
        decisions: Decisions,
        delays: dict[Delay, tuple[int, float]],
        *,
        shared_with: dict[str, None],
    ) -> None:
        self._host = host
        self._link = link
        self._owner = owner
        self._decisions = decisions
        self._delays = delays
        self._shared_with = shared_with
        self.is_up = False
        """Whether a hub is there."""
        self.faults = 0
        self.fault = ""
        """How often there was none, and why there is none now."""
        self.meanwhile = ""
        """What calls do until there is one again: the rest of a sentence."""
        self.rate = math.inf
        """Calls per second that push-back has left."""
        self._learns = False
        self._made = self._sent = self._read = 0
        """How often something was decided here; how much of that was sent, and surely read."""
        link.attach(self)

    def reset(self) -> None:
        """Forget the connection: it is of another loop or process."""
        self._link.drop()
        self.is_up = False

    def open(self) -> None:
        """Connect, if it is not connected."""
        self._link.open()

    async def aclose(self) -> None:
        """End the connection: the hub takes back what it has let go, and forgets these limits."""
        try:
            await self._link.aclose()
        finally:
            self.is_up = False

    @property
    def asks(self) -> int:
        """How often something was sent."""
        return self._link.asks

    @property
    def has_callers(self) -> bool:
        """Whether somebody waits for the hub, or runs, so that it is to know."""
        return self._owner.has_callers

    @property
    def is_needed(self) -> bool:
        """The same, or whether the hub has still to be told something, or of a pause."""
        is_paused = self._decisions.paused_until > self._host.loop.now()
        return self._made > self._read or is_paused or self._owner.has_callers

    @property
    def newest(self) -> dict[str, int]:
        """What no hub has to send this queue: see `Decisions.newest`."""
        return self._decisions.newest()

    # What is sent.

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message, if a hub is there."""
        if self.is_up:
            self._link.send(text_of(*message))

    def send_text(self, text: str, *, at_once: bool = False) -> None:
        """Send the text of a message, if a hub is there; see `HubLink.send`."""
        if self.is_up:
            self._link.send(text, at_once=at_once)

    def amounts(self, call: Call) -> dict[str, float] | None:
        """Return what a call costs, as it is sent."""
        costs, names = call.costs, self._host.units.names
        if costs is ONE_CALL:
            return None
        return {names[unit]: cost for unit, cost in enumerate(costs) if is_stated(costs, unit)}

    def decide(self, *statements: Decided) -> list[Decision]:
        """Decide something for all processes; return what is news in that."""
        made = self._decisions.make(*statements)
        self._made += bool(made)
        if self.is_up and made:
            self._send_decisions(made, {one.stamp.maker: one.stamp.at for one in made})
        elif made:  # the next hub says what it lacks
            self.open()
        return made

    def _send_decisions(
        self, decisions: Sequence[Decision], newest: Mapping[str, int], *, asked: bool = False
    ) -> None:
        self.send("decided", [one.as_json() for one in decisions], newest, *[True] * asked)
        self._sent = self._made

    def _send_lacking(self, newest: Mapping[str, int]) -> None:
        """Send all that the hub lacks, which has these: see `Decisions.newest`."""
        decisions = self._decisions
        lacking = decisions.newer_than(newest_from(newest))
        if lacking or decisions.newest():
            self._send_decisions(lacking, decisions.newest(), asked=True)
        self._sent = self._made  # be it nothing, as all was on another clock, and is forgotten

    def report(self, statement: Statement) -> None:
        """Pass on what a server has said."""
        if isinstance(statement, Learn):
            self._learns = True
        self.send("reported", to_json(statement, self._host.units, _ticket_of))

    # The connection.

    def connected(self, newest: Mapping[str, int]) -> None:
        """Tell a new hub what was decided, what runs, and who waits."""
        self.is_up = True
        if self.fault:
            self.fault = ""
            self._host.emit("reconnected")
        self._send_lacking(newest)  # before all that could start a call
        if self._learns:
            self.report(Learn())
        for ticket, call in self._owner.running_calls.items():
            self.send("running", ticket, keys_to(call.keys), self.amounts(call))
        self._owner.hub_is_there()

    def disconnected(self, why: str) -> None:
        """Note that the hub is not there, or not there any more."""
        self.is_up = False
        is_first = not self.fault
        self.faults += 1
        self.fault = why
        self._owner.hub_is_lost()
        if is_first:
            fallback = self._owner.fallback
            do = "wait" if fallback is None else f"continue at the fallback rate of {fallback}"
            self.meanwhile = f"{do} until another hub has started"
            self._host.emit("disconnected")
        self._host.wake()

    def refused(self, error: SharedError) -> None:
        """Note that the hub will not serve this queue, until somebody puts something right."""
        self.is_up = False
        is_first = not self.fault
        self.faults += 1
        self.fault = str(error)
        self._owner.hub_refuses(error)
        if is_first:
            self.meanwhile = "fail with SharedError until this is corrected"
            self._host.emit("disconnected")

    # What is received.

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the hub has sent."""
        self._read = self._sent  # it lives, and reads in order
        for kind, *parts in messages:
            handler = getattr(self, f"on_{kind}", None)
            if handler is not None:  # else a newer hub of the same protocol says more
                handler(*parts)

    def on_grant(self, ticket: int, at: float, until: float | None) -> None:
        """Let a call start."""
        self._owner.granted(ticket, at, math.inf if until is None else until)

    def on_delayed(self, lane: str, limit: str, whose: str, seconds: float) -> None:
        """Count a call that a limit of others has made wait."""
        delay = Delay(lane, limit, whose)
        calls, before = self._delays.get(delay, (0, 0.0))
        if calls or len(self._delays) < _MOST_DELAYS:
            self._delays[delay] = calls + 1, before + seconds

    def on_shared(self, whose: str) -> None:
        """Note another run that uses the quota."""
        if len(self._shared_with) < _MOST_DELAYS:
            self._shared_with[whose] = None

    def on_refuse(self, ticket: int, text: str) -> None:
        """Let a call go that never will start."""
        self._owner.call_refused(ticket, text)

    def on_backed_off(self, ticket: int | None, key: list[Any], seconds: float | None) -> None:
        """Count a slow-down."""
        self._owner.slowed_down(ticket, key_from(key[0]) if key else None, seconds)

    def on_decided(self, decisions: list[Any], newest: dict[str, int]) -> None:
        """Adopt what others have decided."""
        found = [Decision.from_json(one) for one in decisions]
        self._owner.others_decided(self._decisions.merge(found, newest_from(newest)))

    def on_lacks(self, newest: dict[str, int]) -> None:
        """Send what the hub lacks, as another queue is gone that was to send it."""
        self._send_lacking(newest)

    def on_lanes(self, changes: list[tuple[list[Any], list[Any] | None]]) -> None:
        """Note which keys and patterns have limits, as others may have given them."""
        self._owner.others_limit(
            (map(key_from, added), None if removed is None else map(key_from, removed))
            for added, removed in changes
        )

    def on_rate(self, rate: float | None) -> None:
        """Note what push-back has left."""
        self.rate = span_from(rate)

    def on_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""
        self._owner.newcomer_due(ticket, seconds)

    def on_bye(self, text: str) -> None:
        """Do nothing: the connection ends, and that is what counts."""


def _ticket_of(call: Call) -> int | None:
    return HostCall.of(call).ticket or None
