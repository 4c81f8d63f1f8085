"""Any HTTP API under a limit: real clients, real TLS, a server whose answers are heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import sys
import threading

import pytest
from aiohttp import web

from aioapiqueue.registry import Registry
from tests.helpers.aws_programs import CURL, calls_of
from tests.helpers.signed_aws import Answered

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="needs Unix domain sockets"),
]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

HOST = "api.example.test"
URL = f"https://{HOST}"
EARLY = 0.012  # of an arrival, which is measured in another process

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


def assert_spaced(arrivals, interval, *, number):
    """So many have come, and within 5 % of the limit."""
    times = sorted(one.at for one in arrivals)
    assert len(times) == number
    ideal = (number - 1) * interval
    assert ideal * 0.95 - 2 * EARLY <= times[-1] - times[0] <= ideal * 1.05 + 0.1


@needs_curl
def test_curl_is_paced(paced, network, run):
    """20 at once to a host that is not AWS's: at its limit, over few connections."""
    ended, figures = paced(
        "bash",
        script(run, f"for i in $(seq 20); do curl -sS {URL}/things/$i & done; wait\n"),
        limit=f"{URL}=10/s",
    )
    assert (ended.code, ended.out) == (0, b"{}" * 20), ended.err
    assert_spaced(network.aws.arrivals, 0.1, number=20)
    assert calls_of(figures) == {f"{URL}.GET": 20}
    assert figures["gateway"]["calls"] == 20
    assert network.aws.connections <= 3
    assert f"paced: {URL} at 10/s" in ended.words
    assert "not paced: calls to AWS, and to all other hosts" in ended.words
    assert "20 calls, 20 of them paced" in ended.words


def test_python_goes_by_the_gateway_without_any(paced, network, run, python):
    """No hook in Python knows of hosts: so the gateway is there by default."""
    ended, figures = paced(
        python, script(run, GET, "get.py"), *["/x"] * 10, limit=f"{URL}=10/s", any_=False
    )
    assert (ended.code, ended.out.split()) == (0, [b"200"] * 10), ended.err
    assert_spaced(network.aws.arrivals, 0.1, number=10)
    assert calls_of(figures) == {f"{URL}.GET": 10}


def test_lanes_by_method_and_path(paced, network, run, python):
    """Each request comes under the longest that fits, all of those together, and the host's."""
    ended, figures = paced(
        python,
        script(run, GET, "get.py"),
        *[f"/search/{number}?q=/other" for number in range(5)],
        *[f"/users/{number}/repos" for number in range(4)],
        *["/other"] * 3,
        limit=f"GET {URL}/search/*=4/s",
        options=["--limit", f"{URL}/users/*/repos=5/s", "--limit", f"POST {URL}=1/h"],
    )
    assert ended.code == 0, ended.err
    came = network.aws.arrivals
    assert_spaced([one for one in came if "search" in one.target], 0.25, number=5)
    assert_spaced([one for one in came if "users" in one.target], 0.2, number=4)
    assert max(one.at for one in came if one.target == "/other") - min(one.at for one in came) < 0.6
    assert calls_of(figures) == {
        f"{URL}.GET /search/*": 5,
        f"{URL}.GET /users/*/repos": 4,
        f"{URL}.GET": 3,
    }
    assert f"no call came under: POST {URL} 1/h" in ended.words
    assert f"GET {URL}/search/* at 4/s" in ended.words


def test_aws_and_a_host_in_one_program(paced, network, run):
    """Each has its own limit; the hook's mark does not go to other hosts."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    text = f"""
