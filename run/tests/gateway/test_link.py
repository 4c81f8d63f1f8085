"""Two sides that talk, in virtual time."""

from __future__ import annotations

import asyncio

import anyio
import h11
import pytest

from aioapiqueue_run.gateway.link import HttpLink, join


class Side:
    """One whose end can be told by closing the connection alone, as TLS has it."""

    def __init__(self):
        self.coming = asyncio.Queue()
        self.got = []
        self.closed_at = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        data = await self.coming.get()
        if data is None:
            raise StopAsyncIteration
        return data

    async def send(self, data):
        """Note what is sent."""
        self.got.append(data)

    async def send_eof(self):
        """There is none."""
        raise NotImplementedError

    async def aclose(self):
        """Note it; who reads sees the end."""
        if self.closed_at is None:
            self.closed_at = asyncio.get_running_loop().time()
        self.coming.put_nowait(None)


@pytest.mark.parametrize(("options", "ends"), [({}, 5.0), ({"linger": 0}, 0.0)])
async def test_other_side_is_closed(options, ends):
    """Some seconds after the one has ended, in which it may go on; or at once."""
    one, other = Side(), Side()
    one.coming.put_nowait(b"hello")
    one.coming.put_nowait(None)
    await join(one, other, **options)
    assert other.got == [b"hello"]
    assert other.closed_at == ends


async def test_server_that_goes_on_in_another_protocol():
    """Nobody asked for it, as by CONNECT: it is an error, and not waited for in a circle."""

    class Stream:
        sent = b""

        async def send(self, data):
            self.sent += data

        async def receive(self):
            return b"HTTP/1.1 200 OK\r\n\r\nwhatever"

    link = HttpLink(Stream(), client=True)
    await link.send(h11.Request(method="CONNECT", target="a:1", headers=[("Host", "a")]))
    await link.send(h11.EndOfMessage())
    assert isinstance(await link.event(), h11.Response)
    with anyio.fail_after(1), pytest.raises(h11.RemoteProtocolError, match="another protocol"):
        await link.event()
