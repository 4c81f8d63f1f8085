"""Sends the events of a queue to its observers and recorders.

An observer receives an `Event` for everything that happens, or for the kinds that it names. To make
and deliver an event takes longer than a slot. A `Recorder` counts every call and needs only two
figures of it, so it is called at each start and each end, without an event. A queue without
observers has no `Notifier`, and does not import this module.
"""

from __future__ import annotations

import asyncio
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    get_args,
    runtime_checkable,
)

from aioapiqueue._core.events import ONE_CALL_COST, Costs, Event, EventKind, Outcome
from aioapiqueue._core.followers import Follower
from aioapiqueue._core.local_thresholds import LocalThresholds
from aioapiqueue._core.loops import report_error
from aioapiqueue._core.slot import UNKNOWN
from aioapiqueue._limits.cost_units import ONE_CALL

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.local_thresholds import ObservedHost
    from aioapiqueue._core.slot import Call

_CANCELLED = (asyncio.CancelledError, GeneratorExit)
_KINDS: tuple[EventKind, ...] = get_args(EventKind)


@runtime_checkable
class Observer(Protocol):
    """An object that receives the events of a queue: `ApiQueue(..., observers=[...])`.

    An optional attribute `event_kinds` lists the kinds of events to receive; the default is all.
    Events that no observer receives are not created. Instead of an observer, pass an object with a
    method `for_queue(queue)` to create an observer for each queue.
    """

    def on_event(self, event: Event, /) -> None:
        """Process an event. This runs on the event loop: return quickly, and do not block.

        An exception goes to the loop's exception handler and does not affect the call.
        `KeyboardInterrupt` and `SystemExit` end the loop in its next pass.
        """


@runtime_checkable
class Recorder(Protocol):
    """An observer that counts every call without an event for each.

    Both methods follow the rules of `Observer.on_event`.
    """

    def record_start(self, keys: tuple[Hashable, ...], waited: float, /) -> None:
        """Count the start of a call with these keys that waited this many seconds."""

    def record_end(
        self, keys: tuple[Hashable, ...], waited: float, duration: float, outcome: Outcome, /
    ) -> None:
        """Count the end of a call's body, in the context of the caller that ends it."""


