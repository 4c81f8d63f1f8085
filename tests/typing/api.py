"""What type checkers make of the public API: checked by mypy, never run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, assert_type

import aiohttp
import httpx
import httpx2
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import Sentinel

import aioapiqueue
from aioapiqueue import (
    Adaptive,
    ApiQueue,
    ApiQueueError,
    Budget,
    BudgetUse,
    Calendar,
    Concurrency,
    Event,
    HostSchedule,
    LaneStats,
    Limit,
    LimiterView,
    LimitExceeded,
    LimitsError,
    Observer,
    QueueClosed,
    QueueFull,
    Ramp,
    Rate,
    Registry,
    ServiceLimits,
    SharedError,
    Slot,
    SlotTimeout,
    Stats,
    Window,
    WouldWait,
    __version__,
    rate_limited,
)
from aioapiqueue.integrations import httpx as for_httpx
from aioapiqueue.integrations import httpx2 as for_httpx2
from aioapiqueue.integrations.aiohttp import RateLimitedMiddleware
from aioapiqueue.integrations.logging import LoggingObserver
from aioapiqueue.integrations.opentelemetry import OpenTelemetryObserver
from aioapiqueue.integrations.prometheus import PrometheusObserver
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.registry import PacedCall
from aioapiqueue.testing import VirtualLoop
from aioapiqueue.threads import Blocking, BlockingSlot, blocking


class Recorder:
    """An observer by shape, not by inheritance."""

    def on_event(self, event: Event) -> None:
        """Use what an event has."""
        assert_type(event.kind == "released", bool)
        assert_type(event.at, float)
        assert_type(event.queue, str | None)
        assert_type(event.call, int | None)
        assert_type(event.duration, float | None)
        assert_type(event.limits, tuple[Limit, ...])
        if event.outcome is not None:
            assert_type(event.outcome == "ok", bool)
        event.at = 3  # type: ignore[misc]


class PerQueue:
    """One that has an observer for each queue."""

    def for_queue(self, queue: ApiQueue) -> Recorder:
        """Make it."""
        assert_type(queue.name, str | None)
        return Recorder()


observer: Observer = Recorder()
queue = ApiQueue(
    "100ms",
    Rate(10, burst=3),
    Window(5000, 3600),
    name="ec2",
    lanes={"a": "5/s", "b": ("5/s", Window(1, 1)), "*": Rate(20)},
    order="fair",
    concurrency=5,
    maxsize=10,
    overflow="drop_oldest",
    catch_up=0,
    adaptive=Adaptive("1/s", 0.7, recovery=30, concurrency=1),
    observers=[
        observer,
        Recorder(),
        PerQueue(),
        PrometheusObserver(),
        OpenTelemetryObserver(),
        LoggingObserver(calls=True),
    ],
)
shares: dict[str, int] = {"a": 3, "tenant:*": 2}
ApiQueue("1/s", order="fair", weights=shares)
ApiQueue("1/s", order="fair", weights={"a": 0.5, ("b", 1): 2}, weights_unit="calls")
ApiQueue("1/s", order="fair", weights={"a": "3"})  # type: ignore[dict-item]
ApiQueue("1/s", order="fair", weights={"a": 3}, weights_unit=3)  # type: ignore[arg-type]
ServiceLimits("1/s", order="fair", weights={"Describe*": 3})
by_host: dict[str, str] = {"example.com": "5/s"}
ApiQueue("1/s", lanes=by_host)
several: dict[str, list[str]] = {"example.com": ["5/s", "100/min"]}
ApiQueue("1/s", lanes=several)
by_number: dict[int, list[Rate]] = {1: [Rate(5)]}
ApiQueue("1/s", lanes=by_number)
numbers_as_limits: dict[str, int] = {"a": 5}
ApiQueue("1/s", lanes=numbers_as_limits)  # type: ignore[arg-type]
ApiQueue("1/s", adaptive=True)  # type: ignore[arg-type]
Adaptive(5)  # type: ignore[arg-type]

assert_type(__version__, str)
registry = Registry({"ec2": "10/s", "iam": ServiceLimits("5/s", scope=["account"])})
assert_type(registry.find_call("ec2", "RunInstances", region="eu-west-1"), PacedCall | None)
limits = ServiceLimits(["5/s"], lanes={"DescribeSnapshots": "5/s", "*": ["2/s"]})
ServiceLimits(limits.rate, lanes=limits.lanes, buckets=limits.buckets)
assert_type(Registry.load("limits.toml"), Registry)
assert_type(LimitsError("bad").problems, tuple[str, ...])
ApiQueue(100)  # type: ignore[arg-type]
ApiQueue("1/s", order="last")  # type: ignore[arg-type]
ApiQueue("1/s", overflow="drop")  # type: ignore[arg-type]
ApiQueue("1/s", observers=[object()])  # type: ignore[list-item]
ApiQueue("1/s", rate="5/s")  # type: ignore[arg-type]
ApiQueue("1/s").acquire()  # type: ignore[attr-defined]

assert_type(Rate.parse("10/s"), Rate)
assert_type(Rate(10).interval, float)
Rate(10).calls = 11  # type: ignore[misc]
Window("1", 1)  # type: ignore[arg-type]
assert_type(Calendar(1500, "day", "Asia/Kathmandu", unit="tokens").period(0), tuple[float, float])
Calendar(1500, "week")  # type: ignore[arg-type]
Concurrency("5")  # type: ignore[arg-type]
every_limit: list[Limit] = [
    Rate(1, unit="tokens"),
    Window(1, 1),
    Calendar(1, "day"),
    Concurrency(1),
]


async def slots() -> None:
    """Every way to a slot gives a `Slot`."""
    async with queue as same:
        assert_type(same, ApiQueue)
    async with queue.slot(key="a", priority=-1, cost=0.5, timeout=3) as slot:
        assert_type(slot, Slot)
        assert_type(slot.waited, float)
        assert_type(slot.cost, float)
        slot.throttled(1.5)
        slot.settle(3)
        slot.sync(3, unit="calls", reset=2.5, limit=10)
        assert_type(await slot.again(timeout=3), Slot)
    with await queue.enqueue() as slot:
        assert_type(slot, Slot)
    assert_type(queue.enqueue(key=("any", 1)), asyncio.Future[Slot])
    assert_type(await asyncio.wait_for(queue.enqueue(), 1), Slot)
    with queue.try_slot(cost=2) as slot:
        assert_type(slot, Slot)
    queue.slot("a")  # type: ignore[call-arg]
    queue.slot(key=["unhashable"])  # type: ignore[arg-type]


async def control() -> None:
    """The rest of a queue's methods and properties."""
    assert_type(queue.estimate(key="a"), float)
    assert_type(queue.eta, float)
    assert_type(queue.limits, tuple[Limit, ...])
    assert_type(queue.stats, Stats)
    assert_type(queue.stats.rate, float)
    queue.hold(5, key="a")
    queue.malformed()
    assert_type(queue.stats.longest_wait, float)
    assert_type((queue.waiting, queue.running), tuple[int, int])
    assert_type(queue.closed, bool)
    assert_type(queue.name, str | None)
    queue.set_rate("5/s", Window(1, 1), key="a")
    queue.throttled(5, key="a")
    queue.sync(3, unit="calls", reset=2.5, limit=10, key="a")
    queue.pause(3)
    queue.resume()
    await queue.aclose(drain=True, timeout=3)
    queue.stats.waiting = 3  # type: ignore[misc]


