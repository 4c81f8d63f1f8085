"""Connections that do not show the run's password: any user of this host can make them."""

from __future__ import annotations

import asyncio
import base64

import pytest

from tests.helpers import introspect
from tests.helpers.gateway_bench import HOST, OK, USER, read

pytestmark = pytest.mark.real

MOST = 64
SILENT = 0.5  # seconds that one who sends nothing has, at least
WRONG = base64.b64encode(b"run:guess").decode()
PLAIN = (
    f"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: Basic {USER}"
    "\r\n\r\n"
).encode()


@pytest.fixture(autouse=True)
def few_unauthenticated(monkeypatch):
    """Have as few as where a process may open 512 files."""
    introspect.replace(monkeypatch, "connections without a password", (MOST, MOST))
    introspect.replace(monkeypatch, "seconds of a silent client", SILENT)


def connect(password):
    """Return a request for a tunnel."""
    head = f"CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: Basic {password}"
    return f"{head}\r\n\r\n".encode()


async def closed(reader, within=5):
    """Wait until the gateway closes a connection; return what it has sent."""
    return await asyncio.wait_for(reader.read(), within)


@pytest.mark.parametrize(
    "sent", [b"", b"GET ", connect(WRONG)], ids=["nothing", "half a request", "wrong password"]
)
async def test_password_has_a_time_limit(bench, monkeypatch, stalls, sent):
    """However little is sent, and however often it is wrong: the connection is closed."""
    introspect.replace(monkeypatch, "seconds until a password", 0.5)
    reader, writer = await bench.raw()
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.write(sent)
    if WRONG.encode() in sent:
        assert (await read(reader))[0] == 407
        await asyncio.sleep(0.3)
        writer.write(sent)
        assert (await read(reader))[0] == 407
    assert await closed(reader) == b""
    assert 0.4 < loop.time() - began < 3 + stalls.seconds


async def test_program_has_all_the_time(bench, monkeypatch):
    """With the password, it may wait as long as it likes between two requests."""
    introspect.replace(monkeypatch, "seconds until a password", 0.2)
    reader, writer = await bench.raw()
    for number in range(2):
        writer.write(PLAIN)
        if not number:
            server_reader, server_writer = await bench.next()
        await server_reader.readuntil(b"\r\n\r\n")
        server_writer.write(OK)
        assert (await read(reader))[0] == 200
        await asyncio.sleep(0.4)
    writer.write(connect(WRONG))
    assert (await read(reader))[0] == 407


@pytest.mark.parametrize(
    ("sent", "seconds"), [(b"GET ", 0.25), (b"", SILENT)], ids=["half", "none"]
)
async def test_oldest_of_too_many_is_closed(bench, sent, seconds):
    """Once it has had its time. Those with the password are kept, be they older."""
    program = await bench.connect()
    loop = asyncio.get_running_loop()
    began = loop.time()
    strangers = []
    for _ in range(MOST + 3):
        reader, writer = await bench.raw()
        writer.write(sent)
        strangers.append(reader)
    for reader in strangers[:3]:
        assert await closed(reader) == b""
    assert loop.time() - began >= seconds
    await asyncio.sleep(0.1)
    assert not any(reader.at_eof() for reader in strangers[3:])
    again = await bench.connect()
    for reader, writer in (program, again):
        writer.write(b"no request\r\n\r\n")
        assert (await read(reader))[0] == 400


def give_time_to_connect(monkeypatch):
    """Allow 5 s of silence: a busy machine may need more than `SILENT` to connect all clients."""
    introspect.replace(monkeypatch, "seconds of a silent client", 5)


async def test_new_connections_are_not_closed(bench, monkeypatch):
    """A program makes all of its connections before it sends anything: those too many wait."""
    give_time_to_connect(monkeypatch)
    made = [await bench.raw() for _ in range(3 * MOST)]
    await asyncio.sleep(0.2)
    for _, writer in made:
        writer.write(connect(USER))
    for reader, _ in made:
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)


async def test_burst_of_programs_is_served(bench, monkeypatch):
    """Twice as many at once as there may be strangers: none is closed."""
    give_time_to_connect(monkeypatch)

    async def ask():
        reader, writer = await bench.raw()
        writer.write(connect(USER))
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)

    found = await asyncio.gather(*(ask() for _ in range(2 * MOST)))
    assert all(b" 200 " in one for one in found)


async def test_strangers_that_leave_are_forgotten(bench):
    """They do not count any more: an older one is not closed for them."""
    reader, _ = await bench.raw()
    await asyncio.sleep(SILENT + 0.1)  # it has had its time
    for _ in range(MOST + 3):
        _, writer = await bench.raw()
        writer.transport.abort()
        await asyncio.sleep(0.002)
    with pytest.raises(TimeoutError):
        await closed(reader, 0.3)
