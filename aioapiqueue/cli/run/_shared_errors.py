"""Why the shared server cannot be used, and what to do about it, without a secret.

Messages of redis-py and of the server are not shown: both may quote what they were sent.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue.integrations.redis.url import Address

__all__ = ["explained"]

_REACH = "is it the right host and port, and does it run?"
_PATH = "is it the right path, and does it run?"

_SERVER = {
    "NOAUTH": "it wants a password: write redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST",
    "HELLO must be called": "it wants a password: write redis://USER:PASSWORD@HOST",
    "READONLY": "it is a replica, which is only read from: give the primary's address, or that of "
    "the Sentinels (redis+sentinel://HOST:26379/NAME)",
    "read only replica": "it is a replica, which is only read from: give the primary's address",
    "OOM": "its memory is full, and it takes no more keys: raise its maxmemory",
    "maxmemory": "its memory is full, and it takes no more keys: raise its maxmemory",
    "loading": "it is just loading its data: try again in a moment",
    "MISCONF": "it cannot save its data and so takes no more: see its log",
    "MOVED": "it is a cluster's node: write redis+cluster:// instead of redis://",
    "luster mode is not enabled": "it is no cluster: write redis:// or rediss:// for one server",
    "luster support disabled": "it is no cluster: write redis:// or rediss:// for one server",
    "slots are not covered": "the cluster is down, or not set up: see its CLUSTER INFO",
    "Hash slot not served": "it is a node of a cluster that is down, or not set up: see its "
    "CLUSTER INFO, and write redis+cluster://",
    "CLUSTERDOWN": "the cluster is down: see its CLUSTER INFO",
    "'SENTINEL'": "it is no Sentinel: write redis:// or rediss:// for a server",
    "No master found": "no Sentinel could be asked that knows servers of that name: check the "
    "name, their addresses, and sentinel_username and sentinel_password",
    "DB index": "it has no database of that number: leave it away, or write 0",
    "Protocol Error": "what answers there is neither Redis nor Valkey: is it the right port?",
    "unknown command": "it has no such command, or does not allow it: it has to be Valkey, or "
    "Redis 6.2 or later",
}


def explained(error: BaseException, address: Address, seconds: float) -> str:
    """Return what is wrong and what to do about it.

    Args:
        error: of redis-py, or the time being up.
        address: of the server.
        seconds: how long it was waited for, at most.
    """
    from redis import exceptions as errors  # noqa: PLC0415 - the extra

    chain = list(_chain(error))
    texts = "\n".join(map(str, chain))
    for one in chain:
        # What the user may not do inside of the script is another error for redis-py.
        if isinstance(one, errors.NoPermissionError) or "no permissions" in str(one):
            return _no_permission(str(one), address)
        if isinstance(one, errors.AuthenticationError):
            return _no_password(str(one), address)
        if isinstance(one, ssl.SSLError):
            return _tls(one)
    for word, remedy in _SERVER.items():
        if word in texts:
            return remedy
    if isinstance(error, TimeoutError | errors.TimeoutError):
        more = "Is it a port with TLS" if address.tls else "Does a firewall hold it up"
        return f"no answer within {seconds:g} s: {_REACH} {more}?"
    return _network(chain, address)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_permission(text: str, address: Address) -> str:
    text = text.removeprefix("ACL failure in script: ").partition(" script: ")[0]
    return (
        f"the user may not do what is needed ({address.scrubbed(text)}): "
        "aioapiqueue docs run has the rules for one that may"
    )


def _no_password(text: str, address: Address) -> str:
    if address.password is None:
        return "it wants a password: write redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST"
    if "without any password" in text or "no password is set" in text:
        return "its default user has no password: leave it out, or name a user who has one"
    who = address.user or "default"
    return f"it refuses the password of the user {who!r}: check both"


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}): name the authorities to "
            "trust with ?ssl_ca_certs=FILE, and use the host's name that the certificate has"
        )
    return (
        f"no TLS with it ({error.reason or 'handshake failed'}): write redis:// instead of "
        "rediss:// if the port is one without, and ?ssl_certfile=FILE&ssl_keyfile=FILE if it wants "
        "a certificate of you"
    )


def _network(chain: Sequence[BaseException], address: Address) -> str:
    for one in chain:
        if isinstance(one, socket.gaierror):
            return "there is no host of that name: check it, or the DNS"
    for one in chain:
        if isinstance(one, OSError) and one.errno is not None:
            if one.errno == errno.EACCES:
                return f"you may not use it ({os.strerror(one.errno)}): ask whose it is"
            reach = _PATH if address.kind == "socket" else _REACH
            return f"it cannot be reached ({os.strerror(one.errno)}): {reach}"
    text = str(chain[0])
    if "closed" in text or "reset" in text:
        tls = "" if address.tls else " If it wants TLS: write rediss:// instead of redis://"
        return f"it closed the connection: {_REACH}{tls}"
    return f"{type(chain[0]).__name__}: {address.scrubbed(text)}"
