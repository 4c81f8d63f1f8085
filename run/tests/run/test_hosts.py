"""Any HTTP API under a limit: real clients, real TLS, a server whose answers are heard."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import re
import shlex
import shutil
import sys
import threading
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.app import app
from tests.helpers.aws_programs import CURL, EARLY, as_monotonic, assert_spaced, calls_of
from tests.helpers.signed_aws import Answered
from tests.helpers.stalls import Stalls
from tests.helpers.words import words_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="needs Unix domain sockets"),
]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

HOST = "api.example.test"
URL = f"https://{HOST}"

GET = """
import sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
def call(path):
    return urllib.request.urlopen("https://api.example.test" + path, timeout=30).status
with ThreadPoolExecutor(16) as pool:
    print(*pool.map(call, sys.argv[1:]))
"""


def script(run, text, name="program.sh"):
    """Write a program, and return its path."""
    path = run.folder / name
    path.write_text(text)
    return path


def assert_at_limit(arrivals, interval, *, number, begun, late=0.1):
    """So many have come, and at the limit."""
    assert len(arrivals) == number
    assert_spaced([one.at for one in arrivals], interval, begun=begun, late=late)


@needs_curl
def test_aws_and_a_host_in_one_program(paced, network, run):
    """10 and 5 at once: each has its own limit; the hook's mark does not go to other hosts.

    All are there at once, so that they come at the limits, and over few connections.
    """
    text = f"""
date +%s.%N
for i in $(seq 10); do curl -sS {URL}/ & done
for i in $(seq 5); do {CURL} -o /dev/null -w '' & done
wait
"""
    ended, figures = paced(
        "bash", script(run, text), limit=f"{URL}=10/s", options=["--limit", "ec2=5/s"]
    )
    began, answers = ended.out.split()
    assert (ended.code, answers) == (0, b"{}" * 10), ended.err
    begun, came = as_monotonic(began), network.aws.arrivals
    hosts = [one for one in came if one.host == HOST]
    assert_at_limit(hosts, 0.1, number=10, begun=begun)
    assert_at_limit([one for one in came if one.host != HOST], 0.2, number=5, begun=begun)
    assert calls_of(figures) == {f"{URL}.GET": 10, "ec2.DescribeVolumes": 5}
    assert figures["gateway"]["calls"] == 15
    assert len({one.connection for one in hosts}) <= 3
    assert f"paced: {URL} 10/s, ec2 5/s" in ended.words
    assert "15 calls, 15 paced" in ended.words


def test_python_needs_neither_any_nor_hook(paced, network, run, python):
    """No hook in Python knows of hosts: so the gateway is there by default.

    And Python that is started with -I, which does not load the hook, needs none.
    """
    program = script(run, GET, "get.py")
    both = f"date +%s.%N; {python} {program} $(seq -f /%g 9) & {python} -I {program} /x & wait"
    ended, figures = paced("sh", "-c", both, limit=f"{URL}=10/s", any_=False)
    began, *answers = ended.out.split()
    assert (ended.code, answers) == (0, [b"200"] * 10), ended.err
    assert_at_limit(network.aws.arrivals, 0.1, number=10, begun=as_monotonic(began))
    assert calls_of(figures) == {f"{URL}.GET": 10}
    assert f"paced: {URL} 10/s" in ended.words
    assert "not paced: all other calls" in ended.words
    assert "10 calls, 10 paced" in ended.words


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"}
SLOW_DOWN = Answered(429, b"slow down", (("Retry-After", "2"),))
PUSH_BACKS = {
    "retry-after": SLOW_DOWN,
    "github": Answered(403, b"{}", (("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "2"))),
    "body": Answered(
        429,
        json.dumps({"error": {"details": [RETRY_INFO]}}).encode(),
        (("Content-Type", "application/json"),),
    ),
}
LEFT = (("X-RateLimit-Limit", "10"), ("X-RateLimit-Remaining", "2"), ("X-RateLimit-Reset", "2"))
FIRST = {
    **{f"{form}.example.test": answer for form, answer in PUSH_BACKS.items()},
    "alone.example.test": SLOW_DOWN,
    "left.example.test": Answered(200, b"{}", LEFT),
}
"""What hosts answer first."""
LANES, FILED, NODE, TRY = (
    f"https://{name}.example.test" for name in ("lanes", "filed", "node", "try")
)
MANY_LIMITS = [
    f"GET {LANES}/search/*=4/s",
    f"{LANES}/users/*/repos=5/s",
    f"POST {LANES}=1/h",
    *(f"https://{form}.example.test=100/s" for form in PUSH_BACKS),
    "https://left.example.test=100/s burst 100",
    "https://alone.example.test/search=50/s",
    "https://alone.example.test=100/s",
    f"{NODE}=10/s",
    f"{TRY}/search/*=20/s",
]
MANY_FILED = f"""
[ec2]
rate = "5/s"

