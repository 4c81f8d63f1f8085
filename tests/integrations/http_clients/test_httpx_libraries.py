"""Httpx and httpx2, side by side or alone: a class for each, and neither works with the other."""

import inspect
import json
import subprocess
import sys
from importlib import import_module

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.lazily import lazily

anthropic = lazily("anthropic")

pytestmark = pytest.mark.real

OTHER = {"httpx": "httpx2", "httpx2": "httpx"}


@pytest.fixture(params=OTHER)
def name(request):
    """Give the name of the library whose turn it is."""
    return request.param


@pytest.fixture
def library(name):
    """Give that library."""
    return import_module(name)


@pytest.fixture
def other(name):
    """Give the other one."""
    return import_module(OTHER[name])


@pytest.fixture
def transport_class(name):
    """Give the library's `RateLimitedTransport`."""
    # What it reads as it makes its first transport would block the loop of a test.
    import_module(name).AsyncHTTPTransport()
    return import_module(f"aioapiqueue.integrations.{name}").RateLimitedTransport


def run(program):
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


async def test_side_by_side_each_works(library, transport_class, server):
    """Without a transport of the caller's, the one within is of its own library."""
    queue = ApiQueue()
    async with library.AsyncClient(transport=transport_class(queue)) as client:
        assert (await client.get(server.url())).status_code == 200
    assert queue.stats.released == 1


def test_parents_are_of_one_library(name, transport_class):
    """A client, or an SDK that looks at the types, finds nothing of the other among them."""
    packages = {parent.__module__.partition(".")[0] for parent in inspect.getmro(transport_class)}
    assert packages == {name, "aioapiqueue", "typing", "builtins"}


@pytest.mark.parametrize("alone", [False, True])
def test_only_its_library_is_imported(name, alone):
    """Where the other is installed, and where it is not."""
    hidden = f"sys.modules[{OTHER[name]!r}] = None\n" if alone else ""
    done = run(
        f"import sys\n{hidden}"
        "from aioapiqueue import ApiQueue\n"
        f"from aioapiqueue.integrations.{name} import RateLimitedTransport\n"
        f"import {name}\n"
        f"{name}.AsyncClient(transport=RateLimitedTransport(ApiQueue()))\n"
        "print(*(one for one in ('httpx', 'httpx2') if sys.modules.get(one)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name]


def test_a_missing_library_is_named(name):
    """The error says which extra to install, and where the other library's class is."""
    done = run(f"import sys; sys.modules[{name!r}] = None; import aioapiqueue.integrations.{name}")
    assert done.returncode == 1
    assert (
        f"ImportError: pacing {name} clients needs {name}: "
        f'pip install "aioapiqueue[{name}]". (For {OTHER[name]}, import '
        f"aioapiqueue.integrations.{OTHER[name]}.)"
    ) in done.stderr


def test_the_others_transport_is_refused(name, other, transport_class):
    """At once; the message names what to import for it."""
    with pytest.raises(TypeError) as caught:
        transport_class(ApiQueue(), other.MockTransport(lambda _: None))
    assert str(caught.value) == (
        f"transport must be an AsyncBaseTransport of {name}, not {OTHER[name]}.MockTransport: for "
        f"{OTHER[name]}, import RateLimitedTransport from aioapiqueue.integrations.{OTHER[name]}"
    )


def test_a_blocking_transport_is_refused(name, library, transport_class):
    """It is of the right library, but for its other client."""
    with library.HTTPTransport() as blocking, pytest.raises(TypeError) as caught:
        transport_class(ApiQueue(), blocking)
    assert str(caught.value) == (
        f"transport must be an AsyncBaseTransport of {name}, not {name}.HTTPTransport"
    )


async def test_the_others_client_is_refused(name, other, transport_class, server):
    """A client of the other library fails as it sends. Nothing is sent, and no slot is used."""
    queue = ApiQueue(concurrency=1)
    async with other.AsyncClient(transport=transport_class(queue)) as client:
        with pytest.raises(TypeError) as caught:
            await client.get(server.url())
    assert str(caught.value) == (
        f"this transport is for {name} clients, not for {OTHER[name]}.Request: for "
        f"{OTHER[name]}, import RateLimitedTransport from aioapiqueue.integrations.{OTHER[name]}"
    )
    assert queue.stats.released == 0
    assert not server.arrivals


async def test_the_clients_other_kind_is_refused(name, library, transport_class):
    """As it is entered, and as it sends: the message names the class for it."""
    module = import_module(f"aioapiqueue.integrations.{name}")
    blocking = library.Client(transport=transport_class(ApiQueue()))
    words = f"is for {name}.AsyncClient: for a Client, use SyncRateLimitedTransport"
    with pytest.raises(TypeError, match=words):
        blocking.__enter__()
    with pytest.raises(TypeError, match=words):
        blocking.get("http://127.0.0.1")
    awaiting = library.AsyncClient(transport=module.SyncRateLimitedTransport(ApiQueue()))
    words = f"is for {name}.Client: for an AsyncClient, use RateLimitedTransport"
    with pytest.raises(TypeError, match=words):
        await awaiting.__aenter__()
    with pytest.raises(TypeError, match=words):
        await awaiting.get("http://127.0.0.1")


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "some-model",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 2},
}


@pytest.fixture(scope="module")
def _anthropic():
    """Import the SDK, which takes a second."""
    assert anthropic.AsyncAnthropic


@pytest.mark.usefixtures("_anthropic")
@pytest.mark.parametrize("make", ["AsyncClient", "DefaultAsyncHttpxClient"])
async def test_anthropics_sdk_is_paced(make, server, reply):
    """It is built on httpx2, and refuses what has a class of httpx among its parents."""
    import httpx2

    from aioapiqueue.integrations.httpx2 import RateLimitedTransport

    server.answer = lambda _: reply.of(
        200, [("Content-Type", "application/json")], json.dumps(MESSAGE).encode()
    )
    async with ApiQueue("50ms") as queue:
        transport = RateLimitedTransport(queue)
        http_client = getattr(httpx2 if make == "AsyncClient" else anthropic, make)(
            transport=transport
        )
        async with anthropic.AsyncAnthropic(
            api_key="none", base_url=server.url(""), http_client=http_client, max_retries=0
        ) as client:
            for _ in range(3):
                message = await client.messages.create(
                    model="some-model",
                    max_tokens=9,
                    messages=[{"role": "user", "content": "Hello?"}],
                )
                assert message.content[0].text == "Hello."
        assert queue.stats.released == 3
    first, _, last = (arrival.at for arrival in server.arrivals)
    assert last - first > 0.1 - 0.020
