"""The connection of one queue to the host hub, made again when it is lost."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._shared.host.messages import PROTOCOL, decode, encode, own_version
from aioapiqueue._shared.host.reach import Reached, reach
from aioapiqueue._shared.hub_client import HubSocket
from aioapiqueue._shared.outage import Unreachable
from aioapiqueue.exceptions import SharedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioapiqueue._shared.host.messages import Message, Terms
    from aioapiqueue.spi import Host

_BACKOFF = (0.02, 2.0)
"""Seconds between attempts to reach a hub, at least and at most. Once a fault is corrected, callers
wait up to the latter."""
_CLOSING = 1.0
"""Seconds in which a hub must be reached while the queue is closed."""


class LinkOwner(Protocol):
    """What a connection to the hub asks of the session that it belongs to."""

    @property
    def newest(self) -> dict[str, int]:
        """By maker, the instant up to which this queue knows all decisions."""

    @property
    def has_callers(self) -> bool:
        """Whether calls wait or run, which the hub must know about."""

    @property
    def is_needed(self) -> bool:
        """Whether calls wait or run, or something remains to be sent."""

    def connected(self, newest: Mapping[str, int]) -> None:
        """Note that a hub is connected, which knows only the queue's hello.

        Args:
            newest: by maker, the instant up to which the hub knows all decisions.
        """

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the hub has sent."""

    def disconnected(self, why: str) -> None:
        """Note that no hub can be reached, or that the connection is lost."""

    def refused(self, error: SharedError) -> None:
        """Note that the hub will not serve this queue until the user corrects its options."""


class _Attempt:
    """One attempt to reach the hub, which you can give up before it ends.

    It runs in a thread of its own, because the program's threads may all be waiting for a slot. It
    does not use anyio's worker threads: if the loop is closed before such a thread has finished,
    anyio keeps a reference to the waiting task, and so to the loop and all its tasks.
    """

    def __init__(self) -> None:
        self._given_up = False
        self._reached: Reached | None = None
        """The connection, until the task has taken it."""

    def give_up(self) -> None:
        """Close the connection now, or as soon as the thread has made it."""
        # The thread sets `_reached`, and then reads `_given_up`: one of the two closes it.
        self._given_up = True
        if self._reached is not None:
            self._reached.sock.close()

    async def reach(self, hello: Mapping[str, Any], override: str | None) -> Reached:
        """Run the function `reach` in the thread; see there for the arguments and the errors.

        If the caller is cancelled, the attempt is given up.
        """
        ended: asyncio.Future[Reached] = asyncio.get_running_loop().create_future()
        work = partial(self._work, ended, hello, override)
        try:
            # A daemon: the program must be able to exit while a hub is silent.
            threading.Thread(target=work, name="aioapiqueue hub", daemon=True).start()
            # Cancelled here: the thread continues by itself, and closes what it has opened.
            reached = await ended
        except BaseException:
            self.give_up()
            raise
        self._reached = None
        return reached

    def _work(
        self, ended: asyncio.Future[Reached], hello: Mapping[str, Any], override: str | None
    ) -> None:
        try:
            self._reached = reach(hello, override=override)
        except BaseException as error:  # noqa: BLE001 - no call may wait without a reported reason
            end = partial(ended.set_exception, error)
        else:
            end = partial(ended.set_result, self._reached)
        if self._given_up:
            self.give_up()
        try:
            ended.get_loop().call_soon_threadsafe(_unless_cancelled, ended, end)
        except RuntimeError:  # the loop is closed
            self.give_up()


def _unless_cancelled(ended: asyncio.Future[Reached], end: Callable[[], None]) -> None:
    if not ended.done():
        end()


