"""What keeps a queue's limits, for tests that hold whatever it is: the fixture `limiter`.

The tests of behaviour make their queues with `limiter.queue(...)`, and run once for each kind. What
differs between the kinds, and why, is here:

- A server counts whole microseconds, so instants are compared to two of them.
- What a queue of its own knows at once, one that shares its quota knows when the server has
  answered: a test that tells the queue something goes on after `await limiter.settled()`. No time
  passes in that.
- A shared queue never gives a slot without having asked: `await limiter.take(queue)`.
- Each call is asked for, in real time: where thousands of calls are only a matter of time, there
  are `limiter.fewer` of them.

By itself and through a hub all of them run by default. On a server, which takes several times as
long, only those whose outcome its code decides: rates and windows, lanes, permits, what is charged
and given back, holds, `set_rate`, figures. They are marked `contract`, and `ahead` where it also
matters that slots were taken ahead; a property is both. What would exercise the client once more,
such as `map` or observers, runs there with the slow tests, as all do on Debian's Redis.

What holds for one kind only uses `ApiQueue` itself, or says so by `limiter.shared`.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from aioapiqueue import ApiQueue, UnknownKeyWarning
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient
from tests.helpers.virtual_hub import VirtualHub

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hypothesis.strategies import SearchStrategy

    from aioapiqueue import Slot
    from tests.helpers.servers import Server

__all__ = ["AtLength", "Limiter", "OnHost", "Shared", "holds_for"]

_MANY = 100
"""Examples: with more, a property is for the slow tests."""


class Limiter:
    """The limits of a queue by itself.

    Attributes:
        shared: whether the limits are kept elsewhere.
        quantum: longest time between two groups of calls.
        rounding: seconds by which an instant may be another.
        examples: how many histories a property is tried on.
    """

    shared = False
    quantum = 0.005
    rounding = 1e-9
    examples = 100

    @property
    def at_length(self) -> bool:
        """Whether the histories of properties are long ones, as many are played."""
        return self.examples > _MANY

    def queue(self, *limits: Any, **options: Any) -> ApiQueue:
        """Make a queue."""
        return self.quota()(*limits, **options)

    def quota(self) -> Callable[..., ApiQueue]:
        """Return what makes queues of one quota, where limits are kept elsewhere."""
        return ApiQueue

    def late(self, interval: float) -> float:
        """Return how many seconds late a call may start if one is due every `interval` seconds.

        That is the time between two groups of calls, with the default of `catch_up`.
        """
        return self.quantum if interval < self.quantum else 0

    async def settled(self) -> None:
        """Wait until all that the queue was told is in force; no time passes."""

    async def take(self, queue: ApiQueue, **call: Any) -> Slot:
        """Take a slot that is free now."""
        return queue.try_slot(**call)

    def exactly(self, expected: Any) -> Any:
        """Compare instants as exactly as they are kept."""
        return pytest.approx(expected, abs=self.rounding)

    def fewer(self, count: int) -> int:
        """Return how many calls are made where the number does not matter."""
        return count

    def warned_of_unpaced(self) -> AbstractContextManager[Any]:
        """Expect a warning that a call starts unpaced."""
        return pytest.warns(UnknownKeyWarning)


class AtLength(Limiter):
    """The limits of a queue by itself, for properties at length.

    Args:
        examples: as attribute.
    """

    def __init__(self, *, examples: int) -> None:
        self.examples = examples


class Shared(Limiter):
    """Limits that are kept on a real server, for each queue a quota of its own.

    Args:
        server: where.
        ahead: seconds by which slots may be taken before they are due.
        examples: as attribute.
    """

    shared = True
    rounding = 2e-6

    def __init__(self, server: Server, *, ahead: float, examples: int) -> None:
        self.server = server
        self.ahead = ahead
        self.examples = examples

    def quota(self) -> Callable[..., ApiQueue]:
        """Return what makes queues of one quota."""
        name = fresh_name()

        def make(*limits: Any, **options: Any) -> ApiQueue:
            schedule = SharedSchedule(VirtualClient(self.server), name, ahead=self.ahead)
            return ApiQueue(*limits, schedule=schedule, **options)

        return make

    async def settled(self) -> None:
        """Let the queue and the server talk."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def take(self, queue: ApiQueue, **call: Any) -> Slot:
        """Ask for a slot."""
        return await queue.enqueue(**call)

    def fewer(self, count: int) -> int:
        """Return a tenth."""
        return count // 10


class OnHost(Limiter):
    """Limits that a hub keeps, for each queue a quota of its own.

    Args:
        examples: as attribute.
    """

    shared = True

    def __init__(self, *, examples: int) -> None:
        self.examples = examples

    def warned_of_unpaced(self) -> AbstractContextManager[Any]:
        """Expect none: limits of others may pace the call."""
        return nullcontext()

    def quota(self) -> Callable[..., ApiQueue]:
        """Return what makes queues of one quota."""
        hub = VirtualHub()

        def make(*limits: Any, **options: Any) -> ApiQueue:
            return ApiQueue(*limits, schedule=hub.schedule("quota"), **options)

        return make

    async def settled(self) -> None:
        """Let the queue and the hub talk."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def take(self, queue: ApiQueue, **call: Any) -> Slot:
        """Ask for a slot."""
        return await queue.enqueue(**call)


def holds_for(*strategies: SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Make a property of a test that takes a `limiter`, and as many more arguments as these.

    It is tried on as many histories as the limiter says: those on a server take longer.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        fixtures = list(signature.parameters.values())[: -len(strategies)]

        @wraps(test)
        def holds(limiter: Limiter, **others: Any) -> None:
            tried = settings(max_examples=limiter.examples)(given(*strategies)(test))
            tried(limiter=limiter, **others)

        holds.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        holds.is_property = True  # type: ignore[attr-defined]
        return pytest.mark.contract(pytest.mark.ahead(holds))

    return decorate
