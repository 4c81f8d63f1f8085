"""The proxies that the user has configured, which the gateway uses itself.

As for curl and Go, these are in `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`. The same
names in lower case take precedence.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.registry.spi import Origin

__all__ = ["UpstreamProxies", "UpstreamProxy"]

_PORTS = {"http": 80, "https": 443}


class UpstreamProxy(NamedTuple):
    """A proxy.

    Attributes:
        host: the proxy's name.
        port: the proxy's port.
        tls: whether connections to the proxy itself are encrypted.
        headers: the headers that requests to the proxy need: its password, if it has one.
    """

    host: str
    port: int
    tls: bool
    headers: Sequence[tuple[bytes, bytes]]


class UpstreamProxies:
    """Finds the proxy for a host.

    Args:
        environ: the user's environment.

    Raises:
        ValueError: a variable does not name an HTTP proxy. The error contains no password.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        def first(*names: str) -> tuple[str, str]:
            return next(((name, environ[name]) for name in names if environ.get(name)), ("", ""))

        self._secure = _read(*first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
        self._plain = _read(*first("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"))
        _, without = first("no_proxy", "NO_PROXY")
        self._without = [one.strip().lower() for one in without.split(",") if one.strip()]

    def of(self, origin: Origin, *, tunnel: bool) -> UpstreamProxy | None:
        """Return the proxy for a host; None if the host is reached directly.

        Args:
            origin: the host.
            tunnel: whether the proxy is asked for a tunnel (CONNECT).
        """
        # A link-local address means another host to a proxy: its own source of credentials.
        if _is_link_local(origin.host) or any(_names(one, origin) for one in self._without):
            return None
        return self._secure if tunnel else self._plain


def _read(name: str, url: str) -> UpstreamProxy | None:
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:  # its message may contain a part of the password
        port = -1
    if parts.scheme not in _PORTS or not parts.hostname or port == -1:
        raise ValueError(
            f"{name}: the gateway supports http:// and https:// proxies, but this is "
            f"{parts.scheme + '://' if parts.scheme not in _PORTS else 'not a proxy address'}"
        )
    headers = []
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers = [(b"Proxy-Authorization", b"Basic " + base64.b64encode(user))]
    port = port or _PORTS[parts.scheme]
    return UpstreamProxy(parts.hostname, port, parts.scheme == "https", headers)


def _is_link_local(host: str) -> bool:
    """Return whether a host is link-local, such as the source of credentials in a cloud."""
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _names(entry: str, origin: Origin) -> bool:
    """Return whether an entry of NO_PROXY matches a host: a name, a domain or an address."""
    if entry == "*":
        return True
    try:
        address = ipaddress.ip_address(origin.host)
    except ValueError:
        host, _, port = entry.partition(":")
        host = host.removeprefix("*").removeprefix(".")
        fits = origin.host == host or origin.host.endswith(f".{host}")
        return fits and port in {"", str(origin.port)}
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return entry == f"{origin.host}:{origin.port}"
