"""Requests to a host with limits of its own: on a real hub, to a server that does what it likes."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.helpers import introspect
from tests.helpers.gateway_bench import HOST as AWS
from tests.helpers.gateway_bench import OK, read

pytestmark = pytest.mark.real

HOST = "api.test"
NAME = f"http://{HOST}"
EARLY = 0.012  # seconds: a queue catches up by 10 ms
LIMITS = {"rate": "1000/s burst 1000", "concurrency": 3, "lanes": {"GET /slow/*": "1000/s"}}


@pytest.fixture
def hosts():
    """One host, without TLS: each byte can be sent and seen."""
    return {NAME: LIMITS, f"http://{HOST}:8080": "1000/s", f"http://abc.execute-api.{REST}": "1/h"}


REST = "eu-west-1.amazonaws.com"


def get(path="/", *headers, host=HOST):
    """Return a request."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def operations(bench):
    """Return how many calls there were of each operation of each service."""
    return {(one.service, one.operation): one.calls for one in bench.hub.figures}


async def exchange(bench, request, answer=OK, *, host=f"{HOST}:80"):
    """Send a request over a connection of its own; return what came, and the client's answer."""
    reader, writer = await bench.connect(host)
    writer.write(request)
    server_reader, server_writer = await bench.next()
    came = await server_reader.readuntil(b"\r\n\r\n")
    server_writer.write(answer)
    found = await read(reader)
    server_writer.close()
    return came, found


async def test_request_and_answer_are_passed_on(bench):
    """As they are; each comes under its lane."""
    came, found = await exchange(bench, get("/slow/x?y", "X-A: b"))
    assert came == get("/slow/x?y", "X-A: b")
    assert (found[0], found[2]) == (200, b"ok")
    await bench.until(lambda: not bench.running)
    await exchange(bench, get("/else"))
    assert operations(bench) == {(NAME, "GET /slow/*"): 1, (NAME, "GET"): 1}


async def test_other_ports_are_other_hosts(bench):
    """One that has no limit is passed by, as are hosts that are named alike."""
    await exchange(bench, get(), host=f"{HOST}:8080")
    for other in (f"{HOST}:8081", f"sub.{HOST}:80", "otherapi.test:80"):
        await exchange(bench, get(), host=other)
    assert operations(bench) == {(f"{NAME}:8080", "GET"): 1}


@pytest.mark.parametrize(
    "request_",
    [
        get(f"http://{HOST}/slow/1"),
        get("slow/1"),
        get().replace(b"GET /", f"CONNECT {HOST}:80".encode(), 1),
    ],
    ids=["whole URL", "no slash", "CONNECT"],
)
async def test_what_is_no_path_within_a_tunnel(bench, request_):
    """It could come under another lane than the server reads in it: nothing is sent."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(request_)
    assert (await read(reader))[0] == 400
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert bench.came.empty()
    assert not bench.hub.figures


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Content-Length: 5", "Connection: content-length, x-hop", "X-Hop: 1"], b"hello"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
        (["Content-Length: 5", "Expect: 100-continue"], b"hello"),
    ],
    ids=["length", "length named", "chunked", "expect"],
)
async def test_bodies_are_passed_on(bench, headers, body):
    """Whole, and unread."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get("/x", *headers).replace(b"GET", b"POST", 1))
    expects = "Expect" in headers[-1]
    if not expects:
        writer.write(body)
    server_reader, server_writer = await bench.next()
    came = await server_reader.readuntil(b"\r\n\r\n")
    assert headers[0].encode() in came
    assert b"X-Hop" not in came
    if expects:
        server_writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
    assert await asyncio.wait_for(server_reader.readexactly(len(body)), 5) == body
    server_writer.write(OK)
    assert (await read(reader))[2] == b"ok"
    await bench.until(lambda: not bench.running)
    server_writer.close()


