"""Programs that our hook does not reach, with their real names of hosts, to an AWS that checks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import introspect
from tests.helpers.aws_programs import (
    BOTO,
    CURL,
    FORM,
    HOST,
    SIGNED,
    as_monotonic,
    assert_paced,
    assert_spaced,
    calls_of,
)
from tests.helpers.signed_aws import Answered
from tests.helpers.waiting import wait_until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@needs_curl
def test_curl_is_paced(paced, network, run):
    """12 at once: at the limit, over a connection or two, with what the company's proxy wants."""
    script = run.folder / "many.sh"
    script.write_text(f"date +%s.%N; for i in $(seq 12); do {CURL} & done; wait\n")
    ended, figures = paced("bash", script, limit="ec2=15/s")
    assert ended.code == 0
    began, *answers = ended.out.split()
    assert answers == [b"200"] * 12
    assert_paced(network.aws, 12, 1 / 15, begun=as_monotonic(began))
    assert calls_of(figures) == {"ec2.DescribeVolumes": 12}
    assert figures["gateway"]["calls"] == 12
    assert network.aws.connections <= 3
    assert f"CONNECT {HOST}:443 HTTP/1.1" in network.proxy.asked
    assert "programs that are not Python are paced through a local proxy" in ended.words
    assert not run.leftovers


AT_ONCE = BOTO.replace(
    "number = ",
    """
import os, pathlib, time
pathlib.Path(sys.argv.pop()).touch()
while not os.path.exists(os.environ["GO"]):
    time.sleep(0.005)
number = """,
)
ELSEWHERE = f"""{AT_ONCE}
boto3.client("ec2", endpoint_url=sys.argv[2]).describe_volumes()
"""


@pytest.fixture(scope="module")
def mixed(once, python):
    """Run curl, boto3, and a Python without our hook, which keep their intervals.

    They begin together, once both Pythons are ready. One of boto3's calls goes to another server,
    which is on this host.
    """
    one = once()
    boto, elsewhere, script = (one.run.folder / name for name in ("boto", "elsewhere", "mixed.sh"))
    boto.write_text(AT_ONCE)
    elsewhere.write_text(ELSEWHERE)
    url = f"http://localhost:{one.network.aws.plain_port}"
    curls = f"for i in $(seq 5); do {CURL} -o /dev/null -w '' & done"
    ready = [one.run.folder / name for name in ("ready", "ready_too")]
    pythons = f"{python} {elsewhere} 10 {url} {ready[0]} &\n{python} -I {boto} 5 {ready[1]} &"
    until_ready = f"for i in $(seq 600); do [ -e {ready[0]} -a -e {ready[1]} ] || sleep 0.02; done"
    start = "date +%s.%N; touch $GO"
    script.write_text(f"{pythons}\n{until_ready}\n{start}\n{curls}\nwait\n")
    go = {"GO": str(one.run.folder / "go")}
    ended, figures = one.paced("bash", script, limit="ec2=20/s", env=go)
    assert ended.code == 0, ended.err
    assert_paced(one.network.aws, 21, 0.05, at_once=False, begun=as_monotonic(ended.out))
    return ended, figures, one.network.aws


# That calls keep their intervals is real time. A fixture that failed runs again with its test.
with_mixed = pytest.mark.flaky(reruns=2)


@needs_curl
@with_mixed
def test_python_is_counted_once(mixed):
    """The hook asks before the signature, and marks the request; the gateway does not ask again."""
    _, figures, aws = mixed
    assert figures["gateway"]["asked_before"] == 10
    # The mark is for the gateway alone.
    assert not any("aioapiqueue" in name for one in aws.arrivals for name in one.headers)


@needs_curl
@with_mixed
def test_mixed_program_adds_up(mixed):
    """curl, boto3, and a Python without our hook, at once: one limit, and none is counted twice."""
    ended, figures, _ = mixed
    assert calls_of(figures) == {"ec2.DescribeVolumes": 21}
    seen = figures["gateway"]
    assert (seen["calls"], seen["asked_before"]) == (10, 10)
    assert (
        "1 Python process did not load the pacing: only calls through the local proxy were paced"
        in ended.words
    )


