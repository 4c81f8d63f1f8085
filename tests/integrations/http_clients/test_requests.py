"""What is peculiar to the adapter of requests."""

import asyncio
import copy
import gc
import io
import json
import pickle
import subprocess
import sys
import time

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.response import HTTPResponse

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.requests import RateLimitedAdapter
from aioapiqueue.threads import blocking

pytestmark = pytest.mark.real


@pytest.fixture
def use():
    """Give what calls a function with a paced session, in a thread."""

    def run(function, queue, **options):
        adapter = RateLimitedAdapter(queue, **options)
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", adapter)
            return function(session)

    return lambda *args, **options: asyncio.to_thread(run, *args, **options)


async def settled(queue):
    """Wait until nobody holds a place."""
    async with asyncio.timeout(10):
        while queue.running or queue.waiting:  # noqa: ASYNC110 - on a loop of another thread
            await asyncio.sleep(0.005)


async def test_a_loop_of_ours_will_do(server, use):
    """Without a loop of the user's, threads share one."""
    queue = ApiQueue("50ms")

    def get(session):
        start = time.monotonic()
        statuses = [session.get(server.url()).status_code for _ in range(3)]
        return statuses, time.monotonic() - start

    statuses, took = await use(get, queue)
    assert statuses == [200] * 3
    assert took > 0.1 - 0.020
    await settled(queue)


async def test_a_running_loop_cannot_wait(server):
    """A session that blocks would stop a coroutine's loop for as long as its request waits."""
    queue = ApiQueue("10/s")
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", RateLimitedAdapter(queue))
        with pytest.raises(RuntimeError, match="a client that awaits"):
            session.get(server.url())
    assert not server.arrivals
    assert queue.stats.released == 0


