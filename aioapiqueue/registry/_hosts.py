"""HTTP hosts under a limit, beside AWS's services: their names, and their lanes.

A host is a service whose name is its origin, `https://api.github.com`, with the port where it is
not the usual one. Its lanes are methods, paths, or both; the name of each is the operation of all
requests that it fits:

    POST                     each request of this method
    /search/*                each whose path begins so
    GET /repos/*/*/issues    this method, and a path with any text without "/" in place of each *

Of several that fit, the one with the longest path holds, and of those the one with a method.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "HOSTS",
    "PathLanes",
    "address_of",
    "host_called",
    "is_host",
    "lane_problem",
    "looks_like_host",
    "origin_name",
    "read_target",
    "target_of",
]

HOSTS = "hosts"
"""The table of limits.toml whose tables are hosts."""

_PORTS = {"https": 443, "http": 80}
_LONGEST = 128
"""Characters of a name, of a host or of a lane, in the hub's protocol."""
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_ADDRESS = re.compile(r"[0-9.]+|.*:.*")
_LANE = re.compile(r"(?:[A-Z][A-Z-]{0,19} )?/[!-~]*|[A-Z][A-Z-]{0,19}")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,19}")
_TARGET = re.compile(r"(?:(\S+)[ \t]+)?(https?://[^/\s]*)(/\S*)?", re.IGNORECASE)
_OTHER = "OTHER"
_LANES = '"POST" (a method), "/search/*" (a path), or "GET /search/*"'


def is_host(service: str) -> bool:
    """Return whether a service is a host."""
    return service.startswith(("https://", "http://"))


def looks_like_host(text: str) -> bool:
    """Return whether what is no service of AWS may be meant as a host."""
    return "." in text and _NAME.fullmatch(text.lower()) is not None


def origin_name(host: str, port: int, *, tls: bool) -> str:
    """Return the name of a host as a service."""
    scheme = "https" if tls else "http"
    return f"{scheme}://{host}" + ("" if port == _PORTS[scheme] else f":{port}")


def address_of(service: str) -> tuple[str, int, bool]:
    """Return the name and the port of a host, and whether it speaks TLS.

    >>> address_of("https://api.github.com")
    ('api.github.com', 443, True)
    """
    url = urlsplit(service)
    return url.hostname or "", url.port or _PORTS[url.scheme], url.scheme == "https"


def host_called(text: str) -> str:
    """Return the name of a host, which may be given without `https://`.

    >>> host_called("API.GitHub.com:443/")
    'https://api.github.com'

    Raises:
        ValueError: it is none, with the reason.
    """
    whole = text.strip() if "://" in text else f"https://{text.strip()}"
    try:
        url = urlsplit(whole)
        host, port = url.hostname or "", url.port
    except ValueError:
        host, port, url = "", None, urlsplit("")
    if url.scheme not in _PORTS or url.username is not None:
        raise ValueError("is no host: write https://api.github.com")
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError('has a path, which belongs to its lanes: lanes = {"/search/*" = "5/s"}')
    host = host.rstrip(".")
    if "*" in host:
        raise ValueError("is no single host: name each, as each has its own limits")
    if _ADDRESS.fullmatch(host):
        raise ValueError("is an address, which no certificate is made for: write the host's name")
    if not host.isascii():
        raise ValueError('is not in ASCII: write it as "xn--..."')
    if not _NAME.fullmatch(host) or port == 0:
        raise ValueError("is no host: write https://api.github.com")
    found = origin_name(host, port or _PORTS[url.scheme], tls=url.scheme == "https")
    if len(found) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    return found


def lane_problem(lane: str) -> str | None:
    """Return why this can be no lane of a host; None: it can."""
    if len(lane) > _LONGEST:
        return f"is longer than {_LONGEST} characters: shorten it with a *"
    if "?" in lane or "#" in lane:
        return "has a query: lanes go by method and path only"
    if not _LANE.fullmatch(lane):
        return f"is no lane of a host: write {_LANES}"
    if any(part.count("*") > 1 for part in lane.split("/")):
        return "has two * between slashes: one stands for any text there"
    return None


def read_target(text: str) -> tuple[str, str | None] | None:
    """Return the host and the lane that a `--limit` is for; None: it is for no host.

    >>> read_target("GET https://api.github.com/search/*")
    ('https://api.github.com', 'GET /search/*')
    >>> read_target("ec2.DescribeSnapshots") is None
    True

    Raises:
        ValueError: it is for none that can be, with the reason.
    """
    found = _TARGET.fullmatch(text.strip())
    if found is None:
        return None
    host, path = host_called(found[2]), found[3] or ""
    lane = " ".join(filter(None, (found[1], path if path != "/" else "")))
    if lane and (problem := lane_problem(lane)):
        raise ValueError(problem)
    return host, lane or None


def target_of(service: str, operation: str | None) -> str:
    """Return which calls these are, as `--limit` takes it.

    >>> target_of("ec2", "DescribeSnapshots")
    'ec2.DescribeSnapshots'
    >>> target_of("https://api.github.com", "GET /search/*")
    'GET https://api.github.com/search/*'

    Args:
        service: whose.
        operation: or lane; None: all of the service's.
    """
    if operation is None:
        return service
    if not is_host(service):
        return f"{service}.{operation}"
    method, slash, path = operation.partition("/")
    return f"{method.strip()} {service}{slash}{path}".strip()


class PathLanes:
    """The lanes of a host.

    Args:
        lanes: their names.
    """

    def __init__(self, lanes: Iterable[str]) -> None:
        found = [(lane, *_parts_of(lane)) for lane in lanes]
        found.sort(key=lambda one: (-len(one[2].replace("*", "")), one[1] == ""))
        self._lanes = [(lane, method, _pattern_of(path)) for lane, method, path in found]

    def operation_of(self, method: str, path: str) -> str:
        """Return the operation that a request is: the name of its lane, or else its method.

        >>> lanes = PathLanes(["/search/*", "GET /search/*"])
        >>> lanes.operation_of("GET", "/search/code"), lanes.operation_of("POST", "/gists")
        ('GET /search/*', 'POST')

        Args:
            method: of HTTP.
            path: as it is sent, without the query.
        """
        for lane, of, pattern in self._lanes:
            if of in {"", method} and pattern.fullmatch(path):
                return lane
        return method if _METHOD.fullmatch(method) else _OTHER


def _parts_of(lane: str) -> tuple[str, str]:
    """Return the method and the path of a lane; each may be empty."""
    method, slash, path = lane.partition("/")
    return method.strip(), slash + path


def _pattern_of(path: str) -> re.Pattern[str]:
    if not path:
        return re.compile(".*", re.DOTALL)
    # With one * at most between slashes, this takes a time that grows with the path's length only.
    *parts, last = map(re.escape, path.split("*"))
    text = "[^/]*".join(parts) + (".*" if parts and not last else "[^/]*" * bool(parts) + last)
    return re.compile(text, re.DOTALL)
