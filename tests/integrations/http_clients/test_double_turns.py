"""A request that takes two turns of its queue, as something around it holds a slot, too."""

import asyncio
from contextlib import nullcontext

import pytest
import requests
from anyio.from_thread import BlockingPortal

from aioapiqueue import ApiQueue, NestedSlotWarning
from aioapiqueue.integrations.requests import RateLimitedAdapter
from aioapiqueue.threads import blocking

pytestmark = pytest.mark.real


async def test_slot_around_a_request_warns(client, server):
    """Once: the client takes one for each request itself."""
    async with ApiQueue("1000/s") as queue, client(queue) as paced:

        async def both():
            async with queue.slot():
                return await paced.get(server.url())

        with pytest.warns(NestedSlotWarning, match="a slot is held around a request"):
            assert await both() == 200
        assert await both() == 200
        assert queue.stats.released == 4


async def test_reservation_around_a_request_warns(client, server):
    """However the task has got its slot."""
    async with ApiQueue("1000/s") as queue, client(queue) as paced:
        with await queue.enqueue(), pytest.warns(NestedSlotWarning):
            await paced.get(server.url())


async def test_request_inside_map_warns(client, server):
    """Once: each item takes two turns."""
    async with ApiQueue("1000/s") as queue, client(queue) as paced:

        async def get(path):
            return await paced.get(server.url(path))

        with pytest.warns(NestedSlotWarning, match="makes requests by a client") as caught:
            assert [one async for one in queue.map(get, ["/a", "/b", "/c"])] == [200] * 3
    assert len(caught) == 1


async def test_other_requests_are_quiet(client, server):
    """Those after a slot, in another task, of another queue, or of lanes of their own."""
    async with (
        ApiQueue("1000/s") as queue,
        client(queue) as paced,
        ApiQueue(lanes={"*": "1000/s"}) as by_host,
        client(by_host) as other,
    ):
        async with queue.slot():
            assert await other.get(server.url()) == 200
        assert await paced.get(server.url()) == 200
        async with by_host.slot(key="search"):
            assert await other.get(server.url()) == 200
        async with queue.slot():
            assert await asyncio.create_task(paced.get(server.url())) == 200
        async with queue.slot(cost=0):
            assert await paced.get(server.url()) == 200


async def test_a_request_during_an_answer_is_quiet(client, server, reply):
    """A client's own slot lasts until its answer has been read: the next request is another."""
    server.answer = lambda _: reply.of(200, [], b"x" * 1_000_000)
    async with (
        ApiQueue("1000/s") as queue,
        client(queue) as paced,
        paced.stream(server.url()) as chunks,
    ):
        assert await anext(chunks)
        assert queue.running == 1
        assert await paced.get(server.url()) == 200


@pytest.fixture
def get(server):
    """Make a request that blocks, within what `around` gives."""

    def run(queue, around):
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", RateLimitedAdapter(queue))
            with around():
                return session.get(server.url()).status_code

    return run


async def test_slot_around_a_blocking_request_warns(get):
    """The thread holds one while the client takes another."""
    gate = blocking(ApiQueue("1000/s"))
    with pytest.warns(NestedSlotWarning, match="a slot is held around a request"):
        assert await asyncio.to_thread(get, gate, gate.slot) == 200


async def test_blocking_request_inside_map_warns(get):
    """A thread of asyncio's knows which item it works for."""
    async with BlockingPortal() as portal, ApiQueue("1000/s") as queue:
        gate = blocking(queue, portal=portal)

        async def call(item):
            return await asyncio.to_thread(get, gate, nullcontext), item

        with pytest.warns(NestedSlotWarning, match="makes requests by a client"):
            assert len([one async for one in queue.map(call, range(3))]) == 3


async def test_slots_of_other_threads_are_quiet(get):
    """They are other calls."""
    gate = blocking(ApiQueue("1000/s"))
    assert await asyncio.to_thread(get, gate, nullcontext) == 200
    slot = await asyncio.to_thread(lambda: gate.slot().__enter__())
    assert await asyncio.to_thread(get, gate, nullcontext) == 200
    slot.release()
