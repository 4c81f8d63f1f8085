"""The limiters that are measured side by side, each in the mode that fits a case best.

Each class writes what a case asks for as one library has it; `mode` says how. A process imports one
of them only, when it makes a limiter.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from _contenders import entering, ours

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from _contenders import Worker

    Acquire = Callable[[], Awaitable[object]]
    """Waits for a turn."""
    Block = Callable[[], object]
    """Waits for a turn in a thread."""
    Two = Callable[[int], Awaitable[object]]
    """Waits for one request and so many tokens."""
    Lane = Callable[[str], Awaitable[object]]
    """Waits for a turn of a key."""

__all__ = [
    "FREE",
    "NEVER",
    "NOMINAL",
    "NO_WEIGHTS",
    "Aiolimiter",
    "AsyncioThrottle",
    "Asynciolimiter",
    "Entered",
    "Leaky",
    "LimiterPeer",
    "Ours",
    "Peer",
    "Strict",
    "Throttler",
    "per",
]

FREE = 1e9
"""A rate at which nobody waits."""
NOMINAL = 1e6
"""A rate that is more than a loop can do."""
NEVER = 1 / 3600
"""A rate at which everybody waits."""
ASYNCIO_ONLY = "asyncio only"
NO_WEIGHTS = "no call can cost more than another"


class Peer:
    """A library, and how it is used."""

    distribution: ClassVar[str]
    """Its name on PyPI."""
    modules: ClassVar[tuple[str, ...]]
    """What is imported of it, before anything is measured."""
    mode: ClassVar[str]
    """How it is used."""
    settles: ClassVar[float] = 0.0
    """Seconds after which it keeps to its rate, if that is not at once."""
    by: ClassVar[Literal["tasks", "threads", "itself"]] = "tasks"
    """What makes calls: tasks or threads that wait, or the library, which takes a function."""
    python: ClassVar[tuple[int, int]] = (3, 11)
    """The first Python that it is for."""
    absent: ClassVar[Mapping[str, str]] = {}
    """Cases that it is not for, and why."""

    def bursts(self, rate: float, burst: int) -> int:
        """Return how many calls start at once where `burst` were asked for."""
        return burst

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Return what waits for a turn, where `burst` calls may start at once."""
        raise NotImplementedError

    def worker(self, rate: float, burst: int) -> Worker:
        """Return what makes calls one after the other, with nothing around a turn."""
        acquire = self.acquire(rate, burst)

        async def worker(calls: int) -> None:
            for _ in range(calls):
                await acquire()

        return worker

    def as_written(self, rate: int) -> Acquire:
        """Return the same as `acquire`, in the way of its documentation."""
        return self.acquire(rate, rate)

    def block(self, rate: float, burst: int) -> Block:
        """Return what waits for a turn in a thread."""
        raise NotImplementedError

    def shared(self, url: str, rate: float, burst: int) -> Acquire:
        """Return what waits for a turn of all processes that name the same Redis or Valkey."""
        raise NotImplementedError

    def why_not(self, case: str) -> str | None:
        """Return why a case is not for it; None: it is."""
        if case == "processes" and type(self).shared is Peer.shared:
            return "for one process"
        return self.absent.get(case)

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Return what waits for a request and for tokens, of which a second's may go at once."""
        raise NotImplementedError

    def lane(self, rate: int) -> Lane:
        """Return what waits for a key's turn: by a limiter for each, if a library has no keys."""
        made: dict[str, Acquire] = {}

        async def acquire(key: str) -> None:
            if (one := made.get(key)) is None:
                one = made[key] = self.acquire(rate, 1)
            await one()

        return acquire

    async def each(self, rate: float, call: Callable[[], None], count: int) -> None:
        """Make so many calls itself, where no caller can wait."""
        raise NotImplementedError


class Entered(Peer):
    """A library that is used as a context manager."""

    def manager(self, rate: float, burst: int) -> AbstractAsyncContextManager[object]:
        """Return what is entered."""
        raise NotImplementedError

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Enter and leave it."""
        manager = self.manager(rate, burst)

        async def acquire() -> None:
            async with manager:
                pass

        return acquire

    def worker(self, rate: float, burst: int) -> Worker:
        """Enter and leave it, one time after the other."""
        return entering(self.manager(rate, burst))


def per(rate: float) -> tuple[int, int]:
    """Return a rate as a whole number of calls in a whole number of seconds."""
    return (round(rate), 1) if rate >= 1 else (1, round(1 / rate))


class Ours(Peer):
    """The limiter of this project."""

    distribution = "aioapiqueue"
    modules = ("aioapiqueue", "aioapiqueue.threads")
    mode = "ApiQueue(Rate(r)), async with slot(); catches up 10 ms, as by default"

    def bursts(self, rate: float, burst: int) -> int:
        """Return 1: evenly spaced, late calls are made up for."""
        return 1

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Enter a slot of a queue."""
        from aioapiqueue import ApiQueue, Rate

        queue = ApiQueue(Rate(rate))

        async def acquire() -> None:
            async with queue.slot():
                pass

        return acquire

    def worker(self, rate: float, burst: int) -> Worker:
        """Enter slots, one after the other."""
        from aioapiqueue import ApiQueue, Rate

        return ours(ApiQueue(Rate(rate)))

    def block(self, rate: float, burst: int) -> Block:
        """Share a queue with threads."""
        from aioapiqueue import ApiQueue, Rate
        from aioapiqueue.threads import blocking

        queue = blocking(ApiQueue(Rate(rate)))

        def acquire() -> None:
            with queue.slot():
                pass

        return acquire

    def shared(self, url: str, rate: float, burst: int) -> Acquire:
        """Keep the queue's limit on a server."""
        from redis.asyncio import Redis

        from aioapiqueue import ApiQueue, Rate
        from aioapiqueue.integrations.redis import SharedSchedule

        queue = ApiQueue(Rate(rate), schedule=SharedSchedule(Redis.from_url(url), "peers"))

        async def acquire() -> None:
            async with queue.slot():
                pass

        return acquire

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Charge both limits at one instant."""
        from aioapiqueue import ApiQueue, Rate

        queue = ApiQueue(Rate(requests, burst=burst), Rate(tokens, burst=tokens, unit="tokens"))

        async def acquire(cost: int) -> None:
            async with queue.slot(cost={"tokens": cost}):
                pass

        return acquire

    def lane(self, rate: int) -> Lane:
        """Give every key a lane of its own."""
        from aioapiqueue import ApiQueue, Rate

        queue = ApiQueue(lanes={"*": Rate(rate)})

        async def acquire(key: str) -> None:
            async with queue.slot(key=key):
                pass

        return acquire


class Aiolimiter(Entered):
    """A leaky bucket."""

    distribution = "aiolimiter"
    modules = ("aiolimiter",)
    mode = "AsyncLimiter(b, b / r), async with"
    absent: ClassVar = {"threads": ASYNCIO_ONLY}

    def manager(self, rate: float, burst: int) -> AbstractAsyncContextManager[object]:
        """Make one."""
        from aiolimiter import AsyncLimiter

        return AsyncLimiter(burst, burst / rate)

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Nest two of them."""
        from aiolimiter import AsyncLimiter

        calls, amounts = AsyncLimiter(burst, burst / requests), AsyncLimiter(tokens, 1)

        async def acquire(cost: int) -> None:
            async with calls:
                await amounts.acquire(cost)

        return acquire


