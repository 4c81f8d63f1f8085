"""HTTP hosts that have limits: their names, and their lanes.

A host is a service whose name is its origin, `https://api.github.com`, with the port if it is not
the default one. Its lanes are methods, paths, or both:

    POST                     all requests with this method
    /search/*                all requests whose path begins so
    GET /repos/*/*/issues    this method and path; each * is any text without a "/"

A * at the end of a path also matches "/".

A request has two lanes: that of its method, and one with a path. If several paths match, it is the
one with the most characters other than *, then with fewer *, then with a method. The operation of
the request is its method with the path of that lane: `POST /search/*`.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from aioapiqueue.registry._buckets import LaneKey

HOSTS = "hosts"
"""The table of limits.toml that contains the tables of hosts."""

_PORTS = {"https": 443, "http": 80}
_LONGEST = 128
"""Most characters of a host's name: the hub's protocol accepts no longer names."""
_LONGEST_PATH = 100
"""Most characters of a lane's path. With a method before it, it still fits into such a name."""
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_ADDRESS = re.compile(r"[0-9.]+")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,19}")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")  # RFC 3986, 3.3
_TARGET = re.compile(r"(?:(\S+)[ \t]+)?([a-z][a-z0-9+.-]*://[^/?#\s]*)(\S*)", re.IGNORECASE)
_BARE = re.compile(
    r"(?:(\S+)[ \t]+)?((?:[a-z0-9_-]+\.)+[a-z0-9-]+(?::[0-9]+)?)(/\S*)?", re.IGNORECASE
)
"""A host without its scheme. `ec2.DescribeSnapshots` matches, too: see `suggest_host`."""
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_METHOD_NAMES = """
    ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE
    MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST
    PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK
    UPDATE UPDATEREDIRECTREF VERSION-CONTROL
"""
_METHODS = frozenset(_METHOD_NAMES.split())
"""Methods that a lane may name: those of IANA's registry (RFC 9110, 16.1.1); QUERY, which is about
to be registered; and PURGE, which caches such as Varnish and Squid use."""
_OTHER = "OTHER"
_NO_HOST = "is not a host: write one such as https://api.github.com"


def is_host(service: str) -> bool:
    """Return whether the name of a service is that of a host."""
    return "://" in service


def suggest_host(text: str) -> str | None:
    """Return the full name of a host that was written without its scheme; None if it is no host."""
    if len(text) > 2 * _LONGEST:  # too long for a host with a lane: do not match it
        return None
    found = _BARE.fullmatch(text.strip())
    # With one dot and a capital, it is an operation of AWS: "ec2.DescribeSnapshots".
    if found is None or (found[2].count(".") == 1 and not found[2].islower()):
        return None
    method, host, path = found.groups("")
    return f"{method} https://{host.lower()}{path}".strip()


class Origin(NamedTuple):
    """A server, as RFC 6454 identifies it.

    >>> Origin("api.github.com", 443, tls=True).service
    'https://api.github.com'

    Attributes:
        host: the name or address, in lower case.
        port: the TCP port.
        tls: whether connections are encrypted.
    """

    host: str
    port: int
    tls: bool

    @property
    def service(self) -> str:
        """The name that the host has as a service, in limits.toml and elsewhere."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self.host}" + ("" if self.port == _PORTS[scheme] else f":{self.port}")

    @property
    def netloc(self) -> str:
        """Host and port, as in a CONNECT request."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an IPv4 address, not a name."""
        return _is_address(self.host)


