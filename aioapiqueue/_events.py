"""What happens, for users: events for observers, errors that are nobody's."""

from __future__ import annotations

import asyncio
from asyncio.log import logger
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Event", "EventKind", "Observer", "report_error"]

EventKind = Literal[
    "released",
    "finished",
    "cancelled",
    "timed_out",
    "refused",
    "throttled",
    "backed_off",
    "refused_by_server",
    "malformed",
    "disconnected",
    "reconnected",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a queue.

    Attributes:
        kind: `released`: a body may run; `finished`: it has ended; `cancelled`, `timed_out`,
            `refused` (full or closed): a waiter left without a slot; `throttled`: the other
            side pushed back; `backed_off`: adaptive lowered the rate for that; `refused_by_server`:
            the other side refused a call for good, so that to wait would not help; `malformed`:
            the other side sent something that is not valid; `disconnected`, `reconnected`: the
            server of a shared quota does not answer, does so again (`stats.fault` says why).
        queue: the queue's name.
        key: the call's key, or the first of them.
        priority: the call's priority.
        cost: the call's cost, in calls.
        at: when, in seconds on the queue's clock (`time.monotonic` on real loops).
        waited: how long the call waited for its slot, in seconds.
        keys: all of the call's keys; `(None,)` if it has none.
    """

    kind: EventKind
    queue: str | None
    key: Hashable
    priority: float
    cost: float
    at: float
    waited: float
    keys: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            object.__setattr__(self, "keys", (self.key,))


@runtime_checkable
class Observer(Protocol):
    """An object that gets every event of a queue: `ApiQueue(..., observers=[...])`."""

    def on_event(self, event: Event, /) -> None:
        """Process one event, on the loop and at once: return quickly, do not block.

        An exception raised here goes to the loop's exception handler, and costs no slot;
        `KeyboardInterrupt` and `SystemExit` end the loop in its next pass.
        """


def report_error(message: str, error: BaseException) -> None:
    """Report an error that is nobody's: to the running loop's exception handler."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # outside of a loop: as a loop's own handler does
        logger.error(message, exc_info=error)
    else:
        loop.call_exception_handler({"message": message, "exception": error})
