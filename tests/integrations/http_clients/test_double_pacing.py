"""A request that takes two turns of its queue, as something around it holds a slot, too."""

import asyncio
from contextlib import nullcontext

import pytest
import requests
from anyio.from_thread import BlockingPortal

from aioapiqueue import ApiQueue, NestedSlotWarning
from aioapiqueue.integrations.requests import RateLimitedAdapter
from aioapiqueue.threads import blocking
from tests.helpers import http_clients, introspect

pytestmark = pytest.mark.real


async def test_slot_around_a_request_warns(client, server):
    """Once, at the second slot: the client takes one for each request itself."""
    async with ApiQueue("1000/s") as queue, client(queue) as paced:

        async def both():
            async with queue.slot():
                return await paced.get(server.url())

        assert await both() == 200
        with pytest.warns(NestedSlotWarning, match="a slot is held around a client") as caught:
            assert await both() == 200
        assert await both() == 200
        assert caught[0].filename == http_clients.__file__  # which calls it, and none of its own
        assert queue.stats.released == 6


async def test_requests_within_a_long_slot_are_quiet(client, server):
    """Such as that of a connection which is held open beside them."""
    async with ApiQueue("1000/s") as queue, client(queue) as paced, queue.slot():
        for _ in range(3):
            assert await paced.get(server.url()) == 200


async def test_slots_to_hand_over_are_quiet(client, server):
    """Those of `enqueue` and `try_slot`: another task may hold them."""
    async with ApiQueue("1000/s burst 9") as queue, client(queue) as paced:
        for _ in range(2):
            with await queue.enqueue(), queue.try_slot():
                assert await paced.get(server.url()) == 200


async def test_request_inside_map_warns(client, server):
    """Once: each item takes two turns."""
    async with ApiQueue("1000/s") as queue, client(queue) as paced:

        async def get(path):
            return await paced.get(server.url(path))

        with pytest.warns(NestedSlotWarning, match="sends requests through a client") as caught:
            assert [one async for one in queue.map(get, ["/a", "/b", "/c"])] == [200] * 3
    assert len(caught) == 1


async def test_other_requests_are_quiet(client, server):
    """Those after a slot, in another task, of another queue, or under no limit that counts both."""
    async with (
        ApiQueue("1000/s") as queue,
        client(queue) as paced,
        ApiQueue(lanes={"*": "1000/s"}) as by_host,
        client(by_host) as other,
        ApiQueue(lanes={"*": ()}) as unlimited,
        client(unlimited) as third,
    ):
        for _ in range(2):
            async with queue.slot():
                assert await other.get(server.url()) == 200
            assert await paced.get(server.url()) == 200
            async with by_host.slot(key="search"):
                assert await other.get(server.url()) == 200
            async with unlimited.slot(key="127.0.0.1"):
                assert await third.get(server.url()) == 200
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
    assert await asyncio.to_thread(get, gate, gate.slot) == 200
    with pytest.warns(NestedSlotWarning, match="a slot is held around a client"):
        assert await asyncio.to_thread(get, gate, gate.slot) == 200


async def test_blocking_request_inside_map_warns(get):
    """A thread of asyncio's knows which item it works for."""
    async with BlockingPortal() as portal, ApiQueue("1000/s") as queue:
        gate = blocking(queue, portal=portal)

        async def call(item):
            return await asyncio.to_thread(get, gate, nullcontext), item

        with pytest.warns(NestedSlotWarning, match="sends requests through a client"):
            assert len([one async for one in queue.map(call, range(3))]) == 3


async def test_slots_of_other_threads_are_quiet(get):
    """They are other calls."""
    gate = blocking(ApiQueue("1000/s burst 10"))  # `try_slot` does not wait for a millisecond
    assert await asyncio.to_thread(get, gate, nullcontext) == 200
    slot = await asyncio.to_thread(lambda: gate.slot().__enter__())
    for _ in range(2):
        assert await asyncio.to_thread(get, gate, nullcontext) == 200
    slot.release()
    for _ in range(2):
        with await asyncio.to_thread(gate.try_slot):  # it may be handed over
            assert await asyncio.to_thread(get, gate, nullcontext) == 200


async def test_watched_slots_of_threads_end(get):
    """One that a thread drops leaves the queue, though the queue has noted it."""
    gate, noted = blocking(ApiQueue("1000/s", "1 at once")), []

    def drop():
        slot = gate.slot()
        slot.join()
        noted.append(len(introspect.slots_noted(gate.queue)))
        del slot
        with gate.slot(timeout=5):
            pass

    assert await asyncio.to_thread(get, gate, nullcontext) == 200
    await asyncio.to_thread(drop)
    assert noted == [1]  # else this shows nothing
