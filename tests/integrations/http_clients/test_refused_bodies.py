"""The body of a refused answer is looked into, and the caller still gets all of it."""

import asyncio
import functools
import gzip
import json
import time
import zlib

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.http import MAX_BODY
from tests.helpers import introspect

pytestmark = pytest.mark.real

HOST = "127.0.0.1"
JSON = ("Content-Type", "application/json; charset=UTF-8")
GZIP = ("Content-Encoding", "gzip")
RETRY = "type.googleapis.com/google.rpc.RetryInfo"
GEMINI = json.dumps(
    {
        "error": {
            "code": 429,
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": RETRY, "retryDelay": "30s"}],
        }
    }
).encode()
OF_HTTPX = ["httpx", "httpx2", "sync httpx", "sync httpx2"]
WHOLE = ["httpx", "sync httpx2"]
ONE_OF_EACH = ["httpx", "sync httpx2", "aiohttp", "requests"]


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_delay_in_the_body(every_client, server, reply, compressed):
    """Gemini's RetryInfo is obeyed, and the caller can read the body."""
    body = gzip.compress(GEMINI) if compressed else GEMINI
    server.answer = lambda _: reply.of(429, [JSON, GZIP] if compressed else [JSON], body)
    async with ApiQueue(lanes={"*": ()}) as queue, every_client(queue) as paced:
        assert await paced.fetch(server.url()) == (429, GEMINI)
        assert 29 < queue.estimate(key=HOST) <= 30
        assert (queue.stats.throttled, queue.stats.malformed) == (1, 0)


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_chunked_body(every_client, server, reply, compressed):
    """Httpx gives back what was read; aiohttp and requests cannot: there, it is not looked into."""
    body = gzip.compress(GEMINI) if compressed else GEMINI
    headers = [JSON, GZIP] if compressed else [JSON]
    server.answer = lambda _: reply.of(429, headers, body, chunked=True)
    async with ApiQueue(lanes={"*": ()}) as queue, every_client(queue) as paced:
        assert await paced.fetch(server.url()) == (429, GEMINI)
        held = queue.estimate(key=HOST)
        assert 29 < held <= 30 if hasattr(paced, "library") else held == 0
        assert queue.stats.throttled == 1


