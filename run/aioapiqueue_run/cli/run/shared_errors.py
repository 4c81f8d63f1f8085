"""Explains why the shared server cannot be used, with a remedy and without passwords.

Messages of redis-py and of the server are not shown as they are: both may quote a command that was
sent, and so a password.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue_run.cli.run.shared_address import Address

__all__ = ["explained"]

_REACH = "check the host and the port, and that the server is running"
_PATH = "check the path, and that the server is running"

_SERVER = {
    "READONLY|read only replica": "it is a read-only replica: use the address of the primary, or "
    "of the Sentinels (redis+sentinel://HOST:26379/NAME)",
    "OOM|maxmemory": "its memory is full: raise its maxmemory",
    "MOVED|Hash slot not served": "it is a node of a cluster: write redis+cluster:// instead of "
    "redis://. If the cluster is down, see its CLUSTER INFO",
    "luster mode is not enabled|luster support disabled": "it is not a cluster: write redis:// or "
    "rediss://",
    "slots are not covered|CLUSTERDOWN": "the cluster is down or incomplete: see its CLUSTER INFO",
    "'SENTINEL'": "it is not a Sentinel: write redis:// or rediss://",
    "No master found": "no Sentinel knows a primary of that name: check the name, the addresses, "
    "sentinel_username and sentinel_password",
    "Protocol Error": "it is neither Redis nor Valkey: check the port",
    "unknown command": "it lacks or forbids a command: use Valkey, or Redis 6.2 or later",
}
"""What to do, by a pattern of the error. Another error is shown as the server words it."""


def explained(error: BaseException, address: Address, seconds: float) -> str:
    """Return the reason of an error, and a remedy.

    Args:
        error: an error of redis-py, or a `TimeoutError`.
        address: the address of the server.
        seconds: the time limit of the attempt.
    """
    from redis import exceptions as errors  # noqa: PLC0415 - the extra

    chain = list(_chain(error))
    texts = "\n".join(map(str, chain))
    for one in chain:
        # Within a script, a missing permission is a plain `ResponseError`.
        if isinstance(one, errors.NoPermissionError) or "no permissions" in str(one):
            return _no_permission(str(one), address)
        if isinstance(one, errors.AuthenticationError):
            return _no_password(str(one), address)
        if isinstance(one, ssl.SSLError):
            return _tls(one)
    for pattern, remedy in _SERVER.items():
        if re.search(pattern, texts):
            return remedy
    if isinstance(error, TimeoutError | errors.TimeoutError):
        more = "that the port uses TLS" if address.settings.get("ssl") else "for a firewall"
        return f"no response within {seconds:g} s: {_REACH}. Also check {more}"
    return _network(chain, address)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_permission(text: str, address: Address) -> str:
    text = text.removeprefix("ACL failure in script: ").partition(" script: ")[0]
    return (
        f"the user lacks permissions ({address.scrubbed(text)}): aioapiqueue docs run-reference "
        "lists the ones that are needed"
    )


def _no_password(text: str, address: Address) -> str:
    if address.settings.get("password") is None:
        return "it needs a password: write redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST"
    if "without any password" in text or "no password is set" in text:
        return (
            "its default user has no password: remove the password from the URL, or name a user "
            "that has one"
        )
    who = address.settings.get("username", "default")
    return f"it rejects the password of the user {who!r}: check both"


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}): add ?ssl_ca_certs=FILE, and "
            "use the host name in the certificate"
        )
    return (
        f"TLS failed ({error.reason or 'handshake failed'}): if the port has no TLS, write "
        "redis://; if it needs a client certificate, add ?ssl_certfile=FILE&ssl_keyfile=FILE"
    )


def _network(chain: Sequence[BaseException], address: Address) -> str:
    for one in chain:
        if isinstance(one, socket.gaierror):
            return "unknown host name: check it, or the DNS"
        if isinstance(one, OSError) and one.errno is not None:
            reach = _PATH if address.kind == "unix" else _REACH
            return f"it cannot be reached ({os.strerror(one.errno)}): {reach}"
    text = str(chain[0])
    if "closed" in text or "reset" in text:
        tls = (
            ""
            if address.settings.get("ssl")
            else ". If it uses TLS, write rediss:// instead of redis://"
        )
        return f"it closed the connection: {_REACH}{tls}"
    return f"{type(chain[0]).__name__}: {address.scrubbed(text)}"