def test_environment_names_no_services(paced_here):
    """Every process of the program has it: the hook reads elsewhere which hosts to mark."""
    ended, _ = paced_here("sh", "-c", "echo $AIOAPIQUEUE_MARK")
    assert re.fullmatch(rb"[\w-]{32}\n", ended.out), ended.out


@needs_curl
@with_mixed
def test_mark_is_for_aws_only(mixed):
    """What boto3 sends to somebody else's server has none."""
    _, figures, aws = mixed
    (elsewhere,) = (one for one in aws.arrivals if one.host.startswith("localhost:"))
    assert not any("aioapiqueue" in name for name in elsewhere.headers)
    assert figures["gateway"]["asked_before"] == 10  # and this one was not for the gateway


def test_python_without_botocore(paced, network, run, python):
    """Whatever sends it: libraries that use proxies, and trust what the environment names."""
    program = run.folder / "client.py"
    program.write_text(SIGNED + LIBRARIES)
    ended, figures = paced(python, program)
    assert ended.code == 0, ended.err
    assert_paced(network.aws, 8, begun=as_monotonic(ended.out))
    assert calls_of(figures) == {"ec2.DescribeVolumes": 8}
    agents = [one.headers["user-agent"] for one in network.aws.arrivals]
    for library in ("requests/", "httpx/", "urllib/", "aiohttp/"):
        assert sum(library in agent for agent in agents) == 2, library


LIBRARIES = """
import aiohttp, asyncio, httpx, requests, time, urllib.request
from concurrent.futures import ThreadPoolExecutor

def by_requests():
    url, headers, data = signed()
    requests.post(url, headers=headers, data=data, timeout=30).raise_for_status()

def by_httpx():
    url, headers, data = signed()
    httpx.post(url, headers=headers, content=data, timeout=30).raise_for_status()

def by_urllib():
    url, headers, data = signed()
    data = data if isinstance(data, bytes) else data.encode()
    request = urllib.request.Request(url, headers=headers, data=data)
    urllib.request.urlopen(request, timeout=30).read()

def by_aiohttp():
    async def call():
        async with aiohttp.ClientSession(trust_env=True) as session:
            url, headers, data = signed()
            async with session.post(url, headers=headers, data=data) as answer:
                answer.raise_for_status()
    asyncio.run(call())

print(time.time())
with ThreadPoolExecutor(8) as pool:
    each = (by_requests, by_httpx, by_urllib, by_aiohttp) * 2
    for one in [pool.submit(call) for call in each]:
        one.result()
"""

NODE = """
const https = require('node:https');
const body = 'Action=DescribeVolumes&Version=2016-11-15';
const options = { method: 'POST', host: 'HOST', agent: new https.Agent({ keepAlive: true }),
  headers: { 'content-type': 'application/x-www-form-urlencoded', 'content-length': body.length } };
const byHttps = () => new Promise((done, failed) => {
  const request = https.request(options, (answer) => {
    answer.resume().once('end', () => done(answer.statusCode)); });
  request.once('error', failed);
  request.end(body);
});
const byFetch = () => fetch('https://HOST/', { method: 'POST', body: new URLSearchParams(body) })
  .then((answer) => answer.text().then(() => answer.status));
console.log(Date.now() / 1000);
Promise.all([1, 2, 3, 4].flatMap(() => [byHttps(), byFetch()])).then(
  (all) => { console.log(all.join(' ')); process.exit(0); },
  (error) => { console.error(error); process.exit(1); });
""".replace("HOST", HOST)


def test_program_that_ignores_proxies(paced, network, run):
    """Nothing has come to the gateway: a warning, and exit code 3 in place of a 0."""
    program = run.folder / "ignores.sh"
    program.write_text("env -u HTTPS_PROXY -u https_proxy true\n")
    ended, figures = paced("bash", program)
    assert ended.code == 3
    assert "no call was paced: none reached the local proxy" in ended.words
    assert figures["gateway"]["connections"] == 0