class Asynciolimiter(Peer):
    """Its Limiter, which makes up for late calls."""

    distribution = "asynciolimiter"
    modules = ("asynciolimiter",)
    mode = "Limiter(r, max_burst=b), wait(); max_burst is 5 at least, its default"
    absent: ClassVar = {"threads": ASYNCIO_ONLY, "two": NO_WEIGHTS}

    def bursts(self, rate: float, burst: int) -> int:
        """Return 1: only late calls are made up for."""
        return 1

    def as_written(self, rate: int) -> Acquire:
        """Write the rate, and leave max_burst as it is."""
        return self.acquire(rate, 1)

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Wait for it."""
        from asynciolimiter import Limiter

        return Limiter(rate, max_burst=max(5, burst)).wait


class Strict(Asynciolimiter):
    """Its StrictLimiter, which makes up for nothing."""

    mode = "StrictLimiter(r), wait()"

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Wait for it."""
        from asynciolimiter import StrictLimiter

        return StrictLimiter(rate).wait


class Leaky(Asynciolimiter):
    """Its LeakyBucketLimiter, which has a burst."""

    mode = "LeakyBucketLimiter(r, capacity=b), wait(); as written: capacity 10, its default"

    def bursts(self, rate: float, burst: int) -> int:
        """Return the capacity."""
        return burst

    def as_written(self, rate: int) -> Acquire:
        """Leave the capacity as it is, 10."""
        return self.acquire(rate, 10)

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Wait for it."""
        from asynciolimiter import LeakyBucketLimiter

        return LeakyBucketLimiter(rate, capacity=burst).wait


class Throttler(Entered):
    """A log of the last calls."""

    distribution = "throttler"
    modules = ("throttler",)
    mode = "Throttler(b, b / r), async with"
    absent: ClassVar = {"threads": ASYNCIO_ONLY, "two": NO_WEIGHTS}

    def manager(self, rate: float, burst: int) -> AbstractAsyncContextManager[object]:
        """Make one."""
        from throttler import Throttler as Limiter

        return cast("AbstractAsyncContextManager[object]", Limiter(burst, burst / rate))


class AsyncioThrottle(Entered):
    """A log of the last calls, asked again and again."""

    distribution = "asyncio-throttle"
    modules = ("asyncio_throttle",)
    mode = "Throttler(b, b / r), async with; asks each tenth of an interval, 1 to 10 ms"
    absent: ClassVar = {"threads": ASYNCIO_ONLY, "two": NO_WEIGHTS}

    def manager(self, rate: float, burst: int) -> AbstractAsyncContextManager[object]:
        """Make one."""
        from asyncio_throttle.throttler import Throttler as Limiter

        often = min(0.01, max(0.001, 0.1 / rate))
        return Limiter(burst, burst / rate, retry_interval=often)


class LimiterPeer(Entered):
    """A token bucket."""

    distribution = "limiter"
    modules = ("limiter",)
    mode = "Limiter(rate=r, capacity=b), async with; as written: capacity 3, its default"

    def manager(self, rate: float, burst: int) -> AbstractAsyncContextManager[object]:
        """Make one."""
        from limiter import Limiter

        return cast("AbstractAsyncContextManager[object]", Limiter(rate=rate, capacity=burst))

    def as_written(self, rate: int) -> Acquire:
        """Leave the capacity as it is, 3."""
        return self.acquire(rate, 3)

    def block(self, rate: float, burst: int) -> Block:
        """Enter it in a thread."""
        from limiter import Limiter

        limiter = Limiter(rate=rate, capacity=burst)

        def acquire() -> None:
            with limiter:
                pass

        return acquire

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Nest two of them."""
        from limiter import Limiter

        calls, amounts = (
            Limiter(rate=requests, capacity=burst),
            Limiter(rate=tokens, capacity=tokens),
        )

        priced = functools.cache(amounts)  # making one takes long

        async def acquire(cost: int) -> None:
            async with calls, priced(cost):
                pass

        return acquire