class Notifier(Follower):
    """The observers and recorders of one queue.

    Args:
        host: the queue's dispatcher.
        number_of: returns the number of a call by arrival.
    """

    __slots__ = ("_host", "_loop", "_name", "_number_of", "_observers", "_recorders", "_units")

    is_last = True

    def __init__(self, host: ObservedHost, number_of: Callable[[Call], int]) -> None:
        self._host = host
        self._name = host.name
        self._units = host.units
        self._number_of = number_of
        self._loop = host.loop
        self._recorders: tuple[Recorder, ...] = ()
        self._observers: dict[EventKind, tuple[Observer, ...]] = {}
        """Observers of each kind of event; without the kinds that no observer wants."""

    def add(self, observers: Sequence[Observer]) -> None:
        """Send events to these observers as well; one may also be a recorder."""
        # First all that may raise, so that observers are added together or not at all.
        wanted = [(one, kind) for one in observers for kind in _kinds_of(one)]
        recorders = [one for one in observers if isinstance(one, Recorder)]
        self._recorders = (*self._recorders, *recorders)
        self._host.follow(self)
        wants_thresholds = any(kind == "threshold" for _, kind in wanted)
        # The limiter of a shared quota sends these events as it learns what others have used.
        if wants_thresholds and not self.wants("threshold") and self._host.limiter.traits.alone:
            self._host.follow(LocalThresholds(self._host))
        for one, kind in wanted:
            self._observers[kind] = (*self._observers.get(kind, ()), one)

    def wants(self, kind: EventKind) -> bool:
        """Return whether an observer wants events of a kind."""
        return kind in self._observers

    def named(self, costs: tuple[float, ...]) -> Costs:
        """Return costs by unit, as events have them."""
        return ONE_CALL_COST if costs is ONE_CALL else Costs(self._units.named(costs))

    def joined(self, call: Call) -> None:
        """Send an event that a call waits."""
        self.happened("joined", call)

    def started(self, call: Call, waited: float) -> None:
        """Call the recorders, and send an event that a call has started."""
        # This runs for each slot, and so does `ended`: both take as few steps as possible.
        if self._observers:
            self._number_of(call)  # here, so that numbers follow the order of starts
        for recorder in self._recorders:
            try:
                recorder.record_start(call.keys, waited)
            except BaseException as error:  # noqa: BLE001 - a recorder never costs a slot
                self._failed(recorder, "a start", error)
        if "released" in self._observers:
            self.happened("released", call, at=call.waited_until)  # exactly when it was charged

    def ended(self, call: Call, raised: object) -> None:
        """Call the recorders, and send an event that a body has ended; see `Call.finish`."""
        # One look at the clock: the recorders and the event must agree.
        start, now = call.waited_until, self._loop.now()
        waited, duration = start - call.joined_at, now - start
        outcome = "ok" if raised is None else _outcome_of(raised)
        for recorder in self._recorders:
            try:
                recorder.record_end(call.keys, waited, duration, outcome)
            except BaseException as error:  # noqa: BLE001 - as above
                self._failed(recorder, "the end of a call", error)
        if "finished" in self._observers:
            self.happened("finished", call, at=now, duration=duration, outcome=outcome)

    def happened(
        self,
        kind: EventKind,
        call: Call | None,
        key: Hashable = None,
        *,
        at: float | None = None,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Send an event of a call or of a key, at an instant (default: now)."""
        observers = self._observers.get(kind)
        if observers is None:  # an event that no observer wants is not made
            return
        if at is None:
            at = self._loop.now()
        if call is None:
            event = Event(kind, self._name, key, 0, 0, at, 0.0, (key,), **details)
        else:
            costs, keys = call.costs, call.keys
            event = Event(
                kind,
                self._name,
                keys[0] if key is None else key,
                call.priority,
                costs[0],
                at,
                call.waited,
                keys,
                self._number_of(call),
                self.named(costs),
                **details,
            )
        for observer in observers:
            try:
                observer.on_event(event)
            except BaseException as error:  # noqa: BLE001 - an observer never costs a slot
                self._failed(observer, _repr(event), error)

    def _failed(self, one: object, what: str, error: BaseException) -> None:
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            report_error(f"{_repr(one)} failed on {what}", error)
            return
        # Raised in the loop's next pass, which ends the loop. Raised here, it would interrupt the
        # dispatcher between two steps, and a slot would be lost.
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop runs, so there is no slot to lose
            raise error from None
        loop.call_soon(_raise, error)


def _kinds_of(observer: Observer) -> Iterable[EventKind]:
    """Return the kinds of events that an observer wants, or refuse unknown ones."""
    wanted = getattr(observer, "event_kinds", _KINDS)
    if isinstance(wanted, str):
        raise TypeError(f"event_kinds must be a collection of kinds: write ({wanted!r},)")
    kinds = frozenset(wanted)
    # A misspelt kind would never be received, and the observer would seem to work.
    if unknown := sorted(map(str, kinds - set(_KINDS))):
        raise ValueError(f"event_kinds names {unknown[0]!r}, but the kinds are {', '.join(_KINDS)}")
    return [kind for kind in _KINDS if kind in kinds]


def _outcome_of(raised: object) -> Outcome:
    """Return the outcome of a body that raised an exception of this type."""
    # `__aexit__` passes on the type of the exception alone, which is all that is needed.
    if raised is UNKNOWN or not isinstance(raised, type):
        return "unknown"
    return "cancelled" if issubclass(raised, _CANCELLED) else "error"


def _repr(thing: object) -> str:
    """Return the `repr` of a user's object, even if that fails."""
    try:
        return repr(thing)
    except Exception:  # noqa: BLE001 - the user's
        return object.__repr__(thing)


def _raise(error: BaseException) -> None:
    raise error
