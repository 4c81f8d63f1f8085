from __future__ import annotations

import socket
import ssl
import struct

import anyio
import pytest

from aioapiqueue.gateway import namespace as _namespace
from aioapiqueue.gateway.client_hello import name_in, read_hello


def hello_for(name):
    """Return what OpenSSL sends first."""
    sends = ssl.MemoryBIO()
    context = ssl.create_default_context()
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


@pytest.mark.parametrize("size", [1, 100, 10_000])
async def test_name_of_the_server(size):
    """As OpenSSL sends it, in one piece or in many."""
    hello = hello_for("EC2.eu-west-1.amazonaws.com")
    assert await read_hello(Stream(hello, size)) == hello
    assert name_in(hello) == "ec2.eu-west-1.amazonaws.com"
    # OpenSSL sends no dot at a name's end, but others may: it is the same host.
    size, name = struct.pack("!H", 15), b"example.invalid"
    dotted = hello_for("example.invalid").replace(size + name, size + b"example.invali.")
    assert name_in(dotted) == "example.invali"


async def test_what_is_no_hello_has_no_name():
    """An address has no name to send; other protocols, and what is cut off, have none either."""
    assert name_in(hello_for("192.0.2.1")) is None
    hello = hello_for("example.com")
    for at in range(len(hello)):
        name_in(hello[:at])  # raises nothing
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", bytes(100)):
        assert name_in(await read_hello(Stream(data, 7))) is None
    with pytest.raises(anyio.EndOfStream):
        await read_hello(Stream(hello[:-1], 10))


def question(name, kind):
    """Return a question as resolvers ask it."""
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return (
        b"\x12\x34\x01\x00" + struct.pack("!4H", 1, 0, 0, 0) + labels + struct.pack("!xHH", kind, 1)
    )


def test_every_name_is_here():
    """127.0.0.1 for IPv4; of other kinds, a name has nothing. The question comes back with it."""
    asked = question("ec2.eu-west-1.amazonaws.com", 1)
    answer = _namespace._answer_to(asked)  # noqa: SLF001 - what it answers is what it is for
    assert answer[:2] == b"\x12\x34"
    assert struct.unpack_from("!4H", answer, 4) == (1, 1, 0, 0)
    assert answer[12:].startswith(asked[12:])
    assert answer.endswith(socket.inet_aton("127.0.0.1"))
    for kind in (28, 65, 16):
        answer = _namespace._answer_to(question("example.com", kind))  # noqa: SLF001 - as above
        assert struct.unpack_from("!4H", answer, 4) == (1, 0, 0, 0)


@pytest.mark.parametrize("data", [b"", b"\0" * 11, b"\x12\x34" + b"\xff" * 40, b"\0" * 13])
def test_no_question_has_no_answer(data):
    """What is cut off is dropped."""
    assert _namespace._answer_to(data) is None  # noqa: SLF001 - as above
