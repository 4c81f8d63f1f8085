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
MINE = {
    "loopback": "127.0.0.1:80",
    "loopback, another": "127.8.9.10:443",
    "loopback, short": "127.1:80",
    "loopback, a number": "2130706433:80",
    "loopback of IPv6": "[::1]:80",
    "loopback, mapped": "[::ffff:127.0.0.1]:443",
    "any": "0.0.0.0:80",
    "any of IPv6": "[::]:80",
    "localhost": "localhost:80",
    "localhost with a dot": "LOCALHOST.:443",
}
OTHERS = {
    "link-local": ("169.254.1.1:80", "is link-local"),
    "link-local of IPv6": ("[fe80::1]:80", "is link-local"),
    "link-local, mapped": ("[::ffff:169.254.1.1]:80", "is link-local"),
    "address": ("192.0.2.78:443", "is an address"),
    "address, a number": ("3221226062:443", "is an address"),
    "address of IPv6": ("[2001:db8::1]:443", "is an address"),
    "address with a limit, another port": (f"{ADDRESS}:80", "is an address"),
    "port": ("db.test:5432", "reaches ports 80, 443, 5998 only"),
    "port of AWS": ("ec2.us-east-1.amazonaws.com:8080", "reaches ports 80, 443, 5998 only"),
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


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "plain"])
@pytest.mark.parametrize("target", MINE.values(), ids=MINE)
async def test_this_host_is_refused(confined, target, tunnel):
    """However it is written: nothing is connected to, and the answer has the reason."""
    status, body = await ask(confined, target, tunnel=tunnel)
    assert status == 403
    assert "is this host" in body
    assert not confined.dialled
    await confined.end()
    assert sum(confined.counts["forbidden"].values()) == 1
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


@pytest.mark.parametrize(("target", "why"), OTHERS.values(), ids=OTHERS)
async def test_others_are_refused(confined, target, why):
    """Addresses without a name, and ports that nobody has named."""
    status, body = await ask(confined, target, tunnel=True)
    found = json.loads(body)["message"] if body.startswith("{") else body
    assert status == 403, body
    assert why in found
    assert not confined.dialled


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