[hosts."{FILED.rpartition("/")[2]}"]
rate = "10/s"
lanes = {{"GET /search/*" = "4/s"}}
"""
MANY_HOSTS = """
import sys, time, urllib.request, urllib.error
from concurrent.futures import ThreadPoolExecutor

def call(host, path="/"):
    try:
        url = f"https://{host}.example.test{path}"
        return host, urllib.request.urlopen(url, timeout=30).status
    except urllib.error.HTTPError as error:
        return host, error.code, len(error.read())

def one_by_one(host, *paths):
    return [call(host, path) for path in paths]

def at_once(host, first, *paths):
    answers = [call(host, first), ("begun", host, time.time())]
    with ThreadPoolExecutor(16) as pool:
        return [*answers, *pool.map(lambda path: call(host, path), paths)]

searches = [f"/search/{number}?q=/other" for number in range(5)]
repos = [f"/users/{number}/repos" for number in range(6)]
with ThreadPoolExecutor(16) as pool:
    done = [
        *(pool.submit(one_by_one, form, *["/"] * 3) for form in sys.argv[1:]),
        pool.submit(one_by_one, "alone", "/search", "/other", "/search"),
        pool.submit(at_once, "left", "/first", *["/x"] * 4),
        pool.submit(at_once, "lanes", "/other", *searches, *repos, *["/other"] * 2),
        pool.submit(at_once, "filed", *["/b"] * 5, *["/search/a"] * 5),
        pool.submit(one_by_one, "try", *map("/search/{}".format, range(50))),
    ]
for one in done:
    for answer in one.result():
        print(*answer)