NOVELTY = "novelties.us-east-1.amazonaws.com"
ERROR = (
    b"<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>m</Message></Error>"
    b"</Errors><RequestID>r</RequestID></Response>"
)
ERRANDS = f"""
status="curl -sS -o /dev/null -w %{{http_code}}\\n"
stranger="curl -sS -o /dev/null -w %{{http_connect}}\\n"
proxy="${{HTTPS_PROXY##*@}}"
cd "$1"
{{
  $stranger -x "http://$proxy" https://{HOST}/
  $stranger -x "http://run:x@$proxy" https://{HOST}/
  $status -x "http://$proxy" http://{HOST}/
}} > strangers 2> /dev/null
{{
  curl -sSv https://example.com/ 2>&1 >/dev/null | grep -c 'issuer.*trustme'
  curl -sSv -d '{FORM}' https://{HOST}/ 2>&1 >/dev/null | grep -c 'issuer.*aioapiqueue'
}} > issuers
{{
  $status -d x "http://localhost:$2/"
  $status -d x "http://some.internal:$2/"
  $status -d x http://example.com/
  $status -d '{FORM}' http://{HOST}/
}} > direct
curl -sS -w ' %{{http_code}}' https://{NOVELTY}/x > unknown
curl -sS -w ' %{{http_code}}' -d '{FORM}' https://{HOST}/throttled > throttled
"""


@pytest.fixture(scope="module")
def errands(once):
    """Have curl run all kinds of errands; gives what came of it, its folder, and the network."""
    one = once()
    throttled = Answered(503, ERROR, (("Content-Type", "text/xml"),))
    one.network.aws.answer = lambda arrival: throttled if "throt" in arrival.target else None
    script = one.run.folder / "errands.sh"
    script.write_text(ERRANDS)
    ended, figures = one.paced(
        *("bash", script, one.run.folder, str(one.network.aws.plain_port)),
        limit="ec2=50/s",
        options=("--fail-on", "refused"),
    )
    return ended, figures, one.run.folder, one.network


@needs_curl
def test_only_programs_of_the_run_are_served(errands):
    """Without the token: 407. A wrong one is no better, and nothing is sent."""
    _, figures, folder, network = errands
    assert (folder / "strangers").read_text().split() == ["407"] * 3
    calls = [one for one in network.aws.arrivals if one.host == HOST]
    assert [one.method for one in calls] == ["POST"] * 3  # of the other errands
    assert figures["gateway"]["connections"] == 7  # theirs, without the one to localhost


@needs_curl
def test_hosts_of_others_are_not_looked_into(errands):
    """The program sees the server's own certificate, as without us; what is sent is not counted."""
    _, figures, folder, _ = errands
    assert (folder / "issuers").read_text() == "1\n1\n"
    # Another errand was a request to each of these without TLS.
    assert figures["gateway"]["passed_by"] == {"example.com": 2, "some.internal": 1}
    assert figures["gateway"]["calls"] == 3


@needs_curl
def test_proxies_of_the_user_are_kept(errands):
    """What NO_PROXY names is reached without the company's proxy; the program's own is ours."""
    _, figures, folder, network = errands
    # some.internal has no address: the gateway did not ask the proxy for it.
    assert (folder / "direct").read_text().split() == ["200", "502", "200", "200"]
    plain = [one.split()[1] for one in network.proxy.asked if not one.startswith("CONNECT")]
    assert plain == ["http://example.com/", f"http://{HOST}/"]
    assert calls_of(figures) == {"ec2.DescribeVolumes": 3}


@needs_curl
def test_unknown_call_to_aws_is_refused(errands):
    """Nothing is sent, and a warning names the host at the end; a gate counts it as refused."""
    ended, figures, folder, network = errands
    told = (folder / "unknown").read_text()
    assert told.endswith(" 403")
    assert f"cannot determine which AWS service a request to {NOVELTY} is for" in told
    assert not any(NOVELTY in one.host for one in network.aws.arrivals)
    assert f"refused: 1 request to {NOVELTY}" in ended.words
    assert figures["gateway"]["unknown_hosts"] == {NOVELTY: 1}
    # Those of the gateway count as those of the hub do.
    assert ended.code == 5
    assert 'FAILED: --fail-on "refused"' in ended.words


