"""What the server of both hubs does, the run hub and the host hub."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import dataclass

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import Hub
from tests.helpers import introspect
from tests.helpers.host_crowd import hello
from tests.helpers.hubs import host_hub_on_loop, hub_in_use


@dataclass
class Served:
    """A hub on the loop of the test, and how its clients speak."""

    path: str
    hello: bytes
    refusal: str
    longest: int
    ask: str
    connections: object

    def connect(self):
        """Connect to it."""
        return asyncio.open_unix_connection(self.path)

    async def greeted(self):
        """Connect to it, and be welcome."""
        reader, writer = await self.connect()
        writer.write(self.hello)
        assert self.refusal not in json.loads(await reader.readline())
        return reader, writer


@contextlib.asynccontextmanager
async def run_hub(directory):
    """Serve as `aioapiqueue run` does."""
    greeting = json.dumps({"do": "hello", "version": 2, "pid": os.getpid()}).encode() + b"\n"
    ask = '{"do":"ask","id":%d,"service":"iam","operation":"ListUsers"}\n'
    async with Hub(Registry({}), directory=directory) as hub:
        yield Served(
            str(hub.path), greeting, "error", 8192, ask, lambda: introspect.connections_of(hub)
        )


@contextlib.asynccontextmanager
async def host_hub(directory):
    """Serve as the host hub."""
    async with host_hub_on_loop(directory) as (service, path):
        yield Served(
            path,
            hello(0, limits=[]),
            "refused",
            1 << 24,
            '[["join",%d,[],null,0]]\n',
            lambda: introspect.connections_of(service),
        )


@pytest.fixture(params=[run_hub, host_hub], ids=["run", "host"])
async def hub(request, blockbuster):
    """Give each of the hubs, in virtual time."""
    blockbuster.deactivate()  # hubs look at files and processes: nothing else is on their loop
    with hub_in_use() as directory:
        async with request.param(directory) as served:
            yield served


async def test_silent_client_is_refused(hub):
    """After half a minute, with the reason; also who sends a line that never ends."""
    loop = asyncio.get_running_loop()
    silent, slow = await hub.connect(), await hub.connect()
    await asyncio.sleep(0)
    began = loop.time()
    for second in range(29):
        loop.call_later(second, slow[1].write, b" ")
    async with asyncio.timeout(60):
        for reader, writer in (silent, slow):
            assert "sent no hello within 30 s" in json.loads(await reader.readline())[hub.refusal]
            assert loop.time() == began + 30
            assert await reader.read() == b""
            writer.close()


async def test_clients_have_no_time_limit(hub):
    """Who has said hello stays, and the hub keeps no timer for it."""
    loop, connections, timers = asyncio.get_running_loop(), [], []
    for _ in range(3):
        connections.append(await hub.greeted())
        timers.append(loop.pending_timers)
    assert len(set(timers)) == 1
    await asyncio.sleep(120)
    for reader, writer in connections:
        assert not reader.at_eof()
        writer.close()


async def test_silent_client_leaves_no_timer(hub):
    """A connection that ends without hello is forgotten at once."""
    loop = asyncio.get_running_loop()
    _, stays = await hub.connect()
    await asyncio.sleep(0.1)
    before = loop.pending_timers
    for _ in range(3):
        _, leaves = await hub.connect()
        await asyncio.sleep(0.1)
        leaves.close()
    await asyncio.sleep(0.1)
    assert loop.pending_timers == before
    stays.close()


async def test_line_without_end_is_refused(hub):
    """More than the longest line is no message of a client."""
    reader, writer = await hub.connect()
    writer.write(b"x" * (hub.longest - 1))
    await asyncio.sleep(1)
    assert len(hub.connections()) == 1
    writer.write(b"x")
    assert f"longer than {hub.longest:,} bytes" in json.loads(await reader.readline())[hub.refusal]
    assert await reader.read() == b""
    writer.close()


async def test_other_users_are_refused(hub, monkeypatch):
    """The kernel names another user: nothing that the process sends is read."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    reader, writer = await hub.connect()
    writer.write(hub.hello)
    assert f"not {uid}" in json.loads(await reader.readline())[hub.refusal]
    with contextlib.suppress(ConnectionError):  # closed with something unread
        assert await reader.read() == b""
    assert not hub.connections()
    writer.close()


