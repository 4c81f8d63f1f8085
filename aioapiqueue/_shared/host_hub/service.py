"""The host hub: serves its clients, and ends once it is idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import time
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.host.directory import HUB_DIR
from aioapiqueue._shared.host.messages import PROTOCOL, decode, encode
from aioapiqueue._shared.hub_server import HubServer
from aioapiqueue._shared.local_sockets import listen, remove

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from aioapiqueue._shared.host.directory import HubLocation
    from aioapiqueue._shared.host_hub.client import HubClient
    from aioapiqueue._shared.host_hub.quotas import HubQuotas
    from aioapiqueue._shared.hub_server import HubConnection

_IDLE = 10.0
"""Seconds for which an idle hub stays, so that successive jobs find it."""
_LOOK = 5.0
"""Seconds between two checks of the socket's file, which disappears with the runtime directory."""
_LONGEST = 1 << 24
"""Most bytes of a line: the terms of 100,000 lanes have fewer."""
_COMMAND = b'{"command"'
"""The beginning of a command's first line; other first lines are hellos."""
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""The errors of reading a message whose parts have a wrong type or value, or are nested deeply."""


class HostHub:
    """Serves connections until there has been none for a while, or until `stop` is called.

    Args:
        place: the locations of the hub's files.
        listener: the listening socket.
        path: of the socket's file.
        version: of this library.
        quotas: the quotas that it keeps.
    """

    def __init__(
        self,
        place: HubLocation,
        listener: socket.socket,
        path: Path,
        *,
        version: str,
        quotas: HubQuotas,
    ) -> None:
        self._place = place
        self._path = path
        self._version = version
        self._quotas = quotas
        self.steps = quotas.steps
        self._started = time.time()
        self._over = asyncio.Event()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_kept = False
        """Whether it stays even if it is idle."""
        self._server = HubServer(
            listener, partial(_Client, self), longest=_LONGEST, refusal="refused"
        )
        self._inode = path.stat().st_ino  # tells whether the file is still this socket's

    async def run(self) -> None:
        """Serve until the end."""
        self._watch_idle()
        try:
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._over.wait()
                self._look_at_socket()
        finally:
            self._server.close()
            self._quotas.close(time.monotonic())
            remove(self._path)
            await asyncio.sleep(0)  # the transports close their sockets

    def stop(self) -> None:
        """End the hub: its clients start another one when they need it."""
        self._over.set()

    def _look_at_socket(self) -> None:
        """Listen again if the socket's file is missing, as after a logout."""
        self._quotas.commit(time.monotonic())  # what could not be written before
        self._quotas.forget_idle()
        with contextlib.suppress(OSError):
            os.utime(self._place.lock())  # else a cleaner of /tmp removes it after some days
        with contextlib.suppress(OSError):  # the file or its directory is missing
            if self._path.stat().st_ino == self._inode:
                return
        if self._over.is_set():
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path = self._place.sockets()[0]  # after a logout, the one in /tmp
            listen(listener, path, variable=HUB_DIR)
            inode = path.stat().st_ino
        except (OSError, ValueError):  # tried again in `_LOOK` seconds
            listener.close()
            return
        self._server.listen_on(listener)
        self._path, self._inode = path, inode

    def _watch_idle(self, *, used: bool = True) -> None:
        """End the hub after a while, unless a connection is made before.

        Args:
            used: whether a client has just used it. Commands such as `hub status`, even one each
                second, do not keep it running.
        """
        if not self._server.handlers and not self._is_kept:
            if self._idle_timer is not None:
                if not used:
                    return
                self._idle_timer.cancel()
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(_IDLE, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle_timer = None
        if self._server.handlers or self._is_kept:
            return
        self._quotas.forget_idle()
        if self._quotas.may_be_forgotten:  # else the limits in memory would start unused
            self.stop()
        else:
            self._watch_idle()

    # What the handlers of connections call.

    def left(self, client: HubClient | None) -> None:
        """Drop what a client had whose connection has ended; None: it was none."""
        try:
            if client is not None:
                client.leave()
        finally:  # else the hub would never be idle again
            self._watch_idle(used=client is not None)

    def answer(self, hello: Mapping[str, Any], handler: _Client) -> dict[str, Any]:
        """Return the answer to the first line of a connection."""
        match hello.get("command"):
            case None:
                return self._welcome(hello, handler)
            case "status" | "keep" as what:
                self._is_kept |= what == "keep"
                return self._status(lanes=hello.get("lanes", True) is not False)
            case "pause" | "resume" as what:
                name, kind = str(hello["quota"]), hello.get("kind")
                return {"known": self._quotas.set_paused(name, kind, paused=what == "pause")}
            case "stop":
                self.stop()
                return {
                    "pid": os.getpid(),
                    "queues": sum(one.client is not None for one in self._server.handlers),
                }
            case "reset":
                return self._reset(str(hello["quota"]))
            case other:
                return {"refused": f"this hub has no command {other!r}"}

    def _reset(self, quota: str) -> dict[str, Any]:
        try:
            return {"known": self._quotas.reset(quota)}
        except OSError as error:
            return {
                "refused": f"{error}. Nothing was reset: free disk space, or end the process that "
                "locks the file, then try again"
            }

    def _welcome(self, hello: Mapping[str, Any], handler: _Client) -> dict[str, Any]:
        theirs = (_in_order(str(hello.get("version"))), hello.get("protocol"))
        ours = (_in_order(self._version), PROTOCOL)
        if theirs != ours:
            differs = "version" if theirs[0] != ours[0] else "build"
            # A newer process replaces an older hub without clients, as after an upgrade. An older
            # one does not: two programs could otherwise end each other's hub for ever.
            if theirs > ours and all(one.client is None for one in self._server.handlers):
                self.stop()
                return {"ends": True}
            return {
                "refused": f"it runs a different {differs} of aioapiqueue ({self._version}) from "
                f"this process ({hello.get('version')}). Use the same {differs} in all your "
                "processes, or stop the hub when nothing else uses it (aioapiqueue hub stop)"
            }
        handler.client = self._quotas.welcome(hello, handler.flush)
        # The hub is in use; the idle time begins again when this client leaves.
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        handler.pid, handler.program = int(hello["pid"]), str(hello["program"])
        return {"welcome": self._version, "pid": os.getpid(), **handler.client.hello()}

    def _status(self, *, lanes: bool) -> dict[str, Any]:
        """Return all quotas and their clients, for `hub status`.

        Args:
            lanes: whether to include the limits of lanes.
        """
        by_quota: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for one in self._server.handlers:
            if one.client is not None:
                by_quota.setdefault(one.client.quota_name, []).append(
                    {
                        "pid": one.pid,
                        "program": one.program,
                        "waiting": one.client.waiting,
                        "running": one.client.running,
                        "started": one.client.started,
                    }
                )
        return {
            "pid": os.getpid(),
            "version": self._version,
            "started": self._started,
            "socket": os.fspath(self._path),
            "problem": self._quotas.problem,
            "kept": self._is_kept,
            "quotas": [
                quota.as_json(lanes=lanes)
                | {"clients": sorted(by_quota.get(quota.name, []), key=itemgetter("pid"))}
                for quota in self._quotas
            ],
        }


_VERSION = re.compile(r"(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?")


def _in_order(version: str) -> tuple[list[int], str, int]:
    """Return a version in a form that can be compared: 1.0.0rc1, 1.0.0rc2, 1.0.0, 1.0.1rc1."""
    found = _VERSION.match(version)
    if found is None:
        return [], "", 0
    numbers = [int(part) for part in found[1].split(".")]
    return numbers, found[2] or "release", int(found[3] or 0)  # "release" is after "rc"


class _Client:
    """What serves one connection, from its first line to its end.

    Args:
        service: the service.
        connection: the connection.
    """

    def __init__(self, service: HostHub, connection: HubConnection[_Client]) -> None:
        self._service = service
        self._connection = connection
        self.client: HubClient | None = None
        """The queue at its other end; None: it has sent no hello, or a command."""
        self.pid, self.program = 0, ""

    def received(self, lines: list[bytes]) -> None:
        """Process whole lines."""
        if self.client is not None:
            self._process(lines)
            return
        # Hundreds may connect at once, each with hundreds of lanes: other clients must not wait for
        # all of them. Until this hello is answered, nothing is read, so that lines keep their
        # order.
        self._connection.hold()
        # A command is cheap, and a person waits for it.
        is_command = lines[0].startswith(_COMMAND)
        self._service.steps.add(partial(self._begin, lines), first=is_command)

    def _begin(self, lines: Iterable[bytes]) -> None:
        """Answer the first line, then process those that came with it."""
        try:
            self._process(lines)
        except BaseException:  # the loop reports it
            self._connection.finish()  # nothing is read until `go_on`, not even the client's end
            raise
        self._connection.go_on()

    def _process(self, lines: Iterable[bytes]) -> None:
        try:
            for line in lines:
                if not self._connection.is_open:
                    return
                if self.client is None:
                    self._greet(line)
                else:
                    self.client.receive(decode(line))
        except _MALFORMED as error:
            # It comes from another program, or from a faulty build, and more would follow.
            self._connection.refuse(f"this hub received an invalid message: {error!r}")

    def _greet(self, line: bytes) -> None:
        """Answer the first line, which may be a command."""
        hello = json.loads(line)
        if not isinstance(hello, dict):
            raise TypeError("not a JSON object")
        answer = self._service.answer(hello, self)
        self._connection.send(json.dumps(answer).encode("ascii") + b"\n")
        if self.client is None:
            self._connection.finish()

    def flush(self, client: HubClient) -> None:
        """Send the queued messages of a client."""
        outbox, client.outbox = client.outbox, []
        if outbox and client is self.client:
            self._connection.send(encode(outbox))

    def close_idle(self) -> bool:
        """Return False: a queue may be idle for long, and has to be told what others decide."""
        return False

    def lost(self) -> None:
        """End the client's calls."""
        # In a step: hundreds of connections may be lost at once.
        client, self.client = self.client, None
        self._service.steps.add(partial(self._service.left, client))