@needs_curl
def test_throttled_answer_is_heard(errands):
    """What AWS answers passes unchanged, and counts as what it is."""
    _, figures, folder, _ = errands
    assert (folder / "throttled").read_bytes() == ERROR + b" 503"
    (one,) = figures["figures"]
    assert (one["throttled"], one["errors"]) == (1, 0)


@needs_curl
def test_server_is_verified_for_the_program(paced, network, run, tmp_path):
    """By what the user trusts, and not by what the program is told to trust: nothing is sent."""
    other = tmp_path / "other.pem"
    type(network.aws.authority)().cert_pem.write_to_path(other)
    script = run.folder / "call.sh"
    script.write_text(f"curl -sS -w ' %{{http_code}}' -d '{FORM}' https://{HOST}/\n")
    ended, figures = paced("bash", script, env={"SSL_CERT_FILE": str(other)})
    assert ended.out.endswith(b" 502")
    assert b"the certificate of ec2.us-east-1.amazonaws.com is not trusted" in ended.out
    assert not network.aws.arrivals
    assert figures["gateway"]["calls"] == 0


def gateways(parent=None):
    """Return the process ids of gateways that run: of all runs, or of one."""
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            of = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if b"aioapiqueue_run.gateway" in words and parent in {None, of}:
                found.append(int(place.name))
    return found


@pytest.fixture
def waiting(run, network, tmp_path):
    """Start a run whose program waits for most of 20 calls, at four a second."""
    script = run.folder / "many.sh"
    ends = f"for i in $(seq 30); do test -e {run.folder / 'end'} || sleep 0.1; done; echo all"
    script.write_text(f"for i in $(seq 20); do {CURL} & done; wait; {ends}\n")
    process = run.start(
        *("--limit", "ec2=4/s", "--private", "--any", "--", "bash", script),
        env=network.environment,
    )
    with process:
        wait_until(lambda: len(network.aws.arrivals) >= 2)
        (gateway,) = gateways(process.pid)
        yield process, gateway
        process.kill()
        wait_until(lambda: gateway not in gateways())


@needs_curl
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_killed_gateway_stops_the_program(waiting, network, run):
    """Nothing arrives afterwards; the program is stopped, and the exit code is 4."""
    process, gateway = waiting
    os.kill(gateway, signal.SIGKILL)
    came = len(network.aws.arrivals)
    ended = run.end(process)
    assert ended.code == 4
    # curl may be in the midst of a line of its own.
    assert "the local proxy has ended" in ended.err.decode()
    assert b"all" not in ended.out
    assert len(network.aws.arrivals) <= came + 1  # one may have been on its way
    assert not run.leftovers


@needs_curl
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.flaky(reruns=2)  # on a busy machine, some curls have not connected by then
def test_killed_run_ends_everything(waiting, network, run):
    """The hub is gone with it: what waits is refused at once, and the gateway ends by itself."""
    process, gateway = waiting
    process.send_signal(signal.SIGKILL)
    came = len(network.aws.arrivals)
    wait_until(lambda: gateway not in gateways(), within=5)
    time.sleep(0.6)  # in which two more would have come
    assert len(network.aws.arrivals) <= came + 1
    (run.folder / "end").touch()
    out, _ = process.communicate(timeout=20)
    # A call that was on its way when all ended may have neither arrived nor been refused.
    assert out.split().count(b"403") >= 19 - len(network.aws.arrivals)


@needs_curl
@pytest.mark.flaky(reruns=2)  # the turn is a time, at which a busy machine may start no curl
def test_killed_program_leaves_the_line(paced, network, run):
    """Its calls are taken out of the queue: the next one's turn comes as if there had been none."""
    script = run.folder / "killed.sh"
    script.write_text(
        f"{CURL}\nfor i in 1 2 3; do {CURL} & done; sleep 0.3; kill %1 %2 %3; wait\n{CURL}\n"
    )
    ended, _ = paced("bash", script, limit="ec2=2/s")
    assert ended.code == 0
    times = [one.at for one in network.aws.arrivals]
    assert len(times) == 2
    assert 0.45 <= times[1] - times[0] < 0.95  # each of those before it would have taken 0.5