class HubLink:
    """The connection of one queue to the hub: made when it is needed, and again when it is lost.

    Args:
        host: the queue's dispatcher.
        quota: the kind and the name of the quota.
        terms: the limits that the queue gives.
        directory: of the hub; None: the user's own.
        program: name of this program in `hub status`; None: the name of the process.
    """

    def __init__(
        self,
        host: Host,
        quota: tuple[str, str],
        terms: Terms,
        *,
        directory: str | None,
        program: str | None,
    ) -> None:
        self._host = host
        self._quota = quota
        self._first = {
            "protocol": PROTOCOL,
            "version": own_version(),
            "kind": quota[0],
            "quota": quota[1],
            "terms": terms.as_json(),
            "program": program or _own_name(),
        }
        self._directory = directory
        self._socket: HubSocket | None = None
        """None: no hub is connected."""
        self._task: asyncio.Task[None] | None = None
        self._attempt = _Attempt()
        self._delay = 0.0
        """Seconds until the next attempt, after a failure."""
        self._began = -math.inf
        """Time (`time.monotonic()`) at which the connection was made."""
        self.asks = 0
        """Number of times that messages were sent."""
        self._closed = False
        _links.add(self)

    def attach(self, owner: LinkOwner) -> None:
        """Set the session to report to."""
        self._owner = owner

    def open(self) -> None:
        """Connect, if it is not connected; try again for as long as it is needed."""
        if self._socket is None and self._task is None and not self._closed:
            self._task = self._host.loop.spawn(
                self._run, name="aioapiqueue hub", on_end=self._ended
            )

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
            # A program may cancel all tasks and keep its waiting calls. (At the end of a loop, no
            # call waits: what is unsent is sent at the queue's next use.)
            if not self._closed and self._owner.has_callers:
                self._host.loop.call_later(_BACKOFF[0], self._open_if_needed)

    def _open_if_needed(self) -> None:
        if self._owner.is_needed:
            self.open()

    async def _run(self) -> None:
        while True:
            if self._delay:
                await asyncio.sleep(self._delay * random.uniform(0.5, 1))  # noqa: S311 - so that not all come at once
            attempt = self._attempt = _Attempt()
            # As of now: this may be a forked child, and decisions may have been made since.
            first = self._first | {"pid": os.getpid(), "newest": self._owner.newest}
            try:
                # Cancelled here: the attempt is given up, and this task ends.
                reached = await attempt.reach(first, self._directory)
            except SharedError as error:
                self._task = None  # so that the next call of a caller that fails can try again
                self._owner.refused(error)
                return
            except Exception as error:  # noqa: BLE001 - no call may wait without a reported reason
                known = isinstance(error, Unreachable)
                why = str(error) if known else f"cannot reach the host hub: {error!r}"
                self._owner.disconnected(why)
            else:
                self._task = None
                self._begin(reached)
                return
            if not self._owner.is_needed:
                self._task = None
                return
            self._delay = min(_BACKOFF[1], max(_BACKOFF[0], 2 * self._delay))

    def _begin(self, reached: Reached) -> None:
        self._socket = HubSocket(
            reached.sock, encode=self._encode, received=self._received, lost=self._note_loss
        )
        self._began = time.monotonic()
        self._owner.connected(reached.welcome.get("newest", {}))
        self._socket.process(reached.rest)

    def send(self, text: str, *, at_once: bool = False) -> None:
        """Send a message as `HubSocket.send` does; only while it is connected."""
        if self._socket is not None:
            self._socket.send(text, at_once=at_once)

    def _encode(self, texts: list[str]) -> bytes:
        self.asks += 1
        return encode(texts)

    def _received(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(b"{"):  # an error, in the form of an answer to a hello
                text = line.decode("utf-8", "replace")
                self._lost(f"the host hub ended the connection: {text}")
                return
            self._owner.receive(decode(line))

    def _note_loss(self, error: Exception | None) -> None:
        if error is None:
            self._lost("the host hub has exited")
        else:
            self._lost(f"lost the connection to the host hub: {error}")

    def _lost(self, why: str) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        # Only a connection that lasted shows that the hub works. One that closes each connection at
        # once gets fewer attempts.
        lasted = time.monotonic() - self._began > _BACKOFF[1]
        self._delay = 0.0 if lasted else min(_BACKOFF[1], max(_BACKOFF[0], 2 * self._delay))
        self._owner.disconnected(why)
        if self._owner.is_needed:
            self.open()

    def drop(self) -> None:
        """Forget the connection: this is another loop or process."""
        self._attempt.give_up()
        self._task = None  # not cancelled: it belongs to the other loop, or to the parent process
        if self._socket is not None:
            self._socket.drop()
            self._socket = None

    async def aclose(self) -> None:
        """Close the connection, and end its task."""
        owner = self._owner
        if self._task is not None and owner.is_needed and not owner.has_callers:
            # A decision was made a moment ago, and there was no hub: give the attempt some time.
            # Cancelled here: nothing is closed yet, and `aclose` can be called again.
            await asyncio.wait([self._task], timeout=_CLOSING)
        self._closed = True
        self._attempt.give_up()
        if self._socket is not None:
            # Cancelled here: the socket is closed all the same.
            taken, self._socket = self._socket, None
            await taken.aclose()
        if self._task is not None:
            self._task.cancel()
            # Cancelled here: the task still ends.
            await asyncio.wait([self._task])

    def __repr__(self) -> str:
        return f"HostSchedule({self._quota[1]!r})"


_links: weakref.WeakSet[HubLink] = weakref.WeakSet()


def _drop_all() -> None:
    """Close a forked child's copies of all sockets: the hub must notice when the parent ends."""
    for link in list(_links):
        link.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)


def _own_name() -> str:
    """Return the name of this program; that of `python -m NAME` is `NAME`."""
    path = Path(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)
    return path.parent.name if path.name == "__main__.py" else path.name
