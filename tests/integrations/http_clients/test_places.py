"""However a request ends, its place in the queue is free again."""

import asyncio
import socket
import time

import pytest

from aioapiqueue import ApiQueue, QueueClosed, QueueFull, SlotTimeout

pytestmark = pytest.mark.real

CATCH_UP = 0.010  # seconds, a queue's default


@pytest.fixture
async def queue():
    """Let one request be under way at a time."""
    return ApiQueue(concurrency=1)


async def assert_free(queue, client, server, reply):
    """Check that nobody holds a place, and that the next request gets it."""
    assert queue.running == 0
    assert queue.waiting == 0
    server.answer = lambda _: reply.of()
    async with asyncio.timeout(60):
        assert await client.get(server.url("/next")) == 200
    assert queue.running == 0


async def test_each_request_waits_its_turn(every_client, server):
    """Requests made at once take an interval each, and each releases its slot."""
    async with ApiQueue("30ms", concurrency=3) as queue, every_client(queue) as paced:
        start = time.monotonic()
        await paced.get(server.url("/first"))
        await asyncio.gather(*(paced.get(server.url()) for _ in range(6)))
        assert queue.running == 0
    # One that is held up on its way arrives close to the next, but none is before its time.
    assert len(server.arrivals) == 7
    for number, arrival in enumerate(server.arrivals):
        assert arrival.at - start >= 0.030 * number - CATCH_UP


async def test_a_redirect_takes_a_slot(every_client, server, reply):
    """Each hop waits for a slot of its own, and none of them keeps it."""
    server.answer = lambda arrival: (
        reply.of()
        if arrival.path == "/3"
        else reply.of(302, [("Location", f"/{int(arrival.path[1:]) + 1}")])
    )
    async with ApiQueue("50ms", concurrency=1) as queue, every_client(queue) as paced:
        await paced.get(server.url("/3"))  # the first of a client takes longer
        start = time.monotonic()
        assert await paced.get(server.url("/0")) == 200
        assert queue.stats.released == 5
        assert queue.running == 0
    assert [arrival.path for arrival in server.arrivals] == ["/3", "/0", "/1", "/2", "/3"]
    assert server.arrivals[-1].at - start >= 0.15 - CATCH_UP


async def test_the_body_holds_the_slot(every_client, server, reply, queue):
    """While a body is streamed, another request waits; at its end, the slot is free."""
    server.answer = lambda _: reply.of(body=b"x", length=2)
    async with every_client(queue) as paced, asyncio.timeout(60):
        async with paced.stream(server.url()) as chunks:
            assert await anext(chunks) == b"x"
            other = asyncio.ensure_future(paced.get(server.url("/other")))
            await asyncio.sleep(0.05)
            assert (queue.running, queue.waiting) == (1, 1)
            server.answer = lambda _: reply.of()
            for connection in server.connections:
                connection.write(b"y")
            assert [chunk async for chunk in chunks] == [b"y"]
            assert await other == 200
        await assert_free(queue, paced, server, reply)


async def test_an_unread_body_is_released(every_client, server, reply, queue):
    """Leaving the block closes the response, and releases the slot."""
    server.answer = lambda _: reply.of(body=b"x", length=1_000_000)
    async with every_client(queue) as paced:
        async with paced.stream(server.url()):
            assert queue.running == 1
        await assert_free(queue, paced, server, reply)


async def test_cancelled_while_it_waits(client, server, reply, queue):
    """A request that is cancelled leaves the queue; the one in flight is not disturbed."""
    server.answer = lambda _: None
    async with client(queue) as paced:
        running = asyncio.ensure_future(paced.get(server.url()))
        await server.arrived(1)
        waiting = asyncio.ensure_future(paced.get(server.url()))
        await asyncio.sleep(0.02)
        assert queue.waiting == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (queue.running, queue.waiting) == (1, 0)
        running.cancel()
        await asyncio.wait([running])
        await assert_free(queue, paced, server, reply)
    assert len(server.arrivals) == 2


