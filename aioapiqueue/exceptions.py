"""The few errors and warnings, each carrying its remedy."""

from __future__ import annotations

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
    """Base of every error that a queue raises while it works."""


class LimitsError(ApiQueueError, ValueError):
    """Raised for invalid limits, before anything starts: all problems in one error.

    Attributes:
        problems: a line for each: where it is, what was found, what is meant or possible.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class QueueClosed(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised to callers of a queue that is closed, and to those who still wait when it closes."""


class QueueFull(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised when `maxsize` callers already wait: try later, or make `maxsize` larger."""


class SharedError(ApiQueueError):
    """Raised to callers that wait where the server of a shared quota refuses to serve it.

    As with a wrong password: waiting would not help. Nothing was sent; a later call tries again.
    """


class SlotTimeout(ApiQueueError, TimeoutError):  # noqa: N818 - a public name fixed by the design
    """Raised when no slot came within `timeout` seconds. The waiter used no slot."""


class WouldWait(ApiQueueError):  # noqa: N818 - a public name fixed by the design
    """Raised by `ApiQueue.try_slot` where `slot` would have waited.

    Attributes:
        retry_in: seconds until a slot may be free, as things stand; never 0. Where that is not
            known, as a running call has to end first, or a shared quota has to be asked: 0.1.
            Infinite while the queue is paused without end.

    Args:
        message: what `str` returns.
        retry_in: the attribute.
    """

    def __init__(self, message: str, *, retry_in: float) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class UnknownKeyWarning(RuntimeWarning):
    """Issued where a key that fits no lane is probably mistyped; once for each queue and case.

    Either none of a call's keys fits a lane, and the queue was made with limits of lanes, and has
    none of its own, so that the call starts unpaced; or `set_rate` makes a lane whose name is that
    of a lane which the queue was made with, but for a typo. With `strict_lanes=True` a queue
    refuses such keys.
    """


class NestedSlotWarning(RuntimeWarning):
    """Issued once for each queue where calls take two turns of it: half the rate.

    Either the function that `ApiQueue.map` calls takes a slot of the same queue, or makes a request
    by a client that the queue paces; or a slot is held around such a request. It is issued when
    that happens for the second time.
    """