"""
MANY_NODE = f"""
const call = () => fetch('{NODE}/things').then((answer) => answer.status);
call().then(() => {{
    console.log('begun node', Date.now() / 1000);
    return Promise.all(Array.from({{ length: 8 }}, call));
}}).then((found) => console.log('node', ...found));
"""
"""The first call is by itself: Node.js loads what it needs for TLS, which delays its arrival."""


@dataclasses.dataclass
class Many:
    """What came of a program that called many hosts.

    Attributes:
        ended: how it ended.
        figures: its JSON.
        came: what arrived, by the first word of its host's name.
        answers: what the program heard, after that word.
        begun: by the name of a host: when its calls that are made at once could begin.
        stalls: by how many seconds this machine has held it up.
    """

    ended: Any
    figures: dict[str, Any]
    came: dict[str, list[Any]]
    answers: list[tuple[str, list[str]]]
    begun: dict[str, float]
    stalls: float


@pytest.fixture(scope="module")
def many(once, python):
    """Run one program on many hosts; see `Many`."""
    one = once()
    came = {}

    def answer(arrival):
        came.setdefault(arrival.host, []).append(arrival)
        if arrival.host == "try.example.test" and int(arrival.target[-1]) % 2:
            return Answered(429)
        return FIRST.get(arrival.host) if len(came[arrival.host]) == 1 else Answered()

    one.network.aws.answer = answer
    options = [word for limit in MANY_LIMITS for word in ("--limit", limit)]
    options += ["--limits", script(one.run, MANY_FILED, "limits.toml")]
    by_node = f"node {script(one.run, MANY_NODE, 'calls.cjs')} & "
    calls = f"{python} {script(one.run, MANY_HOSTS, 'calls.py')} {' '.join(PUSH_BACKS)}; wait"
    program = (by_node if shutil.which("node") else "") + calls
    with Stalls() as stalls:
        ended, figures = one.paced("sh", "-c", program, limit=None, options=options)
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.decode().splitlines()]
    return Many(
        ended,
        figures,
        {host.partition(".")[0]: found for host, found in came.items()},
        [(host, found) for host, *found in lines if host != "begun"],
        {line[1]: as_monotonic(line[2]) for line in lines if line[0] == "begun"},
        stalls.seconds,
    )


def calls_to(figures, url):
    """Return how many calls to a host the run has counted, by what comes after its name."""
    found = calls_of(figures).items()
    return {name.removeprefix(url): calls for name, calls in found if name.startswith(url)}


def test_lanes_by_method_and_path(many):
    """Each request comes under the longest that fits, all of those together, and the host's."""
    arrivals, begun = many.came["lanes"], many.begun["lanes"]
    searches = [one for one in arrivals if "search" in one.target]
    assert_at_limit(searches, 0.25, number=5, begun=begun)
    assert_at_limit([one for one in arrivals if "users" in one.target], 0.2, number=6, begun=begun)
    others = [one.at for one in arrivals if one.target == "/other"]
    assert max(others) < searches[-1].at - 0.4  # they did not wait in its lane
    counted = {".GET /search/*": 5, ".GET /users/*/repos": 6, ".GET": 3}
    assert calls_to(many.figures, LANES) == counted
    assert f"limits that applied to no call: POST {LANES} 1/h" in many.ended.words


@pytest.mark.parametrize("form", PUSH_BACKS)
def test_push_back_is_heard(many, form):
    """The host's queue is held for as long as its answer says, in whatever form it does."""
    first = PUSH_BACKS[form]
    pushed = [str(first.status), str(len(first.body))]
    assert [words for host, words in many.answers if host == form] == [pushed, ["200"], ["200"]]
    times = [one.at for one in many.came[form]]
    assert 2 - EARLY <= times[1] - times[0] < 3 + many.stalls
    assert times[2] - times[1] < 1 + many.stalls
    (found,) = (one for one in many.figures["figures"] if f"//{form}." in one["service"])
    assert (found["calls"], found["throttled"], found["errors"]) == (3, 1, 0)


def test_what_remains_is_kept(many):
    """What the server says is left bounds what starts until its reset."""
    times = [one.at - many.came["left"][0].at for one in many.came["left"]]
    assert [one >= 2 - EARLY for one in times] == [False, False, False, True, True]
    assert times[-1] < 3 + many.stalls


def test_lane_is_held_alone(many):
    """A push-back on a path with a lane holds nothing else."""
    came = many.came["alone"]
    assert [one.target for one in came] == ["/search", "/other", "/search"]
    times = [one.at - came[0].at for one in came]
    assert times[1] < 1 + many.stalls
    assert 2 - EARLY <= times[2] < 3 + many.stalls


@needs_node
def test_fetch_of_node_is_paced(many):
    """By the hook in Node.js, as its calls to AWS are."""
    assert ("node", ["200"] * 8) in many.answers
    first, *others = sorted(many.came["node"], key=lambda one: one.at)
    assert first.at < many.begun["node"]
    assert_at_limit(others, 0.1, number=8, begun=many.begun["node"])
    assert calls_to(many.figures, NODE) == {".GET": 9}


def test_limits_file(many):
    """The same in a limits.toml, beside services of AWS."""
    searches = [one for one in many.came["filed"] if one.target == "/search/a"]
    assert_at_limit(searches, 0.25, number=5, begun=many.begun["filed"])
    assert calls_to(many.figures, FILED) == {".GET /search/*": 5, ".GET": 5}
    assert re.search(r"limits that applied to no call: .*\bec2 5/s", many.ended.words)


