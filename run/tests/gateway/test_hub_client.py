"""The gateway's connection to the run hub: which hubs it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path

import pytest
import uvloop

from aioapiqueue.registry import Registry
from aioapiqueue_run.gateway.calls import ApiCall
from aioapiqueue_run.gateway.hub_client import NotPacedError, RunHubClient
from aioapiqueue_run.hub import Hub
from tests.helpers import introspect

pytestmark = pytest.mark.real

CALL = ApiCall("ec2", "DescribeVolumes", "eu-west-1", "AKIAIOSFODNN7EXAMPLE")
WELCOME = b'{"version":2}\n'


@pytest.fixture
def folder():
    """Give a folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="aq-") as folder:
        yield Path(folder)


@pytest.fixture
def listener(folder):
    """Give the socket of a hub that the test plays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        listener.settimeout(10)
        yield listener


@contextlib.asynccontextmanager
async def accepted(listener, answer):
    """Connect a client to that hub; give both ends."""
    client = RunHubClient(listener.getsockname())
    opening = asyncio.create_task(client.open())
    connection, _ = await asyncio.to_thread(listener.accept)
    with connection:
        connection.settimeout(10)
        hello = json.loads(await asyncio.to_thread(connection.recv, 65536))
        assert hello == {"do": "hello", "version": 2, "pid": os.getpid()}
        connection.sendall(answer)
        await opening
        yield client, connection
    await client.aclose()


async def test_no_hub_is_named(folder):
    """The path and the reason are part of the error."""
    with pytest.raises(NotPacedError, match=rf"no hub of this run is at {folder}/x: .*No such"):
        await RunHubClient(str(folder / "x")).open()


async def test_hub_of_another_user_gets_nothing(listener, monkeypatch):
    """The kernel says whose it is, before a byte is sent."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(NotPacedError, match=f"belongs to a process of user {uid}"):
        await RunHubClient(listener.getsockname()).open()
    connection, _ = await asyncio.to_thread(listener.accept)
    with connection:
        assert await asyncio.to_thread(connection.recv, 1) == b""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"error":"the hub speaks version 3"}\n', "the hub speaks version 3"),
        (b'{"version":3}\n', "another version"),
        (b"HTTP/1.1 400\r\n", "no hub of this run is at"),
    ],
)
async def test_hub_of_another_version_is_refused(listener, answer, words):
    """Its own words are part of the error, if it has any."""
    with pytest.raises(NotPacedError, match=words):
        async with accepted(listener, answer):
            pass


async def test_cancelled_opening_leaves_nothing_open(listener):
    """The socket is closed; one that stayed open would fail this test with a warning."""
    opening = asyncio.create_task(RunHubClient(listener.getsockname()).open())
    connection, _ = await asyncio.to_thread(listener.accept)
    opening.cancel()
    with connection:
        connection.sendall(WELCOME)
        with pytest.raises(asyncio.CancelledError):
            await opening


@pytest.mark.parametrize(
    ("last", "why"),
    [(b'{"error":"the run has ended"}\n', "the run has ended"), (b"", "it has ended")],
)
async def test_waiting_calls_learn_why_it_ended(listener, last, why):
    """Those that wait, and later ones."""
    async with accepted(listener, WELCOME) as (client, connection):
        ask = client.ask(CALL)
        await asyncio.to_thread(connection.recv, 65536)
        connection.sendall(last)
        connection.close()
        async with asyncio.timeout(10):
            await client.lost.wait()
        for refused in (ask.turn.result, lambda: client.ask(CALL)):
            with pytest.raises(NotPacedError, match=f"hub is unreachable: {why}"):
                refused()


async def test_reason_is_read_though_sending_fails(listener):
    """Requests that are sent just as the hub closes learn its reason, not "Broken pipe"."""
    async with accepted(listener, WELCOME) as (client, connection):
        waits = client.ask(CALL)
        await asyncio.to_thread(connection.recv, 65536)
        connection.sendall(b'{"error":"the run has ended"}\n')
        connection.close()
        late = client.ask(CALL)  # sent at the end of this pass of the loop, before it reads
        async with asyncio.timeout(10):
            await client.lost.wait()
        for ask in waits, late:
            with pytest.raises(NotPacedError, match="unreachable: the run has ended"):
                ask.turn.result()


async def one_call(folder):
    """Make one call through a hub, close the client, and wait until the hub has its outcome."""
    async with Hub(Registry({"ec2": "1000/s"}), directory=folder / "h") as hub:
        client = RunHubClient(str(hub.path))
        await client.open()
        ask = client.ask(CALL)
        await ask.turn
        ask.end({"status": 404})
        await client.aclose()
        async with asyncio.timeout(10):
            while introspect.requests_of(hub):  # noqa: ASYNC110 - the hub has no event for it
                await asyncio.sleep(0.01)
        assert hub.figures[0].errors == 1


@pytest.mark.parametrize("line", [b"HTTP/1.1 400\r\n", b"[]\n"])
async def test_unreadable_line_ends_the_connection(listener, line):
    """No call waits for ever: those that wait are refused. The error itself is reported, too."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with accepted(listener, WELCOME) as (client, connection):
        ask = client.ask(CALL)
        await asyncio.to_thread(connection.recv, 65536)
        connection.sendall(line)
        async with asyncio.timeout(10):
            await client.lost.wait()
        with pytest.raises(NotPacedError, match="hub is unreachable"):
            ask.turn.result()
        assert await asyncio.to_thread(connection.recv, 1) == b""
    assert len(errors) == 1


async def test_last_outcomes_are_sent_at_the_end(folder, blockbuster):
    """`aclose` sends what waits for the loop's next pass: the hub has all outcomes."""
    blockbuster.deactivate()  # the hub looks at processes
    await one_call(folder)


def test_hub_and_client_on_uvloop(folder):
    """Its transports and sockets are its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(one_call(folder))