def errors(error: ApiQueueError) -> float | None:
    """Errors are told apart by class."""
    if isinstance(error, WouldWait):
        return assert_type(error.retry_in, float)
    timeout: TimeoutError = SlotTimeout()
    assert isinstance(timeout, SlotTimeout)
    family: list[type[ApiQueueError]] = [QueueClosed, QueueFull, SlotTimeout, WouldWait]
    assert family
    return None


@rate_limited(queue)
async def fetch(name: str, *, size: int = 0) -> bytes:
    """Keep its signature."""
    return name.encode() * size


@rate_limited(queue, key=lambda name: name, cost=len, priority=-1, timeout=30)
async def count(name: str) -> int:
    """Take functions of the arguments."""
    return len(name)


class Client:
    """Methods keep their binding."""

    @rate_limited(queue, key="constant", cost=2)
    async def get(self, name: str) -> list[str]:
        """Be a method."""
        return [name]


async def decorated() -> None:
    """A decorated function has the types of the plain one."""
    assert_type(await fetch("a", size=3), bytes)
    assert_type(await Client().get("a"), list[str])
    plain: Callable[[str], Coroutine[Any, Any, int]] = count
    assert_type(await plain("a"), int)
    await fetch(3)  # type: ignore[arg-type]
    await fetch("a", length=3)  # type: ignore[call-arg]
    await Client().get()  # type: ignore[call-arg]