def test_gateway_that_cannot_start(paced, network, run, python):
    """Nothing is started, the reason is named, and the exit code is 2."""
    env = {"HTTPS_PROXY": "socks5://me:secret@127.0.0.1:1080"}
    ended, _ = paced(python, "-c", "print('started')", env=env)
    assert (ended.code, ended.out) == (2, b"")
    assert "HTTPS_PROXY: the gateway supports http:// and https:// proxies" in ended.words
    assert "secret" not in ended.words
    assert not run.leftovers


@needs_curl
def test_upload_and_download_pass_unchanged(paced, network, run):
    """Large ones, in pieces, with and without a length: as they would arrive without us."""
    size = 3_000_000
    bodies = []

    def answer(arrival):
        bodies.append(arrival.body)
        if arrival.headers.get("x-in-pieces"):
            return Answered(200, b"y" * size, (("Transfer-Encoding", "chunked"),))
        return Answered(200, b"y" * size)

    network.aws.answer = answer
    data = run.folder / "data"
    data.write_bytes(os.urandom(size))
    script = run.folder / "copy.sh"
    url = "https://some-bucket.s3.us-east-1.amazonaws.com/key"
    script.write_text(
        f"curl -sS -T {data} {url} | wc -c\n"
        f"curl -sS -T - {url} -H 'X-In-Pieces: 1' < {data} | wc -c\n"
        f"curl -sS -I -o /dev/null -w '%{{http_code}}\\n' {url}\n"
    )
    ended, figures = paced("bash", script, limit="s3=20/s")
    assert ended.out.split() == [str(size).encode(), str(size).encode(), b"200"]
    assert bodies == [data.read_bytes(), data.read_bytes(), b""]
    assert calls_of(figures) == {"s3.PutObject": 2, "s3.HeadObject": 1}


def test_any_needs_its_extra(run, python):
    """Without it: refused if it was asked for; a word about it if the program is not Python."""
    hide = "import sys, runpy; sys.modules['h11'] = None; sys.argv[0] = 'aioapiqueue'; "
    hide += "import importlib.util as u; find = u.find_spec; "
    hide += "u.find_spec = lambda n, *p: None if n == 'h11' else find(n, *p); "
    hide += "runpy.run_module('aioapiqueue', run_name='__main__')"
    command = [python, "-c", hide, "run", "--limit", "ec2=1/s"]
    options = {"capture_output": True, "timeout": 60, "env": run.environment()}
    done = subprocess.run(
        [*command, "--any", "--", python, "-c", "print(1)"], check=False, **options
    )
    assert done.returncode == 2
    assert b"pip install 'aioapiqueue[gateway]'" in done.stderr.replace(b"\naioapiqueue: ", b" ")
    done = subprocess.run([*command, "--", "true"], check=False, **options)
    assert done.returncode == 3
    words = done.stderr.replace(b"\naioapiqueue: ", b" ")
    assert b"are paced; to pace other programs, pip install 'aioapiqueue[gateway]'" in words


@needs_curl
def test_dry_run_counts_all(paced, network, run):
    """Nothing waits, which would be an hour each, and each call is counted."""
    script = run.folder / "many.sh"
    script.write_text(f"for i in 1 2 3 4 5; do {CURL} & done; wait\n")
    ended, figures = paced("bash", script, limit="ec2=1/h", options=("--dry-run",))
    assert ended.code == 0
    assert ended.out.split() == [b"200"] * 5
    assert calls_of(figures) == {"ec2.DescribeVolumes": 5}


@pytest.mark.parametrize(
    ("options", "code"), [((), 3), (("--allow-inactive", "--fail-on", "unpaced"), 5)]
)
def test_python_that_calls_nobody(paced, python, options, code):
    """Our hook is there and has nothing to do; nothing came to the gateway either."""
    ended, _ = paced(python, "-c", "pass", options=options)
    assert ended.code == code
    assert "none reached the local proxy. Either the program made no call" in ended.words


