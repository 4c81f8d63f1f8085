"""What happens, for users: events for observers, errors that are nobody's."""

from __future__ import annotations

import asyncio
from asyncio.log import logger
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from aioapiqueue._rate import Limit

__all__ = [
    "ONE_CALL_COST",
    "Costs",
    "Event",
    "EventKind",
    "Observer",
    "Outcome",
    "Recorder",
    "report_error",
]

EventKind = Literal[
    "joined",
    "released",
    "finished",
    "cancelled",
    "timed_out",
    "refused",
    "throttled",
    "backed_off",
    "refused_by_server",
    "malformed",
    "settled",
    "synced",
    "limits_changed",
    "held",
    "paused",
    "resumed",
    "disconnected",
    "reconnected",
]

Outcome = Literal["ok", "error", "cancelled", "unknown"]


class Costs(dict[str, float]):
    """Costs by unit, as any mapping, but that nobody can change it."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the costs of an event cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Costs], tuple[dict[str, float]]]:
        return Costs, (dict(self),)

    def __hash__(self) -> int:  # type: ignore[override]  # as of all that does not change
        return hash(frozenset(self.items()))


ONE_CALL_COST = Costs({"calls": 1})
"""The costs of a call that says nothing about them."""


class Event(NamedTuple):
    """One thing that happened in a queue.

    Its `kind` says what:

    - `joined`: a call waits (one that starts at once does not)
    - `released`: its body may run
    - `finished`: its body has ended. It has `duration`, `outcome`.
    - `cancelled`: a waiter left; or one that was released did not start: the slot is refunded
    - `timed_out`: the `timeout` of a waiter passed
    - `refused`: a call was turned away: the queue is full or closed
    - `throttled`: the other side pushed back. It has `retry_after`.
    - `backed_off`: adaptive lowered the rate for that. It has `rate`, if limits are kept in
      this process.
    - `refused_by_server`: the other side refused a call for good: to wait would not help
    - `malformed`: the other side sent something that is not valid
    - `settled`: a call stated its true costs. Its `costs` are these, `before` those until then.
    - `synced`: the other side said what is left. It has `remaining`, `unit`, `reset`, `limit`.
    - `limits_changed`: limits of the queue, or of `key`, were replaced. It has `limits`,
      `origin`.
    - `held`: nothing starts, of the queue or of `key`, for so long. It has `seconds`.
    - `paused`: nothing starts: for so long, or until it is resumed. It has `seconds`.
    - `resumed`: a pause was ended
    - `disconnected`: the hub or server of a shared quota is lost (`stats.fault` says why).
    - `reconnected`: it does so again

    Each call is in exactly one of `finished`, `cancelled`, `timed_out` and `refused`, unless its
    loop ends before it. Its events have the same `call`. One that waits `again` has all of this
    once more, under the same number; its body before that has finished with an unknown outcome.

    Attributes:
        kind: what happened.
        queue: the queue's name.
        key: the call's key, or the first of them; or the key that something happened to.
        priority: the call's priority.
        cost: the call's cost, in calls.
        at: when, in seconds on the queue's clock (`time.monotonic` on real loops). Of "released",
            when the call was charged to its limits.
        waited: how long the call waited for its slot, in seconds.
        keys: all of the call's keys; `(None,)` if it has none.
        call: the call's number, by arrival among those of its queue in this process; None: it is
            no single call's event.
        costs: what the call costs, by unit.
        duration: seconds that the body has run.
        outcome: how the body has ended: `ok`, `error` (it raised), `cancelled`; `unknown` where the
            slot was released by hand.
        retry_after: seconds that the other side asked to wait, if it did.
        rate: calls a second that are left after a push-back.
        seconds: how long a hold or a pause is; None: until it is resumed.
        limits: the new ones.
        origin: who changed them: `user` (`set_rate`), `learnt` (from an answer) or `others` (who
            share the quota).
        before: the costs by unit that the call was charged before it was settled.
        remaining: as of `Slot.sync`.
        unit: as of `Slot.sync`.
        reset: as of `Slot.sync`.
        limit: as of `Slot.sync`.
    """

    # A tuple, as it takes a quarter of the time of a frozen dataclass: there are two or three of
    # them for each slot.

    kind: EventKind
    queue: str | None
    key: Hashable
    priority: float
    cost: float
    at: float
    waited: float
    keys: tuple[Hashable, ...] = (None,)
    call: int | None = None
    costs: Mapping[str, float] = ONE_CALL_COST
    duration: float | None = None
    outcome: Outcome | None = None
    retry_after: float | None = None
    rate: float | None = None
    seconds: float | None = None
    limits: tuple[Limit, ...] = ()
    origin: Literal["user", "learnt", "others"] | None = None
    remaining: float | None = None
    unit: str | None = None
    reset: float | None = None
    limit: float | None = None
    before: Mapping[str, float] | None = None


@runtime_checkable
class Observer(Protocol):
    """An object that gets the events of a queue: `ApiQueue(..., observers=[...])`.

    It may have an attribute `event_kinds` besides: the kinds of events that it wants; default: all
    of them. Events that nobody wants are not made. An object with a method `for_queue(queue)`
    instead is called with each queue, before that is used, and returns an observer for it.
    """

    def on_event(self, event: Event, /) -> None:
        """Process one event, on the loop and at once: return quickly, do not block.

        An exception raised here goes to the loop's exception handler, and costs no slot;
        `KeyboardInterrupt` and `SystemExit` end the loop in its next pass.
        """


@runtime_checkable
class Recorder(Protocol):
    """An observer that counts every call, and needs no event for it.

    What holds for `Observer.on_event` holds for both methods.
    """

    def record_start(self, keys: tuple[Hashable, ...], waited: float, /) -> None:
        """Count a call with these keys that starts after so many seconds."""

    def record_end(
        self, keys: tuple[Hashable, ...], waited: float, duration: float, outcome: Outcome, /
    ) -> None:
        """Count the end of its body, in the context of the caller that ends it."""


def report_error(message: str, error: BaseException) -> None:
    """Report an error that is nobody's: to the running loop's exception handler."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # outside of a loop: as a loop's own handler does
        logger.error(message, exc_info=error)
    else:
        loop.call_exception_handler({"message": message, "exception": error})