def test_limit_to_try_can_be_given(many):
    """After throttling: as `--limit` takes it, in the shell's quotes."""
    found = re.search(r"room for other callers: --limit (\S+)", many.ended.words)
    (option,) = shlex.split(found[1])
    assert list(Registry.from_options([option]).hosts) == [TRY]
    assert option.startswith(f"{TRY}/search/*=")


@pytest.mark.flaky(reruns=2)  # that it ends within two seconds is real time
def test_websocket_is_one_call_and_ends_at_once(paced, network, run, python):
    """By TLS, which cannot say that one side has ended: the other sees it all the same."""
    program = f"""
import aiohttp, asyncio, time
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        for _ in range(2):
            async with session.ws_connect("{URL}/live") as socket:
                await socket.send_str("hello")
                print(await socket.receive_str())
                began = time.monotonic()
            print(time.monotonic() - began < 2)
asyncio.run(main())
"""
    with echoing(network.aws.context_for(HOST)) as port:
        network.proxy.lead(443, port)
        limits = run.folder / "limits.toml"
        limits.write_text(f'[hosts."{HOST}"]\nrate = "10/s"\nconcurrency = 1')
        options = ["--limits", limits]
        ended, figures = paced(python, script(run, program, "live.py"), limit=None, options=options)
    assert ended.code == 0, ended.err
    assert ended.out.split() == [b"hello", b"True"] * 2
    (found,) = figures["figures"]
    assert (found["calls"], found["errors"]) == (2, 0)
    assert ended.seconds < 8


@contextlib.contextmanager
def echoing(context):
    """Serve WebSockets that say what they hear, in a thread; gives the port."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), []

    async def echo(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def serve(done):
        app = web.Application()
        app.router.add_get("/live", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port.append(runner.addresses[0][1])
        ready.set()
        await done.wait()
        await runner.cleanup()

    done = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(done)))
    thread.start()
    ready.wait()
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


IGNORES = """
import sys, urllib.request
sys.argv.pop() == "botocore" and __import__("botocore.session")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    opener.open("https://api.example.test/", timeout=5)
except OSError:
    pass
"""


@pytest.mark.parametrize("imports", ["nothing", "botocore"])
def test_program_that_ignores_proxies(paced, network, run, python, imports):
    """Its calls do not come: exit code 3, also where our hook is there, which knows of no host."""
    program = script(run, IGNORES, "ignores.py")
    ended, _ = paced(python, program, imports, limit=f"{URL}=10/s", any_=False)
    assert ended.code == 3, ended.err
    assert "no call was paced" in ended.words
    assert "--isolate" in ended.words


GONE = "http://nowhere.internal:9"  # to which the company's proxy is not the way
OTHER = "https://other.example.test"
TWO_HOSTS = f"""
import sys, urllib.request
assert urllib.request.urlopen("{URL}/x", timeout=30).status == 200
for _ in range(2):
    try:
        urllib.request.urlopen("{GONE}/x", timeout=30)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@pytest.fixture(scope="module")
def without_calls(once, python):
    """Run a program that calls one host of three, another one in vain, and the third not at all."""
    one = once()
    limits = [word for url in (GONE, OTHER) for word in ("--limit", f"{url}=10/s")]
    options = [*limits, "--fail-on", "failed > 50%"]
    return one.paced(
        python, script(one.run, TWO_HOSTS, "get.py"), limit=f"{URL}=10/s", options=options
    )


def test_host_that_was_not_called(without_calls):
    """Of a program whose other calls come, it is said, and what would pace it if it was."""
    ended, _ = without_calls
    assert f"limits that applied to no call: {OTHER} 10/s. If the" in ended.words
    assert "it may ignore HTTPS_PROXY: use --isolate" in ended.words