def test_program_with_a_trust_of_its_own(paced, network, run, python):
    """It hangs up on the gateway, and the end of the run says why."""
    program = run.folder / "pinned.py"
    program.write_text(f"""
import http.client, os, ssl, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
import base64
user = base64.b64encode(f"{{proxy.username}}:{{proxy.password}}".encode()).decode()
context = ssl.create_default_context(cafile={str(network.environment["SSL_CERT_FILE"])!r})
calls = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context)
calls.set_tunnel("{HOST}", 443, {{"Proxy-Authorization": f"Basic {{user}}"}})
try:
    calls.request("GET", "/")
except ssl.SSLCertVerificationError:
    print("not trusted")
""")
    ended, figures = paced(python, "-I", program)
    assert ended.out == b"not trusted\n"
    assert figures["gateway"]["untrusted"] == {HOST: 1}
    assert f"WARNING: 1 connection to {HOST} closed: the program does not trust" in ended.words


NODE_AGENTS = """
const https = require('node:https');
const http2 = require('node:http2');
let most = 0;
const get = (agent) => new Promise((done, failed) => https.request(
  { host: 'HOST', method: 'POST', agent, headers: { 'content-type':
    'application/x-www-form-urlencoded', 'content-length': 39 } },
  (answer) => { answer.resume().once('end', done); }).once('error', failed)
  .end('Action=DescribeVolumes&Version=2016-11-15'.slice(0, 39)));
(async () => {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 2 });
  const count = setInterval(() => {
    most = Math.max(most, Object.values(agent.sockets).flat().length); }, 1);
  await Promise.all(Array.from({ length: 6 }, () => get(agent)));
  clearInterval(count);
  let refused = '';
  try { http2.connect('https://bedrock-runtime.us-east-1.amazonaws.com'); }
  catch (error) { refused = error.message; }
  const socket = agent.createConnection({ host: 'HOST', port: 443 });
  socket.once('secureConnect', () => {
    console.log(JSON.stringify({ most, refused, authorized: socket.authorized }));
    socket.unref();  // and the agent keeps two more: none of them keeps the program alive
  });
})();
""".replace("HOST", HOST)


NODE_DOWNLOAD = """
const url = 'https://b.s3.us-east-1.amazonaws.com/key';
require('node:https').get(url, { agent: false }, (answer) => {
  let size = 0;
  answer.on('data', (data) => {
    size += data.length;
    answer.pause();
    setTimeout(() => answer.resume(), 2);
  });
  answer.once('end', () => console.log(size));
  answer.once('error', (error) => console.log(error.message));
});
"""
NODE_REUSE = """
const https = require('node:https');
const agent = new https.Agent({ keepAlive: true });
const get = (path) => new Promise((done) => https.get(
  { host: 'sts.us-east-1.amazonaws.com', path, agent }, (answer) => {
    answer.once('end', () => done(answer.statusCode));
    answer.once('error', (error) => done(error.message));
    answer.resume();
  }).once('error', (error) => done(error.message)));
(async () => {
  const said = [];
  for (const path of ['/closes', '/closes', '/cut']) {
    said.push(await get(path));
    await new Promise((done) => setTimeout(done, 100));  // so that the agent hears of the end
  }
  console.log(said.join());
})();
"""
NODE_FETCH = f"""
fetch('https://{HOST}/', {{ method: 'POST', body: new URLSearchParams('{FORM}') }}).then(
  (answer) => console.log(answer.status));
"""
BY_NODE = {
    "calls": NODE,
    "fetch": NODE_FETCH,
    "loaded": f"void globalThis.Response;{NODE_FETCH}",
    "agents": NODE_AGENTS,
    "download": NODE_DOWNLOAD,
    "reuse": NODE_REUSE,
}
SIZE = 3_000_000


