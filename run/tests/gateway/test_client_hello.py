from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
from pathlib import Path

import anyio
import pytest

from aioapiqueue_run.gateway.client_hello import read_hello
from aioapiqueue_run.gateway.namespace import listen, serve_namespace


def hello_for(name, *, version=None):
    """Return what OpenSSL sends first."""
    sends = ssl.MemoryBIO()
    context = ssl.create_default_context()
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    side = context.wrap_bio(ssl.MemoryBIO(), sends, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return sends.read()


class Stream:
    """Gives bytes in pieces."""

    def __init__(self, data, size):
        self.parts = [data[at : at + size] for at in range(0, len(data), size)]

    async def receive(self):
        """Return the next piece."""
        if not self.parts:
            raise anyio.EndOfStream
        return self.parts.pop(0)


HOST = "ec2.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("size", [1, 100, 10_000])
async def test_name_of_the_server(size):
    """As OpenSSL sends it, in one piece or in many."""
    hello = hello_for(HOST.upper())
    assert await read_hello(Stream(hello, size)) == (hello, HOST)
    # OpenSSL sends no dot at a name's end, but others may: it is the same host.
    size, name = struct.pack("!H", 15), b"example.invalid"
    dotted = hello_for("example.invalid").replace(size + name, size + b"example.invali.")
    assert await read_hello(Stream(dotted, 10_000)) == (dotted, "example.invali")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_2"] if ssl.HAS_TLSv1 else ["TLSv1_2"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
async def test_older_versions_have_names(version):
    """Such a program may reach a server that is passed by."""
    hello = hello_for(HOST, version=ssl.TLSVersion[version])
    assert await read_hello(Stream(hello, 10_000)) == (hello, HOST)


async def test_name_in_a_later_record():
    """A long message may be in several of them."""
    hello = hello_for(HOST)
    head, message = hello[:3], hello[5:]
    parts = message[:50], message[50:]
    split = b"".join(head + struct.pack("!H", len(one)) + one for one in parts)
    assert await read_hello(Stream(split, 40)) == (split, HOST)


async def test_what_is_no_hello_has_no_name():
    """An address has no name to send; other protocols, and what is spoilt, have none either."""
    hello = hello_for("192.0.2.1")
    assert await read_hello(Stream(hello, 10_000)) == (hello, None)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(9), bytes(100)):
        found, name = await read_hello(Stream(data, 7))
        assert data.startswith(found)
        assert name is None


async def test_name_that_is_not_ascii(monkeypatch):
    """It is none, and nothing is written to the log, whose last line the run shows."""
    written = []
    monkeypatch.setattr(sys, "unraisablehook", written.append)
    name, invalid = b"cafe.invalid", "café.invali".encode()
    hello = hello_for(name.decode()).replace(name, invalid)
    assert await read_hello(Stream(hello, 10_000)) == (hello, None)
    assert not written


async def test_hello_that_is_cut_off():
    """It is waited for until the client hangs up; one with any byte spoilt does no harm."""
    hello = hello_for("example.com")
    for at in range(0, len(hello), 7):
        with pytest.raises(anyio.EndOfStream):
            await read_hello(Stream(hello[:at], 10_000))
    for at in range(5, len(hello)):
        spoilt = hello[:at] + bytes([hello[at] ^ 1]) + hello[at + 1 :]
        with contextlib.suppress(anyio.EndOfStream):  # a length that is longer now
            assert (await read_hello(Stream(spoilt, 10_000)))[0] == spoilt


def question(name, kind):
    """Return a question as resolvers ask it."""
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return (
        b"\x12\x34\x01\x00" + struct.pack("!4H", 1, 0, 0, 0) + labels + struct.pack("!xHH", kind, 1)
    )


class Nobody:
    """A server to which no program connects."""

    async def proxy(self, listener):
        """Serve the proxy."""
        await listener.aclose()


async def resolve(*packets):
    """Send packets to the resolver of a namespace; return its first answer."""
    listener = listen(Path("isolated.sock"))
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_DGRAM
        proxy, names, client = (
            stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds
        )
        for one in (proxy, names, client):
            one.bind(("127.0.0.1", 0))
        proxy.listen()
        client.settimeout(0)
        link = stack.enter_context(socket.socket(socket.AF_UNIX))
        link.connect("isolated.sock")
        socket.send_fds(link, [b"sockets"], [proxy.fileno(), names.fileno()])
        async with anyio.create_task_group() as group:
            group.start_soon(serve_namespace, Nobody(), listener, group)
            for one in packets:
                await loop.sock_sendto(client, one, names.getsockname())
            async with asyncio.timeout(5):
                answer = await loop.sock_recv(client, 512)
            group.cancel_scope.cancel()
    return answer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Let the test be in a folder of its own: the path of a Unix socket must be short."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.posix
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", [1, 28, 65, 16])
def test_every_name_is_here(kind):
    """127.0.0.1 for IPv4; of other kinds, a name has nothing. The question comes back with it."""
    asked = question("ec2.eu-west-1.amazonaws.com", kind)
    answer = asyncio.run(resolve(asked))
    number = 1 if kind == 1 else 0
    assert answer[:2] == b"\x12\x34"
    assert struct.unpack_from("!4H", answer, 4) == (1, number, 0, 0)
    assert answer[12:].startswith(asked[12:])
    assert answer.endswith(socket.inet_aton("127.0.0.1")) == bool(number)


@pytest.mark.posix
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("data", [b"", b"\0" * 11, b"\x12\x34" + b"\xff" * 40, b"\0" * 13])
def test_no_question_has_no_answer(data):
    """What is cut off is dropped; the next question is answered."""
    asked = question("example.com", 1)
    assert asyncio.run(resolve(data, asked))[12:].startswith(asked[12:])
