"""Which of a server's addresses is connected to, in virtual time: as RFC 8305 has it.

And for how long names are looked up that a proxy connects to.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from aioapiqueue.registry.spi import Origin
from aioapiqueue_run.gateway.confinement import Confinement, ForbiddenError
from tests.helpers import introspect

ADDRESSES = [ip_address(f"192.0.2.{number}") for number in (1, 2, 3)]


class Stream:
    """A connection."""

    def __init__(self):
        self.closed = False

    async def aclose(self):
        """Close it."""
        self.closed = True


class Dial:
    """Connects to addresses, each after some seconds: or fails then, or never answers.

    Args:
        outcomes: by the last number of the address: seconds, and whether it answers.
    """

    def __init__(self, outcomes):
        self.outcomes = outcomes
        self.tried = {}
        self.streams = {}

    async def __call__(self, host, port):
        """Connect."""
        number = int(host.rpartition(".")[2])
        self.tried[number] = asyncio.get_running_loop().time()
        seconds, answers = self.outcomes[number]
        await asyncio.sleep(seconds)
        if not answers:
            raise ConnectionRefusedError(f"{number}:{port}")
        return self.streams.setdefault(number, Stream())


async def test_first_that_answers_is_taken():
    """The others are tried a quarter of a second later each, and given up."""
    dial = Dial({1: (20, True), 2: (1, True), 3: (20, True)})
    stream = await introspect.connect_to_first(ADDRESSES, 443, dial)
    assert stream is dial.streams[2]
    assert asyncio.get_running_loop().time() == 1.25
    assert dial.tried == {1: 0, 2: 0.25, 3: 0.5}
    assert list(dial.streams) == [2]


async def test_next_is_tried_at_once():
    """Where one refuses, it is not waited for."""
    dial = Dial({1: (0, False), 2: (0.1, False), 3: (0, True)})
    stream = await introspect.connect_to_first(ADDRESSES, 443, dial)
    assert stream is dial.streams[3]
    assert dial.tried == {1: 0, 2: 0, 3: 0.1}


async def test_none_answers():
    """The error is the first one, once all have failed."""
    dial = Dial({1: (9, False), 2: (0, False), 3: (0, False)})
    with pytest.raises(ConnectionRefusedError, match="2:443"):
        await introspect.connect_to_first(ADDRESSES, 443, dial)
    assert asyncio.get_running_loop().time() == 9


async def test_two_that_answer_at_once():
    """One is taken, and the other closed."""
    dial = Dial({1: (0.25, True), 2: (0, True), 3: (0, True)})
    stream = await introspect.connect_to_first(ADDRESSES, 443, dial)
    assert not stream.closed
    assert all(one.closed for one in dial.streams.values() if one is not stream)


@pytest.mark.parametrize("at", [0.1, 0.3, 1.0])
async def test_cancelled_while_it_connects(at):
    """Also in the moment in which one answers: nothing is left open."""
    dial = Dial({1: (1, True), 2: (20, True), 3: (20, True)})
    connecting = asyncio.ensure_future(introspect.connect_to_first(ADDRESSES, 443, dial))
    asyncio.get_running_loop().call_at(at, connecting.cancel)
    await asyncio.wait({connecting})
    if connecting.cancelled():
        assert all(stream.closed for stream in dial.streams.values())
    else:  # it answered first
        assert not connecting.result().closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


HOST = Origin("names.test", 443, tls=True)


class Names:
    """A name server, which answers after some seconds."""

    def __init__(self):
        self.answers = []
        """Seconds, and an address."""
        self.asked = []
        """When, and for what."""

    async def __call__(self, host):
        """Look up."""
        self.asked.append((asyncio.get_running_loop().time(), host))
        seconds, address = self.answers.pop(0)
        await asyncio.sleep(seconds)
        return [ip_address(address)]


@pytest.fixture
def names(monkeypatch):
    """Have names looked up in virtual time."""
    names = Names()
    introspect.replace(monkeypatch, "look-up of a name", names)
    return names


async def test_name_of_a_proxys_is_asked_for_briefly(names):
    """Nobody may answer for it here: the proxy looks it up itself. Nor is that asked again soon."""
    names.answers = [(100, "127.0.0.1"), (1.9, "127.0.0.1")]
    confinement = Confinement([])
    await confinement.check(HOST)
    assert asyncio.get_running_loop().time() == 2
    await confinement.check(HOST)
    await asyncio.sleep(57.9)
    await confinement.check(HOST)
    assert asyncio.get_running_loop().time() == 59.9
    await asyncio.sleep(0.1)
    with pytest.raises(ForbiddenError, match="is this host"):
        await confinement.check(HOST)
    assert names.asked == [(0, HOST.host), (60, HOST.host)]
