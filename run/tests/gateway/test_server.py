"""What is passed on, and when: a gateway with a real hub, and servers that do what they like.

Tunnels to port 80 have no TLS, so that each byte can be sent and seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from types import SimpleNamespace

import pytest

from aioapiqueue import Registry
from aioapiqueue_run.gateway import hub_turns, main
from aioapiqueue_run.gateway.upstream import connect_tcp
from aioapiqueue_run.hub import Hub
from tests.helpers import introspect
from tests.helpers.gateway_bench import HOST, OK, USER, Bench, read

pytestmark = pytest.mark.real

FORM = b"Action=DescribeVolumes&Version=2016-11-15"


def post(body=FORM, *headers):
    """Return a request to EC2."""
    lines = [
        "POST / HTTP/1.1",
        f"Host: {HOST}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def put(*headers):
    """Return the head of a request to S3, which has a body."""
    lines = ["PUT /key HTTP/1.1", "Host: b.s3.us-east-1.amazonaws.com", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_connections_are_shared_and_kept(bench):
    """That of one client serves the next client's request."""
    for _ in range(2):
        reader, writer = await bench.connect()
        writer.write(post())
        if not _:
            server_reader, server_writer = await bench.next()
        await server_reader.readuntil(FORM)
        server_writer.write(OK)
        assert (await read(reader))[0] == 200
    assert bench.came.empty()


async def test_request_arrives_as_it_was_sent(bench):
    """In its order and case, without what is between the client and the gateway alone."""
    reader, writer = await bench.connect()
    sent = post(
        FORM, "X-UPPER-lower: a", "x-amz-date: b", "Connection: keep-alive, X-Hop", "X-Hop: c"
    )
    writer.write(sent)
    server_reader, server_writer = await bench.next()
    came = await server_reader.readuntil(FORM)
    expected = sent.replace(b"Connection: keep-alive, X-Hop\r\n", b"").replace(b"X-Hop: c\r\n", b"")
    assert sorted(came.split(b"\r\n")) == sorted(expected.split(b"\r\n"))
    server_writer.write(OK)
    assert (await read(reader))[2] == b"ok"


async def test_trailers_are_passed_on(bench):
    """With a body, and without one, where they come with the head."""
    for body in (b"2\r\nab\r\n", b""):
        reader, writer = await bench.connect()
        writer.write(put("Transfer-Encoding: chunked") + body + b"0\r\nX-T: 1\r\n\r\n")
        server_reader, server_writer = await bench.next()
        came = await asyncio.wait_for(server_reader.readuntil(b"0\r\nX-T: 1\r\n\r\n"), 5)
        assert (b"2\r\nab\r\n" in came) == bool(body)
        server_writer.write(OK + b"")
        assert (await read(reader))[0] == 200
        server_writer.close()


