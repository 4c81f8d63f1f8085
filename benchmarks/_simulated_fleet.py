"""Many processes that share one quota: a simulation on virtual time, with a real server's script.

Each process is an `ApiQueue` with a connection and a clock of its own. What travels to the server
and back takes its time, and some of it is lost. One observer, on the true clock, notes when each
call starts.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import TimeoutError as TimedOut

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue import Rate, Slot, Window
    from aioapiqueue.spi import Call, Host, seam

    Limit = str | Rate | Window

__all__ = ["Fleet", "Seen", "most_in", "watch"]

_NANOSECOND = 1e-9
_AHEAD = 0.6  # seconds' worth of callers that wait: more than any process can be given at once


@dataclass(frozen=True)
class Fleet:
    """Who calls, and over what.

    Attributes:
        rate: calls per second that all may make together.
        processes: how many there are. Each has more callers than it gets slots.
        seconds: how long they are watched.
        settle: seconds before that, for first requests and estimates of the server's clock.
        latency: seconds each way, drawn evenly between both.
        loss: share of requests that are lost, and again of replies. Every other loss is noticed at
            once (the connection broke), the rest by the time-out of a second.
        apart: seconds between the clocks that are furthest apart.
        drift: how much faster or slower than the server's they go, at most: 1e-4 is 100 ppm.
        limits: of the queue; default: the rate.
    """

    rate: float
    processes: int = 100
    seconds: float = 10.0
    settle: float = 3.0
    latency: tuple[float, float] = (0.001, 0.050)
    loss: float = 0.01
    apart: float = 30.0
    drift: float = 0.0
    limits: tuple[Limit, ...] = ()


@dataclass
class Seen:
    """What the observer noted.

    Attributes:
        starts: when calls started.
        instants: for when the server had granted them, call by call, on the same clock.
        each: how many of them each process made.
        round_trips: of all processes.
        faults: those of them that failed.
    """

    starts: list[float] = field(default_factory=list)
    instants: list[float] = field(default_factory=list)
    each: list[int] = field(default_factory=list)
    round_trips: int = 0
    faults: int = 0

    @property
    def late(self) -> list[float]:
        """By how many seconds each call started after its instant."""
        return [start - due for start, due in zip(self.starts, self.instants, strict=True)]


class _Elsewhere:
    """The schedule of a process on a host with a clock of its own, which is not the loop's.

    Between a dispatcher and its limiter it translates the instants of both.

    Args:
        schedule: of that process.
        apart: seconds by which its clock is ahead at the loop's zero.
        drift: how much faster it goes.
    """

    def __init__(self, schedule: SharedSchedule, *, apart: float, drift: float) -> None:
        self._schedule = schedule
        self._apart = apart
        self._pace = 1 + drift

    def make_limiter(self, host: Host, settings: seam.LimitSettings) -> seam.Limiter:
        there = _There(host, self)
        limiter = self._schedule.make_limiter(cast("Host", there), settings)
        return cast("seam.Limiter", _Here(limiter, self))

    def there(self, instant: float) -> float:
        """Return an instant of the loop on that clock."""
        return instant * self._pace + self._apart

    def here(self, instant: float) -> float:
        """Return an instant of that clock on the loop's."""
        # By rounding, the loop's clock might stand just before the instant when the timer runs.
        return (instant - self._apart) / self._pace + _NANOSECOND


class _LoopThere:
    """The loop of a host, as the limiter sees it: with another clock."""

    def __init__(self, host: Host, clocks: _Elsewhere) -> None:
        self._host = host
        self._clocks = clocks

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the loop has
        return getattr(self._host.loop, name)

    def now(self) -> float:
        return self._clocks.there(self._host.loop.now())


class _There:
    """A host, as the limiter sees it."""

    def __init__(self, host: Host, clocks: _Elsewhere) -> None:
        self._host = host
        self.loop = _LoopThere(host, clocks)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the host has
        return getattr(self._host, name)

    def grant(self, call: Call, _now: float) -> None:
        self._host.grant(call, self._host.loop.now())


class _Here:
    """A limiter, as the host sees it."""

    def __init__(self, limiter: seam.Limiter, clocks: _Elsewhere) -> None:
        self._limiter = limiter
        self._clocks = clocks

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the limiter has
        return getattr(self._limiter, name)

    def try_acquire(self, call: Call, now: float) -> bool:
        return self._limiter.try_acquire(call, self._clocks.there(now))

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:
        there = self._clocks.there
        wake = self._limiter.release_due(there(now), planned=there(planned))
        return None if wake is None else self._clocks.here(wake)


class _Patient:
    """A connection that does not notice every other loss."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - tests have no types
        self._client = client

    async def evalsha(self, *arguments: Any) -> Any:  # noqa: ANN401 - as redis-py has it
        return await self._noticed("evalsha", *arguments)

    async def eval(self, *arguments: Any) -> Any:  # noqa: ANN401 - as redis-py has it
        return await self._noticed("eval", *arguments)

    async def _noticed(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401 - as above
        try:
            return await getattr(self._client, method)(*arguments)
        except TimedOut:
            return await asyncio.get_running_loop().create_future()


async def watch(fleet: Fleet, new_client: Callable[..., Any], name: str) -> Seen:
    """Let a fleet call on the running VirtualLoop, and watch it.

    Args:
        fleet: who.
        new_client: makes the client of a process: `functools.partial(VirtualClient, server)`.
        name: of the quota.
    """
    loop = asyncio.get_running_loop()
    seen = Seen(each=[0] * fleet.processes)
    clocks = random.Random(0)  # noqa: S311 - seeded, so that a run can be repeated
    begin, end = fleet.settle, fleet.settle + fleet.seconds
    clients = [
        new_client(latency=fleet.latency, loss=fleet.loss, seed=number)
        for number in range(fleet.processes)
    ]
    queues = [
        ApiQueue(
            *(fleet.limits or [f"{fleet.rate:g}/s"]),
            schedule=_Elsewhere(
                SharedSchedule(_Patient(client), name),
                apart=clocks.uniform(0, fleet.apart),
                drift=clocks.uniform(-fleet.drift, fleet.drift),
            ),
        )
        for client in clients
    ]
    zero = clients[0].now() - round(loop.time() * 1e6)

    def call(number: int) -> None:
        queues[number].enqueue().add_done_callback(partial(start, number))

    def start(number: int, future: asyncio.Future[Slot]) -> None:
        if future.exception() is not None:
            return  # the queue is closed: this is the end
        with future.result() as slot:
            now = loop.time()
            lease = cast("Any", slot).lease
            if lease is not None and begin <= now < end:
                seen.starts.append(now)
                seen.instants.append((lease.timestamp - zero) / 1e6)
                seen.each[number] += 1
        call(number)

    waiting = 2 + math.ceil(_AHEAD * fleet.rate / fleet.processes)
    for number in range(fleet.processes):
        for _ in range(waiting):
            call(number)
    await asyncio.sleep(begin)
    before = [queue.stats for queue in queues]
    await asyncio.sleep(fleet.seconds)
    for queue, first in zip(queues, before, strict=True):
        seen.round_trips += queue.stats.asks - first.asks
        seen.faults += queue.stats.faults - first.faults
    await asyncio.gather(*(queue.aclose(drain=False) for queue in queues))
    return seen


def most_in(instants: Sequence[float], seconds: float) -> int:
    """Return the most of these that any window of so many seconds holds (its end left out)."""
    ordered = sorted(instants)
    most = first = 0
    for number, instant in enumerate(ordered, 1):
        while ordered[first] <= instant - seconds + _NANOSECOND:
            first += 1
        most = max(most, number - first)
    return most
