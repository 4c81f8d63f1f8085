"""A hub for virtual time: its quotas, on the loop of the queues that use it.

All that a real one has but the socket and the process. What is sent goes through its text form, and
comes in a later pass of the loop, at the same instant.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue import HostSchedule
from tests.helpers import introspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioapiqueue.spi import Host

wire = introspect.hub_messages()

__all__ = ["VirtualHub", "folder_in_memory", "journals"]


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a private folder where nothing waits for a disk, if the system has one."""
    memory = Path("/dev/shm")  # noqa: S108 - others may not write to the folder there
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def journals(path: Path) -> Iterator[Callable[[], Any]]:
    """Give what opens a file for one hub after the other, each of which ends the one before.

    Of a hub that was killed, the system closes the file, and nothing more is written to it: so it
    is here, when the next one opens it, and at the end.

    Args:
        path: of the file.
    """
    with ExitStack() as last:

        def open_next() -> Any:
            journal = introspect.open_journal(path)
            # Only now: SQLite tidies up when nobody has a file open any more, which no kill does.
            last.close()
            last.callback(introspect.close_file_of, journal)
            return journal

        yield open_next


class VirtualHub:
    """Keeps quotas, until it is killed.

    Args:
        open_journal: opens what outlasts it, see `journals`; None: nothing does.

    Attributes:
        quotas: what it keeps.
        down: while true, nobody reaches it.
        delay: seconds until what it says is heard.
        links: all that were made, connected or not.
        log: each message that a queue has sent.
    """

    def __init__(self, open_journal: Callable[[], Any] | None = None) -> None:
        self._open_journal = open_journal
        self.quotas = self._start()
        self.down = False
        self.delay = 0.0
        self.links: list[VirtualLink] = []
        self.log: list[Any] = []

    def _start(self) -> Any:
        return introspect.hub_quotas(None if self._open_journal is None else self._open_journal())

    def end(self) -> None:
        """End as a hub does that nobody needs: what it has let through is exactly known."""
        self.quotas.close(asyncio.get_running_loop().time())
        self.kill()

    def schedule(self, name: str, **options: Any) -> HostSchedule:
        """Make a schedule of a quota here."""
        return _VirtualSchedule(self, name, **options)

    def kill(self) -> None:
        """Lose all that is known, and all connections; the next one is there at once."""
        self.quotas = self._start()
        for link in self.links:
            link.lose("killed")


class _VirtualSchedule(HostSchedule):
    def __init__(self, hub: VirtualHub, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._hub = hub

    def link(self, host: Host, terms: Any) -> VirtualLink:
        """Return the way to the hub."""
        return VirtualLink(self._hub, host, self.name, terms)


class VirtualLink:
    """A link without a socket.

    Attributes:
        blocked: while true, it does not reach the hub.
        silent: while true, nothing that it is sent arrives there, as of a process that is stopped.
    """

    def __init__(self, hub: VirtualHub, host: Host, name: str, terms: Any) -> None:
        self.hub = hub
        self.blocked = False
        self.silent = False
        self.client: Any = None
        self._host = host
        self._name = name
        self._terms = terms
        self._opening = False
        self._outbox: list[str] = []
        self.asks = 0
        hub.links.append(self)

    def attach(self, owner: Any) -> None:
        """Have somebody to report to."""
        self.owner = owner

    def open(self) -> None:
        """Connect in the next pass of the loop; while the hub is down, try each second."""
        if self.client is None and not self._opening:
            self._opening = self._host.loop.call_later(0, self._connect) is not None

    def _connect(self) -> None:
        if not self._opening:  # it was dropped
            return
        self._opening = False
        if self.hub.down or self.blocked:
            self.owner.disconnected("down")
            if self.owner.is_needed:
                self._opening = True
                self._host.loop.call_later(1, self._connect)
            return
        hello = {
            "kind": "name",
            "quota": self._name,
            "terms": self._terms.as_json(),
            "newest": self.owner.newest,
        }
        self.client = self.hub.quotas.welcome(json.loads(json.dumps(hello)), self._flush_soon)
        self.owner.connected(self.client.hello()["newest"])

    def _flush_soon(self, client: Any) -> None:
        asyncio.get_running_loop().call_later(self.hub.delay, self._flush, client)

    def _flush(self, client: Any) -> None:
        messages, client.outbox = wire.decode(wire.encode(client.outbox)), []
        if client is self.client:
            self.owner.receive(messages)

    def send(self, text: str, *, at_once: bool = False) -> None:  # noqa: ARG002 - it takes no time
        """Send a message with all others of this pass of the loop, which come in the next."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._send)
        self._outbox.append(text)

    def _send(self) -> None:
        if self.silent and self._outbox:
            asyncio.get_running_loop().call_later(0.1, self._send)
            return
        texts, self._outbox = self._outbox, []
        if self.client is not None and texts:
            self.asks += 1
            line = wire.encode(texts)
            self.hub.log += wire.decode(line)
            asyncio.get_running_loop().call_soon(self._come, self.client, line)

    def _come(self, client: Any, line: bytes) -> None:
        if client is self.client:
            client.receive(wire.decode(line))

    def lose(self, why: str) -> None:
        """End the connection, as a hub that dies does."""
        client = self.client
        if client is not None:
            self.client, self._outbox = None, []
            client.leave()  # so that what is left of that hub does not go on in this loop
            self.owner.disconnected(why)
            if self.owner.is_needed:
                self.open()

    def drop(self) -> None:
        """Forget the connection."""
        client, self.client, self._opening, self._outbox = self.client, None, False, []
        if client is not None:
            # A real hub has a loop of its own. Here it goes on on that of the queue, as that does.
            for quota in self.hub.quotas:
                quota.dispatcher.bind()
            client.leave()

    async def aclose(self) -> None:
        """Close the connection."""
        for _ in range(3):  # what was sent before comes first
            await asyncio.sleep(0)
        self.drop()
