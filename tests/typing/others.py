"""What type checkers make of the rest of the public API: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Hashable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, assert_type

from aioapiqueue import (
    Adaptive,
    ApiQueue,
    Concurrency,
    HostSchedule,
    LimitsError,
    Rate,
    Registry,
    ServiceLimits,
    Slot,
    Window,
    exceptions,
    rate_limited,
)
from aioapiqueue.integrations import aiobotocore, botocore
from aioapiqueue.integrations.langchain import QueueRateLimiter as ForLangChain
from aioapiqueue.integrations.llama_index import QueueRateLimiter as ForLlamaIndex
from aioapiqueue.integrations.pydantic_ai import QueueConcurrencyLimiter
from aioapiqueue.integrations.report import ReportObserver
from aioapiqueue.integrations.telegram import QueueRateLimiter as ForTelegram
from aioapiqueue.registry import PacedCall, QueueKey
from aioapiqueue.testing import VirtualLoop
from aioapiqueue.threads import Blocking, BlockingSlot, blocking

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

queue = ApiQueue("10/s")


class Client:
    """Whatever kind of method is paced, it is called as before."""

    def __init__(self) -> None:
        self.queue = ApiQueue("10/s")

    @rate_limited(lambda self, _: self.queue, key=lambda _, name: name)
    async def get(self, name: str) -> bytes:
        """Be paced by the queue of the object."""
        return name.encode()

    @staticmethod
    @rate_limited(queue)
    async def ping(times: int) -> list[int]:
        """Have no object."""
        return [times]

    @classmethod
    @rate_limited(queue, timeout=5)
    async def make(cls, name: str) -> Client:
        """Have the class."""
        return cls() if name else Client()

    @rate_limited(blocking(queue))
    def wait(self, name: str, *, again: bool = False) -> int:
        """Block."""
        return len(name) + again


@rate_limited(queue)  # type: ignore[arg-type]
async def pages() -> AsyncIterator[int]:
    """Be refused: which of its steps is the call?"""
    yield 1


async def methods() -> None:
    """Methods keep their types, bound or not."""
    client = await Client.make("a")
    assert_type(client, Client)
    assert_type(await client.get("a"), bytes)
    assert_type(await Client.get(client, "a"), bytes)
    assert_type(await Client.ping(3), list[int])
    assert_type(await client.ping(3), list[int])
    assert_type(client.wait("a", again=True), int)
    bound: Callable[[str], Coroutine[Any, Any, bytes]] = client.get
    assert_type(await bound("a"), bytes)
    await client.get(3)  # type: ignore[arg-type]
    await Client.make()  # type: ignore[call-arg]
    client.wait("a", times=3)  # type: ignore[call-arg]


async def slots() -> None:
    """A slot that is held, tried and settled."""
    with queue.try_slot(keys=("a", 1), cost={"tokens": 3}, priority=1) as slot:
        assert_type(slot.key, Hashable)
        slot.settle({"tokens": 2})
        slot.throttled()
        slot.release()
    queue.try_slot(timeout=3)  # type: ignore[call-arg]
    queue.slot(timeout=timedelta(seconds=3))  # type: ignore[arg-type]
    queue.slot(cost={3: 3})  # type: ignore[dict-item]
    async with queue.slot(keys=["a"]) as other:
        same: Slot = other
        assert_type(same.waited, float)


def in_threads(through: Blocking) -> None:
    """What blocks."""
    assert_type(through.queue, ApiQueue)
    through.pause(3)
    through.resume()
    through.throttled(3, key="a")
    through.malformed(key="a")
    through.close(drain=False, timeout=3)
    with through.slot(keys=("a",), cost=2, priority=1) as slot:
        assert_type(slot, BlockingSlot)
        assert_type(slot.waited, float)
    through.slot("a")  # type: ignore[call-arg]
    blocking("10/s")  # type: ignore[arg-type]


async def registries(registry: Registry) -> None:
    """Which limits a call comes under."""
    call = registry.find_call("ec2", "DescribeVolumes", parameters={"Filters": 1})
    assert_type(call, PacedCall | None)
    if call is not None:
        assert_type(call.queue, ApiQueue)
        assert_type(call.keys, tuple[str, ...])
    assert_type(registry.find_request("GET", "https://api.example.com/things"), PacedCall | None)
    assert_type(registry.queues, Mapping[QueueKey, ApiQueue])
    assert_type(registry.services, Mapping[str, ServiceLimits])
    assert_type(registry.hosts, Mapping[str, Sequence[str]])
    assert_type(registry.default, ServiceLimits | None)
    assert_type(Registry.from_options(["ec2=10/s"], adaptive=True), Registry)
    assert_type(Registry.parse("", preset="aws", share="50%"), Registry)
    async with registry as same:
        assert_type(same, Registry)
    await registry.aclose(drain=False, timeout=3)
    Registry({"ec2": 10})  # type: ignore[dict-item]
    ServiceLimits("5/s", scope=["host"])  # type: ignore[list-item]


def limits() -> None:
    """Limits are values."""
    assert_type(Window(5, 60).per, float)
    assert_type(Concurrency(5).number, int)
    assert_type(Rate(5, unit="tokens").unit, str)
    assert_type(Adaptive(backoff=0.5).recovery, float)
    assert_type({Rate(5): 1}, dict[Rate, int])
    Concurrency(5).number = 6  # type: ignore[misc]
    Rate("5")  # type: ignore[arg-type]
    HostSchedule(5)  # type: ignore[arg-type]


def errors(error: Exception) -> float | tuple[str, ...] | None:
    """All are found in one place, and have what they say."""
    if isinstance(error, exceptions.WouldWait):
        return assert_type(error.retry_in, float)
    if isinstance(error, LimitsError):
        family: list[type[ValueError]] = [LimitsError]
        assert family
        return assert_type(error.problems, tuple[str, ...])
    return None


class Ec2(Protocol):
    """What stubs of clients have."""

    def describe_regions(self) -> dict[str, object]:
        """Call."""
        ...


def of_boto3(client: Ec2, session: Any) -> Iterator[Ec2]:
    """A paced client has the type of the plain one."""
    with botocore.paced(client, queue, max_hold=5) as ec2:
        assert_type(ec2, Ec2)
        yield ec2
    botocore.paced(client, "10/s")  # type: ignore[arg-type]
    botocore.pace_session(session, {"ec2": queue, "iam": blocking(queue)})
    botocore.pace_session(session, Registry.load("limits.toml"))


async def of_aiobotocore(creating: AbstractAsyncContextManager[Ec2], session: Any) -> None:
    """So has one of aiobotocore."""
    async with aiobotocore.paced(creating, queue) as ec2:
        assert_type(ec2, Ec2)
    aiobotocore.paced(creating, blocking(queue))  # type: ignore[arg-type]
    aiobotocore.pace_session(session, Registry.load("limits.toml"))


async def adapters() -> None:
    """Limiters of other libraries."""
    assert_type(await ForLangChain(queue, key="model").aacquire(), bool)
    await ForLlamaIndex(queue, keys=("a", "b")).async_acquire(5)
    await QueueConcurrencyLimiter(queue, priority=1).acquire("agent")
    ForTelegram(queue, max_retries=3)
    ForLangChain("10/s")  # type: ignore[arg-type]
    ForTelegram(queue, retries=3)  # type: ignore[call-arg]


def reports(path: str) -> None:
    """A report of queues."""
    report = ReportObserver(queue, title="Scan")
    ApiQueue("10/s", observers=[report])
    assert_type(report.html(show_accounts=True), str)
    assert_type(report.as_json(), dict[str, Any])
    report.write(path)


def virtual() -> None:
    """The loop for tests."""
    loop = VirtualLoop(grain=0.001)
    assert_type(loop.pending_timers, int)
    assert_type(loop.time(), float)
    loop.stall(3)
    loop.close()