@pytest.fixture(scope="module")
def by_node(once):
    """Run programs in Node.js, one after the other; gives what they said, and what came."""
    one = once()
    whole = Answered(200, b"x" * SIZE, (("Connection", "close"),))
    by_target = {
        "/key": whole,
        "/closes": Answered(200, b"x", closes=True),
        "/cut": Answered(200, b"x" * 10_000, closes=True, share=0.5),
    }
    one.network.aws.answer = lambda arrival: by_target.get(arrival.target)
    script, lines = one.run.folder / "all.sh", []
    for name, text in BY_NODE.items():
        program = one.run.folder / f"{name}.js"
        program.write_text(text)
        lines.append(f"timeout 15 node {program} > {one.run.folder / name}")
    script.write_text(" &&\n".join(lines))
    ended, figures = one.paced("sh", script, limit="ec2=20/s", options=("--limit", "s3=20/s"))
    assert ended.code == 0, ended.err
    said = {name: (one.run.folder / name).read_text() for name in BY_NODE}
    arrivals = one.network.aws.arrivals
    arrivals[:] = [arrival for arrival in arrivals if ".sts." not in f".{arrival.host}"]
    return said, figures, one.network.aws


@needs_node
def test_node_is_paced(by_node):
    """Neither its https module nor its fetch uses a proxy by itself; our hook has both do so."""
    said, figures, aws = by_node
    begun, *answers = said["calls"].split()
    assert answers == ["200"] * 8
    # The other programs make theirs later, at the same limit.
    assert_paced(aws, 17, 0.05, at_once=False, begun=as_monotonic(begun), signed=False)
    times = sorted(one.at for one in aws.arrivals)
    assert_spaced(times[:8], 0.05, begun=as_monotonic(begun), late=0.1)
    assert calls_of(figures) == {"ec2.DescribeVolumes": 16, "s3.GetObject": 1}


@needs_node
def test_agents_of_node_are_as_they_were(by_node):
    """They keep to `maxSockets`, give a socket at once, and let the program end; no HTTP/2."""
    said, figures, _ = by_node
    found = json.loads(said["agents"])  # and it has ended by itself: see `timeout`
    assert found["most"] == 2
    assert found["authorized"] is True
    assert "HTTP/2 to bedrock-runtime.us-east-1.amazonaws.com cannot be paced" in found["refused"]
    assert figures["gateway"]["calls"] == 17  # 6 of them are its own


@needs_node
def test_download_by_node_is_whole(by_node):
    """The server hangs up after its answer, and the program is slow to read it."""
    said, _, _ = by_node
    assert said["download"].split() == [str(SIZE)]


@needs_node
def test_node_notices_that_servers_close(by_node):
    """A connection that the server has closed is not used again; an answer that is cut is an error.

    This server has no limit, so that the program speaks with it through the gateway by itself.
    """
    said, _, _ = by_node
    assert said["reuse"] == "200,200,aborted\n"


@needs_node
@pytest.mark.parametrize("first", ["fetch", "loaded"])
def test_fetch_of_node_whatever_came_first(by_node, first):
    """The program has touched a part of it before, as axios does when it is loaded, or has not."""
    said, _, _ = by_node
    assert said[first] == "200\n"


@needs_node
def test_node_in_a_folder_with_any_name(network, run, tmp_path, monkeypatch):
    """The hook is found, wherever it is installed."""
    from aioapiqueue_run.gateway import environment

    hook = tmp_path / "josé \"x\" 'y'" / "node_hook.cjs"
    hook.parent.mkdir()
    shutil.copy(Path(environment.__file__).with_name("node_hook.cjs"), hook)
    introspect.replace(monkeypatch, "hook of Node.js", hook)
    given = {"port": 1, "token": "t", "mark": "m", "bundle": "/dev/null"}
    found = environment.environment_of({}, **given)
    program = "console.log(Object.getOwnPropertySymbols(globalThis).some("
    program += "(one) => String(one).includes('aioapiqueue')))"
    done = subprocess.run(
        [shutil.which("node"), "-e", program],
        env={"PATH": os.environ["PATH"]} | found,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == b"true\n", done.stderr
