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


@pytest.mark.usefixtures("young_garbage")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
async def test_a_forgotten_response_releases_its_slot(client, server, reply, elsewhere):
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


@pytest.mark.usefixtures("young_garbage")
async def test_a_half_read_stream_is_released(client, server, reply):
    """A stream that is neither read to its end nor closed holds nothing once its reader is gone."""
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


async def test_waiting_counts_for_no_timeout(library, transport, server):
    """Not even for the pool's: a request asks for a connection once it has its slot."""
    async with (
        ApiQueue("600ms") as queue,
        library.AsyncClient(
            transport=transport(queue, limits={"max_connections": 1}),
            timeout=library.Timeout(0.5),
        ) as client,
    ):
        start = time.monotonic()
        await asyncio.gather(*(client.get(server.url()) for _ in range(2)))
        assert time.monotonic() - start > 0.58


async def test_a_complete_response_holds_nothing(library, transport_class):
    """A response that comes with its content, as a mock's does, is never closed."""
    inner = library.MockTransport(lambda _: library.Response(200, json={"made": "up"}))
    queue = ApiQueue(concurrency=1)
    async with library.AsyncClient(transport=transport_class(queue, inner)) as client:
        for _ in range(2):
            response = await client.get("http://made.up/")
            assert response.json() == {"made": "up"}
            assert queue.running == 0


async def test_the_inner_transport_is_closed(library, transport_class, transport):
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


async def test_rounds_of_authentication_are_paced(library, transport, server, reply):
    """A challenge and its answer are two requests, and take two slots."""
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


async def test_a_long_value_is_malformed(client, server, reply):
    """A value of 90,000 digits, as long as httpx reads it at all."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "9" * 90_000)])
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        assert await paced.get(server.url()) == 429
    assert queue.stats.malformed == 1
    assert queue.estimate() == 0


async def test_a_huge_value_is_an_error(client, server, reply):
    """Httpx reads no more than 100 kB of a head, and the slot is free again."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "9" * 1_000_000)])
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        with pytest.raises(paced.errors):
            await paced.get(server.url())
        assert queue.running == 0
        assert queue.stats.malformed == 1


async def test_a_closed_connection_is_not_malformed(library, transport_class):
    """HTTP/2 closes by GOAWAY, for which httpx has the same error as for malformed answers."""

    class GoingAway(library.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise library.RemoteProtocolError(
                "<ConnectionTerminated error_code:0>", request=request
            )

    queue = ApiQueue(concurrency=1)
    async with library.AsyncClient(transport=transport_class(queue, GoingAway())) as client:
        with pytest.raises(library.RemoteProtocolError):
            await client.get("http://going.away/")
    assert (queue.running, queue.stats.malformed) == (0, 0)


async def test_what_is_not_http_is_malformed(client, server):
    """An answer that is no HTTP counts; a connection closed with or without an answer does not."""
    queue = ApiQueue(concurrency=1)
    async with client(queue) as paced:
        for answer, count in ((b"\x00\x01 not HTTP\r\n\r\n", 1), (b"", 1)):
            server.answer = lambda _, answer=answer: answer
            with pytest.raises(paced.errors):
                await paced.get(server.url())
            assert queue.stats.malformed == count