# The ways to read a body, of which each ends the call.
READS = {
    "content": lambda response: response.content,
    "iter_content": lambda response: b"".join(response.iter_content(2)),
    "iter_lines": lambda response: b"\n".join(response.iter_lines()),
    "raw.read": lambda response: response.raw.read(),
    "raw.read in parts": lambda response: b"".join(iter(lambda: response.raw.read(2), b"")),
    "raw.stream": lambda response: b"".join(response.raw.stream(2)),
    "raw, by lines": lambda response: b"".join(response.raw),
    "a reader": lambda response: io.BufferedReader(response.raw).read(),
    "json": lambda response: json.dumps(response.json()).encode(),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("way", READS)
async def test_reading_ends_the_call(server, reply, use, way, chunked):
    """Whichever way it is read; the response is urllib3's own all the while."""
    server.answer = lambda _: reply.of(200, [], b"123456", chunked=chunked)
    if chunked and way in {"raw, by lines", "a reader"}:
        pytest.skip("urllib3 reads those by raw.stream or read1 only")
    queue = ApiQueue(concurrency=1)

    def read(session):
        response = session.get(server.url(), stream=True)
        assert isinstance(response.raw, HTTPResponse)
        assert queue.running == 1
        body = READS[way](response)
        return body, response

    body, response = await use(read, queue)
    assert body == b"123456"
    await settled(queue)
    response.close()


@pytest.mark.usefixtures("young_garbage")
@pytest.mark.parametrize("how", ["closed", "left", "forgotten"])
async def test_an_unread_response_is_released(server, reply, use, how):
    """Closed, left by the end of its block, or garbage collected."""
    server.answer = lambda _: reply.of(200, [], b"x", length=10**6)
    queue, settled_with = ApiQueue(concurrency=1), []

    def leave(session):
        response = session.get(server.url(), stream=True)
        if how == "closed":
            response.close()
        elif how == "left":
            with response:
                pass
        del response
        gc.collect()

    await use(leave, queue, settle=lambda *given: settled_with.append(given))
    await settled(queue)
    assert len(settled_with) == (how != "forgotten")


@pytest.mark.usefixtures("young_garbage")
async def test_a_read_response_is_freed(server, use):
    """Nothing of the adapter's keeps it in memory until the garbage collector comes."""

    def read(session):
        gc.disable()
        try:
            before = sum(isinstance(one, HTTPResponse) for one in gc.get_objects())
            for _ in range(5):
                session.get(server.url())
            return sum(isinstance(one, HTTPResponse) for one in gc.get_objects()) - before
        finally:
            gc.enable()

    assert await use(read, ApiQueue()) == 0


async def test_a_mocked_answer_is_released(use, monkeypatch):
    """One that was never on a connection, such as those of libraries for tests."""

    def send(adapter, request, **_):
        raw = HTTPResponse(io.BytesIO(b"made up"), {}, 200, preload_content=False)
        return adapter.build_response(request, raw)

    monkeypatch.setattr(HTTPAdapter, "send", send)
    queue = ApiQueue(concurrency=1)
    assert await use(lambda session: session.get("http://made.up/").content, queue) == b"made up"
    await settled(queue)


async def test_empty_answers_are_released(server, reply, use):
    """HEAD, 204 and a body of nothing."""
    queue = ApiQueue(concurrency=1)

    def ask(session):
        server.answer = lambda _: reply.of(204, [], b"")
        session.get(server.url())
        session.head(server.url(), stream=True)
        server.answer = lambda _: reply.of(200, [], b"")
        session.get(server.url(), stream=True)

    await use(ask, queue, timeout=10)
    await settled(queue)
    assert queue.stats.released == 3


@pytest.mark.parametrize(
    ("answer", "count"),
    [(b"\x00\x01 not HTTP\r\n\r\n", 1), (b"", 0), (b"HTTP/1.1 200 x\r\nA: " + b"9" * 70_000, 1)],
    ids=["no HTTP", "closed", "a long line"],
)
async def test_a_malformed_head_is_counted(server, use, answer, count):
    """A connection that is closed is not malformed."""
    server.answer = lambda _: answer
    queue = ApiQueue(concurrency=1)
    with pytest.raises(requests.ConnectionError):
        await use(lambda session: session.get(server.url()), queue)
    await settled(queue)
    assert queue.stats.malformed == count


async def test_waiting_counts_for_no_timeout(server, use):
    """A request asks for a connection once it has its slot."""
    statuses = await use(
        lambda session: [session.get(server.url(), timeout=0.2).status_code for _ in range(2)],
        ApiQueue("400ms"),
    )
    assert statuses == [200, 200]


async def test_it_takes_a_blocking_queue(server, use):
    """As `blocking` gives it: with a portal, it may be on a loop of the user's."""
    queue = ApiQueue(lanes={"*": ()})
    gate = blocking(queue)
    assert await use(lambda session: session.get(server.url()).status_code, gate) == 200
    assert queue.stats.released == 1


async def test_a_pool_as_large_as_asked(server, reply):
    """The options of `HTTPAdapter` are its own."""
    adapter = RateLimitedAdapter(ApiQueue(), pool_connections=3, pool_maxsize=7, pool_block=True)
    pool = adapter.poolmanager.connection_from_url(server.url())
    assert (pool.pool.maxsize, pool.block) == (7, True)
    adapter.close()


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_copies_of_sessions_are_refused(copied):
    """`HTTPAdapter` would leave the queue out of a copy: it is refused, with what to do."""
    with requests.Session() as session:
        copied(session)  # that of requests alone can be
        session.mount("https://", RateLimitedAdapter(ApiQueue("10/s")))
        with pytest.raises(
            TypeError, match=r"cannot be copied or pickled: mount .*session\.mount.*HostSchedule"
        ):
            copied(session)
        assert copy.copy(session).get_adapter("https://x") is session.get_adapter("https://x")


def test_a_missing_requests_is_named():
    """Importing the module without requests names the extra to install."""
    program = "import sys; sys.modules['requests'] = None; import aioapiqueue.integrations.requests"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        'ImportError: pacing requests sessions needs requests: pip install "aioapiqueue[requests]"'
    ) in done.stderr
