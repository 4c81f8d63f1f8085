"""Calls of many tenants to a few endpoints, each of them with a limit of its own."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.spi import LocalLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue import Slot
    from aioapiqueue.spi import Host, seam

__all__ = ["CATCH_UP", "ENDPOINT", "TENANT", "Tenants"]

TENANT, ENDPOINT = 10, 2
"""Calls per second of each tenant, and of each endpoint."""
CATCH_UP = 0.010
"""Seconds of lateness that are made up for, as by default: a lane waits for the queue's next."""
BATCH = 100
"""Calls that join in one pass of the loop."""


@dataclass
class Tenants:
    """Calls that all join at once, in batches; each is over as soon as it starts.

    Args:
        tenants: how many.
        endpoints: how many.
        calls: how many in all, each of a random tenant to a random endpoint.
        rate: calls per second of the queue; None: no limit of its own.
    """

    tenants: int
    endpoints: int
    calls: int
    rate: float | None = None
    starts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The instants at which calls under each key started."""
    joining: float = 0.0
    """Seconds in which they joined."""
    scheduling: float = 0.0
    """Seconds in which it was found who starts, and charged; not in which the caller was told."""
    looks: int = 0
    """How often one was looked at."""
    waited: int = 0
    """How many did not start at once."""
    limiter: LocalLimiter | None = None
    """The limiter of their queue."""

    def __post_init__(self) -> None:
        rng = random.Random(1)  # noqa: S311 - the same ones every time
        self.keys = [
            (f"tenant:{rng.randrange(self.tenants)}", f"endpoint:{rng.randrange(self.endpoints)}")
            for _ in range(self.calls)
        ]

    def ideal(self) -> float:
        """Return when the last call starts at the earliest: the busiest limit is never idle."""
        busiest = Counter(endpoint for _, endpoint in self.keys).most_common(1)[0][1]
        of_queue = 0 if self.rate is None else (self.calls - 1) / self.rate
        return max((busiest - 1) / ENDPOINT, of_queue)

    async def run(self) -> float:
        """Let them all join; return when the last one started."""
        limits = [] if self.rate is None else [Rate(self.rate)]
        lanes = {"tenant:*": Rate(TENANT), "endpoint:*": Rate(ENDPOINT)}
        queue = ApiQueue(*limits, lanes=lanes, catch_up=CATCH_UP, schedule=self)
        calls: list[asyncio.Future[Slot]] = []
        for first in range(0, self.calls, BATCH):
            for keys in self.keys[first : first + BATCH]:
                begun = time.perf_counter()
                call = queue.enqueue(keys=keys)
                self.joining += time.perf_counter() - begun
                self.waited += not call.done()
                call.add_done_callback(functools.partial(self.start, keys))
                calls.append(call)
                if len(calls) == 1:
                    self.count_looks()  # now: a queue that begins on another loop starts over
            await asyncio.sleep(0)
        await asyncio.wait(calls)
        await asyncio.sleep(0)
        await queue.aclose()
        assert queue.stats.released == self.calls  # noqa: S101 - a simulation that checks itself
        return max(at[-1] for at in self.starts.values())

    def make_limiter(self, host: Host, settings: seam.LimitSettings) -> LocalLimiter:
        """Make the limiter that the queue would have by itself, with its time measured."""
        host.grant = self.timed_apart(host.grant)  # type: ignore[assignment]  # of this one
        limiter = self.limiter = LocalLimiter(host, settings)
        limiter.release_due = self.timed(limiter.release_due)  # type: ignore[method-assign]  # too
        return limiter

    def count_looks(self) -> None:
        """Count them from now on."""
        limiter: Any = self.limiter
        scheduler = limiter._scheduler  # noqa: SLF001 - it has no public name
        look_at = scheduler._look_at  # noqa: SLF001 - as above

        def looking(*args: object) -> object:
            self.looks += 1
            return look_at(*args)

        scheduler._look_at = looking  # noqa: SLF001 - as above

    def start(self, keys: tuple[str, str], call: asyncio.Future[Slot]) -> None:
        """Note that a call has started, and end it."""
        now = asyncio.get_running_loop().time()
        for key in keys:
            self.starts[key].append(now)
        call.result().release()

    def timed(self, release_due: Callable[..., float | None]) -> Callable[..., float | None]:
        """Return a function that does the same, and adds up the time that it takes."""

        def releasing(now: float, **how: float) -> float | None:
            begun = time.perf_counter()
            wake = release_due(now, **how)
            self.scheduling += time.perf_counter() - begun
            return wake

        return releasing

    def timed_apart(self, grant: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
        """Return a function that does the same, whose time does not count as scheduling."""

        def granting(call: Any, now: float) -> None:  # noqa: ANN401 - a call
            begun = time.perf_counter()
            grant(call, now)
            self.scheduling -= time.perf_counter() - begun

        return granting
