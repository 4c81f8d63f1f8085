"""Under trio, whatever waits says that it takes an event loop of asyncio, and what to write."""

import httpx
import httpx2
import pytest

from aioapiqueue import ApiQueue, rate_limited
from aioapiqueue.integrations import httpx as paced_httpx
from aioapiqueue.integrations import httpx2 as paced_httpx2
from tests.helpers.lazily import lazily

trio = lazily("trio")

pytestmark = pytest.mark.real


async def take_slot(queue):
    """Wait for a slot."""
    async with queue.slot():
        pass


async def enter(queue):
    """Use a queue for its whole life."""
    async with queue:
        pass


async def enqueue(queue):
    """Join the queue."""
    await queue.enqueue()


async def map_items(queue):
    """Map a function."""

    async def call(item):
        return item

    async for _ in queue.map(call, [1]):
        pass


async def use_limiter(queue):
    """Use a limiter."""
    async with queue.limiter():
        pass


async def call_decorated(queue):
    """Call a decorated function."""

    @rate_limited(queue)
    async def call():
        pass

    await call()


async def send_by_httpx(queue):
    """Send a request by httpx, which runs on trio."""
    async with httpx.AsyncClient(transport=paced_httpx.RateLimitedTransport(queue)) as client:
        await client.get("http://127.0.0.1:1/")


async def send_by_httpx2(queue):
    """Send a request by httpx2, which runs on trio."""
    async with httpx2.AsyncClient(transport=paced_httpx2.RateLimitedTransport(queue)) as client:
        await client.get("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    "use",
    [
        take_slot,
        enter,
        enqueue,
        map_items,
        use_limiter,
        call_decorated,
        send_by_httpx,
        send_by_httpx2,
    ],
)
def test_trio_is_told_what_to_do(use):
    """Each way into a queue names trio and `blocking`; nothing waits or runs afterwards."""
    queue = ApiQueue("10/s")
    with pytest.raises(RuntimeError, match=r"asyncio .*\(trio has its own\): .*blocking\(queue\)"):
        trio.run(use, queue)
    assert (queue.waiting, queue.running) == (0, 0)


def test_blocking_slots_work_under_trio():
    """What the message names works: a thread of trio takes a blocking slot."""
    from aioapiqueue.threads import blocking

    queue = blocking(ApiQueue("10/s"))

    def call():
        with queue.slot():
            return "called"

    assert trio.run(trio.to_thread.run_sync, call) == "called"