async def test_head_has_no_body(bench, stalls):
    """Whatever its length says, of a refusal in JSON, too: what it asks for is heard."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get().replace(b"GET", b"HEAD", 1))
    _, server_writer = await bench.next()
    head = b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nRetry-After-Ms: 500\r\n"
    began = time.monotonic()
    server_writer.write(head + b"Content-Length: 50\r\n\r\n")
    assert b"429" in await reader.readuntil(b"\r\n\r\n")
    await bench.until(lambda: not bench.running)
    server_writer.close()
    await exchange(bench, get())
    assert 0.5 - EARLY < time.monotonic() - began < 3 + stalls.seconds


async def test_old_http_without_a_host(bench):
    """The server gets one, with its port where it is not the usual one."""
    reader, writer = await bench.connect(f"{HOST}:8080")
    writer.write(b"GET /x HTTP/1.0\r\n\r\n")
    server_reader, server_writer = await bench.next()
    assert f"\r\nHost: {HOST}:8080\r\n".encode() in await server_reader.readuntil(b"\r\n\r\n")
    server_writer.write(OK)
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")


async def test_connections_are_kept_for_a_moment(bench, monkeypatch):
    """Servers close theirs at any time: one that is older is not taken, for fear of the race."""
    first = await bench.connect(f"{HOST}:80")
    second = await bench.connect(f"{HOST}:80")
    _, server_writer = None, None
    for number, (reader, writer) in enumerate((first, second, first)):
        writer.write(get())
        if number != 1:  # the second is sent over the connection of the first
            server_reader, server_writer = await bench.next()
        await server_reader.readuntil(b"\r\n\r\n")
        server_writer.write(OK)
        assert (await read(reader))[0] == 200
        if number == 1:
            introspect.replace(monkeypatch, "seconds of idle connections", 0.05)
            await asyncio.sleep(0.1)
    assert bench.came.empty()


async def test_server_that_cannot_be_reached(bench):
    """The client gets JSON with the reason; no call is counted as sent."""
    bench.server.close()
    await bench.server.wait_closed()
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get())
    status, headers, body = await read(reader)
    assert (status, headers["content-type"]) == (502, "application/json")
    assert f"aioapiqueue: {HOST} cannot be reached" in json.loads(body)["message"]
    await bench.until(lambda: not bench.running)
    assert sum(operations(bench).values()) == 0  # the turn is given back
    await bench.end()
    assert bench.counts["unreachable"] == {NAME: 1}
    assert bench.counts["calls"] == 0


async def test_whole_url_without_a_tunnel(bench):
    """As proxies are asked for what has no TLS."""
    reader, writer = await bench.raw()
    user = "Proxy-Authorization: Basic cnVuOnRva2Vu"
    writer.write(f"GET {NAME}/slow/1 HTTP/1.1\r\nHost: {HOST}\r\n{user}\r\n\r\n".encode())
    server_reader, server_writer = await bench.next()
    assert await server_reader.readuntil(b"\r\n\r\n") == get("/slow/1")
    server_writer.write(OK)
    assert (await read(reader))[0] == 200
    assert operations(bench) == {(NAME, "GET /slow/*"): 1}


async def test_advice_comes_before_the_body_has_ended(bench, stalls):
    """What is left of a quota bounds others while an answer streams."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get())
    _, server_writer = await bench.next()
    left = b"X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 0.5\r\n"
    began = time.monotonic()
    server_writer.write(b"HTTP/1.1 200 OK\r\n" + left + b"Content-Length: 9\r\n\r\nhalf")
    await reader.readuntil(b"half")
    await exchange(bench, get())
    assert 0.5 - EARLY < time.monotonic() - began < 3 + stalls.seconds
    server_writer.write(b"wayok")
    assert await reader.readexactly(5) == b"wayok"


