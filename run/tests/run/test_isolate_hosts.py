"""What an isolated program reaches: servers in a network of their own, and nothing of this host."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.aws_programs import FORM, HOST, calls_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces"),
]

ISOLATED = ("--isolate",)

# Asks for each server in the two ways that there are: as if it were at port 80, and by the proxy.
ASKS = """
import http.client, os, sys, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
import base64
user = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
for target in sys.argv[1:]:
    calls = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
    calls.request("GET", "/", headers={"Host": target})
    plain = calls.getresponse().status
    calls = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=20)
    calls.request("CONNECT", target, headers={"Proxy-Authorization": f"Basic {user}"})
    answer = calls.getresponse()
    print(target, plain, answer.status)
"""
GET = """
import http.client, sys
host, port, *more = sys.argv[1:]
for _ in range(int(more[0]) if more else 1):
    calls = http.client.HTTPConnection(host, int(port), timeout=20)
    calls.request("GET", "/x")
    answer = calls.getresponse()
    print(answer.status, answer.read().decode().strip())
"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        """Note that somebody has come."""
        self.server.came.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, *_):
        """Stay silent."""


@contextlib.contextmanager
def serving(listener):
    """Serve HTTP on a socket that listens; gives what comes."""
    server = ThreadingHTTPServer(("", 0), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket, server.came = listener, []
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def script(run, text, name="program.py"):
    """Write a program, and return its path."""
    path = run.folder / name
    path.write_text(text)
    return path


@pytest.fixture
def here():
    """Serve on all addresses of this host; gives the port, and what comes."""
    listener = socket.create_server(("", 0))
    port = listener.getsockname()[1]
    with serving(listener) as came:
        yield port, came


def test_services_of_this_host_are_refused(paced_outside_here, outside, here, run, python):
    """By loopback, an own address, a name: at a port that may be reached on other hosts."""
    port, came = here
    network = outside.network
    network.names |= {"own.test": network.host_address, "lo.test": "127.0.0.1"}
    hosts = ("127.0.0.1", "127.1", "localhost", network.host_address, "own.test", "lo.test")
    targets = [f"{host}:{port}" for host in hosts]
    closed = f"other.test:{port - 1}"
    ended, figures = paced_outside_here(
        *(python, script(run, ASKS), *targets, closed),
        limit=f"http://other.test:{port}=50/s",
        options=[*ISOLATED, "--fail-on", "refused"],
    )
    assert ended.out.decode().splitlines() == [f"{one} 403 403" for one in (*targets, closed)]
    assert not came
    assert figures["gateway"]["forbidden"] == dict.fromkeys((*targets, closed), 2)
    assert "refused, as the program is isolated: 2 connections to 127.0.0.1:" in ended.words
    assert f"own.test:{port}" in ended.words
    assert ended.code == 5
    assert "It can reach only other hosts, by name, on the ports" in ended.words
    assert f"(ports 80, 443, {port}), and nothing on this host except Unix sockets" in ended.words


def test_names_of_link_local_addresses_are_refused(paced_outside_here, outside, run, python):
    """As the addresses themselves are."""
    outside.network.names["printer.test"] = "169.254.7.7"
    ended, figures = paced_outside_here(
        python, script(run, ASKS), "printer.test:80", options=ISOLATED
    )
    assert ended.out.decode() == "printer.test:80 403 403\n", ended.err
    assert figures["gateway"]["forbidden"] == {"printer.test:80": 2}


def test_blocked_name_is_no_refusal(paced_outside_here, outside, run, python):
    """Name servers that block names answer 0.0.0.0, which is no attempt to reach this host."""
    outside.network.names["telemetry.test"] = "0.0.0.0"  # noqa: S104 - nothing is bound
    targets = ("telemetry.test:80", "0.0.0.0:80")
    ended, figures = paced_outside_here(python, script(run, ASKS), *targets, options=ISOLATED)
    assert ended.out.decode().splitlines() == [
        "telemetry.test:80 502 502",
        "0.0.0.0:80 403 403",
    ], ended.err
    assert figures["gateway"]["forbidden"] == {"0.0.0.0:80": 2}


def test_refusal_within_tls_is_counted(paced_outside_here, outside, run, python):
    """It cannot be answered: the gateway hangs up, and the end of the run says why."""
    outside.network.names["own.test"] = outside.network.host_address
    program = """
import socket, ssl
sock = socket.create_connection(("own.test", 443))
try:
    ssl.create_default_context().wrap_socket(sock, server_hostname="own.test")
except OSError:
    print("hung up")
