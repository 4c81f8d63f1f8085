"""The exchange of one queue with the hub: what is sent and received, and what a new hub is told."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aioapiqueue._host.wire import keys_to, text_of
from aioapiqueue._statements import (
    key_from,
    key_to,
    limits_from,
    limits_to,
    span_from,
    span_to,
)
from aioapiqueue._units import ONE_CALL, is_stated

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._host.holds import Holds
    from aioapiqueue._host.link import Link
    from aioapiqueue._host.scopes import NameChanges
    from aioapiqueue._host.wire import Message
    from aioapiqueue._limiter import Host
    from aioapiqueue._rate import Limit, Rate
    from aioapiqueue._slot import Call
    from aioapiqueue.exceptions import SharedError

__all__ = ["Delay", "Session", "SessionOwner"]

_MOST_DELAYS = 1000
"""Limits of others that calls are counted for, and other runs: a person reads a few."""
_SAME_CLOCK = 10.0
"""Seconds by which two readings of one clock may differ, where one came with a message."""


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


class SessionOwner(Protocol):
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

    def others_set(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Adopt limits that others have set."""

    def others_learnt(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Adopt limits that others have learnt, beside those that this queue has given."""

    def others_limit(self, changes: NameChanges) -> None:
        """Tell calls apart that come under different limits of others."""

    def held_by_hub(self, seconds: float) -> None:
        """Start nothing for so long."""

    def resumed_by_others(self) -> None:
        """Pause no more."""

    def newcomer_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""


class Session:
    """Sends while a hub is there, and has each new one know what the last one knew.

    Args:
        host: the queue's dispatcher.
        link: to the hub.
        owner: its limiter.
        holds: that a new hub has to know of.
        delays: where the calls are counted that limits of others made wait.
        shared_with: where the other runs are noted that use the quota.
    """

    def __init__(
        self,
        host: Host,
        link: Link,
        owner: SessionOwner,
        holds: Holds,
        delays: dict[Delay, tuple[int, float]],
        *,
        shared_with: dict[str, None],
    ) -> None:
        self._host = host
        self._link = link
        self._owner = owner
        self._holds = holds
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
        self._clock_lead = 0.0
        self._set: dict[Hashable, tuple[Limit, ...]] = {}
        """What this queue, or another one, has set."""
        self._learnt: dict[Hashable, tuple[Limit, ...]] = {}
        """What this queue, or another one, has learnt from answers."""
        self._learnt_units: list[str] | None = None
        self._unsaid: set[tuple[str, Hashable]] = set()
        """What no hub has been told yet: "set" or "learnt" of a key, "pause", "hold", "resume"."""
        self._said: set[tuple[str, Hashable]] = set()
        """What was sent, and may not have been read yet."""
        self._pid = os.getpid()
        self._newer: set[tuple[str, Hashable]] = set()
        """What this hub has just been told, and was told otherwise by others before."""
        link.attach(self)

    def reset(self) -> None:
        """Forget the connection: it is of another loop or process."""
        self._link.drop()
        self._forget_hub()
        self._clock_lead = 0.0
        if os.getpid() != self._pid:  # in a child made by `fork`: the parent says it
            self._pid = os.getpid()
            self._unsaid.clear()

    def _forget_hub(self) -> None:
        self.is_up = False
        self._unsaid |= self._said
        self._said.clear()

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
        is_paused = self._holds.paused > self._host.loop.now()
        return bool(self._unsaid) or is_paused or self._owner.has_callers

    # What is sent.

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message, if a hub is there."""
        if self.is_up:
            self._link.send(text_of(*message))

    def send_text(self, text: str, *, at_once: bool = False) -> None:
        """Send the text of a message, if a hub is there; see `Link.send`."""
        if self.is_up:
            self._link.send(text, at_once=at_once)

    def amounts(self, call: Call) -> dict[str, float] | None:
        """Return what a call costs, as it is sent."""
        costs = call.costs
        return None if costs is ONE_CALL else self.amounts_of(costs)

    def amounts_of(self, costs: Sequence[float]) -> dict[str, float]:
        """Return costs by unit, as they are sent."""
        names = self._host.units.names
        return {names[unit]: cost for unit, cost in enumerate(costs) if is_stated(costs, unit)}

    def send_set(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Have limits replaced everywhere."""
        self._set.update(changes)
        self._say("set", changes, again=False)

    def send_learnt(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Have learnt limits hold everywhere, beside what each process has given."""
        self._learnt.update(changes)
        self._say("learnt", changes, again=False)

    def _say(
        self, kind: str, changes: Mapping[Hashable, tuple[Limit, ...]], *, again: bool
    ) -> None:
        """Send changes, or have them sent to the next hub."""
        if changes:
            what = () if again else ((kind, key) for key in changes)
            self._say_or_later(what, kind, _changes_to(changes), again)

    def _say_or_later(self, what: Iterable[tuple[str, Hashable]], *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message; or note what it says, if there is no hub, and connect."""
        if self.is_up:
            self._said.update(what)
            self.send(*message)
        else:
            self._unsaid.update(what)
            self.open()

    def send_pause(self, seconds: float | None) -> None:
        """Have nothing started anywhere for so long; None: until `send_resume`."""
        self._say_or_later([("pause", None)], "pause", seconds, False)  # noqa: FBT003 - JSON

    def send_resume(self) -> None:
        """Have all pauses end."""
        for one in (self._said, self._unsaid):
            one.discard(("pause", None))
        self._say_or_later([("resume", None)], "resume")

    def send_hold(self, key: list[Hashable], seconds: float) -> None:
        """Have nothing of a key started anywhere for so long, or nothing at all."""
        # The next hub is told of all that is held here.
        self._say_or_later([("hold", None)], "hold", key, seconds)

    def send_learn(self) -> None:
        """Have limits learnt from answers."""
        self._learnt_units = list(self._host.units.names)
        self.send("learn", self._learnt_units)

    # The connection.

    def connected(self, lead: float) -> None:
        """Tell a new hub what runs, what holds, and who waits."""
        host, now = self._host, self._host.loop.now()
        # All processes have one clock, but in a time namespace of their own.
        self._clock_lead = lead if abs(lead) > _SAME_CLOCK else 0.0
        self.is_up = True
        if self.fault:
            self.fault = ""
            host.emit("reconnected")
        self._holds.forget_hub()
        self._newer, self._unsaid = self._unsaid, set()
        self._said |= self._newer
        for kind, changes in (("set", self._set), ("learnt", self._learnt)):
            new = {key: limits for key, limits in changes.items() if (kind, key) in self._newer}
            known = {key: limits for key, limits in changes.items() if key not in new}
            self._say(kind, known, again=True)
            self._say(kind, new, again=False)
        if self._learnt_units is not None:
            self.send("learn", self._learnt_units)
        if ("resume", None) in self._newer:
            self.send("resume")
        if self._holds.paused > now:
            again = ("pause", None) not in self._newer
            self.send("pause", span_to(self._holds.paused - now), again)
        if self._holds.held > now:
            self.send("hold", [], self._holds.held - now)
        for key, seconds in self._holds.of_lanes(now):
            self.send("hold", [key], seconds)
        for ticket, call in self._owner.running_calls.items():
            self.send("running", ticket, keys_to(call.keys), self.amounts(call))
        self._owner.hub_is_there()

    def disconnected(self, why: str) -> None:
        """Note that the hub is not there, or not there any more."""
        self._forget_hub()
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
        self._forget_hub()
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
        self._said.clear()  # it lives, and reads in order: what it says next may answer that
        for kind, *parts in messages:
            handler = getattr(self, f"on_{kind}", None)
            if handler is not None:  # else a newer hub of the same protocol says more
                handler(*parts)

    def on_grant(self, ticket: int, at: float, until: float | None) -> None:
        """Let a call start."""
        lead = self._clock_lead
        self._owner.granted(ticket, at - lead, math.inf if until is None else until - lead)

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

    def on_set(self, changes: list[Any], again: bool) -> None:  # noqa: FBT001 - a part of a message
        """Adopt limits that others have set."""
        adopted = self._changes_from("set", changes, again=again)
        if adopted:
            self._set.update(adopted)  # who has set them may be gone when the next hub asks
            self._owner.others_set(adopted)

    def on_learnt(self, changes: list[Any], again: bool) -> None:  # noqa: FBT001 - as `on_set`
        """Adopt limits that others have learnt."""
        learnt = self._changes_from("learnt", changes, again=again)
        if learnt:
            self._learnt.update(learnt)
            self._owner.others_learnt(learnt)

    def _changes_from(
        self, kind: str, changes: list[Any], *, again: bool
    ) -> dict[Hashable, tuple[Limit, ...]]:
        """Return changes, but for those that this queue itself has told the hub since."""
        found = {key_from(key[0]) if key else None: limits_from(own) for key, own in changes}
        if again:
            found = {key: own for key, own in found.items() if (kind, key) not in self._newer}
        return found

    def on_lanes(self, changes: list[tuple[list[Any], list[Any] | None]]) -> None:
        """Note which keys and patterns have limits, as others may have given them."""
        self._owner.others_limit(
            (map(key_from, added), None if removed is None else map(key_from, removed))
            for added, removed in changes
        )

    def on_held(self, seconds: float | None) -> None:
        """Note for how long the hub holds all."""
        self._owner.held_by_hub(span_from(seconds))

    def on_resumed(self) -> None:
        """Note that somebody else has ended all pauses."""
        self._owner.resumed_by_others()

    def on_rate(self, rate: float | None) -> None:
        """Note what push-back has left."""
        self.rate = span_from(rate)

    def on_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""
        self._owner.newcomer_due(ticket, seconds)

    def on_bye(self, text: str) -> None:
        """Do nothing: the connection ends, and that is what counts."""


def _changes_to(changes: Mapping[Hashable, tuple[Limit, ...]]) -> list[Any]:
    return [[key_to(key), limits_to(own)] for key, own in changes.items()]
