"""What is peculiar to the middleware of aiohttp."""

import asyncio
import gc
import subprocess
import sys
import threading
import time

import aiohttp
import aiohttp.web
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.aiohttp import RateLimitedMiddleware

pytestmark = pytest.mark.real


def session(queue, *others, **how):
    """Make a session that `queue` paces, and in which nothing waits for ever."""
    how.setdefault("timeout", aiohttp.ClientTimeout(total=60))
    return aiohttp.ClientSession(middlewares=[*others, RateLimitedMiddleware(queue)], **how)


async def test_a_forgotten_complete_response_holds_nothing(server, reply):
    """The slot is free once all of the body has arrived, even if nobody reads it."""
    server.answer = lambda _: reply.of(body=b"x", length=2)
    queue = ApiQueue(concurrency=1)
    async with session(queue) as client:
        await client.get(server.url())
        assert queue.running == 1
        for connection in server.connections:
            connection.write(b"y")
        async with asyncio.timeout(60), queue.slot():
            pass
        assert queue.running == 0


@pytest.mark.usefixtures("young_garbage")
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # rightly so
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
async def test_a_forgotten_response_of_broken_connection(server, reply, elsewhere):
    """Until it breaks, aiohttp keeps it alive; then it is collected, maybe by another thread."""
    server.answer = lambda _: reply.of(body=b"x", length=2)
    queue = ApiQueue(concurrency=1)
    async with session(queue) as client:
        gc.disable()  # so that it is collected where this test wants it
        try:
            response = await client.get(server.url())
            for connection in list(server.connections):
                connection.abort()
            while response.content.exception() is None:  # noqa: ASYNC110 - aiohttp tells nobody
                await asyncio.sleep(0.01)
            waiting = queue.enqueue()
            assert (queue.running, queue.waiting) == (1, 1)
            held = [response]
            del response
            if elsewhere:
                thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
                thread.start()
                thread.join()
            else:
                held.clear()
                gc.collect()
        finally:
            gc.enable()
        async with asyncio.timeout(60):
            with await waiting:
                pass
        assert queue.running == 0


@pytest.mark.usefixtures("young_garbage")
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # rightly so
async def test_a_forgotten_response_of_closed_session(server, reply):
    """Closing the session closes its connections, and the slots are free."""
    server.answer = lambda _: reply.of(body=b"x" * 500_000, length=1_000_000)
    queue = ApiQueue(concurrency=1)
    async with session(queue) as client:
        await client.get(server.url())
        assert queue.running == 1
    async with asyncio.timeout(60):
        while queue.running:
            gc.collect()
            await asyncio.sleep(0.01)


async def test_retries_of_other_middlewares_are_paced(server, reply):
    """With ours last, each attempt of a retry waits for a slot of its own."""
    server.answer = lambda _: reply.of(500 if len(server.arrivals) < 3 else 200)

    async def retry(request, handler):
        while (response := await handler(request)).status == 500:
            response.release()
        return response

    queue = ApiQueue("50ms", concurrency=1)
    async with session(queue, retry) as client:
        start = time.monotonic()
        async with client.get(server.url()) as response:
            assert response.status == 200
        assert time.monotonic() - start > 0.1 - 0.020
    assert queue.stats.released == 3
    assert queue.running == 0


async def test_a_retry_after_disconnection_is_paced(server):
    """A kept connection turns out to be dead: aiohttp sends again, and waits again."""
    queue = ApiQueue("50ms", concurrency=1)
    async with session(queue) as client:
        async with client.get(server.url()) as response:
            await response.read()
        answer = server.answer
        server.answer = lambda arrival: b"" if len(server.arrivals) == 2 else answer(arrival)
        async with client.get(server.url()) as response:
            assert response.status == 200
    assert len(server.arrivals) == 3
    assert queue.stats.released == 3
    assert queue.running == 0


async def test_the_total_timeout_includes_waiting(server):
    """The total time-out ends the waiting: the request leaves the queue without a slot."""
    queue = ApiQueue("10s")
    async with session(queue, timeout=aiohttp.ClientTimeout(total=0.2)) as client:
        async with client.get(server.url()) as response:
            await response.read()
        with pytest.raises(TimeoutError):
            await client.get(server.url())
    assert (queue.waiting, queue.running, queue.stats.released) == (0, 0, 1)


async def test_other_timeouts_do_not_include_waiting(server):
    """Other time-outs begin with the request for a connection."""
    timeout = aiohttp.ClientTimeout(total=None, connect=0.5, sock_connect=0.5, sock_read=0.5)
    async with ApiQueue("600ms") as queue, session(queue, timeout=timeout) as client:
        start = time.monotonic()
        for request in [client.get(server.url()) for _ in range(2)]:
            async with request as response:
                assert await response.read() == b"ok"
        assert time.monotonic() - start > 0.58


async def test_a_web_socket_holds_its_slot():
    """A web socket gives back its connection, and so its slot, when it is closed."""

    async def echo(request):
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/", echo)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    try:
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        queue = ApiQueue(concurrency=1)
        async with session(queue) as client:
            async with client.ws_connect(f"http://{host}:{port}/") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
                assert queue.running == 1
            assert queue.running == 0
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "headers",
    [
        lambda long: [("Retry-After", long)],
        lambda long: [("RateLimit", f'"default";r=0;t={long}')],
        lambda long: [("RateLimit", '"default";r=0;t=x'), ("RateLimit-Policy", f'"{long}"')],
        lambda long: [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", long)],
        lambda long: [("X-RateLimit-Remaining", long), ("X-RateLimit-Reset", "x")],
    ],
    ids=["Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Reset", "-Remaining"],
)
@pytest.mark.parametrize("longest", [8190, 2_000_000])
async def test_a_huge_value_is_malformed(server, reply, longest, headers):
    """A megabyte is the client's error, or read if it allows; both count as malformed."""
    server.answer = lambda _: reply.of(429, headers("9" * 1_000_000))
    queue = ApiQueue(concurrency=1)
    async with session(queue, max_field_size=longest) as client:
        try:
            async with client.get(server.url()) as response:
                assert response.status == 429
                await response.read()
        except aiohttp.ClientResponseError:
            assert longest == 8190
    assert queue.stats.malformed == 1
    assert queue.estimate() == 0
    assert queue.running == 0


async def test_a_raised_refusal_is_not_malformed(server, reply):
    """A proxy's refusal, and `raise_for_status` in a middleware, are answers that could be read."""

    async def strict(request, handler):
        response = await handler(request)
        response.raise_for_status()
        return response

    server.answer = lambda _: reply.of(503)
    queue = ApiQueue(concurrency=1)
    async with session(queue) as client:
        with pytest.raises(aiohttp.ClientHttpProxyError):
            await client.get("https://secret.example/", proxy=server.url())
    last = aiohttp.ClientSession(middlewares=[RateLimitedMiddleware(queue), strict])
    async with last as client:
        with pytest.raises(aiohttp.ClientResponseError):
            await client.get(server.url())
    assert (queue.stats.released, queue.running, queue.stats.malformed) == (2, 0, 0)


def test_a_missing_aiohttp_is_named():
    """Importing the module without aiohttp, or with an old one, names the extra to install."""
    program = "import sys; sys.modules['aiohttp'] = {}; import aioapiqueue.integrations.aiohttp"
    for module in ("None", "type(sys)('aiohttp')"):
        done = subprocess.run(
            [sys.executable, "-c", program.format(module)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert (
            "ImportError: pacing aiohttp sessions needs aiohttp 3.12 or later: "
            'pip install "aioapiqueue[aiohttp]"'
        ) in done.stderr
