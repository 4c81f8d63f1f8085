"""What is peculiar to the transports of httpx and httpx2 for clients that block."""

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking

pytestmark = pytest.mark.real


@pytest.fixture(params=["httpx", "httpx2"])
def library(request):
    """Give the library whose turn it is."""
    import_module(request.param).HTTPTransport()
    return import_module(request.param)


@pytest.fixture
def transport_class(library):
    """Give the library's `SyncRateLimitedTransport`."""
    return import_module(f"aioapiqueue.integrations.{library.__name__}").SyncRateLimitedTransport


@pytest.fixture
def use(library, transport_class):
    """Give what calls a function with a paced client, in a thread."""

    def run(function, queue, **options):
        transport = transport_class(queue, trust_env=False, **options)
        with library.Client(transport=transport, timeout=10) as client:
            return function(client)

    return lambda *args, **options: asyncio.to_thread(run, *args, **options)


async def settled(queue):
    """Wait until nobody holds a place."""
    async with asyncio.timeout(10):
        while queue.running or queue.waiting:  # noqa: ASYNC110 - on a loop of another thread
            await asyncio.sleep(0.005)


async def test_threads_share_a_queue(server, use):
    """On a loop of ours; each request takes its turn, whichever thread it is of."""
    queue = ApiQueue("20ms", concurrency=2)

    def get(client):
        start = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            urls = [server.url(f"/{number}") for number in range(8)]
            statuses = list(threads.map(lambda url: client.get(url).status_code, urls))
        return statuses, time.monotonic() - start

    statuses, took = await use(get, queue)
    assert statuses == [200] * 8
    assert took > 7 * 0.020 - 0.010
    await settled(queue)
    assert queue.stats.released == 8


@pytest.mark.usefixtures("young_garbage")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
async def test_a_forgotten_response_releases_its_slot(server, reply, use, elsewhere):
    """It is garbage collected, maybe by another thread; nobody settles it."""
    server.answer = lambda _: reply.of(body=b"x", length=10**6)
    queue, settled_with = ApiQueue(concurrency=1), []

    def forget(client):
        response = client.send(client.build_request("GET", server.url()), stream=True)
        assert queue.running == 1
        del response
        if elsewhere:
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join()
        else:
            gc.collect()

    await use(forget, queue, settle=lambda *given: settled_with.append(given))
    await settled(queue)
    assert not settled_with


async def test_a_complete_response_holds_nothing(library, transport_class):
    """A response that comes with its content, as a mock's does, is never closed."""
    inner = library.MockTransport(lambda _: library.Response(200, json={"made": "up"}))
    queue = ApiQueue(concurrency=1)

    def get():
        with library.Client(transport=transport_class(queue, inner)) as client:
            return [client.get("http://made.up/").json() for _ in range(2)]

    assert await asyncio.to_thread(get) == [{"made": "up"}] * 2
    await settled(queue)


async def test_waiting_counts_for_no_timeout(library, server, use):
    """Not even for the pool's: a request asks for a connection once it has its slot."""

    def get(client):
        client.timeout = library.Timeout(0.2)
        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(lambda _: client.get(server.url()).status_code, range(3)))

    limits = library.Limits(max_connections=1)
    assert await use(get, ApiQueue("300ms"), limits=limits) == [200] * 3


async def test_its_loop_cannot_wait_for_it(library, transport_class, server):
    """Called on the loop that the queue lives on, it would wait for itself."""
    queue = ApiQueue()
    transport = await asyncio.to_thread(transport_class, queue, trust_env=False)

    def on_its_loop():
        with library.Client(transport=transport) as client, pytest.raises(RuntimeError) as caught:
            client.get(server.url())
        return str(caught.value)

    message = await asyncio.to_thread(blocking(queue).call, on_its_loop)
    assert message.startswith("waiting here would block the event loop")
    assert not server.arrivals


async def test_a_running_loop_cannot_wait(library, transport_class, server):
    """A client that blocks would stop a coroutine's loop for as long as its request waits."""
    queue = ApiQueue("10/s")
    transport = await asyncio.to_thread(transport_class, queue, trust_env=False)
    client = await asyncio.to_thread(library.Client, transport=transport)
    with pytest.raises(RuntimeError, match="a client that awaits"):
        client.get(server.url())
    assert not server.arrivals
    assert queue.stats.released == 0
    await asyncio.to_thread(client.close)


async def test_the_others_client_is_refused(library, transport_class, server):
    """A client of the other library fails as it sends; no slot is used."""
    other = import_module({"httpx": "httpx2", "httpx2": "httpx"}[library.__name__])
    queue = ApiQueue(concurrency=1)

    def get():
        with other.Client(transport=transport_class(queue, trust_env=False)) as client:
            client.get(server.url())

    message = f"import SyncRateLimitedTransport from aioapiqueue.integrations.{other.__name__}"
    with pytest.raises(TypeError, match=message):
        await asyncio.to_thread(get)
    assert (queue.stats.released, server.arrivals) == (0, [])


def test_an_awaiting_transport_is_refused(library, transport_class):
    """It is of the right library, but for its other client."""
    name = library.__name__
    with pytest.raises(TypeError) as caught:
        transport_class(ApiQueue(), library.AsyncHTTPTransport())
    assert str(caught.value) == (
        f"transport must be a BaseTransport of {name}, not {name}.AsyncHTTPTransport"
    )


def test_all_transports_are_closed(library, transport_class, monkeypatch):
    """Those of proxies too, by the client, or by `close`."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("ALL_PROXY", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    heard = []

    class Inner(library.HTTPTransport):
        def __exit__(self, *exc):
            heard.append("left")
            super().__exit__(*exc)

        def close(self):
            heard.append("closed")
            super().close()

    class Transport(transport_class):
        transport_types = (library.BaseTransport, Inner)

    with library.Client(transport=Transport(ApiQueue())):
        pass
    assert heard == ["left"] * 2
    Transport(ApiQueue()).close()
    assert heard == ["left"] * 2 + ["closed"] * 2
