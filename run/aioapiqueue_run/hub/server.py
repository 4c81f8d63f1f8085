"""The run hub: queues behind a Unix domain socket, on the event loop that opens it."""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from anyio import to_thread

from aioapiqueue.schedules.spi import HubServer, check_system, listen, remove
from aioapiqueue_run.hub import protocol
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.connection import ClientConnection
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import ProcessLoad
from aioapiqueue_run.hub.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from aioapiqueue.recording.spi import Recording
    from aioapiqueue.registry import Registry
    from aioapiqueue_run.hub.records import CallStats, Process

__all__ = ["Hub"]

BOOTSTRAP = Path(__file__).absolute().parents[1] / "bootstrap"

_MAX_PROCESSES = 10_000
"""Most interpreters that are kept, for reports; those that have ended are dropped first."""


class Hub:
    """The run hub: paces the calls of many local processes with the queues of one registry.

    An async context manager: the socket exists inside the block. Leaving the block, cancelled or
    not, refuses all waiting calls and closes every connection. It does not close the registry's
    queues: they belong to the caller. The hub keeps no task running.

    >>> async def main(registry, directory):
    ...     async with Hub(registry, directory=directory) as hub:
    ...         await run_program(env=os.environ | hub.environment)
    ...         return hub.figures

    Args:
        registry: finds the queue of each call. A call without a queue starts at once and is
            counted.
        directory: where the hub creates its socket, `hub.sock`. Created with mode 0700 if missing;
            no other user may have access to it. Each hub needs a directory of its own.
        queues: records the calls; if they are not `paced`, every call starts at once and is only
            counted. Default: a new one, and calls are paced.
        watcher: is notified of each attempt; default: none.

    Raises:
        RuntimeError: this system has no Unix domain sockets.
        ValueError: the socket's path is too long.
        PermissionError: the directory belongs to another user, or other users have access to it.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        directory: Path,
        queues: QueueRecords | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        check_system()
        # Absolute, as programs may have other working directories.
        self.path = directory.absolute() / "hub.sock"
        self._calls = Calls(registry, queues or QueueRecords(paced=True), watcher or Watcher())
        self._clients: dict[int, ProcessLoad] = {}
        self._processes: dict[int, Process] = {}
        self._server: HubServer[ClientConnection] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that a program needs in addition to those of this process.

        Raises:
            ValueError: the path of the installed package cannot be part of `PYTHONPATH`.
        """
        folder = str(BOOTSTRAP)
        if os.pathsep in folder:
            raise ValueError(
                f"{folder}: a directory on PYTHONPATH cannot contain {os.pathsep!r}: install "
                "aioapiqueue somewhere else"
            )
        others = [
            one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one != folder
        ]
        # No separator at the end: an empty entry would mean the working directory.
        joined = os.pathsep.join([folder, *others] if any(others) else [folder])
        return {"PYTHONPATH": joined, "AIOAPIQUEUE_HUB": str(self.path)}

    @property
    def processes(self) -> Mapping[int, Process]:
        """All interpreters that have connected, by process id; the latest one of each id.

        If there are more than 10,000, those that ended first are dropped.
        """
        return MappingProxyType(self._processes)

    @property
    def figures(self) -> list[CallStats]:
        """The counts so far for each service, lane, Region and account.

        Beyond 20,000, new combinations are added up in two more, with the service "(others)": one
        for paced calls, one for unpaced calls.
        """
        return self._calls.figures

    @property
    def buckets(self) -> list[CallStats]:
        """The counts so far of each bucket that operations share; `operation` is its name.

        Region and account are those of its queue, if the scope includes them. Calls that are added
        up as "(others)" are left out.
        """
        return self._calls.buckets

    @property
    def recording(self) -> Recording:
        """The calls by queue and over time."""
        return self._calls.recording

    async def read_hellos(self) -> None:
        """Wait until the hub has read every hello sent so far, even by processes that have ended.

        If it is cancelled, the hub goes on as before.

        Raises:
            OSError: the hub cannot be reached.
        """
        # The hub accepts connections in order. So it answers this hello after it has read all
        # earlier ones.
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(protocol.to_line(do="hello", version=protocol.VERSION, pid=os.getpid()))
            await reader.readline()
        finally:  # cancelled, too
            writer.close()

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await to_thread.run_sync(listen, listener, self.path)
            self._server = HubServer(
                listener,
                partial(ClientConnection, self, self._calls),
                longest=protocol.MAX_LINE,
                refusal="error",
            )
        except BaseException:  # cancelled while the thread binds it, too
            listener.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Nothing is awaited before all calls are refused, so that a cancellation cannot skip this.
        if self._server is not None:
            self._server.close("the hub is closing: the run has ended")
            self._server = None
        # Meanwhile the transports close their sockets, in the loop's next pass.
        await to_thread.run_sync(remove, self.path)

    # What connections call.

    def belongs(self, pid: int) -> ProcessLoad:
        """Count a connection of a process; return the process's load."""
        client = self._clients.setdefault(pid, ProcessLoad())
        client.connections += 1
        return client

    def left(self, connection: ClientConnection) -> None:
        """Note that a connection has ended."""
        pid = connection.pid
        if pid is not None:
            client = self._clients[pid]
            client.connections -= 1
            if not client.connections:
                del self._clients[pid]

    def started(self, process: Process) -> None:
        """Note the hello of an interpreter."""
        self._processes.pop(process.pid, None)  # so that the new one is the last
        self._processes[process.pid] = process
        if len(self._processes) > _MAX_PROCESSES:
            for pid, known in self._processes.items():
                if known.ended is not None:
                    del self._processes[pid]
                    break
