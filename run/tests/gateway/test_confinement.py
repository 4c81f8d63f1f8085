"""What an isolated program reaches through its gateway: nothing of this host, and no address."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from tests.helpers.gateway_bench import OK, USER, read

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="programs are isolated on Linux only"),
]

ADDRESS = "192.0.2.77"  # RFC 5737: of nobody
MINE = [
    "127.0.0.1:80",
    "127.8.9.10:443",
    "127.1:80",
    "2130706433:80",
    "[::1]:80",
    "[::ffff:127.0.0.1]:443",  # mapped
    "0.0.0.0:80",
    "[::]:80",
    "localhost:80",
    "LOCALHOST.:443",
]
OTHERS = {
    "169.254.1.1:80": "is link-local",
    "[fe80::1]:80": "is link-local",
    "[::ffff:169.254.1.1]:80": "is link-local",  # mapped
    "192.0.2.78:443": "is an address",
    "3221226062:443": "is an address",  # a number
    "[2001:db8::1]:443": "is an address",
    f"{ADDRESS}:80": "is an address",  # with a limit of another port
    "db.test:5432": "can reach only ports 80, 443, 5998",
    "ec2.us-east-1.amazonaws.com:8080": "can reach only ports 80, 443, 5998",
}


@pytest.fixture
def hosts():
    """An address, which the user means as it is written."""
    return {f"http://{ADDRESS}:5998": "1000/s"}


async def ask(bench, target, *, tunnel):
    """Ask for a server as programs do; return the status and the body of the answer."""
    reader, writer = await bench.raw()
    first = f"CONNECT {target}" if tunnel else f"GET http://{target}/"
    host = f"Host: {target}\r\nProxy-Authorization: Basic {USER}"
    writer.write(f"{first} HTTP/1.1\r\n{host}\r\n\r\n".encode())
    status, _, body = await read(reader)
    return status, body.decode()


async def test_this_host_is_refused(confined):
    """However it is written: nothing is connected to, and the answer has the reason."""
    wrong = []
    for target in MINE:
        for tunnel in (True, False):
            status, body = await ask(confined, target, tunnel=tunnel)
            if status != 403 or "is this host" not in body or confined.dialled:
                wrong.append((target, tunnel, status, body))
    assert not wrong
    assert not confined.dialled
    await confined.end()
    assert sum(confined.counts["forbidden"].values()) == 2 * len(MINE)
    assert not confined.counts["passed_by"]


async def test_own_address_is_refused(confined):
    """That of an interface, which is no loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((ADDRESS, 9))  # nothing is sent
        except OSError:
            pytest.skip("this host has no network")
        own = sock.getsockname()[0]
    status, body = await ask(confined, f"{own}:80", tunnel=True)
    assert (status, f"{own} is this host" in body) == (403, True), body
    assert not confined.dialled


async def test_others_are_refused(confined):
    """Addresses without a name, and ports that nobody has named."""
    wrong = []
    for target, why in OTHERS.items():
        status, body = await ask(confined, target, tunnel=True)
        found = json.loads(body)["message"] if body.startswith("{") else body
        if status != 403 or why not in found or confined.dialled:
            wrong.append((target, status, body))
    assert not wrong


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("169.254.169.254:80", "169.254.169.254"),
        ("169.254.170.2:80", "169.254.170.2"),
        ("[fd00:ec2::254]:80", "fd00:ec2::254"),
        (f"{ADDRESS}:5998", ADDRESS),
    ],
)
async def test_what_is_meant_is_reached(confined, target, address):
    """Where credentials come from, and an address that has a limit."""
    reader, writer = await confined.raw()
    head = f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {USER}"
    writer.write(f"{head}\r\n\r\n".encode())
    server_reader, server_writer = await confined.next()
    await server_reader.readuntil(b"\r\n\r\n")
    server_writer.write(OK)
    assert (await read(reader))[0] == 200
    assert confined.dialled == [(address, int(target.rpartition(":")[2]))]


async def test_without_isolation_all_is_reached(bench):
    """A program that is not isolated reaches this host anyway."""
    status, _ = await ask(bench, "127.0.0.1:5432", tunnel=True)
    assert status == 200
    assert bench.dialled == [("127.0.0.1", 5432)]