@pytest.mark.parametrize("size", [MAX_BODY - 1, MAX_BODY, MAX_BODY + 1, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("every_client", WHOLE, indirect=True)
async def test_every_byte_reaches_the_caller(every_client, server, reply, size, chunked):
    """Of a body that is read to its end, and of one that is too long for that."""
    body = (
        b'"' + b"".join(b"%09d\n" % number for number in range(size // 10 + 1))[: size - 2] + b'"'
    )
    server.answer = lambda _: reply.of(429, [JSON], body, chunked=chunked)
    async with ApiQueue(concurrency=1) as queue, every_client(queue) as paced:
        assert await paced.fetch(server.url()) == (429, body)
        assert (queue.running, queue.stats.throttled) == (0, 1)


@pytest.mark.parametrize("every_client", ONE_OF_EACH, indirect=True)
async def test_a_body_without_end(every_client, server, reply):
    """Push-back is heard before the caller reads it, and to leave it releases the slot."""
    server.answer = lambda _: reply.of(
        429, [JSON, ("Retry-After", "30")], b"[" * 200_000, length=10**12
    )
    async with ApiQueue(concurrency=1) as queue, every_client(queue) as paced:
        async with paced.stream(server.url()) as chunks:
            assert queue.estimate() > 29
            assert (await anext(chunks)).startswith(b"[")
            assert queue.running == 1
        async with asyncio.timeout(60):
            while queue.running:  # noqa: ASYNC110 - maybe by a thread
                await asyncio.sleep(0.005)


@functools.cache
def bomb():
    """Return 50 MB, packed into less than what is looked at."""
    return gzip.compress(b"[" * 50_000_000)


@pytest.mark.parametrize("every_client", ONE_OF_EACH, indirect=True)
async def test_a_gzip_bomb(every_client, server, reply):
    """It is not decoded: the caller may leave it as it is."""
    assert len(bomb()) < MAX_BODY
    server.answer = lambda _: reply.of(429, [JSON, GZIP, ("Retry-After", "30")], bomb())
    async with ApiQueue(concurrency=1) as queue, every_client(queue) as paced:
        async with paced.stream(server.url()) as chunks:
            assert queue.estimate() > 29
            assert await anext(chunks)
        assert queue.stats.malformed == 0


def test_decoding_is_bounded():
    """By what is looked at, however small the compressed body is."""
    assert introspect.decoded_body(gzip.compress(b"x" * MAX_BODY), "gzip") == b"x" * MAX_BODY
    assert introspect.decoded_body(gzip.compress(b"x" * (MAX_BODY + 1)), "x-gzip") is None
    assert introspect.decoded_body(bomb(), "GZIP") is None
    assert introspect.decoded_body(b"not gzip", "gzip") is None
    assert introspect.decoded_body(b"x", "br") is None
    assert introspect.decoded_body(b"x", " Identity ") == b"x"
    assert introspect.decoded_body(b"x" * (MAX_BODY + 1), "") is None


@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, -zlib.MAX_WBITS])
def test_both_forms_of_deflate(wbits):
    """With the header that HTTP prescribes, and without, as some servers send it."""
    compressor = zlib.compressobj(wbits=wbits)
    assert (
        introspect.decoded_body(compressor.compress(GEMINI) + compressor.flush(), "deflate")
        == GEMINI
    )


async def test_a_body_that_breaks_off(every_client, server, reply):
    """What its head says is obeyed; that it broke off is the caller's error, as ever."""
    server.answer = lambda _: reply.of(429, [JSON, ("Retry-After", "30")], b"{", length=9)
    async with ApiQueue(concurrency=1) as queue, every_client(queue) as paced:
        call = asyncio.ensure_future(paced.fetch(server.url()))
        await server.arrived(1)
        await asyncio.sleep(0.03)
        for connection in list(server.connections):
            connection.close()
        with pytest.raises(paced.errors):
            await call
        assert queue.estimate() > 29
        assert (queue.running, queue.stats.throttled) == (0, 1)


@pytest.mark.parametrize("every_client", OF_HTTPX, indirect=True)
async def test_what_came_before_is_there(every_client, server, reply):
    """The caller of a stream gets what came of it, and then the error."""
    server.answer = lambda _: reply.of(429, [JSON], b"{", length=9)
    async with ApiQueue(concurrency=1) as queue, every_client(queue, read_timeout=0.05) as paced:
        async with paced.stream(server.url()) as chunks:
            assert await anext(chunks) == b"{"
            with pytest.raises(paced.errors):
                await anext(chunks)
        assert (queue.running, queue.stats.throttled) == (0, 1)


@pytest.mark.parametrize("every_client", WHOLE, indirect=True)
@pytest.mark.parametrize(
    "gives_up",
    [False, pytest.param(True, marks=pytest.mark.slow)],  # slow: it gives up after three seconds
)
async def test_a_body_that_stalls(every_client, server, reply, stalls, gives_up):
    """All others hear after a second what the head says, while the caller waits for the body.

    It ends as the connection breaks off, or as the client gives up by itself.
    """
    refusal = reply.of(429, [JSON, ("Retry-After", "60")], b'{"err', length=1000)
    server.answer = lambda _: refusal
    queue = ApiQueue()
    how = {"read_timeout": 3} if gives_up else {}
    async with every_client(queue, **how) as paced:
        start = time.monotonic()
        request = asyncio.ensure_future(paced.fetch(server.url()))
        async with asyncio.timeout(10):
            while not queue.stats.throttled:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        assert 0.9 < time.monotonic() - start < 2 + stalls.seconds
        assert 50 < queue.estimate() <= 60
        assert not request.done()
        if not gives_up:
            for connection in list(server.connections):
                connection.abort()
        with pytest.raises(paced.errors):
            await request
    assert queue.stats.throttled == 1
    assert (queue.running, queue.waiting) == (0, 0)


async def test_a_body_that_trickles(every_client, server, reply):
    """What its head says is not put off for as long as the body takes."""
    server.answer = lambda _: reply.of(429, [JSON, ("Retry-After", "30")], b"{", length=10**6)
    async with ApiQueue(concurrency=1) as queue, every_client(queue) as paced:
        start = time.monotonic()

        async def read():
            async with paced.stream(server.url()) as chunks:
                return await anext(chunks)

        call = asyncio.ensure_future(read())
        await server.arrived(1)
        while not call.done():
            for connection in server.connections:
                connection.write(b" ")
            await asyncio.sleep(0.05)
        assert (await call).startswith(b"{")
        assert time.monotonic() - start < 10
        assert queue.estimate() > 25


@pytest.mark.parametrize("every_client", ONE_OF_EACH, indirect=True)
async def test_other_bodies_are_not_read(every_client, server, reply):
    """Of an answer that was not refused, nothing is read before the caller does."""
    server.answer = lambda _: reply.of(200, [JSON], b"{", length=10**6)
    async with (
        ApiQueue(concurrency=1) as queue,
        every_client(queue) as paced,
        paced.stream(server.url()) as chunks,
    ):
        assert await anext(chunks) == b"{"
        assert queue.running == 1