def test_host_that_cannot_be_reached(without_calls):
    """Its requests have come, and failed: so it is said, and a gate for failures fails."""
    ended, figures = without_calls
    assert (ended.code, ended.out) == (5, b"502\n502\n"), ended.err
    assert figures["gateway"]["unreachable"] == {GONE: 2}
    assert f"not sent, as the host is unreachable: 2 requests to {GONE} (" in ended.words
    assert f"\n{GONE} 10/s".encode() not in ended.err  # a row without a call
    assert 'FAILED: --fail-on "failed > 50%": 66.7%, 2 of 3' in ended.words


def test_dry_run_names_limits_as_they_are_given(paced, network, run, python):
    """The command at its end paces, with the limits that it was given."""
    limit = f"GET {URL}/search/*=4/s"
    paths = [f"/search/{number}" for number in range(8)]
    program = script(run, GET, "get.py")
    ended, figures = paced(python, program, *paths, limit=limit, options=["--dry-run"])
    assert ended.code == 0, ended.err
    assert f"dry run: calls to AWS and to {URL} are counted, not paced" in ended.words
    assert f"limits that would have delayed calls: GET {URL}/search/* 4/s (7 calls)" in ended.words
    assert figures["if_paced"]["held"][0]["name"] == f"GET {URL}/search/*"
    line = next(one for one in ended.err.decode().splitlines() if "aioapiqueue run" in one)
    given = shlex.split(line)
    assert given[given.index("--limit") + 1] == limit


@needs_curl
def test_default_is_for_aws(paced, network, run):
    """A host takes nothing from it: neither in what is kept, nor in what is shown."""
    limit = f"GET {URL}/search/*=4/s"
    ended, _ = paced("curl", "-sS", f"{URL}/x", limit=limit, options=["--limit", "default=3/s"])
    assert f"paced: {limit.replace('=', ' ')}" in ended.words
    assert "each service of AWS: 3/s" in ended.words
    assert "not paced: all other calls to hosts" in ended.words
    assert f"{URL} 3/s" not in ended.words


TOGETHER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv.pop(1)).touch()
other = sys.argv.pop(1)
deadline = time.monotonic() + 60
while not os.path.exists(other):
    assert time.monotonic() < deadline
    time.sleep(0.005)
"""


@pytest.mark.flaky(reruns=2)  # a first call that comes late is real time
def test_two_runs_share_the_limit_of_a_host(network, run, python):
    """Two runs share the limit of the whole host, and that of a lane that both name.

    The first call makes its connection beside nine others, and may lose a quarter of the time. If
    each run had limits of its own, all calls would arrive in less than half of the time.
    """
    program = script(run, TOGETHER + GET, "get.py")
    options = ["--limit", f"{URL}=20/s", "--limit", f"{URL}/search/*=8/s", "--no-live"]
    ready = [run.folder / "one", run.folder / "two"]
    runs = [
        run.start(*options, "--", python, program, *names, *paths, env=network.environment)
        for names, paths in (
            (ready, ["/search/1"] * 3 + ["/x"] * 2),
            (ready[::-1], ["/search/2"] * 3 + ["/x"] * 2),
        )
    ]
    for one in runs:
        ended = run.end(one)
        assert ended.code == 0, ended.err
    came = network.aws.arrivals
    searches = sorted(one.at for one in came if "search" in one.target)
    assert searches[-1] - searches[0] >= 0.75 * 5 / 8
    times = sorted(one.at for one in came)
    assert len(times) == 10
    assert times[-1] - times[0] >= 0.75 * 9 / 20


PORTS = {"": 443, ":8443": 8443}
ISOLATED = """
import http.client, ssl, time
context = ssl.create_default_context()
for port in (443, 8443):
    print(port, time.time())
    for _ in range(5):
        calls = http.client.HTTPSConnection("api.example.test", port, context=context)
        calls.request("GET", f"/{port}")
        print(calls.getresponse().status)