async def test_answer_that_breaks_off_is_heard(bench, stalls):
    """The head of a refusal says how long, though its body never comes."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get())
    _, server_writer = await bench.next()
    head = b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nRetry-After-Ms: 500\r\n"
    began = time.monotonic()
    server_writer.write(head + b"Content-Length: 50\r\n\r\n{")
    await reader.readuntil(b"{")
    server_writer.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    await exchange(bench, get())
    assert 0.5 - EARLY < time.monotonic() - began < 3 + stalls.seconds


async def test_client_that_leaves_after_the_head_of_a_refusal(bench):
    """What it has seen is known: the refusal is counted, as it is obeyed."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get())
    _, server_writer = await bench.next()
    head = b"HTTP/1.1 429 No\r\nRetry-After: 0\r\n"
    server_writer.write(head + b"Content-Length: 50\r\n\r\nhalf")
    await reader.readuntil(b"half")
    writer.transport.abort()
    await bench.until(lambda: not bench.running)
    (found,) = bench.hub.figures
    assert (found.answers, found.throttled) == (1, 1)


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
async def test_star(bench, method):
    """It is of all that a server has: of OPTIONS, and not of AWS, where no call is so."""
    star = get().replace(b"GET /", f"{method} *".encode(), 1)
    reader, writer = await bench.connect(f"{AWS}:80")
    writer.write(star.replace(HOST.encode(), AWS.encode()))
    assert (await read(reader))[0] == 400
    if method == "OPTIONS":
        came, found = await exchange(bench, star)
        assert (came, found[0]) == (star, 200)
        assert operations(bench) == {(NAME, "OPTIONS"): 1}
        return
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(star)
    assert (await read(reader))[0] == 400
    assert bench.came.empty()


async def test_waiting_request_has_no_connection(bench, monkeypatch):
    """It is made when the turn has come."""
    introspect.replace(monkeypatch, "seconds of idle connections", 0.0)
    first = await bench.connect(f"{HOST}:80")
    first[1].write(get())
    _, server_writer = await bench.next()
    holds = b"HTTP/1.1 200 OK\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 0.5\r\n"
    server_writer.write(holds + b"Content-Length: 2\r\n\r\nok")
    await read(first[0])
    waits = await bench.connect(f"{HOST}:80")
    waits[1].write(get())
    await asyncio.sleep(0.2)
    assert bench.came.empty()
    _, server_writer = await bench.next()
    server_writer.write(OK)
    assert (await read(waits[0]))[0] == 200


async def test_mark_counts_for_aws_only(bench):
    """Our hook in Python has asked for AWS's limits, not for those of a host."""
    mark = "x-aioapiqueue-asked: mark"
    came, _ = await exchange(bench, get("/", mark))
    assert came == get("/")
    assert operations(bench) == {(NAME, "GET"): 1}
    # Even where it is one of AWS's domains.
    host = f"abc.execute-api.{REST}"
    await exchange(bench, get("/", mark, host=host), host=f"{host}:80")
    assert operations(bench)[f"http://{host}", "GET"] == 1


