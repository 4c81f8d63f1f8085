"""The first line of a connection to the host hub: how long it may be, and what waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path

import pytest

from aioapiqueue.schedules.spi import HubLocation, reach
from tests.helpers import introspect
from tests.helpers.host_crowd import hello
from tests.helpers.hubs import ask_hub, host_hub_on_loop, hub_in_use, processes_of
from tests.helpers.yardstick import slowness

wire = introspect.hub_messages()


@pytest.fixture
async def service(directory, blockbuster):
    """Have a hub in this loop, whose time is virtual."""
    blockbuster.deactivate()  # a hub looks at its files: nothing else is on its loop
    async with host_hub_on_loop(directory) as (service, _):
        yield service


@pytest.fixture
def connect(service, directory):
    """Give what connects to the hub in this loop."""
    [path] = HubLocation(str(directory)).sockets()
    return lambda: asyncio.open_unix_connection(os.fspath(path))


@pytest.fixture
def directory():
    """Give a directory for a hub."""
    with hub_in_use() as path:
        yield path


@pytest.mark.parametrize(
    "terms",
    [{"limits": [5]}, {"limits": ["~5 at once"]}, {"concurrency": 1e999}, {"units": 1}],
)
async def test_malformed_hello_is_refused(connect, terms):
    """It is answered and closed: a connection that stays would keep the hub from its end."""
    reader, writer = await connect()
    writer.write(hello(0, **terms))
    async with asyncio.timeout(5):
        assert "invalid message" in json.loads(await reader.readline())["refused"]
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("value", ["null", '"abc"', "[]", "{}", "NaN", "Infinity", "-1", "9" * 400])
@pytest.mark.parametrize("part", ["waited", "others"])
async def test_malformed_join_harms_no_other_client(connect, directory, part, value):
    """It is refused at once. Another client's call starts when it is due; `status` is answered."""
    victim, attacker = await connect(), await connect()
    for reader, writer in (victim, attacker):
        writer.write(hello(0, limits=["20/s burst 1"]))
        await reader.readline()
    attacker[1].write(b'[["join",1,[],null,0]]\n')
    assert b"grant" in await attacker[0].readline()
    numbers = f"{value},0" if part == "waited" else f"0,{value}"
    attacker[1].write(f'[["join",2,[],null,0,{numbers}]]\n'.encode())
    victim[1].write(b'[["join",1,[],null,0]]\n')
    async with asyncio.timeout(1):
        assert "invalid message" in json.loads(await attacker[0].readline())["refused"]
        while b"grant" not in await victim[0].readline():
            pass
    status = await asyncio.to_thread(ask_hub, directory, command="status")
    assert status["quotas"][0]["started"] == 2
    victim[1].close()
    attacker[1].close()


def keep_busy(service):
    """Have other clients' work before what comes next: it waits for twenty passes of the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(20):
        service.steps.add(lambda: loop.stall(0.01))


async def pass_by(passes):
    """Wait for so many passes of the loop."""
    for _ in range(passes):
        await asyncio.sleep(0)


@pytest.mark.parametrize("second", [b'[["join",2,[],null,0]]\n', b'[["running",2,[],null]]\n'])
async def test_ticket_in_use_is_refused(connect, second):
    """A second call of the same ticket would keep the permit of the first one for ever."""
    join = b'[["join",%d,[],null,0]]\n'
    for _ in range(2):
        reader, writer = await connect()
        writer.write(hello(0, limits=[], concurrency=2))
        await reader.readline()
        async with asyncio.timeout(5):
            for ticket in 1, 2:
                writer.write(join % ticket)
                while b"grant" not in await reader.readline():
                    pass
            writer.write(b'[["end",1]]\n' + second)
            while not (line := await reader.readline()).startswith(b"{"):
                assert b"grant" not in line
            assert "2 is in use" in json.loads(line)["refused"]
        writer.close()


@pytest.mark.parametrize("when", ["with it", "while it waits", "when it is answered"])
async def test_lines_after_hello_are_processed(service, connect, when):
    """What a client sends behind its hello is answered behind it, whenever it comes."""
    reader, writer = await connect()
    keep_busy(service)
    line = b'[["join",1,[],null,0]]\n'
    if when == "with it":
        writer.write(hello(0) + line)
    else:
        writer.write(hello(0))
        await pass_by(5)
    if when == "while it waits":
        writer.write(line)
        await pass_by(5)
    async with asyncio.timeout(10):
        assert "welcome" in json.loads(await reader.readline())
        if when == "when it is answered":
            writer.write(line)
        messages = json.loads(await reader.readline())
    assert [message[:2] for message in messages if message[0] == "grant"] == [["grant", 1]]
    writer.close()


async def test_commands_wait_for_no_hellos(service, connect):
    """While other clients' hellos wait, a command is answered before them."""
    loop = asyncio.get_running_loop()
    keep_busy(service)
    began = loop.time()
    reader, writer = await connect()
    writer.write(b'{"command":"status","lanes":false}\n')
    assert json.loads(await reader.readline())["quotas"] == []
    assert loop.time() - began < 0.1  # of the 0.2 s that the others take
    writer.close()


@pytest.fixture
def hub(directory):
    """Give the directory of a hub that runs."""
    reach({"command": "keep"}, override=str(directory)).sock.close()
    return directory


@pytest.fixture
def sock(hub):
    """Give a connection to it."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.connect(os.fspath(HubLocation(str(hub)).sockets()[0]))
        sock.settimeout(120)
        yield sock


def cpu_seconds(pid):
    """Return what a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_long_line_costs_its_length(hub, sock):
    """15 MB, as of the terms of 100,000 lanes, are read in a moment, in whatever pieces."""
    [pid] = processes_of(hub)
    before = cpu_seconds(pid)
    sock.sendall(hello(0, program="x" * 15_000_000))
    assert json.loads(sock.recv(65536))["welcome"] == wire.own_version()
    assert cpu_seconds(pid) - before < 1 * slowness()