async def test_two_lengths_are_refused(bench):
    """One side would go by the one, the other by the other: nothing is sent."""
    reader, writer = await bench.connect()
    writer.write(put("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n")
    assert (await read(reader))[0] == 400
    assert bench.came.empty()


async def test_client_that_hangs_up_ends_its_turn(bench):
    """After its request has been sent: the server's answer is not waited for."""
    for _ in range(4):  # one more than may run at once
        _, writer = await bench.connect()
        writer.write(post())
        server_reader, _ = await bench.next()
        await server_reader.readuntil(FORM)
        writer.transport.abort()
        await bench.until(lambda: not bench.running)
        assert await asyncio.wait_for(server_reader.read(), 5) == b""


@pytest.mark.parametrize("end", ["hang up", "malformed"])
async def test_upload_that_breaks_off_ends_its_turn(bench, end):
    """The server gets no more of it, and no end that would make it whole."""
    reader, writer = await bench.connect("b.s3.us-east-1.amazonaws.com:80")
    writer.write(put("Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
    server_reader, _ = await bench.next()
    await server_reader.readuntil(b"abc\r\n")
    if end == "hang up":
        writer.transport.abort()
    else:
        writer.write(b"no length\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
    rest = await asyncio.wait_for(server_reader.read(), 5)
    assert b"0\r\n" not in rest
    await bench.until(lambda: not bench.running)


async def test_server_that_hangs_up(bench):
    """Before its answer, and in the midst of it: the client sees the same, and the turn ends."""
    for part in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"):
        reader, writer = await bench.connect()
        writer.write(post())
        server_reader, server_writer = await bench.next()
        await server_reader.readuntil(FORM)
        server_writer.write(part)
        server_writer.close()
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(part[-4:])
        await bench.until(lambda: not bench.running)


async def test_what_follows_an_answer_is_nobodys(bench):
    """A connection on which more came than an answer gets no other request."""
    reader, writer = await bench.connect()
    writer.write(post())
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(FORM)
    server_writer.write(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert (await read(reader))[2] == b"ok"
    writer.write(post())
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(FORM)
    server_writer.write(OK)
    assert (await read(reader))[2] == b"ok"


@pytest.mark.parametrize("answers", [b"HTTP/1.1 100 Continue\r\n\r\n", b""])
async def test_body_is_sent_when_the_server_wants_it(bench, stalls, answers):
    """A client that waits for it is told once the server has said so, or after a second."""
    reader, writer = await bench.connect("b.s3.us-east-1.amazonaws.com:80")
    loop = asyncio.get_running_loop()
    asked = loop.time()
    writer.write(put("Content-Length: 3", "Expect: 100-continue"))
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            assert not await reader.read(1)
    began = loop.time()
    server_writer.write(answers)
    interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"  # older botocores need the reason
    if answers:
        assert loop.time() - began < 0.5 + stalls.seconds
    else:
        assert loop.time() - asked > 0.95
    writer.write(b"abc")
    assert await server_reader.readexactly(3) == b"abc"
    server_writer.write(OK)
    assert (await read(reader))[0] == 200


async def test_body_that_the_server_does_not_want(bench, stalls):
    """A bucket in another Region: the client is never told to send, and sees the answer."""
    reader, writer = await bench.connect("b.s3.us-east-1.amazonaws.com:80")
    writer.write(put("Content-Length: 20000000", "Expect: 100-continue"))
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(b"\r\n\r\n")
    server_writer.write(b"HTTP/1.1 307 Elsewhere\r\nLocation: x\r\nContent-Length: 0\r\n\r\n")
    status, headers, _ = await read(reader)
    assert (status, headers["connection"]) == (307, "close")
    began = asyncio.get_running_loop().time()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    took = asyncio.get_running_loop().time() - began
    assert took < 1 + stalls.seconds  # nothing comes that could be dropped
    assert not bench.running


async def test_outcome_is_known_though_the_client_breaks_off(bench):
    """The server has throttled it in the midst of its body: that counts, and at once."""
    reader, writer = await bench.connect("b.s3.us-east-1.amazonaws.com:80")
    writer.write(put("Content-Length: 4000000") + b"x" * 1_000)
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(b"\r\n\r\n")
    error = b"<Error><Code>SlowDown</Code></Error>"
    server_writer.write(b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n" % len(error) + error)
    assert (await read(reader))[0] == 503
    await bench.until(lambda: not bench.running)
    (counted,) = bench.hub.figures
    assert (counted.calls, counted.throttled) == (1, 1)
    writer.transport.abort()


async def test_connection_that_ended_before_its_use(bench):
    """The server has closed it while nobody used it: there is another."""
    reader, writer = await bench.connect()
    for _ in range(3):
        writer.write(post())
        server_reader, server_writer = await bench.next()
        await server_reader.readuntil(FORM)
        server_writer.write(OK)
        assert (await read(reader))[0] == 200
        server_writer.close()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("path", ["server", "gateway"])
async def test_answer_before_the_whole_request_is_seen(bench, path):
    """The client is in the midst of its body: what it sends is read, so that it sees the answer."""
    host = "b.s3" if path == "server" else "novelties"
    reader, writer = await bench.connect(f"{host}.us-east-1.amazonaws.com:80")
    writer.write(put("Content-Length: 4000000") + b"x" * 1_000_000)
    if path == "server":
        server_reader, server_writer = await bench.next()
        await server_reader.readuntil(b"\r\n\r\n")
        server_writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    writer.write(b"x" * 2_000_000)
    await asyncio.wait_for(writer.drain(), 5)
    status, headers, _ = await read(reader)
    assert (status, headers["connection"]) == (403, "close")


async def test_password_after_it_was_asked_for(bench):
    """Some programs ask without it first, on the connection that they go on with."""
    reader, writer = await bench.raw()
    writer.write(f"CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert (await read(reader))[0] == 407
    head = f"CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: Basic {USER}"
    writer.write(f"{head}\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(post())
    server_reader, _ = await bench.next()
    await server_reader.readuntil(FORM)


@pytest.mark.parametrize(
    "head",
    [
        b"NO HTTP\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n",
        b"CONNECT x HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n",
        b"CONNECT x:99999 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n",
        b"CONNECT x:"
        + b"1" * 5_000
        + b" HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n",
        b"GET /here HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n",
        b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n",
    ],
)
async def test_what_is_no_request_to_a_proxy(bench, head, capsys):
    """It is answered, and the others go on."""
    reader, writer = await bench.raw()
    writer.write(head.replace(b"%s", USER.encode()))
    assert (await read(reader))[0] == 400
    assert bench.came.empty()
    assert not capsys.readouterr().err


async def test_malformed_request_in_a_tunnel(bench):
    """It is answered before the connection ends, as SDKs would try it again otherwise."""
    reader, writer = await bench.connect()
    writer.write(b"POST / HTTP/1.1\r\nno colon\r\n\r\n")
    assert (await read(reader))[0] == 400
    reader, writer = await bench.connect()
    writer.write(b"POST / HTTP/1.1\r\nX: " + b"x" * 200_000)
    assert (await read(reader))[0] in {400, 431}


async def test_request_of_old_http_without_a_host(bench):
    """It gets that of its tunnel, and an answer that ends with the connection."""
    reader, writer = await bench.connect()
    head = b"POST / HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM)
    server_reader, server_writer = await bench.next()
    assert HOST.encode() in await server_reader.readuntil(FORM)
    server_writer.write(OK)
    assert (await read(reader))[2] == b"ok"
    assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_long_names_cost_one_call(bench):
    """What the hub would not take ends that call alone."""
    reader, writer = await bench.connect()
    scope = f"{'A' * 250}/1/us-east-1/ec2/aws4_request"
    writer.write(post(FORM, f"Authorization: AWS4-HMAC-SHA256 Credential={scope}, x"))
    server_reader, server_writer = await bench.next()
    await server_reader.readuntil(FORM)
    server_writer.write(OK)
    assert (await read(reader))[0] == 200
    names = "&".join(f"{'p' * 60}{number:03}=1" for number in range(64))
    body = FORM + b"&" + (names * 2).encode()
    writer.write(post(body))
    await server_reader.readuntil(body)
    server_writer.write(OK)
    assert (await read(reader))[0] == 200


async def test_signature_that_grew_old_on_the_way_costs_nothing(bench, monkeypatch):
    """Its turn is given back while its server is connected to; the client signs again."""
    reader, writer = await bench.connect()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    late = SimpleNamespace(time=lambda: time.time() + 3600 * len(bench.dialled))
    monkeypatch.setattr(hub_turns, "time", late)
    scope = "AKIAIOSFODNN7EXAMPLE/1/us-east-1/ec2/aws4_request"
    signed = (f"Authorization: AWS4 Credential={scope}, x", f"X-Amz-Date: {stamp}")
    writer.write(post(FORM, *signed))
    status, _, body = await read(reader)
    assert (status, b"ThrottlingException" in body) == (503, True)
    await bench.until(lambda: not bench.running)
    assert [one.calls for one in bench.hub.figures] == [0]


async def test_hub_that_ends_refuses_what_waits(tmp_path, monkeypatch):
    """In the service's format; and the process ends with the reason."""
    introspect.replace(monkeypatch, "last seconds of a gateway", 0.4)
    ready, ended = (asyncio.get_running_loop().create_future() for _ in range(2))
    counts = []

    def report(**found):
        ready.set_result(found) if "port" in found else counts.append(found["counts"])

    writers = []
    server = await asyncio.start_server(lambda _, one: writers.append(one), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    registry = Registry({"ec2": "1/h"})
    async with Hub(registry, directory=tmp_path / "hub") as hub:
        settings = main.GatewaySettings(str(hub.path), str(tmp_path), "token", "mark")
        serving = asyncio.create_task(
            main.serve(settings, {}, report, ended, dial=lambda *_: connect_tcp("127.0.0.1", port))
        )
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        bench = Bench(hub, server, await ready if ready.done() else serving.result())
        first, waits = [await bench.connect() for _ in range(2)]
        for _, writer in (first, waits):
            writer.write(post())
            await asyncio.sleep(0.1)
        await bench.until(lambda: sum(one.waiting for one in hub.figures) == 1)
    status, _, body = await read(waits[0])
    assert status == 403
    assert b"<Code>AioapiqueuePacingError</Code>" in body
    assert b"aioapiqueue: not sent: the hub is closing" in body or b"is unreachable" in body
    with pytest.raises(Exception, match="the hub is closing"):
        await serving
    assert json.dumps(counts[0])
    bench.close()
    for writer in writers:
        writer.transport.abort()
    server.close()
    await asyncio.sleep(0.05)
    await registry.aclose()


async def test_distrust_at_the_very_end_is_counted(bench, tmp_path, blockbuster):
    """A program that hangs up after the handshake, and ends: so does the run, at the same time."""
    blockbuster.deactivate()  # a certificate is loaded from a file
    _, writer = await bench.connect(f"{HOST}:443")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca-bundle.pem"))
    await writer.start_tls(context, server_hostname=HOST)
    writer.transport.abort()
    await bench.end()
    assert bench.counts["untrusted"] == {HOST: 1}


async def test_hang_up_while_connecting_costs_nothing(bench, tmp_path, blockbuster):
    """The server has got nothing of the request: the turn is given back."""
    blockbuster.deactivate()  # a certificate is loaded from a file
    _, writer = await bench.connect(f"{HOST}:443")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca-bundle.pem"))
    await writer.start_tls(context, server_hostname=HOST)
    writer.write(post())
    server_reader, _ = await bench.next()
    await server_reader.read(1)  # the beginning of TLS, which is not answered
    assert bench.running == 1
    writer.transport.abort()
    await bench.until(lambda: not bench.running)
    assert [one.calls for one in bench.hub.figures] == [0]
