"""Serves a program that is isolated: whatever it connects to ends here (see `isolate.py`).

The sockets were made in its network namespace, and nobody else can reach them: no password is asked
for. All names are 127.0.0.1 there, so that what is sent says which server is meant: the first
message of TLS, or the header `Host`.
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

    from aioapiqueue.gateway.server import Server

__all__ = ["Inside"]

_MOST_SOCKETS = 253  # of one message: SCM_MAX_FD of Linux
_QUESTION = struct.Struct("!HH")  # type, class
_HEAD = 12
_IPV4 = 1
_ANSWER = b"\xc0\x0c" + struct.pack("!HHIH", _IPV4, 1, 60, 4) + bytes([127, 0, 0, 1])


class Inside:
    """Waits for the sockets of the program, and serves them.

    Args:
        server: serves connections.
        path: of the socket on which the others come.
    """

    def __init__(self, server: Server, path: Path) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.setblocking(False)  # noqa: FBT003 - the socket's own

    async def serve(self, group: TaskGroup) -> None:
        """Take the sockets once; serve them in the tasks of a group, until it is cancelled."""
        with self._listener as listener:
            link, _ = await asyncio.get_running_loop().sock_accept(listener)
        with link:
            link.setblocking(True)  # noqa: FBT003 - as above
            _, numbers, _, _ = await to_thread.run_sync(
                socket.recv_fds, link, 16, _MOST_SOCKETS, abandon_on_cancel=True
            )
            proxy, names, *others = (socket.socket(fileno=number) for number in numbers)
            serve = self._server
            group.start_soon(serve.proxy, await SocketListener.from_socket(proxy))
            group.start_soon(_answer_names, await UDPSocket.from_socket(names))
            for sock in others:
                port = sock.getsockname()[1]
                group.start_soon(serve.any_server, await SocketListener.from_socket(sock), port)
            link.sendall(b"listening")


async def _answer_names(sock: UDPSocket) -> None:
    """Answer questions for names."""
    async with sock:
        async for question, (host, port) in sock:
            answer = _answer_to(question)
            if answer:
                await sock.sendto(answer, host, port)


def _answer_to(question: bytes) -> bytes | None:
    """Return that a name is 127.0.0.1, or that it has no address of another kind (RFC 1035, 4)."""
    end = question.find(b"\0", _HEAD) + 1
    if not end or len(question) < end + _QUESTION.size:
        return None
    kind, _ = _QUESTION.unpack_from(question, end)
    asked = question[_HEAD : end + _QUESTION.size]
    found = _ANSWER if kind == _IPV4 else b""
    head = question[:2] + b"\x81\x80" + struct.pack("!HHHH", 1, 1 if found else 0, 0, 0)
    return head + asked + found
