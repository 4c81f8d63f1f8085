"""The address of the server of `--shared`: read strictly, and shown without its password.

`from_url` of redis-py ignores an invalid database, accepts a misspelt option until the first
command, does not support Sentinels, and may quote a part of the password in its errors. That may
do for code, but an option needs an error that names the fault.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

__all__ = ["Address", "ConnectedClient", "connected", "read_address"]

ConnectedClient: TypeAlias = Redis | RedisCluster
Kind: TypeAlias = Literal["server", "socket", "cluster", "sentinel"]

_KINDS: dict[str, Kind] = {
    "redis": "server",
    "unix": "socket",
    "redis+cluster": "cluster",
    "redis+sentinel": "sentinel",
}
_PATHS: dict[Kind, tuple[str, str]] = {
    "server": (r"/?(?P<db>\d{0,9})", "the database must be a number: write redis://HOST:6379/0"),
    "socket": (r"(?P<name>/+[^/].*)", "the path is missing: write unix:///run/redis/redis.sock"),
    "cluster": (r"/?0*", "a cluster has only database 0: leave the number out"),
    "sentinel": (
        r"/(?P<name>[^/]+)/?(?P<db>\d{0,9})",
        "the name that the Sentinels monitor is missing: write redis+sentinel://HOST/NAME",
    ),
}
"""The pattern of the path for each kind of server, and the error if it does not match."""
_NODE = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([\w.-]{1,253}))(?::(\d{1,5}))?", re.ASCII)
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
        kind: a server, a Unix domain socket, nodes of a cluster, or Sentinels.
        tls: whether the connection is encrypted.
        nodes: the hosts and ports; none for a socket.
        name: the path of the socket, or the name under which Sentinels monitor the server.
        user: the user's name; None for the default user.
        password: the password; None if there is none.
        db: the number of the database.
        sentinel: `username` and `password` for the Sentinels themselves.
        options: further options, with their names in redis-py.
    """

    kind: Kind
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    name: str
    user: str | None
    password: str | None = field(repr=False)
    db: int
    sentinel: Mapping[str, str | None] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        login = "" if self.password is None else f"{quote(self.user or '')}:{_MASK}@"
        hosts = ((f"[{host}]" if ":" in host else host, port) for host, port in self.nodes)
        nodes = ",".join(f"{host}:{port}" for host, port in hosts)
        scheme = "rediss" if self.tls else "redis"
        return {
            "server": f"{scheme}://{login}{nodes}/{self.db}",
            "socket": f"unix://{login}{quote(self.name)}" + (f"?db={self.db}" if self.db else ""),
            "cluster": f"{scheme}+cluster://{login}{nodes}",
            "sentinel": f"{scheme}+sentinel://{login}{nodes}/{quote(self.name, safe='')}/{self.db}",
        }[self.kind]

    def scrubbed(self, text: str) -> str:
        """Return a message of the server or of redis-py on one line, without our passwords."""
        # A server without AUTH quotes the arguments of that command, cut off at some length: the
        # beginning of a password would not be found below.
        text = text.partition(", with args beginning with")[0]
        for secret in filter(None, (self.password, self.sentinel.get("password"))):
            for form in (secret, quote(secret), quote(secret, safe="")):
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
        ValueError: the URL is malformed. Of the URL, the error quotes names of options only.
    """
    # No error below quotes the text that is wrong: it may be a part of the password, for instance
    # after a "/" in it. `from None`, because the original errors do quote it.
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not match
        raise ValueError("this is not a URL: write redis://USER:PASSWORD@HOST:6379/0") from None
    tls = parts.scheme.startswith("rediss")
    kind = _KINDS.get(parts.scheme.replace("rediss", "redis", 1))
    if kind is None or not url.partition(":")[2].startswith("//"):
        raise ValueError(
            "the URL must begin with redis://, rediss://, redis+cluster://, rediss+cluster://, "
            "redis+sentinel://, rediss+sentinel:// or unix://"
        )
    if "#" in url or "@" in parts.path + parts.query or not url.isprintable() or " " in url:
        raise ValueError(
            "the URL contains a reserved character: in a user name or password, write "
            "%2F for /, %3F for ?, %23 for #, %40 for @, %25 for % and %20 for a space"
        )
    options = _options(parts.query, kind, tls=tls)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = map(unquote, login.partition(":"))
    user, password = options.pop("username", user), options.pop("password", password)
    if user and not password:
        raise ValueError(
            "the URL has a user name but no password: write redis://USER:PASSWORD@HOST:6379/0, "
            "or redis://:PASSWORD@HOST:6379/0 for the default user"
        )
    if kind == "socket" and hosts:
        raise ValueError("a socket has no host: write unix:///run/redis/redis.sock")
    form, remedy = _PATHS[kind]
    path = re.fullmatch(form, parts.path, re.ASCII)
    if path is None or (kind == "cluster" and options.get("db")):
        raise ValueError(remedy)
    found = path.groupdict("")
    db = options.pop("db", int(found.get("db") or 0))
    sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    return Address(
        kind,
        tls=tls,
        nodes=() if kind == "socket" else _nodes(hosts, kind),
        name=unquote(found.get("name", "")),
        user=user or None,
        password=password or None,
        db=db,
        sentinel=sentinel,
        options=options,
    )


def _nodes(hosts: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    nodes = []
    for one in hosts.split(","):
        match = _NODE.fullmatch(one)
        port = int(match[3] or (26379 if kind == "sentinel" else 6379)) if match else 0
        if match is None or not 0 < port < 2**16:
            raise ValueError(
                "the host is missing or the port is invalid: write HOST:PORT with a port from 1 "
                "to 65535 and IPv6 addresses in brackets; in a password, write %3A for :, %2F for "
                "/ and %40 for @"
            )
        nodes.append((match[1] or match[2], port))
    if len(nodes) > 1 and kind == "server":
        raise ValueError(
            "several hosts need redis+cluster:// (nodes of a cluster) or redis+sentinel:// "
            "(Sentinels)"
        )
    return tuple(nodes)


def _is_readable(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.R_OK)


_Option: TypeAlias = "tuple[Callable[[str], object], Callable[[str], Any], str]"
_TEXT: _Option = (lambda _: True, str, "")
_SECONDS: _Option = (
    re.compile(r"(?=.*[1-9])[0-9]{0,9}\.?[0-9]{0,9}").fullmatch,
    float,
    "a number of seconds",
)
_FILE: _Option = (_is_readable, str, "a readable file")
_OPTIONS: dict[str, _Option] = {
    "db": (re.compile("[0-9]{1,9}").fullmatch, int, "a number"),
    **dict.fromkeys(("username", "password", "sentinel_username", "sentinel_password"), _TEXT),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _SECONDS),
    **dict.fromkeys(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), _FILE),
    "ssl_cert_reqs": (re.compile("(?i)required|none").fullmatch, str.lower, "required or none"),
    "ssl_check_hostname": (
        re.compile("(?i)true|false").fullmatch,
        lambda text: text.lower() == "true",
        "true or false",
    ),
}
"""For each option: the check of its text, the conversion to a value, and the expected form."""


def _options(query: str, kind: Kind, *, tls: bool) -> dict[str, Any]:
    known = [
        name
        for name in _OPTIONS
        if (tls or not name.startswith("ssl_"))
        and (kind == "sentinel" or not name.startswith("sentinel_"))
    ]
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            if name not in _OPTIONS and any(one.endswith("password") for one in found):
                # The rest of a password after an unescaped & looks like a name: do not quote it.
                raise ValueError(
                    "unknown option, or a password with an & (write %26 instead); the options are "
                    f"{', '.join(known)}"
                )
            shown = f' "{name}"' if re.fullmatch(r"\w{1,30}", name, re.ASCII) else ""
            tls_only = " (it needs rediss://)" if name in _OPTIONS and not tls else ""
            raise ValueError(f"unknown option{shown}{tls_only}; the options are {', '.join(known)}")
        if name in found:
            raise ValueError(f'the option "{name}" is given twice')
        is_valid, read, wanted = _OPTIONS[name]
        if not is_valid(text):
            raise ValueError(f'the option "{name}" must be {wanted}')
        found[name] = read(text)
    return found


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[ConnectedClient]:
    """Yield a client on the running loop, which connects at its first use; close it at the end."""
    tls: dict[str, Any] = {"ssl": True, "ssl_check_hostname": True} if address.tls else {}
    tls |= {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    login = {"username": address.user, "password": address.password, "db": address.db}
    # No retries by the client: the queues retry, with time limits of their own.
    retry = {"retry": Retry(NoBackoff(), 0)}
    kwargs: dict[str, Any] = {**tls, **address.options, **login, **_CLIENT, **retry}
    async with contextlib.AsyncExitStack() as stack:
        client: ConnectedClient
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            client = RedisCluster(startup_nodes=nodes, **kwargs)
        elif address.kind == "sentinel":
            own = {**tls, **address.sentinel, **_TO_SENTINELS, **retry}
            manager = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types here
                address.nodes, sentinel_kwargs=own, **kwargs
            )
            for sentinel in manager.sentinels:
                stack.push_async_callback(sentinel.aclose)
            client = manager.master_for(address.name)
        elif address.kind == "socket":
            client = Redis(unix_socket_path=address.name, **kwargs)
        else:
            ((host, port),) = address.nodes
            client = Redis(host=host, port=port, **kwargs)
        stack.push_async_callback(client.aclose)
        yield client
