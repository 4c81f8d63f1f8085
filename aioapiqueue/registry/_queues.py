"""The queues of a registry: created at first use, dropped when idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from aioapiqueue.spi import QueueReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import ApiQueue
    from aioapiqueue.registry._plan import QueuePlan
    from aioapiqueue.spi import Observers, seam

Schedules: TypeAlias = "Callable[[str], seam.LimiterFactory]"


class QueueKey(NamedTuple):
    """The service, Region and account of a queue; None: unknown, or not part of the scope.

    If services share a queue, `service` is the first of them by name.
    """

    service: str
    region: str | None
    account: str | None

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class Queues:
    """The queues of a registry, by service, Region and account.

    Args:
        observers: receive the events of all queues.
        schedules: returns the schedule of a new queue, given its name; None: there is none.

    Attributes:
        in_use: the queues, without those that were dropped.
    """

    def __init__(self, observers: Observers, schedules: Schedules | None) -> None:
        self.in_use: dict[QueueKey, ApiQueue] = {}
        self._dropped: WeakValueDictionary[QueueKey, ApiQueue] = WeakValueDictionary()
        """Dropped queues that callers may still hold."""
        self._observers = tuple(observers)  # each new queue gets them: an iterator would be used up
        self._schedules = schedules

    def find(self, plan: QueuePlan, region: str | None, account: str | None) -> ApiQueue:
        """Return the queue of a service's calls, and create it if there is none."""
        key = QueueKey(
            plan.service,
            region if "region" in plan.scope else None,
            account if "account" in plan.scope else None,
        )
        queue = self.in_use.get(key)
        if queue is None:
            # A dropped queue that a caller still holds may start calls, so a second one would
            # exceed the limits together with it.
            new = self._dropped.get(key)
            if new is None:
                schedule = None if self._schedules is None else self._schedules(str(key))
                new = plan.make_queue(str(key), self._observers, schedule=schedule)
            # If two threads come here at once, `setdefault` gives both the queue of the first.
            queue = self.in_use.setdefault(key, new)
        return queue

    def all(self) -> dict[QueueKey, ApiQueue]:
        """Return all queues, with those that were dropped and that a caller still holds."""
        return {**self._dropped, **self.in_use}

    def drop_idle(self) -> list[ApiQueue]:
        """Drop the idle queues, and return them; see `forget_idle`."""
        idle = {key: queue for key, queue in self.in_use.items() if QueueReader(queue).is_idle()}
        self._dropped.update(idle)  # first: other threads always find a queue in one of the two
        for key in idle:
            del self.in_use[key]
        return list(idle.values())