@rate_limited(queue)  # type: ignore[arg-type]
def not_a_coroutine_function() -> int:
    """Be refused."""
    return 3


@rate_limited(blocking(queue), keys=("a", "b"), cost={"tokens": 5}, settle=lambda n: {"tokens": n})
def plain_count(name: str) -> int:
    """Be paced in threads."""
    return len(name)


def queue_of(name: str) -> ApiQueue:
    """Find a queue."""
    return ApiQueue(name=name)


def threads_queue_of(name: str) -> Blocking:
    """Find one for threads."""
    return blocking(queue_of(name))


@rate_limited(queue_of, keys=lambda name: (name, "all"), priority=len, timeout=lambda _: None)
async def found(name: str) -> int:
    """Find its queue by its argument."""
    return len(name)


@rate_limited(threads_queue_of)
def found_in_threads(name: str) -> int:
    """Find its queue for threads by its argument."""
    return len(name)


rate_limited("10/s")  # type: ignore[call-overload]
rate_limited(queue, keys="ab", cost=["tokens"])  # type: ignore[call-overload]


@rate_limited  # type: ignore[arg-type]
async def bare() -> int:
    """Be refused."""
    return 3


async def decorated_otherwise() -> None:
    """Whatever finds the queue, the types stay."""
    assert_type(plain_count("a"), int)
    assert_type(await found("a"), int)
    assert_type(found_in_threads("a"), int)
    plain_count(3)  # type: ignore[arg-type]
    await found(3)  # type: ignore[arg-type]


async def limiters() -> None:
    """A queue as a limiter."""
    view = queue.limiter(key="a", priority=1, unit="tokens")
    assert_type(view, LimiterView)
    async with view as slot:
        assert_type(slot, Slot)
    async with queue.limiter(keys=("a", "b")):
        pass
    await view.acquire(3)
    assert_type(view.has_capacity(), bool)


def figures() -> None:
    """Figures by lane and by unit."""
    assert_type(queue.stats.lanes["a"], LaneStats)
    assert_type(queue.stats.lanes["a"].costs["tokens"], float)
    assert_type(queue.stats.costs["tokens"], float)
    assert_type(queue.stats.lanes_in_memory, int)
    queue.stats.lanes["a"].waiting = 3  # type: ignore[misc]


async def budgets() -> None:
    """Budgets, limits that raise, ramps and weights."""
    budget: Limit = Budget(5, "usd")
    raising: list[Limit] = [
        Rate(10, on_empty="raise"),
        Window(10, 60, on_empty="raise"),
        Calendar(10, "day", on_empty="raise"),
        Concurrency(10, on_empty="raise"),
    ]
    ramped = Rate(1000, 60, ramp=Ramp(2, per=120, floor=Rate(50, 60)))
    assert_type(ramped.ramp, Ramp | None)
    shares = {"a": 3, "tenant:*": 0.5}
    fair = ApiQueue(budget, order="fair", weights=shares, weights_unit="usd")
    Rate(10, on_empty="wait for ever")  # type: ignore[arg-type]
    Budget(5, "usd", on_empty="wait")  # type: ignore[call-arg]
    ApiQueue(*raising, weights={"a": "much"})  # type: ignore[dict-item]
    try:
        async with fair.slot(key="a", cost={"usd": 0.5}) as slot:
            slot.settle({"usd": 0.25})
    except LimitExceeded as error:
        assert_type(error.limit, Limit)
        assert_type(error.remaining, float)
        assert_type(error.resets_in, float | None)
    use = fair.stats.budgets["5 usd in all"]
    assert_type(use, BudgetUse)
    assert_type(use.spent + use.reserved + use.left, float)
    assert_type(use.resets_at, float | None)
    assert_type(fair.stats.lanes["a"].budgets["1 usd in each day"].left, float)
    assert_type(fair.stats.overdrawn, int)
    assert_type(fair.stats.prices, str)


async def numbers() -> AsyncIterator[int]:
    """Be an async iterable."""
    yield 1


async def half(number: int) -> float:
    """Be mapped."""
    return number / 2


