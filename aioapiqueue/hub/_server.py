"""The hub: queues behind a Unix domain socket, on the loop of whoever opens it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from anyio import to_thread

from aioapiqueue.hub import _protocol as protocol
from aioapiqueue.hub._accept import Acceptor
from aioapiqueue.hub._connection import Connection
from aioapiqueue.hub._records import OTHERS, Client, Figure, Kind, Process
from aioapiqueue.hub._socket import check_system, listen, raise_file_limit, remove
from aioapiqueue.registry import forget_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from aioapiqueue import ApiQueue
    from aioapiqueue.registry import Registry, Turn

__all__ = ["Hub"]

BOOTSTRAP = Path(__file__).absolute().parent / "_bootstrap"

_MANY = 128
_MAX_FIGURES = 20_000
_MAX_PROCESSES = 10_000
_MANY_KINDS = 1_000  # that were new; then queues at rest are given up

_FigureKey = tuple[Kind, str]
"""With the lane, where that is not the operation's."""


class Hub:
    """Lets the calls of many local processes go, as the queues of one registry say.

    An async context manager: the socket is there inside the block. It has no task, but for a
    moment while somebody connects.
    Leaving the block, cancelled or not, refuses whoever still waits and closes every connection;
    it does not close the registry's queues, which are the caller's.

    >>> async def main(registry, directory):
    ...     async with Hub(registry, directory=directory) as hub:
    ...         await run_program(env=os.environ | hub.environment)
    ...         return hub.figures

    Args:
        registry: which queue paces which call. What it gives no queue is let go at once, and
            counted.
        directory: where the socket `hub.sock` is made; made (0700) if it is not there. Nobody else
            may have access to it.
        count_only: let everything go at once, and count what would have been paced too.
        on_start: called with the figure of each attempt as that is let go; default: nothing is.

    Raises:
        RuntimeError: this system has no Unix domain sockets.
        ValueError: the socket's path would be too long.
        PermissionError: others have access to the directory, or it is somebody else's.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        directory: Path,
        count_only: bool = False,
        on_start: Callable[[Figure], None] | None = None,
    ) -> None:
        check_system()
        # Absolute, as programs may have other working directories.
        self.path = directory.absolute() / "hub.sock"
        self._registry = registry
        self.count_only = count_only
        self.on_start = on_start
        self.requests = 0
        """Waiting or under way, of all clients."""
        self._connections: set[Connection] = set()
        self._clients: dict[int, Client] = {}
        self._processes: dict[int, Process] = {}
        self._kinds_until_swept = _MANY_KINDS
        self._figures: dict[_FigureKey, Figure] = {}
        self._with_lanes: set[Kind] = set()
        self._others: dict[bool, Figure] = {}
        self._of_queues: dict[ApiQueue, Figure] = {}
        self._acceptor: Acceptor | None = None
        self._files_raised = False

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment, beside what this process has in its own.

        Raises:
            ValueError: `PYTHONPATH` cannot name the folder that aioapiqueue is installed in.
        """
        folder = str(BOOTSTRAP)
        if os.pathsep in folder:
            raise ValueError(
                f"{folder}: PYTHONPATH cannot name a folder with {os.pathsep!r} in it: install "
                "aioapiqueue somewhere else"
            )
        others = [
            one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one != folder
        ]
        # An empty entry would be the working directory, as would no entry after a separator.
        joined = os.pathsep.join([folder, *others] if any(others) else [folder])
        return {"PYTHONPATH": joined, "AIOAPIQUEUE_HUB": str(self.path)}

    @property
    def processes(self) -> Mapping[int, Process]:
        """All interpreters that have said hello, by process id; of those who shared one, the last.

        Of more than 10,000, those that ended first are forgotten.
        """
        return MappingProxyType(self._processes)

    @property
    def figures(self) -> list[Figure]:
        """What was counted, one for each service, lane, Region and account, as things stand.

        They are the hub's own, and go on counting. Beyond 20,000 of them, what is new is counted
        in two more, of the service "(others)": what is paced, and what is not.
        """
        own = [
            figure
            for (kind, lane), figure in self._figures.items()
            # All calls of such an operation so far may have gone into lanes of their own.
            if lane or kind not in self._with_lanes or figure.calls or figure.waiting
        ]
        return own + list(self._others.values())

    @property
    def of_queues(self) -> Mapping[ApiQueue, Figure]:
        """What was counted of each queue that let calls go and is in being, as things stand.

        A call that needs slots of several queues is counted in each of them, with what it waited
        in that one.
        """
        return MappingProxyType(self._of_queues)

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await to_thread.run_sync(listen, listener, self.path)
            self._acceptor = Acceptor(
                listener, lambda: Connection(self), close_idle=self._close_idle
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
        # Nothing is awaited before everybody is refused, so that a cancellation cannot skip it.
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for connection in list(self._connections):
            connection.refuse("the hub is closing, as the run has ended")
        # Meanwhile the transports close their sockets, in the loop's next pass.
        await to_thread.run_sync(remove, self.path)

    # What connections call.

    def joined(self, connection: Connection) -> None:
        """Heed a new connection."""
        self._connections.add(connection)
        if not self._files_raised and len(self._connections) > _MANY:
            # Only now, not at the start: a program that was started before has inherited the
            # limit that its user set, and select() in it may rely on small numbers.
            self._files_raised = True
            raise_file_limit()

    def belongs(self, pid: int) -> Client:
        """Count a connection of a process; return what that process has."""
        client = self._clients.setdefault(pid, Client())
        client.connections += 1
        return client

    def left(self, connection: Connection) -> None:
        """Heed that a connection has ended."""
        self._connections.discard(connection)
        pid = connection.pid
        if pid is not None:
            client = self._clients[pid]
            client.connections -= 1
            if not client.connections:
                del self._clients[pid]
        if self._acceptor is not None:
            self._acceptor.go_on()

    def idle(self, connection: Connection) -> None:
        """Close a connection on which nothing is asked any more, if its file is needed.

        At once: a thread that asks again and again would never be found idle.
        """
        if self._acceptor is not None and self._acceptor.lacks_files:
            connection.close_idle()
            self._acceptor.go_on()

    def _close_idle(self) -> bool:
        """Begin to close the connection that has been idle for longest, if any is."""
        idle = [connection for connection in self._connections if connection.is_idle]
        if idle:
            min(idle, key=lambda connection: connection.used).close_idle()
        return bool(idle)

    def started(self, process: Process) -> None:
        """Heed that an interpreter has said hello."""
        self._processes.pop(process.pid, None)
        self._processes[process.pid] = process
        if len(self._processes) > _MAX_PROCESSES:
            for pid, known in self._processes.items():
                if known.ended is not None:
                    del self._processes[pid]
                    break

    def has_room_for(self, client: Client) -> bool:
        """Return whether a process may have one more request.

        It may have as many as it leaves to the others, so that there is always room for a new one.
        """
        left = protocol.MAX_REQUESTS - self.requests
        return client.requests < min(protocol.MAX_REQUESTS_PER_PROCESS, left)

    def find(self, kind: Kind) -> Figure:
        """Return where a call is counted.

        Raises:
            Exception: whatever the registry raises.
        """
        found = self._figures.get((kind, ""))
        if found is None:
            self._give_up_queues()
            # Whatever parameters a call of this kind has, it needs no slots but these.
            turns = self._turns(kind, {})
            found = self._new_figure(kind, "", turns[-1].queue if turns else None)
        return found

    def _give_up_queues(self) -> None:
        """Give up queues at rest now and then, as each new kind of call may bring another queue."""
        self._kinds_until_swept -= 1
        if self._kinds_until_swept > 0:
            return
        # A call that waits may have joined only the first of its queues.
        keep = {queue for connection in self._connections for queue in connection.queues()}
        for queue in forget_idle(self._registry, keep=keep):
            self._of_queues.pop(queue, None)
        # So that looking at all queues costs each call in between a constant share.
        self._kinds_until_swept = max(_MANY_KINDS, len(self._of_queues))

    def _new_figure(self, kind: Kind, lane: str, queue: ApiQueue | None) -> Figure:
        """Return where calls of a kind are counted that were never counted before."""
        paced = queue is not None
        if len(self._figures) >= _MAX_FIGURES:
            others = Figure(OTHERS, OTHERS, None, None, None, paced)
            return self._others.setdefault(paced, others)
        figure = Figure(*kind, queue.name if queue else None, paced, lane=lane)
        self._figures[kind, lane] = figure
        return figure

    def in_lane(self, kind: Kind, figure: Figure, turns: Sequence[Turn]) -> Figure:
        """Return where a call with such turns is counted: in its lane, if parameters chose one.

        Args:
            kind: of the call.
            figure: what `find` returned.
            turns: what it waits for.
        """
        lane = turns[-1].key if turns else kind.operation
        if lane == kind.operation:
            return figure
        found = self._figures.get((kind, lane))
        if found is None:
            found = self._new_figure(kind, lane, turns[-1].queue)
            if found.service != OTHERS:
                self._with_lanes.add(kind)
        return found

    def of_queue(self, queue: ApiQueue, service: str) -> Figure:
        """Return where all calls of a queue are counted, those of `service` first."""
        found = self._of_queues.get(queue)
        if found is None:
            found = Figure(service, "", None, None, queue.name, paced=True)
            self._of_queues[queue] = found
        return found

    def turns(self, kind: Kind, figure: Figure, facts: Mapping[str, int]) -> Sequence[Turn]:
        """Return the slots that an attempt needs, one after the other.

        Args:
            kind: what is called.
            figure: what `find` returned.
            facts: what limits may depend on of its parameters.

        Raises:
            Exception: whatever the registry raises.
        """
        return () if self.count_only or not figure.paced else self._turns(kind, facts)

    def _turns(self, kind: Kind, facts: Mapping[str, int]) -> Sequence[Turn]:
        return self._registry.turns(
            kind.service,
            kind.operation,
            region=kind.region,
            account=kind.account,
            parameters=facts,
        )
