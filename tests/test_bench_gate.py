"""How the gate of the scan benchmarks forwards requests to moto."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from aioapiqueue_run.demo.gate import ThrottlingServer
from benchmarks._moto_server import forwarding_to

pytestmark = pytest.mark.real


@pytest.fixture
async def upstream():
    """A server that returns the body that it received, and records requests."""
    seen = []

    async def handle(request):
        body = await request.read()
        seen.append((request.method, request.raw_path, dict(request.headers), body))
        return web.Response(status=404, body=b"\x00" + body, headers={"X-Told": "yes"})

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}", seen
    await runner.cleanup()


async def test_other_services_pass_through_unchanged(upstream):
    """Method, path, query, body and headers arrive as sent; status, body and headers come back."""
    url, seen = upstream
    authorization = (
        "AWS4-HMAC-SHA256 Credential=KEY/20260101/us-east-1/s3/aws4_request, "
        "SignedHeaders=host, Signature=0"
    )
    async with (
        forwarding_to(url) as forward,
        (gate := ThrottlingServer(forward, {})).serve() as front,
        aiohttp.ClientSession() as session,
    ):
        for number in range(150):
            async with session.put(
                URL(f"{front}/a%20bucket/k?list-type={number}&x=a%2Fb", encoded=True),
                data=b"\xff\x00body",
                headers={"Authorization": authorization, "X-Amz-Date": "20260101T000000Z"},
            ) as answer:
                assert answer.status == 404
                assert await answer.read() == b"\x00\xff\x00body"
                assert answer.headers["X-Told"] == "yes"
    method, path, headers, body = seen[-1]
    assert (method, path) == ("PUT", "/a%20bucket/k?list-type=149&x=a%2Fb")
    assert body == b"\xff\x00body"
    assert headers["Authorization"] == authorization
    assert headers["X-Amz-Date"] == "20260101T000000Z"
    assert headers["Host"] == front.removeprefix("http://")
    assert [(one.service, one.is_throttled) for one in gate.of_key("KEY")] == [("s3", False)] * 150


async def test_dead_server_is_a_bad_gateway():
    """The gate answers 502 when no server listens behind it, rather than blaming itself."""
    async with (
        forwarding_to("http://127.0.0.1:1") as forward,
        ThrottlingServer(forward, {}).serve() as front,
        aiohttp.ClientSession() as session,
        session.get(front) as answer,
    ):
        assert answer.status == 502
