"""Requests that two servers may read in two ways, and answers that are none: not passed on."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.gateway_bench import HOST, OK, USER, read

pytestmark = pytest.mark.real

LIMITED = "api.test"


@pytest.fixture
def hosts():
    """One host, without TLS: each byte can be sent and seen."""
    return {f"http://{LIMITED}": "1000/s"}


def request(first, *headers, body=b""):
    """Return a request with the password."""
    lines = [first, f"Proxy-Authorization: Basic {USER}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize("given", ["other.test", f"{LIMITED}:80", LIMITED.upper(), None])
async def test_host_is_that_of_the_url(bench, given):
    """RFC 9112, 3.2.2: what the header says is not passed on, as a server could go by it."""
    headers = ["X-First: 1", *([f"hOsT: {given}"] if given else [])]
    version = "1.1" if given else "1.0"  # which may have none
    for url in ("free.test", "free.test:80", "me@free.test", LIMITED):
        reader, writer = await bench.raw()
        writer.write(request(f"GET http://{url}/x HTTP/{version}", *headers))
        server_reader, server_writer = await bench.next()
        came = await server_reader.readuntil(b"\r\n\r\n")
        found = [line for line in came.decode().split("\r\n") if line.lower().startswith("host:")]
        assert found == [f"Host: {url.rpartition('@')[2]}"]
        assert b"X-First: 1\r\n" in came
        server_writer.write(OK)
        assert (await read(reader))[0] == 200
        server_writer.close()


TWO_LENGTHS = ("Content-Length: 3", "Transfer-Encoding: chunked")


@pytest.mark.parametrize("mark", [(), ("x-aioapiqueue-asked: mark",)], ids=["", "mark"])
@pytest.mark.parametrize("host", ["free.test", LIMITED, HOST])
async def test_two_lengths_without_a_tunnel(bench, host, mark):
    """Of any host, looked into or not, asked for before or not: nothing is sent."""
    reader, writer = await bench.raw()
    head = f"POST http://{host}/ HTTP/1.1"
    writer.write(request(head, f"Host: {host}", *TWO_LENGTHS, *mark, body=b"0\r\n\r\n"))
    status, _, body = await read(reader)
    assert (status, body) == (
        400,
        b"aioapiqueue: the request has both Content-Length and Transfer-Encoding\n",
    )
    assert bench.came.empty()
    assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.parametrize("mark", [(), ("x-aioapiqueue-asked: mark",)], ids=["", "mark"])
async def test_two_lengths_in_a_tunnel(bench, mark):
    """Of a host that is looked into."""
    reader, writer = await bench.connect(f"{HOST}:80")
    head = "\r\n".join(["PUT /key HTTP/1.1", f"Host: {HOST}", *TWO_LENGTHS, *mark, "", ""])
    writer.write(head.encode() + b"0\r\n\r\n")
    assert (await read(reader))[0] == 400
    assert bench.came.empty()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 140_000, b"SSH-2.0-OpenSSH_9.9\r\n\r\n"],
    ids=["long head", "another protocol"],
)
@pytest.mark.parametrize("host", ["free.test", LIMITED, HOST])
async def test_answer_that_is_none(bench, host, answer):
    """The program gets a 502 with the reason, and the turn has ended."""
    reader, writer = await bench.raw()
    form = "Action=DescribeVolumes&Version=2016-11-15"
    headers = [
        f"Host: {host}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(form)}",
    ]
    head = f"POST http://{host}/ HTTP/1.1"
    writer.write(request(head, *headers, body=form.encode()))
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(form.encode())
    server_writer.write(answer)
    status, _, body = await read(reader)
    assert status == 502
    assert f"{host} did not respond in HTTP/1.1, or its headers exceed" in body.decode()
    await bench.until(lambda: not bench.running)
