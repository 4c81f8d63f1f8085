"""What is peculiar to the transport of httpx and httpx2."""

import asyncio
import gc
import threading
import time
from importlib import import_module

import pytest

from aioapiqueue import ApiQueue

pytestmark = [
    pytest.mark.real,
    pytest.mark.parametrize("client", ["httpx", "httpx2"], indirect=True),
]


@pytest.fixture
def library(client):
    """Give the library whose turn it is."""
    return import_module(client(ApiQueue()).library.__name__)


@pytest.fixture
def transport_class(library):
    """Give the library's `RateLimitedTransport`."""
    return import_module(f"aioapiqueue.integrations.{library.__name__}").RateLimitedTransport


@pytest.fixture
def transport(library, transport_class):
    """Give `transport(queue, **pacing, limits=...)`."""

    def make(queue, *, limits=None, **pacing):
        limits = library.Limits(**(limits or {}))
        inner = library.AsyncHTTPTransport(verify=False, limits=limits)
        return transport_class(queue, inner, **pacing)

    return make


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
async def test_a_response_that_is_forgotten_gives_its_place_back(client, server, reply, elsewhere):
    """It is garbage collected without having been closed, maybe by another thread."""
    server.answer = lambda _: reply.of(body=b"x", length=1_000_000)
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        gc.disable()  # so that it is collected where this test wants it
        try:
            held = [await paced.unread(server.url())]
            waiting = asyncio.ensure_future(paced.get(server.url("/waiting")))
            await asyncio.sleep(0.02)
            assert (queue.running, queue.waiting) == (1, 1)
            server.answer = lambda _: reply.of()
            held.clear()
            if elsewhere:
                thread = threading.Thread(target=gc.collect)
                thread.start()
                thread.join()
            else:
                gc.collect()
        finally:
            gc.enable()
        async with asyncio.timeout(60):
            assert await waiting == 200
        assert queue.running == 0


async def test_a_stream_that_is_left_half_read_gives_its_place_back(client, server, reply):
    """Whoever stops reading and closes nothing holds nothing either, once the reader is gone."""
    server.answer = lambda _: reply.of(body=b"x", length=2)
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        response = await paced.unread(server.url())
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"x"
        assert queue.running == 1
        await chunks.aclose()
        del response, chunks
        gc.collect()
        async with asyncio.timeout(60):
            while queue.running:  # noqa: ASYNC110 - the loop closes generators in its own time
                await asyncio.sleep(0.01)


async def test_waiting_in_the_queue_uses_up_no_time_out(library, transport, server):
    """Not even the pool's: a request asks for a connection once it has its slot."""
    async with (
        ApiQueue("600ms") as queue,
        library.AsyncClient(
            transport=transport(queue, limits={"max_connections": 1}),
            timeout=library.Timeout(0.5),
        ) as client,
    ):
        start = time.monotonic()
        await asyncio.gather(*(client.get(server.url()) for _ in range(3)))
        assert time.monotonic() - start > 1.1


async def test_a_response_that_comes_with_its_content_holds_nothing(library, transport_class):
    """A transport that makes one up gives httpx nothing to close."""
    inner = library.MockTransport(lambda _: library.Response(200, json={"made": "up"}))
    queue = ApiQueue(concurrency=1)
    async with library.AsyncClient(transport=transport_class(queue, inner)) as client:
        for _ in range(2):
            response = await client.get("http://made.up/")
            assert response.json() == {"made": "up"}
            assert queue.running == 0


async def test_the_transport_within_is_opened_and_closed(library, transport_class, transport):
    """The client opens and closes ours, and ours the one that it wraps."""
    heard = []

    class Inner(library.AsyncBaseTransport):
        async def __aenter__(self):
            heard.append("opened")
            return self

        async def __aexit__(self, *_):
            heard.append("left")

        async def aclose(self):
            heard.append("closed")

    async with library.AsyncClient(transport=transport_class(ApiQueue(), Inner())):
        pass
    assert heard == ["opened", "left"]
    await transport_class(ApiQueue(), Inner()).aclose()
    assert heard == ["opened", "left", "closed"]
    assert isinstance(transport(ApiQueue()), library.AsyncBaseTransport)


async def test_the_rounds_of_an_authentication_are_paced(library, transport, server, reply):
    """A challenge and its answer are two requests, and two slots."""
    server.answer = lambda _: (
        reply.of(401, [("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth"')])
        if len(server.arrivals) == 1
        else reply.of()
    )
    queue = ApiQueue(concurrency=1)
    async with library.AsyncClient(transport=transport(queue)) as client:
        response = await client.get(server.url(), auth=library.DigestAuth("user", "secret"))
    assert response.status_code == 200
    assert queue.stats.released == 2
    assert queue.running == 0


async def test_a_value_of_90_000_digits_is_odd(client, server, reply):
    """As long as httpx reads it at all."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "9" * 90_000)])
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        assert await paced.get(server.url()) == 429
    assert queue.stats.odd == 1
    assert queue.estimate() == 0


async def test_a_value_of_10_megabytes_is_the_clients_error(client, server, reply):
    """Httpx reads no further than 100 kB into a head, and the place is free again."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "9" * 10_000_000)])
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        with pytest.raises(paced.errors):
            await paced.get(server.url())
        assert queue.running == 0
        assert queue.stats.odd == 1


async def test_a_connection_that_the_server_ends_is_not_odd(library, transport_class):
    """HTTP/2 says so by GOAWAY, which httpx has no other error for than for nonsense."""

    class GoingAway(library.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise library.RemoteProtocolError(
                "<ConnectionTerminated error_code:0>", request=request
            )

    queue = ApiQueue(concurrency=1)
    async with library.AsyncClient(transport=transport_class(queue, GoingAway())) as client:
        with pytest.raises(library.RemoteProtocolError):
            await client.get("http://going.away/")
    assert (queue.running, queue.stats.odd) == (0, 0)


async def test_what_is_no_http_is_odd(client, server):
    """Whereas one who hangs up, with or without a word, is not."""
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        for answer, odd in ((b"\x00\x01 not HTTP\r\n\r\n", 1), (b"", 1)):
            server.answer = lambda _, answer=answer: answer
            with pytest.raises(paced.errors):
                await paced.get(server.url())
            assert queue.stats.odd == odd