AGREES = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def websocket(bench):
    """Return the two sides of a WebSocket: the client's reader and writer, and the server's."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get("/live", "Connection: Upgrade", "Upgrade: websocket"))
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(b"\r\n\r\n")
    server_writer.write(AGREES)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer, server_reader, server_writer


async def test_websocket_is_one_call(bench):
    """Its handshake waits for its turn, and then both sides say what they like."""
    reader, writer = await bench.connect(f"{HOST}:80")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    writer.write(get("/live", "Connection: keep-alive, Upgrade", "Upgrade: websocket", key))
    server_reader, server_writer = await bench.next()
    came = (await server_reader.readuntil(b"\r\n\r\n")).lower()
    assert b"\r\nupgrade: websocket\r\n" in came
    assert b"\r\nconnection: upgrade\r\n" in came
    assert key.lower().encode() in came
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    server_writer.write(answer + b"Sec-WebSocket-Accept: x\r\n\r\nfirst")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: x\r\n" in head
    assert await reader.readexactly(5) == b"first"
    for _ in range(3):
        writer.write(b"\x81\x00there")
        assert await server_reader.readexactly(7) == b"\x81\x00there"
        server_writer.write(b"\x81\x00back")
        assert await reader.readexactly(6) == b"\x81\x00back"
    assert bench.running == 1  # as long as it is open
    writer.close()
    assert await asyncio.wait_for(server_reader.read(), 5) == b""
    server_writer.close()
    await bench.until(lambda: not bench.running)
    (found,) = bench.hub.figures
    assert (found.calls, found.answers, found.errors) == (1, 1, 0)


async def test_websocket_that_speaks_too_early(bench):
    """What a client sends before the server has agreed is not lost."""
    reader, writer = await bench.connect(f"{HOST}:80")
    writer.write(get("/live", "Connection: Upgrade", "Upgrade: websocket"))
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.1)
    writer.write(b"early")
    await asyncio.sleep(0.1)
    server_writer.write(AGREES)
    assert await asyncio.wait_for(server_reader.readexactly(5), 5) == b"early"
    assert b"101" in await reader.readuntil(b"\r\n\r\n")


async def test_server_that_closes_a_websocket(bench):
    """The client sees it at once, and the turn ends."""
    reader, writer, _, server_writer = await websocket(bench)
    server_writer.write(b"bye")
    server_writer.close()
    assert await asyncio.wait_for(reader.read(), 2) == b"bye"
    writer.close()
    await bench.until(lambda: not bench.running)


async def test_websocket_with_a_body(bench):
    """It is none: it is passed on as a request without an upgrade."""
    reader, writer = await bench.connect(f"{HOST}:80")
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5")
    writer.write(get("/live", *upgrade) + b"hello")
    server_reader, server_writer = await bench.next()
    assert b"Upgrade" not in await server_reader.readuntil(b"hello")
    server_writer.write(OK)
    assert (await read(reader))[0] == 200


async def test_websocket_of_a_host_without_a_limit(bench):
    """By a whole URL, which the gateway reads: it is passed on as well."""
    reader, writer = await bench.raw()
    user = "Proxy-Authorization: Basic cnVuOnRva2Vu"
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", user)
    writer.write(get("http://other.test/live", *upgrade, host="other.test"))
    server_reader, server_writer = await bench.next()
    came = await server_reader.readuntil(b"\r\n\r\n")
    assert b"Upgrade: websocket" in came
    assert b"Proxy-" not in came
    server_writer.write(AGREES + b"hi")
    assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 101 ")
    assert not bench.hub.figures


async def test_websocket_that_is_refused(bench):
    """The server's answer is passed on, as any other."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    _, found = await exchange(bench, get("/live", *upgrade), OK.replace(b"200 OK", b"403 No"))
    assert found[0] == 403
    await bench.until(lambda: not bench.running)


async def test_client_that_hangs_up_ends_its_websocket(bench):
    """And its turn."""
    for _ in range(4):  # one more than may run at once
        _, writer, server_reader, server_writer = await websocket(bench)
        writer.transport.abort()
        assert await asyncio.wait_for(server_reader.read(), 5) == b""
        server_writer.close()
        await bench.until(lambda: not bench.running)


async def test_end_of_the_run_ends_a_websocket(bench):
    """It is cancelled in the midst: both sides see the end, and the turn ends."""
    reader, _, server_reader, server_writer = await websocket(bench)
    assert bench.running == 1
    await asyncio.wait_for(bench.end(), 5)
    for side in (reader, server_reader):
        assert await asyncio.wait_for(side.read(), 5) == b""
    server_writer.close()
    await bench.until(lambda: not bench.running)


async def test_other_upgrades_are_not_asked_for(bench):
    """Java's client asks for HTTP/2 so, and takes HTTP/1.1 as well."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    came, found = await exchange(bench, get("/", *upgrade))
    assert came == get("/")
    assert found[0] == 200


async def test_websocket_of_aws_is_refused(bench):
    """The calls in it could not be seen."""
    reader, writer = await bench.connect(f"{AWS}:80")
    writer.write(get("/", "Connection: Upgrade", "Upgrade: websocket", host=AWS))
    status, _, body = await read(reader)
    assert status == 403
    assert b"an upgrade to websocket cannot be paced" in body
    assert bench.came.empty()


@pytest.mark.parametrize("method", ["GeT", "M-SEARCH", "X" * 90, "a!b"])
async def test_any_method(bench, method):
    """No name of one can break the hub's protocol, which would end the connection for all."""
    request = get().replace(b"GET", method.encode(), 1)
    came, found = await exchange(bench, request)
    assert (came, found[0]) == (request, 200)
    assert operations(bench) == {(NAME, "M-SEARCH" if method == "M-SEARCH" else "OTHER"): 1}
