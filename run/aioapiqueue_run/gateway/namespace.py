"""Serves an isolated program, which can connect to the gateway only (see `isolate.py`).

Every name resolves to 127.0.0.1 in the program's network namespace. So the server that the program
wants is known from what it sends: the first message of TLS, or the header `Host`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from anyio import to_thread
from anyio.abc import SocketListener, UDPSocket

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup

    from aioapiqueue_run.gateway.server import Server

__all__ = ["listen", "serve_namespace"]

_MOST_SOCKETS = 253  # in one message: Linux's SCM_MAX_FD
_QUESTION = struct.Struct("!HH")  # type, class
_HEAD = 12
_IPV4 = 1
# A pointer to the name in the question, then type, class, 60 s to live, length and address.
_ANSWER = b"\xc0\x0c" + struct.pack("!HHIH", _IPV4, 1, 60, 4) + bytes([127, 0, 0, 1])


def listen(path: Path) -> socket.socket:
    """Return a Unix socket on which the sockets of the program's namespace arrive."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)  # noqa: FBT003 - the socket's own
    return listener


async def serve_namespace(server: Server, listener: socket.socket, group: TaskGroup) -> None:
    """Receive the listening sockets once, then serve them in tasks of a group.

    Args:
        server: serves connections.
        listener: the result of `listen`.
        group: the tasks; its end closes all connections.
    """
    # One sender only: the listener is closed before the message is read, and its folder belongs to
    # this user. So no other process can pass in sockets and be served without a password.
    with listener:
        link, _ = await asyncio.get_running_loop().sock_accept(listener)
    with link:
        link.setblocking(True)  # noqa: FBT003 - as above
        # asyncio cannot receive file descriptors, so a thread does.
        _, numbers, _, _ = await to_thread.run_sync(
            socket.recv_fds, link, 16, _MOST_SOCKETS, abandon_on_cancel=True
        )
        proxy, names, *others = (socket.socket(fileno=number) for number in numbers)
        group.start_soon(server.proxy, await SocketListener.from_socket(proxy))
        group.start_soon(_resolve_names, await UDPSocket.from_socket(names))
        for sock in others:
            port = sock.getsockname()[1]
            # No password: only processes in the program's namespace can connect to it.
            group.start_soon(server.transparent, await SocketListener.from_socket(sock), port)
        # `isolate.py` executes the program after this: its first connection finds a listener.
        link.sendall(b"listening")


async def _resolve_names(sock: UDPSocket) -> None:
    """Answer DNS queries."""
    async with sock:
        async for question, (host, port) in sock:
            answer = _answer_to(question)
            if answer:
                await sock.sendto(answer, host, port)


def _answer_to(question: bytes) -> bytes | None:
    """Return the response to a DNS query (RFC 1035, 4); None if the query is malformed."""
    end = question.find(b"\0", _HEAD) + 1
    if not end or len(question) < end + _QUESTION.size:
        return None
    kind, _ = _QUESTION.unpack_from(question, end)
    asked = question[_HEAD : end + _QUESTION.size]
    # Every name has the address 127.0.0.1, and no record of another type. An error such as
    # NXDOMAIN for a query of type AAAA would make resolvers give up the name altogether.
    found = _ANSWER if kind == _IPV4 else b""
    head = question[:2] + b"\x81\x80" + struct.pack("!HHHH", 1, 1 if found else 0, 0, 0)
    return head + asked + found
