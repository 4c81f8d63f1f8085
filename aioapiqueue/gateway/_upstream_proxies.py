"""The proxy that the user's programs go through without us, which the gateway goes through then.

It is found as curl and Go find it: by `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in
lower case too, which wins.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue.registry.spi import Origin

__all__ = ["UpstreamProxies", "UpstreamProxy"]

_PORTS = {"http": 80, "https": 443}


class UpstreamProxy(NamedTuple):
    """A proxy.

    Attributes:
        host: its name.
        port: its port.
        tls: whether it is spoken to by TLS.
        authorization: of its user, as a header; "" without one.
    """

    host: str
    port: int
    tls: bool
    authorization: str

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What requests to it have besides."""
        if not self.authorization:
            return []
        return [(b"Proxy-Authorization", self.authorization.encode())]


class UpstreamProxies:
    """Knows the proxy of each host.

    Args:
        environ: the user's environment.

    Raises:
        ValueError: a variable names something else than a proxy for HTTP; has the variable and
            what to do, and no password.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        def first(*names: str) -> tuple[str, str]:
            return next(((name, environ[name]) for name in names if environ.get(name)), ("", ""))

        self._secure = _read(*first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
        self._plain = _read(*first("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"))
        _, without = first("no_proxy", "NO_PROXY")
        self._without = [one.strip().lower() for one in without.split(",") if one.strip()]

    def of(self, origin: Origin, *, tunnel: bool) -> UpstreamProxy | None:
        """Return the proxy for a host; None: it is reached directly.

        Args:
            origin: the host.
            tunnel: whether the proxy is to connect the two sides, and sees nothing.
        """
        if _is_link_local(origin.host) or any(_names(one, origin) for one in self._without):
            return None
        return self._secure if tunnel else self._plain


def _read(name: str, url: str) -> UpstreamProxy | None:
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in _PORTS or not parts.hostname or port == -1:
        raise ValueError(
            f"{name}: the gateway supports http:// and https:// proxies, but this is "
            f"{parts.scheme + '://' if parts.scheme not in _PORTS else 'not a proxy address'}"
        )
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode()
    return UpstreamProxy(
        parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "https", authorization
    )


def _is_link_local(host: str) -> bool:
    """Return whether a host is this machine's own surroundings: where credentials come from."""
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _names(entry: str, origin: Origin) -> bool:
    """Return whether an entry of NO_PROXY names a host: a name, the end of one, an address."""
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