for i in $(seq 5); do {CURL} & done
for i in $(seq 10); do curl -sS -o /dev/null {URL}/ & done
wait
"""
    ended, figures = paced(
        "bash", script(run, text), limit=f"{URL}=10/s", options=["--limit", "ec2=5/s"]
    )
    assert ended.code == 0, ended.err
    came = network.aws.arrivals
    assert_spaced([one for one in came if one.host == HOST], 0.1, number=10)
    assert_spaced([one for one in came if one.host != HOST], 0.2, number=5)
    assert calls_of(figures) == {f"{URL}.GET": 10, "ec2.DescribeVolumes": 5}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"}
PUSH_BACKS = {
    "retry-after": Answered(429, b"slow down", (("Retry-After", "2"),)),
    "github": Answered(403, b"{}", (("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "2"))),
    "body": Answered(
        429,
        json.dumps({"error": {"details": [RETRY_INFO]}}).encode(),
        (("Content-Type", "application/json"),),
    ),
}


@pytest.mark.parametrize("form", PUSH_BACKS)
def test_push_back_is_heard(paced, network, run, python, form):
    """The host's queue is held for as long as its answer says, in whatever form it does."""
    first = PUSH_BACKS[form]
    network.aws.answer = lambda _: first if len(network.aws.arrivals) == 1 else Answered()
    program = """
import urllib.request, urllib.error
for _ in range(3):
    try:
        print(urllib.request.urlopen("https://api.example.test/", timeout=30).status)
    except urllib.error.HTTPError as error:
        print(error.code, len(error.read()))
"""
    ended, figures = paced(python, script(run, program, "get.py"), limit=f"{URL}=100/s")
    assert ended.out.decode().split() == [str(first.status), str(len(first.body)), "200", "200"]
    times = [one.at for one in network.aws.arrivals]
    assert 2 - EARLY <= times[1] - times[0] < 3
    assert times[2] - times[1] < 1
    (found,) = figures["figures"]
    assert (found["calls"], found["throttled"], found["errors"]) == (3, 1, 0)


def test_what_remains_is_kept(paced, network, run, python):
    """What the server says is left bounds what starts until its reset."""
    left = [("X-RateLimit-Limit", "10"), ("X-RateLimit-Remaining", "2"), ("X-RateLimit-Reset", "3")]
    network.aws.answer = lambda _: Answered(
        200, b"{}", tuple(left) if len(network.aws.arrivals) == 1 else ()
    )
    program = GET.replace("with Thread", 'call("/first")\nwith Thread')
    ended, _ = paced(
        python, script(run, program, "get.py"), *["/x"] * 4, limit=f"{URL}=100/s burst 100"
    )
    assert ended.code == 0, ended.err
    times = [one.at - network.aws.arrivals[0].at for one in network.aws.arrivals]
    assert [round(one) for one in times] == [0, 0, 0, 3, 3]


def test_lane_is_held_alone(paced, network, run, python):
    """A push-back on a path with a lane holds nothing else."""
    first = Answered(429, b"", (("Retry-After", "2"),))
    network.aws.answer = lambda one: (
        first if one.target == "/search" and len(network.aws.arrivals) == 1 else Answered()
    )
    program = """
import sys, time, urllib.request, urllib.error
def get(path):
    try:
        urllib.request.urlopen("https://api.example.test" + path, timeout=30)
    except urllib.error.HTTPError as error:
        assert error.code == 429
for path in ("/search", "/other", "/search"):
    get(path)
"""
    ended, _ = paced(
        python,
        script(run, program, "get.py"),
        limit=f"{URL}/search=50/s",
        options=["--limit", f"{URL}=100/s"],
    )
    assert ended.code == 0, ended.err
    times = [one.at - network.aws.arrivals[0].at for one in network.aws.arrivals]
    assert times[1] < 1
    assert 2 - EARLY <= times[2] < 3


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


def test_python_without_our_hook(paced, network, run, python):
    """Started with -I it does not load it, and a limit of a host needs none."""
    program = script(run, GET, "get.py")
    ended, figures = paced(python, "-I", program, "/x", limit=f"{URL}=10/s", any_=False)
    assert (ended.code, ended.out) == (0, b"200\n"), ended.err
    assert calls_of(figures) == {f"{URL}.GET": 1}


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
    assert "NOTHING WAS PACED" in ended.words
    assert "--isolate" in ended.words


def test_host_that_was_not_called(paced, network, run, python):
    """Of a program whose other calls come, it is said, and what would pace it if it was."""
    program = script(run, GET, "get.py")
    other = "https://other.example.test"
    ended, _ = paced(
        python, program, "/x", limit=f"{URL}=10/s", options=["--limit", f"{other}=1/s"]
    )
    assert ended.code == 0, ended.err
    assert f"no request to {other} has come to the proxy. If there was one, its" in ended.words
    assert "ignores proxies: --isolate paces it, too" in ended.words
    assert "no call came under" not in ended.words


