"""The address of the server of `--shared`: checked, read by redis-py, shown without its password.

redis-py takes an invalid database for none and several hosts for one, accepts a misspelt option
until the first command, knows no URLs of Sentinels, and may quote a part of the password in its
errors. That may do for code, but an option needs an error that names the fault. So this refuses
what redis-py would accept silently, and shows none of its errors.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["Address", "ConnectedClient", "connected", "read_address"]

ConnectedClient: TypeAlias = Redis | RedisCluster

_LOGIN = "(?:(?P<user>[^:@/?]*):(?P<password>[^/?]+)@)?"
_HOST = r"(?:\[[0-9a-f:.]{2,45}\]|[\w.-]{1,253})(?::[1-9][0-9]{0,4})?"
_HOSTS = f"(?P<hosts>{_HOST}(?:,{_HOST})*)"
_DB = "(?:/(?P<db>[0-9]{0,9}))?"
_FORMS = {
    "redis://USER:PASSWORD@HOST:6379/0": f"rediss?://{_LOGIN}(?P<hosts>{_HOST}){_DB}",
    "unix:///run/redis.sock": f"unix://{_LOGIN}(?P<hosts>)(?P<name>/+[^/?][^?]*)",
    "redis+cluster://USER:PASSWORD@HOST:6379,HOST:6379": (
        rf"rediss?\+cluster://{_LOGIN}{_HOSTS}(?:/0*)?"
    ),
    "redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/NAME/0": (
        rf"rediss?\+sentinel://{_LOGIN}{_HOSTS}/(?P<name>[^/?@]+){_DB}"
    ),
}
"""The forms of URLs, and the pattern of each before its options."""
_MALFORMED = (
    f"the URL must have one of these forms: {', '.join(_FORMS)} (with TLS: rediss). In a user name "
    "or password, write %2F for /, %3A for :, %3F for ?, %23 for #, %40 for @, %25 for % and %20 "
    "for a space"
)
_SECONDS = ("socket_timeout", "socket_connect_timeout")
_OPTIONS = ("db", "username", "password", *_SECONDS)
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_CLIENT = {"socket_keepalive": True, "max_connections": 2**31}
"""Without a bound on connections: each queue uses one during a request, and a client allows 100
by default."""
_TO_SENTINELS = {"socket_timeout": 0.4, "socket_connect_timeout": 0.4}
"""Short time limits in seconds: if a Sentinel is unreachable, there must be time for the next."""
_MASK = "***"


@dataclass(frozen=True)
class Address:
    """The address of a Redis or Valkey server, and the login. `str` and `repr` show no password.

    Attributes:
        shown: the URL without password and options.
        kind: the scheme without TLS.
        nodes: the hosts and ports; none for a socket.
        name: the path of the socket, or the name under which Sentinels monitor the server.
        settings: redis-py's arguments of a connection: login, database, TLS and options.
    """

    shown: str
    kind: str
    nodes: tuple[tuple[str, int], ...]
    name: str
    settings: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return self.shown

    def scrubbed(self, text: str) -> str:
        """Return a message of the server or of redis-py on one line, without our passwords."""
        # A server without AUTH quotes the arguments of that command, cut off at some length: the
        # beginning of a password would not be found below.
        text = text.partition(", with args beginning with")[0]
        for secret in map(self.settings.get, ("password", "sentinel_password")):
            for form in (secret, quote(secret), quote(secret, safe="")) if secret else ():
                text = text.replace(form, _MASK)
        return "".join(one if one.isprintable() else " " for one in text)


def read_address(url: str) -> Address:
    """Read the address of a server.

    >>> print(read_address("rediss://pacer:secret@redis.example.com:6380/2"))
    rediss://pacer:***@redis.example.com:6380/2

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://` as for `redis.asyncio.from_url`;
            `redis+cluster://host:port,host:port`, `redis+sentinel://host:port,host:port/service/db`
            and the same with `rediss`. Reserved characters are percent-encoded, also in passwords.

    Raises:
        ValueError: the URL is malformed. The error quotes nothing of it but the names of options.
    """
    before, _, query = url.partition("?")
    forms = (re.fullmatch(form, before, re.ASCII | re.IGNORECASE) for form in _FORMS.values())
    found = next(filter(None, forms), None)
    if found is None or "@" in query or re.search("[# ]", url) or not url.isprintable():
        # Nothing of the URL is quoted: it may be a part of the password, for instance after a "/".
        raise ValueError(_MALFORMED)
    parts = found.groupdict("")
    scheme = before.partition("://")[0].lower()
    kind = scheme.replace("rediss", "redis")
    _check_options(query, scheme)
    login = f"{parts['user']}:{parts['password']}@" if parts["password"] else ""
    # To redis-py, each node is a server.
    urls = [
        f"{scheme.partition('+')[0]}://{login}{host}/{parts.get('db', '')}?{query}"
        for host in parts["hosts"].split(",")
    ]
    read: list[dict[str, Any]]
    try:
        read = [dict(parse_url(one)) for one in ([url] if kind == "unix" else urls)]
    except ValueError:  # it may quote a part of the password
        raise ValueError(_MALFORMED) from None
    settings = read[0]
    _check_settings(settings)
    port = 26379 if kind == "redis+sentinel" else 6379
    nodes = tuple((one["host"], one.get("port", port)) for one in read if "host" in one)
    for name in ("host", "port", "path", "connection_class"):
        settings.pop(name, None)
    if scheme.startswith("rediss"):
        settings = {"ssl": True, "ssl_check_hostname": True, **settings}
    begin, end = found.span("password")
    shown = f"{before[:begin]}{_MASK}{before[end:]}" if login else before
    return Address(shown, kind, nodes, unquote(parts.get("name", "")), settings)


def _check_options(query: str, scheme: str) -> None:
    """Raise an error for options that redis-py would accept now, but ignore or fail with later."""
    known = _OPTIONS[scheme.endswith("cluster") :]
    known += _TLS_OPTIONS if scheme.startswith("rediss") else ()
    known += _SENTINEL_OPTIONS if scheme.endswith("sentinel") else ()
    given = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    if not set(given) <= set(known) or len(given) > len(set(given)):
        # Unknown names are not quoted: the rest of a password after an unescaped & looks like one.
        raise ValueError(
            "an option is unknown or given twice, or a password contains an & (write %26 instead); "
            f"the options of {scheme}:// are {', '.join(known)}"
        )


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise an error for values that redis-py would accept now, but fail with later."""
    for name in _TLS_FILES:
        if name in settings and not os.access(settings[name], os.R_OK):
            raise ValueError(f'the option "{name}" must be a readable file')
    for name in _SECONDS:
        if not settings.get(name, 1) > 0:
            raise ValueError(f'the option "{name}" must be a number of seconds above 0')


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[ConnectedClient]:
    """Yield a client on the running loop, which connects at its first use; close it at the end."""
    settings = dict(address.settings)
    login = {name: settings.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {name: value for name, value in settings.items() if name.startswith("ssl")}
    # No retries by the client: the queues retry, with time limits of their own.
    retry = {"retry": Retry(NoBackoff(), 0)}
    kwargs: dict[str, Any] = {**settings, **_CLIENT, **retry}
    async with contextlib.AsyncExitStack() as stack:
        client: ConnectedClient
        if address.kind == "redis+cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            client = RedisCluster(startup_nodes=nodes, **kwargs)
        elif address.kind == "redis+sentinel":
            own = {**tls, **login, **_TO_SENTINELS, **retry}
            manager = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types here
                address.nodes, sentinel_kwargs=own, **kwargs
            )
            for sentinel in manager.sentinels:
                stack.push_async_callback(sentinel.aclose)
            client = manager.master_for(address.name)
        elif address.kind == "unix":
            client = Redis(unix_socket_path=address.name, **kwargs)
        else:
            ((host, port),) = address.nodes
            client = Redis(host=host, port=port, **kwargs)
        stack.push_async_callback(client.aclose)
        yield client
