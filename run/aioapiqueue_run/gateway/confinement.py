"""The servers that an isolated program may reach through the gateway: other hosts, by name.

The program's network contains nothing but the gateway, which itself is in the network of this host.
Without these checks, the program could reach the services of this host through the gateway. It
could also reach AWS by address, past the limits, which are for names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
from typing import TYPE_CHECKING, TypeAlias

import anyio

from aioapiqueue.registry.spi import origin_of
from aioapiqueue_run.gateway.environment import METADATA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from anyio.abc import ByteStream

    from aioapiqueue.registry.spi import Origin

__all__ = ["Confinement", "ForbiddenError", "on_this_host"]

_Dial: TypeAlias = "Callable[[str, int], Awaitable[ByteStream]]"
_Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_USUAL_PORTS = (80, 443)
_LOOK_UP_SECONDS = 2.0
_KEPT_SECONDS = 60.0
_MOST_KEPT = 1_000
_NEXT_SECONDS = 0.25
"""Time after which the next address of a server is tried as well (RFC 8305, 8)."""

# From <linux/netlink.h> and <linux/rtnetlink.h>.
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=8BI"), struct.Struct("=HH")
_NEW_ROUTE, _GET_ROUTE, _REQUEST, _DESTINATION = 24, 26, 1, 1
_TYPE_AT = _HEADER.size + 7
_DELIVERED_HERE = frozenset({2, 4})  # RTN_LOCAL, RTN_ANYCAST


class ForbiddenError(PermissionError):
    """Raised if an isolated program may not reach a server; contains the reason."""


class Confinement:
    """Knows which servers an isolated program may reach.

    Args:
        hosts: the hosts with limits. Their ports may be reached on any host, and those that are
            addresses may be reached by address.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        origins = [origin_of(name) for name in hosts]
        self._named = frozenset((one.host, one.port) for one in origins)
        self._ports = frozenset({*_USUAL_PORTS, *(one.port for one in origins)})
        self._looked_up: dict[str, tuple[float, list[_Address]]] = {}

    async def connect(self, origin: Origin, dial: _Dial) -> ByteStream:
        """Connect to a server.

        Args:
            origin: the server.
            dial: connects to an address.

        Raises:
            ForbiddenError: the program may not reach the server.
            OSError: the server cannot be reached.
        """
        self._check_itself(origin)
        # The name is looked up once, and the connection is to an address that was checked. If
        # `dial` got the name, it could resolve to another address by then (DNS rebinding).
        found = await _look_up(origin.host)
        problems = [_problem_of(origin.host, address) for address in found]
        allowed = [address for address, why in zip(found, problems, strict=True) if not why]
        if not allowed:  # never because there are no addresses: then the look-up raises
            raise ForbiddenError(problems[0])
        return await _connect_to_first(allowed, origin.port, dial)

    async def check(self, origin: Origin) -> None:
        """Check a server that is reached through a proxy, which looks up the name itself.

        Raises:
            ForbiddenError: the program may not reach the server, as far as this host knows.
        """
        self._check_itself(origin)
        # One forbidden address suffices: the proxy may choose any of them. A proxy that resolves
        # the name in another way cannot be checked.
        for address in await self._looked_up_before(origin.host):
            if why := _problem_of(origin.host, address):
                raise ForbiddenError(why)

    async def _looked_up_before(self, host: str) -> list[_Address]:
        """Return the addresses of a host, cached; none if this host does not know them."""
        now = anyio.current_time()
        since, found = self._looked_up.get(host, (-_KEPT_SECONDS, []))
        if now - since < _KEPT_SECONDS:
            return found
        found = []
        # Behind a proxy, DNS may not know the names of the internet, or not answer.
        with contextlib.suppress(OSError), anyio.move_on_after(_LOOK_UP_SECONDS):
            found = await _look_up(host)
        if len(self._looked_up) >= _MOST_KEPT:
            self._looked_up.clear()
        self._looked_up[host] = now, found
        return found

    def _check_itself(self, origin: Origin) -> None:
        """Check a server without looking up its name.

        Raises:
            ForbiddenError: the program may not reach the server.
        """
        host, port = origin.host, origin.port
        if port not in self._ports:
            ports = ", ".join(map(str, sorted(self._ports)))
            raise ForbiddenError(
                f"{origin.netloc}: with --isolate, a program can reach only ports {ports}. To "
                "add a port, set a limit for that host and port"
            )
        address = _literal(host)
        if address is None or str(address) in METADATA:
            return
        if why := _problem_of(host, address):
            raise ForbiddenError(why)
        # An address of AWS would get past the limits of its name.
        if (host, port) not in self._named:
            raise ForbiddenError(
                f"{host} is an address: with --isolate, a program can reach servers only by "
                "name, or by an address for which a limit is set"
            )