async def test_unread_answers_stop_reading(hub):
    """Of what a client sends that does not read, the hub takes a bounded part; later, all.

    Others are served meanwhile.
    """
    reader, writer = await hub.greeted()
    writer.transport.pause_reading()
    calls = 20_000
    writer.write("".join(hub.ask % number for number in range(1, calls + 1)).encode())
    await asyncio.sleep(1)
    [connection] = hub.connections()
    assert writer.transport.get_write_buffer_size() > 0
    assert 0 < introspect.unsent_bytes(connection) < 1_000_000
    other = await hub.greeted()
    other[1].write((hub.ask % 1).encode())
    async with asyncio.timeout(10):
        assert await other[0].readline()
    other[1].close()
    writer.transport.resume_reading()
    heard = b""
    async with asyncio.timeout(60):
        while heard.count(b"grant") + heard.count(b'"go"') < calls:
            heard += await reader.read(1 << 20)
    writer.transport.abort()
    await asyncio.sleep(1)
    assert not hub.connections()


async def test_long_answer_is_read(hub):
    """A client that reads gets any answer, however long, such as the status of many lanes."""
    reader, writer = await hub.greeted()
    [connection] = hub.connections()
    answer = b"x" * 20_000_000 + b"\n"
    introspect.send_raw(connection, answer)
    assert await reader.readexactly(len(answer)) == answer
    writer.close()


async def test_rest_is_read_after_hang_up(hub):
    """All that a client sent before it ended is processed, although answers to it fail."""
    _, waits = await hub.greeted()
    [stays] = hub.connections()
    received = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(hub.path)
        client.sendall(hub.hello)
        await asyncio.sleep(1)
        [connection] = set(hub.connections()) - {stays}
        take = connection.received
        connection.received = lambda lines: (received.extend(lines), take(lines))
        lines = [hub.ask % number for number in range(1, 1001)]  # more than the hub reads at once
        client.sendall("".join(lines).encode())
    await asyncio.sleep(1)
    assert len(received) == 1000
    assert hub.connections() == [stays]
    waits.close()


async def test_client_may_not_send_for_ever(hub):
    """If a client reads no more and goes on sending, the hub closes its connection."""

    def send():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(hub.path)
            client.sendall(hub.hello)
            client.recv(1 << 16)
            client.shutdown(socket.SHUT_RD)
            lines = "".join(hub.ask % number for number in range(1, 1001)) * 200
            with pytest.raises(ConnectionError):
                client.sendall(lines.encode())

    await asyncio.to_thread(send)
    await asyncio.sleep(1)
    assert not hub.connections()


async def test_deeply_nested_lines_are_refused(hub):
    """As the first line, and after it."""
    for connect in hub.connect, hub.greeted:
        reader, writer = await connect()
        writer.write(b"[" * 8000 + b"\n")
        async with asyncio.timeout(10):
            assert hub.refusal in json.loads(await reader.readline())
            assert await reader.read() == b""
        writer.close()
    assert not hub.connections()


async def test_failing_hello_ends_its_connection(hub, monkeypatch):
    """What the hub raises at a hello is reported, and its client need not wait."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    def fail(_):
        raise RuntimeError

    reader, writer = await hub.connect()
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", fail)
        writer.write(hub.hello)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    assert isinstance(errors[0]["exception"], RuntimeError)
    assert not hub.connections()
    writer.close()


async def test_failing_handler_ends_its_connection(hub):
    """What a handler raises is reported; what the client had is dropped, although it sends on."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    _, writer = await hub.greeted()
    [connection] = hub.connections()
    calls = []
    connection.received = lambda lines: calls.append(len(lines)) or 1 / 0
    writer.write((hub.ask % 1).encode() * 1000)  # more than the hub reads at once
    await asyncio.sleep(1)
    assert len(calls) == len(errors) == 1
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    assert not hub.connections()
    writer.close()