async def test_cancelled_between_release_and_resumption(client, server, queue):
    """A request that is cancelled then passes its slot to the one that waits next."""
    async with client(queue) as paced:
        async with queue.slot():
            first, second = (asyncio.ensure_future(paced.get(server.url())) for _ in range(2))
            await asyncio.sleep(0.02)
            assert queue.waiting == 2
        while queue.waiting == 2:  # noqa: ASYNC110 - one pass of the loop at a time
            await asyncio.sleep(0)
        assert (queue.running, len(server.arrivals)) == (1, 0)
        first.cancel()
        async with asyncio.timeout(60):
            assert await second == 200
        assert first.cancelled()
        assert len(server.arrivals) == 1
    assert queue.running == 0


async def test_cancelled_in_flight(client, server, reply, queue):
    """The server has the request and does not answer: cancelling it releases the slot."""
    server.answer = lambda _: None
    async with client(queue) as paced:
        request = asyncio.ensure_future(paced.get(server.url()))
        await server.arrived(1)
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        await assert_free(queue, paced, server, reply)


async def test_cancelled_while_the_body_is_read(client, server, reply, queue):
    """Half of the body has arrived: cancelling the request releases the slot."""
    server.answer = lambda _: reply.of(body=b"x", length=2)
    async with client(queue) as paced:
        request = asyncio.ensure_future(paced.get(server.url()))
        await server.arrived(1)
        await asyncio.sleep(0.05)
        assert queue.running == 1
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        await assert_free(queue, paced, server, reply)


async def test_a_refused_connection_releases_its_slot(every_client, server, reply, queue):
    """The error of the client reaches the caller, and nothing is held."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with every_client(queue) as paced:
        with pytest.raises(paced.errors):
            await paced.get(f"http://127.0.0.1:{port}/")
        assert queue.stats.released == 1
        await assert_free(queue, paced, server, reply)


@pytest.mark.parametrize("head", [False, True], ids=["no head", "half a body"])
async def test_a_read_timeout_releases_its_slot(every_client, server, reply, queue, head):
    """Whether it comes before the head of the response or within its body."""
    server.answer = lambda _: reply.of(body=b"x", length=2) if head else None
    async with every_client(queue, read_timeout=0.05) as paced, every_client(queue) as patient:
        with pytest.raises(paced.errors):
            await paced.get(server.url())
        await assert_free(queue, patient, server, reply)


@pytest.mark.parametrize("head", [False, True], ids=["no head", "half a body"])
async def test_a_broken_connection_releases_its_slot(every_client, server, reply, queue, head):
    """Whether it breaks before the head of the response or within its body."""
    server.answer = lambda _: reply.of(body=b"x", length=2) if head else None
    async with every_client(queue) as paced:
        request = asyncio.ensure_future(paced.get(server.url()))
        await server.arrived(1)
        await asyncio.sleep(0.02)
        server.answer = lambda _: b""  # for a client that tries again
        for connection in list(server.connections):
            connection.abort()
        with pytest.raises(paced.errors):
            await request
        await assert_free(queue, paced, server, reply)


async def test_what_is_not_http_is_released(every_client, server, reply, queue):
    """An answer that the client cannot parse is its error, and holds nothing."""
    server.answer = lambda _: b"\x00\x01 not HTTP\r\n\r\n"
    async with every_client(queue) as paced:
        with pytest.raises(paced.errors):
            await paced.get(server.url())
        await assert_free(queue, paced, server, reply)


async def test_errors_of_the_queue_are_raised(client, server, reply):
    """A full queue, too long a wait and a closed queue: the caller gets the queue's own error."""
    queue = ApiQueue(concurrency=1, maxsize=1)
    server.answer = lambda _: None
    async with client(queue, timeout=0.05) as impatient, client(queue) as patient:
        running = asyncio.ensure_future(patient.get(server.url()))
        await server.arrived(1)
        with pytest.raises(SlotTimeout):
            await impatient.get(server.url())
        waiting = asyncio.ensure_future(patient.get(server.url()))
        await asyncio.sleep(0.02)
        with pytest.raises(QueueFull):
            await patient.get(server.url())
        waiting.cancel()
        running.cancel()
        await asyncio.wait([waiting, running])
        await assert_free(queue, patient, server, reply)
        await queue.aclose()
        with pytest.raises(QueueClosed):
            await patient.get(server.url())