async def on_this_host(hosts: Iterable[str]) -> list[str]:
    """Return the hosts that an isolated program could not reach, as far as is known within 2 s.

    These are this host itself, and link-local addresses.

    Args:
        hosts: the names of hosts with limits: `"http://intranet:8080"`.
    """

    async def has_problem(name: str) -> bool:
        host = origin_of(name).host
        with contextlib.suppress(OSError), anyio.move_on_after(_LOOK_UP_SECONDS):
            return any(_problem_of(host, address) for address in await _look_up(host))
        return False

    names = list(hosts)
    found = await asyncio.gather(*map(has_problem, names))
    return [name for name, problem in zip(names, found, strict=True) if problem]


async def _look_up(host: str) -> list[_Address]:
    """Return the addresses of a host, the preferred ones first.

    Raises:
        OSError: the host has no address, or is blocked by DNS.
    """
    found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(ipaddress.ip_address(address[0]) for *_, address in found)
    # Name servers block a name by resolving it to 0.0.0.0, and a connection to that address would
    # be one to this host. It is an error of the network, not an attempt that is forbidden.
    usable = [one for one in addresses if not _unmapped(one).is_unspecified]
    if not usable:
        raise OSError(f"its name is blocked by DNS (it resolves to {next(iter(addresses))})")
    return usable


def _literal(host: str) -> _Address | None:
    """Return the address that a text is; None if it is a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    # The C library also accepts 127.1, 0x7f000001 and 2130706433, which `ipaddress` does not.
    with contextlib.suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def _problem_of(host: str, address: _Address) -> str | None:
    """Return why an address of a host may not be reached; None if it may."""
    name = host if host == str(address) else f"{host} ({address})"
    address = _unmapped(address)
    if str(address) in METADATA:
        return None
    if _is_here(address):
        return f"{name} is this host, which a program cannot reach with --isolate"
    if address.is_link_local:
        return f"{name} is link-local, so a program cannot reach it with --isolate"
    return None


def _unmapped(address: _Address) -> _Address:
    """Return the IPv4 address in an IPv4-mapped one (`::ffff:127.0.0.1`), or the address itself."""
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(address: _Address) -> bool:
    """Return whether an address is one of this host, according to the kernel's routes.

    On systems other than Linux, which have no isolation, only loopback addresses are known.
    """
    if address.is_loopback or address.is_unspecified:
        return True
    if sys.platform != "linux":
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - of IP
    packed = address.packed
    # Ask the kernel for the route (RTM_GETROUTE): this host may also receive packets for addresses
    # that no interface has, such as anycast ones and those of a route of type "local".
    destination = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
    route = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + destination
    header = _HEADER.pack(_HEADER.size + len(route), _GET_ROUTE, _REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as sock:
        sock.send(header + route)
        answer = sock.recv(1 << 16)  # netlink answers before `send` returns
    _, kind, *_ = _HEADER.unpack_from(answer)
    # Any other message is an error, mostly that there is no route: then no server is reached.
    return kind == _NEW_ROUTE and answer[_TYPE_AT] in _DELIVERED_HERE


async def _connect_to_first(addresses: list[_Address], port: int, dial: _Dial) -> ByteStream:
    """Connect to the address that answers first; the next one is tried if an answer is slow.

    Raises:
        OSError: no address answers.
    """
    found: list[ByteStream] = []
    errors: list[OSError] = []

    async def attempt(address: _Address, failed: anyio.Event) -> None:
        try:
            stream = await dial(str(address), port)
        except OSError as error:
            errors.append(error)
            failed.set()
        else:
            found.append(stream)
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for address in addresses:
                failed = anyio.Event()
                group.start_soon(attempt, address, failed)
                with anyio.move_on_after(_NEXT_SECONDS):
                    await failed.wait()
        if not found:
            raise errors[0]
        return found.pop(0)
    finally:
        # Several may have been made at the same moment: all but the first are closed. If this is
        # cancelled, all are.
        for stream in found:
            await anyio.aclose_forcefully(stream)