def test_host_that_cannot_be_reached(paced, network, run, python):
    """Its requests have come, and failed: so it is said, and a gate for failures fails."""
    gone = "http://nowhere.internal:9"  # to which the company's proxy is not the way
    program = script(run, GET.replace(URL, gone), "get.py")
    options = ["--limit", f"{gone}=10/s", "--fail-on", "failed"]
    ended, figures = paced(python, program, "/x", "/y", limit=f"{URL}=10/s", options=options)
    assert ended.code == 1, ended.err  # the program's own
    assert figures["gateway"]["unreachable"] == {gone: 2}
    assert f"2 requests to {gone} not sent: it could not be reached" in ended.words
    assert f"no request to {gone}" not in ended.words
    assert 'FAILED: --fail-on "failed": 2 of 2' in ended.words


def test_dry_run_names_limits_as_they_are_given(paced, network, run, python):
    """The command at its end paces, with the limits that it was given."""
    limit = f"GET {URL}/search/*=4/s"
    paths = [f"/search/{number}" for number in range(8)]
    program = script(run, GET, "get.py")
    ended, figures = paced(python, program, *paths, limit=limit, options=["--dry-run"])
    assert ended.code == 0, ended.err
    assert f"all calls to AWS and to {URL} are counted" in ended.words
    assert f"would have been held back by: GET {URL}/search/* 4/s (7 calls)" in ended.words
    assert figures["if_paced"]["held"][0]["name"] == f"GET {URL}/search/*"
    line = next(one for one in ended.err.decode().splitlines() if "aioapiqueue run" in one)
    given = shlex.split(line)
    assert given[given.index("--limit") + 1] == limit


def test_limit_to_try_can_be_given(paced, network, run, python):
    """After throttling: as `--limit` takes it, in the shell's quotes."""
    network.aws.answer = lambda one: Answered(429 if int(one.target[-1]) % 2 else 200)
    program = """
import urllib.request, urllib.error
for number in range(40):
    try:
        urllib.request.urlopen(f"https://api.example.test/search/{number}", timeout=30)
    except urllib.error.HTTPError as error:
        assert error.code == 429
"""
    ended, _ = paced(python, script(run, program, "get.py"), limit=f"{URL}/search/*=10/s")
    assert ended.code == 0, ended.err
    found = re.search(r"Try --limit (\S+): half", ended.words)
    (option,) = shlex.split(found[1])
    assert list(Registry.from_options([option]).hosts) == [URL]
    assert option.startswith(f"{URL}/search/*=")


@needs_curl
def test_default_is_for_aws(paced, network, run):
    """A host takes nothing from it: neither in what is kept, nor in what is shown."""
    ended, _ = paced(
        "bash",
        script(run, f"curl -sS {URL}/x\n"),
        limit=f"{URL}/search=1/s",
        options=["--limit", "default=3/s"],
    )
    assert "each service of AWS at 3/s" in ended.words
    assert "not paced: all other calls to hosts" in ended.words
    assert f"{URL} 3/s" not in ended.words


def test_two_runs_share_the_limit_of_a_host(network, run, python):
    """As those of services: what is of the whole host, and lanes that both name."""
    program = script(run, GET, "get.py")
    options = ["--limit", f"{URL}=5/s", "--limit", f"{URL}/search/*=2/s", "--no-live"]
    runs = [
        run.start(*options, "--", python, program, *paths, env=network.environment)
        for paths in (["/search/1"] * 2, ["/search/2"] * 2, ["/x"] * 4)
    ]
    for one in runs:
        ended = run.end(one)
        assert ended.code == 0, ended.err
    came = network.aws.arrivals
    searches = sorted(one.at for one in came if "search" in one.target)
    assert searches[-1] - searches[0] >= 3 * 0.5 - 2 * EARLY
    times = sorted(one.at for one in came)
    assert len(times) == 8
    assert times[-1] - times[0] >= 7 * 0.2 - 2 * EARLY


