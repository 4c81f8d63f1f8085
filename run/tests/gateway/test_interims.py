"""Real clients get interim responses from the gateway while their requests wait."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from functools import partial

import anyio
import pytest
from anyio.abc import SocketAttribute

from aioapiqueue_run.gateway.link import HttpLink

pytestmark = pytest.mark.real

FETCH = """
fetch(process.argv[1], {{ method: 'POST', body: 'x', headers: {headers} }})
  .then((answer) => answer.text().then((text) => console.log(answer.status, text)))
  .catch((error) => console.log(error.cause.message));
"""
DISPATCH = """
void globalThis.Response;  // loads the built-in undici, which has no User-Agent without `fetch`
const dispatcher = globalThis[Symbol.for('undici.globalDispatcher.1')];
const { origin, pathname } = new URL(process.argv[1]);
const parts = [];
dispatcher.dispatch({ origin, path: pathname, method: 'POST', body: 'x' }, {
  onConnect() {}, onHeaders(status) { if (status >= 200) parts.push(status); return true; },
  onData(data) { parts.push(String(data)); return true; },
  onComplete() { console.log(...parts); process.exit(0); },
  onError(error) { console.log(error.message); process.exit(1); } });
"""
NODE_HTTP = """
const request = require('http').request(process.argv[1], { method: 'POST' }, (answer) => {
  answer.setEncoding('utf8').on('data', (text) => console.log(answer.statusCode, text));
});
request.end('x');
"""
HTTP_CLIENT = """
import http.client, sys, urllib.parse
connection = http.client.HTTPConnection(urllib.parse.urlsplit(sys.argv[1]).netloc)
connection.request("POST", "/", b"x")
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""
REQUESTS = """
import requests, sys
answer = requests.post(sys.argv[1], data=b"x", headers={"User-Agent": "mine"})
print(answer.status_code, answer.text)
"""
HTTPX = """
import httpx, sys
answer = httpx.post(sys.argv[1], content=b"x")
print(answer.status_code, answer.text)
"""
BOTOCORE = """
import sys
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
request = AWSRequest("POST", sys.argv[1], data=b"x", headers={expect})
answer = URLLib3Session().send(request.prepare())
print(answer.status_code, answer.text)
"""
AIOHTTP = """
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.post(sys.argv[1], data=b"x") as answer:
            print(answer.status, await answer.text())
asyncio.run(main())
"""
PYTHON, NODE = (sys.executable, "-c"), ("node", "-e")
CLIENTS = {
    "fetch of Node.js": (*NODE, FETCH.format(headers="{}")),
    "fetch of an SDK": (*NODE, FETCH.format(headers="{ 'User-Agent': 'OpenAI/JS 6.49.0' }")),
    "undici": (*NODE, DISPATCH),
    "http of Node.js": (*NODE, NODE_HTTP),
    "http.client": (*PYTHON, HTTP_CLIENT),
    "requests": (*PYTHON, REQUESTS),
    "httpx": (*PYTHON, HTTPX),
    "botocore": (*PYTHON, BOTOCORE.format(expect={})),
    "botocore that expects": (*PYTHON, BOTOCORE.format(expect={"Expect": "100-continue"})),
    "aiohttp": (*PYTHON, AIOHTTP),
    "curl": ("curl", "-s", "-d", "x"),
    "curl that expects": ("curl", "-s", "-d", "x", "-H", "Expect: 100-continue"),
}


async def answer_late(asked, stream):
    """Answer a request after more interim responses than a client of old counted."""
    link = HttpLink(stream)
    async with contextlib.aclosing(link):
        await link.request()
        asked.append(link)
        for _ in range(8):
            await link.send_interim()
            await asyncio.sleep(0.01)
        assert await link.read_body(10) == b"x"
        await link.answer(200, b"done")


@pytest.mark.parametrize("client", CLIENTS)
async def test_client_accepts_interim_responses(client):
    """Each client gets the response that it waits for, whatever its User-Agent."""
    program, *arguments = CLIENTS[client]
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    asked = []
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        group.start_soon(partial(listener.serve, partial(answer_late, asked)))
        url = f"http://127.0.0.1:{port}/"
        ended = await anyio.run_process([program, *arguments, url], check=False)
        group.cancel_scope.cancel()
    found = ended.stdout.decode().strip()
    assert found in {"200 done", "done"}, (found, ended.stderr)
    undici = client in {"fetch of Node.js", "fetch of an SDK", "undici"}
    assert [one.accepts_processing for one in asked] == [undici]
