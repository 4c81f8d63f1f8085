"""A server's address as `--shared` takes it: read strictly, shown without secrets, connected to.

redis-py has a `from_url` of its own. It lets a misspelt option or database pass until the first
command or for good, knows no Sentinel, and its errors may quote what they were given. Who writes
Python makes the client with redis-py, as its documentation says; this is for programs.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from redis.asyncio import Redis, RedisCluster

    Client: TypeAlias = Redis | RedisCluster

__all__ = ["Address", "connected", "read_address"]

Kind: TypeAlias = Literal["server", "socket", "cluster", "sentinel"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("socket", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_PORTS: dict[Kind, int] = {"server": 6379, "cluster": 6379, "sentinel": 26379}
_MANY_CONNECTIONS = 2**31
"""A queue that asks has a connection meanwhile. A client allows 100 by default."""
_SENTINEL_SECONDS = 0.4
"""For one Sentinel: one that is gone must leave time to ask the next."""

_HOST = re.compile(r"[\w.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]", re.ASCII)
_MASK = "***"


@dataclass(frozen=True)
class Address:
    """Where a Redis or Valkey server is, and how to get in. Its text has no secret in it.

    Attributes:
        kind: a server, a Unix domain socket, a cluster's nodes, or Sentinels.
        tls: whether the connection is encrypted.
        nodes: hosts and ports; of a socket: none.
        path: of the socket.
        service: the name that the Sentinels know the servers by.
        db: the database's number.
        user: None: the default one.
        password: None: without.
        sentinel: what the Sentinels want to know: `username`, `password`.
        options: others, as redis-py names them.
    """

    kind: Kind
    tls: bool = False
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        if self.kind == "socket":
            scheme = "unix"
        else:
            scheme = "rediss" if self.tls else "redis"
            scheme += "" if self.kind == "server" else f"+{self.kind}"
        secret = "" if self.password is None else f"{quote(self.user or '')}:{_MASK}@"
        nodes = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes
        )
        path = quote(self.path) + (f"?db={self.db}" if self.db else "")
        if self.kind != "socket":
            path = "" if self.kind == "cluster" else f"/{self.db}"
        if self.service:
            path = f"/{quote(self.service, safe='')}{path}"
        return f"{scheme}://{secret}{nodes}{path}"

    def scrubbed(self, text: str) -> str:
        """Return a text of somebody else's without our secrets, on one line.

        A server that does not know AUTH quotes what it was sent with it.
        """
        text = text.partition(", with args beginning with")[0]
        for secret in (self.password, self.sentinel.get("password")):
            if secret:
                for form in (secret, quote(secret), quote(secret, safe="")):
                    text = text.replace(form, _MASK)
        return "".join(one if one.isprintable() else " " for one in text)


def read_address(url: str) -> Address:
    """Read the address of a server.

    >>> print(read_address("rediss://pacer:secret@redis.example.com:6380/2"))
    rediss://pacer:***@redis.example.com:6380/2

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://` as `redis.asyncio.from_url` takes it;
            `redis+cluster://host:port,host:port`, `redis+sentinel://host:port,host:port/service/db`
            and the same with `rediss`. What has a meaning in URLs is written with %, in passwords
            too.

    Raises:
        ValueError: it makes no sense. What it is that was found is not told, as it may be a part of
            the password; names of options are.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not match
        raise ValueError("this is no URL: write redis://USER:PASSWORD@HOST:6379/0") from None
    if parts.scheme not in _SCHEMES or not url.partition(":")[2].startswith("//"):
        raise ValueError(f"the URL has to begin with {'://, '.join(_SCHEMES)}://")
    if "#" in url or "@" in parts.path + parts.query or not url.isprintable() or " " in url:
        raise ValueError(
            "there is a character where it cannot be: in a user's name or a password, write "
            "%2F for /, %3F for ?, %23 for #, %40 for @, %25 for % and %20 for a space"
        )
    kind, tls = _SCHEMES[parts.scheme]
    options = _options(parts.query, kind, tls=tls)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = map(unquote, login.partition(":"))
    user, password = options.pop("username", user), options.pop("password", password)
    if user and not password:
        raise ValueError(
            "there is a user's name without a password: write redis://USER:PASSWORD@HOST:6379/0, "
            "or redis://:PASSWORD@HOST:6379/0 for the default user"
        )
    if kind == "socket" and hosts:
        raise ValueError("a socket has a path and no host: write unix:///run/redis/redis.sock")
    path, service, db = _path(parts.path, kind)
    db = options.pop("db", db)
    if kind == "cluster" and db:
        raise ValueError("a cluster has no database but 0: leave the number out")
    return Address(
        kind,
        tls=tls,
        nodes=() if kind == "socket" else tuple(_nodes(hosts, kind)),
        path=path,
        service=service,
        db=db,
        user=user or None,
        password=password or None,
        sentinel={
            name.removeprefix("sentinel_"): options.pop(name)
            for name in ("sentinel_username", "sentinel_password")
            if name in options
        },
        options=options,
    )