@needs_node
def test_fetch_of_node_is_paced(paced, network, run):
    """By the hook in Node.js, as its calls to AWS are."""
    text = f"""
const call = () => fetch('{URL}/things').then((answer) => answer.status);
Promise.all(Array.from({{ length: 10 }}, call)).then((found) => console.log(found.join(' ')));
"""
    ended, figures = paced("node", script(run, text, "calls.cjs"), limit=f"{URL}=10/s")
    assert (ended.code, ended.out.split()) == (0, [b"200"] * 10), ended.err
    assert_spaced(network.aws.arrivals, 0.1, number=10)
    assert calls_of(figures) == {f"{URL}.GET": 10}


def test_limits_file(paced, network, run, python):
    """The same in a limits.toml, beside services of AWS."""
    limits = run.folder / "limits.toml"
    limits.write_text(f"""
[ec2]
rate = "5/s"

[hosts."{HOST}"]
rate = "10/s"
lanes = {{"GET /search/*" = "2/s"}}
""")
    paths = [*["/search/a"] * 3, *["/b"] * 5]
    ended, figures = paced(
        python, script(run, GET, "get.py"), *paths, options=["--limits", limits], limit=None
    )
    assert ended.code == 0, ended.err
    searches = [one for one in network.aws.arrivals if one.target == "/search/a"]
    assert_spaced(searches, 0.5, number=3)
    assert calls_of(figures) == {f"{URL}.GET /search/*": 3, f"{URL}.GET": 5}


@on_linux
def test_isolated_without_tls(paced, network, run, python):
    """At its own port, though its requests do not name that; another host there is passed on."""
    program = """
import http.client
for host, name in (("intranet.test", "intranet.test"), ("other.test", "other.test:8080")):
    calls = http.client.HTTPConnection(host, 8080)
    calls.request("GET", "/x", headers={"Host": name})
    print(calls.getresponse().status)
"""
    ended, figures = paced(
        python,
        script(run, program, "get.py"),
        limit="http://intranet.test:8080=10/s",
        options=["--isolate"],
    )
    assert (ended.code, ended.out.split()) == (0, [b"200"] * 2), ended.err
    assert calls_of(figures) == {"http://intranet.test:8080.GET": 1}
    assert figures["gateway"]["passed_by"] == {"other.test": 1}


@on_linux
@pytest.mark.parametrize("port", ["", ":8443"], ids=["usual", "own port"])
def test_isolated(paced, network, run, python, port):
    """A program that ignores proxies, at whichever port its host has a limit."""
    network.proxy.lead(8443, network.aws.port)
    program = f"""
import http.client, ssl
for _ in range(5):
    calls = http.client.HTTPSConnection("{HOST}{port}", context=ssl.create_default_context())
    calls.request("GET", "/x")
    print(calls.getresponse().status)
"""
    ended, figures = paced(
        python, script(run, program, "get.py"), limit=f"{URL}{port}=10/s", options=["--isolate"]
    )
    assert (ended.code, ended.out.split()) == (0, [b"200"] * 5), ended.err
    assert_spaced(network.aws.arrivals, 0.1, number=5)
    assert calls_of(figures) == {f"{URL}{port}.GET": 5}


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
        (["--limit", "https://10.0.0.1=1/s"], "is an address"),
        (["--limit", "api.example.test=1/s"], "for a host, write https://api.example.test=10/s"),
        (["--limit", f"{URL}/a?b=1/s"], "has a query"),
        (["--limit", f"{URL}=1/s", "--no-any"], f"the limit of {URL} needs --any"),
        (["--limit", "https://ec2.us-east-1.amazonaws.com=1/s"], "is AWS's own"),
        (["--limit", "http://localhost:8000=1/s"], "localhost is this host; programs do not use"),
        (["--limit", "http://169.254.169.254=1/s"], "has credentials for this host"),
        (["--limit", f"{URL} GET=1/s"], "is no host"),
        (["--limit", "slack.com=1/s", "--no-check"], "for a host, write https://slack.com=10/s"),
    ],
)
def test_what_cannot_be_kept_is_refused(quiet_run, arguments, why):
    """Before anything starts, with what to do."""
    ended = quiet_run(*arguments, "--", "true")
    assert ended.code == 2
    assert why in ended.words