def origin_of(url: str) -> Origin:
    """Return the origin of an HTTP URL, or of a host's name as a service.

    >>> origin_of("https://api.github.com/search/code")
    Origin(host='api.github.com', port=443, tls=True)
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    with contextlib.suppress(UnicodeError):  # an invalid name has no limits, whatever its form
        host = host if host.isascii() else host.encode("idna").decode()
    return Origin(host, parts.port or _PORTS[parts.scheme], parts.scheme == "https")


def host_called(text: str) -> str:
    """Return the canonical name of a host, which may be given without `https://`.

    >>> host_called("API.GitHub.com:443/")
    'https://api.github.com'

    Raises:
        ValueError: the text is not a host; the error says why.
    """
    text = text.strip()
    try:
        url = urlsplit(text if is_host(text) else f"https://{text}")
        # `port` raises for "host:99999". The dot at the end of a full DNS name is the root's.
        host, port = (url.hostname or "").removesuffix("."), url.port
    except ValueError:
        raise ValueError(_NO_HOST) from None
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError("has a path: write the host alone, and the path in its lanes")
    if problem := _host_problem(host, tls=url.scheme == "https"):
        raise ValueError(problem)
    if url.scheme not in _PORTS or url.username is not None or port == 0:
        raise ValueError(_NO_HOST)
    if port == _PORTS["http"] and not is_host(text):  # https:// was assumed above
        raise ValueError(
            "has port 80, with TLS or without it: write http:// or https:// before the host"
        )
    found = Origin(host, port or _PORTS[url.scheme], url.scheme == "https").service
    if len(found) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    return found


def _host_problem(host: str, *, tls: bool) -> str | None:
    """Return why a host cannot have limits; None if it can."""
    if "*" in host:
        return "stands for several hosts: name each host, because each has its own limits"
    # A host is paced by the gateway, which makes a certificate for its name.
    if ":" in host or (tls and _ADDRESS.fullmatch(host)):
        return "is an IP address, for which no certificate can be made: write the host's name"
    if _ADDRESS.fullmatch(host) and not _is_address(host):
        return _NO_HOST
    if not host.isascii():
        try:
            return f'is not in ASCII: write "{host.encode("idna").decode()}"'
        except UnicodeError:
            return _NO_HOST
    return None if _NAME.fullmatch(host) else _NO_HOST


def _is_address(host: str) -> bool:
    """Return whether a host is an IPv4 address: an IPv6 address cannot have limits."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def lane_problem(lane: str) -> str | None:
    """Return why a text is not a lane of a host; None if it is."""
    method, slash, rest = lane.partition("/")
    method, path = method.strip(), slash + rest
    if problem := _path_problem(path):
        return problem
    if method and (problem := _method_problem(method, lane)):
        return problem
    if lane != " ".join(filter(None, (method, path))) or not lane:
        return "needs one space between method and path, and no others"
    return None


def _method_problem(method: str, lane: str) -> str | None:
    """Return why a text is not the method of a lane; None if it is."""
    in_capitals = method.upper()
    if not _METHOD.fullmatch(in_capitals):
        return 'is not a lane of a host: write a method ("POST"), a path ("/search/*") or both'
    # A word directly before a slash is part of a path: "search/*" does not mean SEARCH.
    if method != in_capitals and lane.startswith(f"{method}/"):
        return f'is a path without its leading /: write "/{lane}"'
    if in_capitals in _METHODS:
        return (
            None if method == in_capitals else f"has its method in lower case: write {in_capitals}"
        )
    # A misspelt method would be a lane that no request ever has. Sorted, so that the suggestion is
    # always the same.
    near = difflib.get_close_matches(in_capitals, sorted(_METHODS), n=1)
    meant = f"did you mean {near[0]}?" if near else "write one such as GET or POST"
    return f"has the method {method}, which HTTP does not define: {meant}"