def _path(path: str, kind: Kind) -> tuple[str, str, int]:
    """Return a socket's path, the name that Sentinels know, and the database's number."""
    if kind == "socket":
        if not path.strip("/"):
            raise ValueError("there is no path: write unix:///run/redis/redis.sock")
        return unquote(path), "", 0
    service, db = "", path[1:]
    if kind == "sentinel":
        service, _, db = db.partition("/")
        if not service:
            raise ValueError(
                "which servers? Write the name by which the Sentinels know them: "
                "redis+sentinel://HOST:26379/NAME"
            )
    if db and not (db.isascii() and db.isdigit()):
        raise ValueError("the database is no number: write redis://HOST:6379/0")
    return "", unquote(service), int(db or 0)


def _nodes(hosts: str, kind: Kind) -> list[tuple[str, int]]:
    several = kind in {"cluster", "sentinel"}
    found = []
    for one in hosts.split(","):
        host, colon, port = one.rpartition(":") if re.search(r":\d*$", one) else (one, "", "")
        number = int(port) if port.isascii() and port.isdigit() else 0
        if not _HOST.fullmatch(host) or (colon and not 0 < number < 2**16):
            raise ValueError(
                "there is no host, or a port that is none: write HOST:PORT with a port from 1 to "
                "65535, an IPv6 address in brackets, and what is special in a password with % "
                "(%3A for :, %2F for /, %40 for @)"
            )
        found.append((host.strip("[]"), number or _PORTS[kind]))
    if len(found) > 1 and not several:
        raise ValueError(
            "several hosts: write redis+cluster:// if they are a cluster's nodes, or "
            "redis+sentinel:// if they are Sentinels"
        )
    return found


def _seconds(text: str) -> float:
    if not (text.isascii() and 0 < (value := float(text)) < float("inf")):
        raise ValueError
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _choice(**choices: object) -> Callable[[str], object]:
    def read(text: str) -> object:
        try:
            return choices[text.lower()]
        except KeyError:
            raise ValueError from None

    return read


def _file(text: str) -> str:
    with Path(text).open("rb"):
        return text


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "db": (_count, "a number"),
    "username": (str, ""),
    "password": (str, ""),
    "sentinel_username": (str, ""),
    "sentinel_password": (str, ""),
    "socket_timeout": (_seconds, "seconds"),
    "socket_connect_timeout": (_seconds, "seconds"),
    "ssl_ca_certs": (_file, "a file that can be read"),
    "ssl_certfile": (_file, "a file that can be read"),
    "ssl_keyfile": (_file, "a file that can be read"),
    "ssl_cert_reqs": (_choice(required="required", none="none"), "required or none"),
    "ssl_check_hostname": (_choice(true=True, false=False), "true or false"),
}


def _options(query: str, kind: Kind, *, tls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = [
        name
        for name in _READERS
        if (tls or not name.startswith("ssl_"))
        and (kind == "sentinel" or not name.startswith("sentinel_"))
    ]
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            shown = f'"{name}"' if re.fullmatch(r"\w{1,30}", name, re.ASCII) else "this one"
            tls_only = " (with rediss:// only)" if name in _READERS and not tls else ""
            raise ValueError(f"no option {shown}{tls_only}: there are {', '.join(known)}")
        read, wanted = _READERS[name]
        if name in found:
            raise ValueError(f'the option "{name}" is there twice')
        try:
            found[name] = read(text)
        except (ValueError, OSError):
            raise ValueError(f'the option "{name}" has to be {wanted}') from None
    return found


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Client]:
    """Make a client on the running loop, and close it at the end. It connects when it is used.

    Who uses it repeats what failed, and has time limits of its own: it does not try again itself.

    Raises:
        ImportError: redis-py is not installed.
    """
    from redis.asyncio import Redis, RedisCluster, Sentinel  # noqa: PLC0415 - the extra
    from redis.asyncio.cluster import ClusterNode  # noqa: PLC0415
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    kwargs: dict[str, Any] = {
        "username": address.user,
        "password": address.password,
        "socket_keepalive": True,
        "max_connections": _MANY_CONNECTIONS,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.tls:
        kwargs |= {"ssl": True, "ssl_check_hostname": True}
    kwargs |= address.options
    async with contextlib.AsyncExitStack() as stack:
        client: Client
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            client = RedisCluster(startup_nodes=nodes, **kwargs)
        elif address.kind == "sentinel":
            own = {name: value for name, value in kwargs.items() if name.startswith("ssl")}
            own |= {"socket_timeout": _SENTINEL_SECONDS, "retry": kwargs["retry"]}
            own |= {"socket_connect_timeout": _SENTINEL_SECONDS, **address.sentinel}
            manager = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types here
                address.nodes, sentinel_kwargs=own, db=address.db, **kwargs
            )
            for sentinel in manager.sentinels:
                stack.push_async_callback(sentinel.aclose)
            client = manager.master_for(address.service)
        elif address.kind == "socket":
            del kwargs["socket_keepalive"]
            client = Redis(unix_socket_path=address.path, db=address.db, **kwargs)
        else:
            ((host, port),) = address.nodes
            client = Redis(host=host, port=port, db=address.db, **kwargs)
        stack.push_async_callback(client.aclose)
        yield client