async def mapped() -> None:
    """Results have the type of the function's."""
    async for result in queue.map(half, range(3), concurrency=5, ordered=True):
        assert_type(result, float)
    assert_type(queue.map(half, numbers()), AsyncIterator[float])
    forgiving = queue.map(half, numbers(), return_exceptions=True)
    assert_type(forgiving, AsyncIterator[float | BaseException])
    either = queue.map(half, numbers(), return_exceptions=bool(os.getpid()))
    assert_type(either, AsyncIterator[float | BaseException])
    assert_type(queue.map(half, [1], return_exceptions=False), AsyncIterator[float])
    asked = queue.map(
        half, [1], key=lambda n: n + 1, cost=lambda n: {"tokens": n}, settle=lambda half: half + 1
    )
    assert_type(asked, AsyncIterator[float])
    queue.map(half, [1], keys=("a", 1), cost={"tokens": 3}, priority=-1, timeout=3)
    queue.map(half, [1], cost="a")  # type: ignore[call-overload]
    queue.map(half, ["a"])  # type: ignore[arg-type]
    queue.map(len, ["a"])  # type: ignore[arg-type]


with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    assert_type(runner.run(half(3)), float)


def edges() -> None:
    """Threads and HTTP clients."""
    with blocking(queue).slot(key="a", timeout=5) as slot:
        assert_type(slot, BlockingSlot)
        slot.settle({"tokens": 3})
        slot.throttled(3, key="a")
        slot.sync(3, unit="calls", reset=2.5, limit=10)
        with slot.again(timeout=3) as another:
            assert_type(another, BlockingSlot)
    with blocking(queue).try_slot(keys=("a", "b"), cost={"tokens": 3}) as slot:
        assert_type(slot, BlockingSlot)
    assert_type(blocking(queue).estimate(keys=("a",), cost=2), float)
    assert_type(blocking(queue).eta, float)
    assert_type(blocking(queue).call(os.getpid), int)
    assert_type(slot.cost, float)
    assert_type(slot.priority, float)
    blocking(queue).set_rate("5/s", Rate(5), key="a")
    blocking(queue).hold(3, key="a")
    blocking(queue).sync(3, unit="calls", reset=2.5, limit=10, key="a")
    one = for_httpx.RateLimitedTransport(queue, httpx.AsyncHTTPTransport(), key="route")
    two = for_httpx2.RateLimitedTransport(queue, httpx2.AsyncHTTPTransport(), key="route")
    httpx.AsyncClient(transport=one)
    httpx2.AsyncClient(transport=two)
    httpx.AsyncClient(transport=two)  # type: ignore[arg-type]
    httpx2.AsyncClient(transport=one)  # type: ignore[arg-type]
    for_httpx.RateLimitedTransport(queue, httpx2.AsyncHTTPTransport())  # type: ignore[arg-type]
    for_httpx2.RateLimitedTransport(queue, httpx.AsyncHTTPTransport())  # type: ignore[arg-type]
    for_httpx.RateLimitedTransport(queue, key="port")  # type: ignore[arg-type]
    aiohttp.ClientSession(middlewares=[RateLimitedMiddleware(queue, key=lambda r: r.url.host)])


def fleets(url: str) -> None:
    """Every client of redis-py's may carry a shared schedule."""
    ApiQueue("10/s", schedule=SharedSchedule(Redis.from_url(url), "ec2", fallback="1/s"))
    SharedSchedule(RedisCluster.from_url(url), "ec2", ahead=0.1, timeout=1, lease=30)
    sentinel = Sentinel([("localhost", 26379)])  # type: ignore[no-untyped-call]  # redis-py's
    SharedSchedule(sentinel.master_for("quota"), "ec2")
    ApiQueue("10/s", schedule=HostSchedule("crm", fallback="1/s"))
    HostSchedule("crm", "1/s")  # type: ignore[call-arg]
    ApiQueue("10/s", schedule="redis://")  # type: ignore[arg-type]
    SharedSchedule(url, "ec2")  # type: ignore[arg-type]
    assert_type(queue.stats.fault, str)
    if queue.stats.faults:
        raise SharedError


def lazy_names_have_types() -> None:
    """Names that are loaded at their first use are known, and others are not."""
    assert_type(aioapiqueue.Registry, type[Registry])
    aioapiqueue.Regstry  # type: ignore[attr-defined]  # noqa: B018 - looking it up is the test