for host, name in (("intranet.test", "intranet.test"), ("other.test", "other.test:8080")):
    calls = http.client.HTTPConnection(host, 8080)
    calls.request("GET", "/x", headers={"Host": name})
    print(calls.getresponse().status)
"""


@pytest.fixture(scope="module")
def isolated(once, python):
    """Isolate a program that ignores proxies.

    Returns:
        Its figures, what arrived, and by port when it began to call.
    """
    one = once()
    one.network.proxy.lead(8443, one.network.aws.port)
    limits = [*(f"{URL}{port}=10/s" for port in PORTS), "http://intranet.test:8080=10/s"]
    options = [word for limit in limits for word in ("--limit", limit)]
    program = script(one.run, ISOLATED, "get.py")
    ended, figures = one.paced(python, program, limit=None, options=[*options, "--isolate"])
    lines = ended.out.decode().splitlines()
    assert (ended.code, lines.count("200")) == (0, 12), ended.err
    return figures, one.network.aws.arrivals, dict(line.split() for line in lines if " " in line)


@on_linux
def test_isolated_without_tls(isolated):
    """At its own port, though its requests do not name that; another host there is passed on."""
    figures, _, _ = isolated
    assert calls_to(figures, "http://") == {"intranet.test:8080.GET": 1}
    assert figures["gateway"]["passed_by"] == {"other.test": 1}


@on_linux
@pytest.mark.parametrize("port", PORTS, ids=["usual", "own port"])
def test_isolated(isolated, port):
    """A program that ignores proxies, at whichever port its host has a limit."""
    figures, arrivals, begun = isolated
    number = str(PORTS[port])
    came = [one for one in arrivals if one.target == f"/{number}"]
    # Each call makes its own connection once the one before has ended. That may take any time.
    assert_at_limit(came, 0.1, number=5, begun=as_monotonic(begun[number]), late=math.inf)
    assert calls_to(figures, f"{URL}{port}.") == {"GET": 5}


@needs_curl
def test_authority_is_for_these_hosts_only(paced, network, run):
    """Another host has its own certificate; that of the run would not be taken for it."""
    text = f"""
curl -sS -o /dev/null -w '%{{certs}}' {URL}/ | grep -c 'aioapiqueue run'
curl -sS -o /dev/null -w '%{{certs}}' https://other.example.test/ | grep -c 'aioapiqueue run'
exit 0
"""
    ended, figures = paced("bash", script(run, text), limit=f"{URL}=10/s")
    ours, others = ended.out.split()
    assert int(ours) > 0
    assert int(others) == 0
    assert figures["gateway"]["passed_by"] == {"other.example.test": 1}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--limit", "https://10.0.0.1=1/s"], "is an IP address"),
        (["--limit", "api.example.test=1/s"], "for a host, write https://api.example.test=10/s"),
        (["--limit", f"{URL}/a?b=1/s"], "has a query"),
        (["--limit", f"{URL}=1/s", "--no-any"], f"the limit of {URL} and --no-any cannot be"),
        (
            ["--limit", "https://ec2.us-east-1.amazonaws.com=1/s"],
            "1/s: https://ec2.us-east-1.amazonaws.com belongs to AWS: limit the service",
        ),
        (
            ["--limit", "http://localhost:8000=1/s"],
            "1/s: http://localhost:8000 cannot be paced: programs do not use a proxy for it",
        ),
        (
            ["--limit", "http://169.254.169.254=1/s"],
            "1/s: http://169.254.169.254 cannot be paced: programs fetch credentials",
        ),
        (["--limit", f"{URL} GET=1/s"], "is not a host"),
        (["--limit", "slack.com=1/s", "--no-check"], "for a host, write https://slack.com=10/s"),
    ],
)
def test_what_cannot_be_kept_is_refused(arguments, why):
    """Before anything starts, with what to do."""
    told = CliRunner().invoke(app, ["run", *arguments, "--", "true"])
    assert told.exit_code == 2
    assert why in words_of(told.stderr)