"""
    ended, figures = paced_outside_here(python, script(run, program), options=ISOLATED)
    assert ended.out == b"hung up\n", ended.err
    assert figures["gateway"]["forbidden"] == {"own.test:443": 1}
    assert "refused, as the program is isolated: 1 connection to own.test:443" in ended.words


def test_name_that_changes_its_address(paced_outside_here, outside, here, run, python):
    """It is looked up once for each connection, which leads to the address that was checked."""
    port, came = here
    answers = iter([outside.network.address, "127.0.0.1", outside.network.address, "127.0.0.1"])
    outside.network.names["rebinds.test"] = lambda: next(answers)
    with serving(outside.network.bind(port)) as outside_came:
        ended, _ = paced_outside_here(
            *(python, script(run, GET), "rebinds.test", port, 4),
            limit=f"http://another.test:{port}=50/s",
            options=ISOLATED,
        )
    assert [line.split()[0] for line in ended.out.decode().splitlines()] == ["200", "403"] * 2
    assert not came
    assert outside_came == ["/x"] * 2


def test_address_with_a_limit(paced_outside_here, outside, run, python):
    """It is meant as it is written: a program that ignores proxies reaches it, at its limit."""
    listener = outside.network.bind()
    port = listener.getsockname()[1]
    url = f"http://{outside.network.address}:{port}"
    with serving(listener) as came:
        ended, figures = paced_outside_here(
            *(python, script(run, GET), outside.network.address, port, 5),
            limit=f"{url}=50/s",
            options=ISOLATED,
        )
    assert (ended.code, ended.out) == (0, b"200 hi\n" * 5), ended.err
    assert came == ["/x"] * 5
    assert calls_of(figures) == {f"{url}.GET": 5}


@pytest.mark.parametrize("by", ["address", "name", "link-local address"])
def test_limit_of_this_host_is_refused(paced_outside_here, outside, run, python, by):
    """It could not be reached: so nothing is started, and the message has the reason."""
    network = outside.network
    network.names["intranet.test"] = network.host_address
    hosts = {"name": "intranet.test", "link-local address": "169.254.77.1"}
    host = hosts.get(by, network.host_address)
    ended, figures = paced_outside_here(
        python, "-c", "print('started')", limit=f"http://{host}:5998=1/s", options=ISOLATED
    )
    assert (ended.code, ended.out, figures) == (2, b"", None)
    assert f"--isolate would block http://{host}:5998: an isolated program" in ended.words
    assert "nothing was started. Use --any instead" in ended.words
    assert not run.leftovers


def test_limited_host_that_was_refused(paced_outside_here, outside, here, run, python):
    """That no request to it came is no news beside the refusal."""
    port, _ = here
    answers = iter([outside.network.address, outside.network.host_address])
    outside.network.names["moves.test"] = lambda: next(answers)
    ended, figures = paced_outside_here(
        *(python, script(run, GET), "moves.test", port),
        limit=f"http://moves.test:{port}=1/s",
        options=ISOLATED,
    )
    assert ended.out.startswith(b"403 "), ended.err
    assert figures["gateway"]["forbidden"] == {f"moves.test:{port}": 1}
    assert "no request to" not in ended.words


def test_name_of_aws_that_is_this_host(paced_outside_here, outside, run, python):
    """An error as the service writes it, over TLS, and no call is counted as paced."""
    outside.network.names[HOST] = outside.network.host_address
    program = f"""
import http.client, ssl
calls = http.client.HTTPSConnection("{HOST}", context=ssl._create_unverified_context())
calls.request("POST", "/", "{FORM}", {{"Content-Type": "application/x-www-form-urlencoded"}})
answer = calls.getresponse()
print(answer.status, answer.read().decode())
"""
    ended, figures = paced_outside_here(python, script(run, program), options=ISOLATED)
    assert ended.out.startswith(b"403 <Response><Errors>"), ended.err
    assert b"is this host" in ended.out
    assert not any(calls_of(figures).values())
    assert figures["gateway"]["forbidden"] == {f"{HOST}:443": 1}
    assert not figures["gateway"]["unreachable"]


def test_name_by_a_proxy_of_yours(paced_here, network, run, python):
    """The proxy may be on this host; what is this host, or an address, is not asked for there."""
    targets = ["localhost:443", "127.0.0.1:443", "192.0.2.9:443"]
    ended, _ = paced_here(python, script(run, ASKS), *targets, "far.test:443", options=ISOLATED)
    expected = [*(f"{one} 403 403" for one in targets), "far.test:443 200 200"]
    assert ended.out.decode().splitlines() == expected, ended.err
    assert not any("localhost" in one or "192.0.2.9" in one for one in network.proxy.asked)
    assert any("far.test:443" in one for one in network.proxy.asked)


def test_whole_url_without_a_proxy(paced_outside_here, outside, run, python):
    """It says where to, whatever Host is named: no request goes past the limit of its host."""
    outside.network.names |= dict.fromkeys(("free.test", "paced.test"), outside.network.address)
    program = """
import http.client
for number in range(6):
    calls = http.client.HTTPConnection("free.test", 80)
    calls.putrequest("GET", "http://paced.test/x", skip_host=True)
    calls.putheader("Host", "free.test")
    calls.endheaders()
    print(calls.getresponse().status)
"""
    ended, figures = paced_outside_here(
        python, script(run, program), limit="http://paced.test=50/s", options=ISOLATED
    )
    assert (ended.code, ended.out) == (0, b"200\n" * 6), ended.err
    assert calls_of(figures) == {"http://paced.test.GET": 6}
    assert {one.host for one in outside.aws.arrivals} == {"paced.test"}
