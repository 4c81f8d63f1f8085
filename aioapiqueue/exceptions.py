"""Errors and warnings of the package. Each message says what to do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "ApiQueueError",
    "LimitsError",
    "NestedSlotWarning",
    "QueueClosed",
    "QueueFull",
    "SharedError",
    "SlotTimeout",
    "UnknownKeyWarning",
    "WouldWait",
]


class ApiQueueError(Exception):
    """Base class of the errors that a queue raises at run time."""


class LimitsError(ApiQueueError, ValueError):
    """Raised for invalid limits before anything starts, with all problems in one error.

    Attributes:
        problems: one line per problem: the place, the value, and what to write instead.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class QueueClosed(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised when a closed queue is used, and in calls that are waiting when it closes."""


class QueueFull(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised when `maxsize` calls are already waiting: try later, or raise `maxsize`."""


class SharedError(ApiQueueError):
    """Raised in waiting calls when the server of a shared quota refuses to serve them.

    Waiting does not help, because the cause is permanent, such as a wrong password. The call was
    not sent. A later call asks the server again.
    """


class SlotTimeout(ApiQueueError, TimeoutError):  # noqa: N818 - a public name fixed by the design
    """Raised when no slot is available within `timeout` seconds. The call used no slot."""


class WouldWait(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised by `ApiQueue.try_slot` if a call would have to wait.

    Attributes:
        retry_in: estimated seconds until a slot is free; never 0. It is 0.1 if the time is
            unknown, because a running call must end first or a shared quota must be asked. It is
            infinite while the queue is paused without an end.

    Args:
        message: the text of the error.
        retry_in: see the attribute.
    """

    def __init__(self, message: str, *, retry_in: float) -> None:
        super().__init__(message)
        self.retry_in = retry_in

    # Exceptions are pickled with their positional arguments, so without `retry_in`. A process pool
    # that cannot unpickle one error fails all its calls.
    def __reduce__(self) -> tuple[Callable[..., WouldWait], tuple[Any, ...], dict[str, Any]]:
        return partial(type(self), retry_in=self.retry_in), self.args, self.__dict__


class UnknownKeyWarning(RuntimeWarning):
    """Issued for a key that is probably mistyped, once per queue and case.

    There are two cases:

    - A call starts unpaced, because the queue was created with limits for lanes only, and none of
      the call's keys has a lane.
    - `set_rate` creates a lane whose name looks like a typo of a lane in `lanes=`.

    With `strict_lanes=True`, a queue refuses such keys instead.
    """


class NestedSlotWarning(RuntimeWarning):
    """Issued once per queue if each call uses two slots, which halves the rate.

    This happens if the function passed to `ApiQueue.map` takes a slot of the same queue or sends
    requests through a client paced by it, or if a slot is held around such a request. The warning
    is issued when this happens for the second time.
    """