def _path_problem(path: str) -> str | None:
    """Return why a text is not the path of a lane; None if it is, or is empty."""
    # The first that holds is reported: a "{" is also a character that a path cannot have.
    reasons = {
        "has a query: write a method and a path only": "?" in path or "#" in path,
        "has names in braces: write a * for each": "{" in path,
        'ends in a bare "/": remove it, or write "/*" for all paths': path == "/",
        "has characters that a path cannot have: percent-encode them": not (_PATH.fullmatch(path)),
        "has two * between slashes: write one": any(
            part.count("*") > 1 for part in path.split("/")
        ),
        f"has a path of more than {_LONGEST_PATH} characters: shorten it with a *": (
            len(path) > _LONGEST_PATH
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None) if path else None


def read_target(text: str) -> tuple[str, str | None] | None:
    """Return the host and the lane that a `--limit` names; None if it names no host.

    >>> read_target("GET https://api.github.com/search/*")
    ('https://api.github.com', 'GET /search/*')
    >>> read_target("ec2.DescribeSnapshots") is None
    True

    Raises:
        ValueError: the host or the lane is invalid; the error says why.
    """
    if not is_host(text):
        return None
    found = _TARGET.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            "is not a host or a lane of one: write GET https://api.github.com/search/*"
        )
    method, host, path = found.groups("")
    if path.startswith(("?", "#")):
        path = f"/{path}"  # so that `lane_problem` reports the query
    lane = " ".join(filter(None, (method, path if path != "/" else "")))
    name = host_called(host)
    if lane and (problem := lane_problem(lane)):
        raise ValueError(problem)
    return name, lane or None


def target_of(service: str, operation: str | None) -> str:
    """Return the name of a service or an operation, as `--limit` takes it.

    >>> target_of("ec2", "DescribeSnapshots")
    'ec2.DescribeSnapshots'
    >>> target_of("https://api.github.com", "GET /search/*")
    'GET https://api.github.com/search/*'

    Args:
        service: the service or host.
        operation: the operation or lane; None: all calls of the service.
    """
    if operation is None:
        return service
    if not is_host(service):
        return f"{service}.{operation}"
    method, slash, path = operation.partition("/")
    return f"{method.strip()} {service}{slash}{path}".strip()


class PathLanes:
    """Finds the lane of a request to a host.

    Args:
        lanes: the lanes of the host.
    """

    def __init__(self, lanes: Iterable[str]) -> None:
        parts = (lane.partition("/") for lane in lanes)
        found = [(method.strip(), f"/{path}") for method, slash, path in parts if slash]
        found.sort(key=_precedence)
        self._lanes = [(method, path, _pattern_of(_normal(path))) for method, path in found]

    def operation_of(self, method: str, path: str) -> str:
        """Return the operation of a request: its method, and the path of its lane if it has one.

        >>> lanes = PathLanes(["/search/*", "POST"])
        >>> lanes.operation_of("GET", "/search/code"), lanes.operation_of("POST", "/gists")
        ('GET /search/*', 'POST')

        Args:
            method: the HTTP method.
            path: the path as the request sends it, without the query.
        """
        # A program may send any text as a method, but logs and the hub show operations.
        known = method if _METHOD.fullmatch(method) else _OTHER
        path = _normal(path)
        for of, lane, pattern in self._lanes:
            if of in {"", method} and pattern.fullmatch(path):
                return f"{known} {lane}"
        return known


def _normal(path: str) -> str:
    """Return a path without needless percent-encoding (RFC 3986, 6.2.2)."""
    return _ENCODED.sub(_decoded, path) if "%" in path else path


def _decoded(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()


def lanes_of(operation: str, lanes: Container[LaneKey]) -> tuple[str, ...]:
    """Return the lanes of a request: that with its path, if any, and that of its method.

    >>> lanes_of("POST /search/*", ["/search/*", "GET /search/*"])
    ('/search/*', 'POST')

    Args:
        operation: the operation, as `PathLanes.operation_of` returns it.
        lanes: the lanes of the host.
    """
    method, _, path = operation.partition(" ")
    if not path:
        return (method,)
    return (operation if operation in lanes else path, method)


def _precedence(lane: tuple[str, str]) -> tuple[int, int, bool, str]:
    # First the lane with the most characters other than *, then with fewer *, then with a method.
    # The path itself comes last, so that the order in the file never decides.
    method, path = lane
    stars = path.count("*")
    return stars - len(path), stars, method == "", path


def _pattern_of(path: str) -> re.Pattern[str]:
    # `lane_problem` admits one * between slashes, so the match is linear in the length of the path
    # for any pattern. Two would make it quadratic.
    *parts, last = map(re.escape, path.split("*"))
    text = "[^/]*".join(parts) + (".*" if parts and not last else "[^/]*" * bool(parts) + last)
    return re.compile(text, re.DOTALL)
