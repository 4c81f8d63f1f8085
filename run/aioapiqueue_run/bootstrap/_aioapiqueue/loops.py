"""Attempts of tasks, on one connection for each event loop, without a task of its own."""

from __future__ import annotations

import _socket
import asyncio
import weakref
from typing import Any

from . import process, wires
from .attempts import HttpAttempt
from .wires import CallWire, PacingError, calls, refused, unreachable


class _LoopWire:
    """The connection of an event loop, for all of its tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wire = CallWire(_socket.socket, closable=False)
        self.wire.sock.settimeout(0)
        self.waiting: dict[object, TaskAttempt] = {}
        self.signing: set[HttpAttempt] = set()
        self.ahead: set[HttpAttempt] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = b""
        self._error: PacingError | None = None
        # Weak: the loop's selector refers to this object, which must not keep the loop alive.
        self.loop = weakref.ref(loop)
        loop.add_reader(self.wire.sock.fileno(), self._receive)

    @property
    def works(self) -> bool:
        """Whether attempts can ask on it."""
        return self._error is None and self.wire.is_intact

    def ask(self, attempt: TaskAttempt) -> None:
        """Send an attempt's question."""
        self.waiting[attempt.number] = attempt
        self.send(attempt.question)

    def send(self, message: bytes) -> None:
        """Send, or have the loop send it once the hub has read what was sent."""
        waits = bool(self._unsent)
        self._unsent += self.wire.take_greeting() + message
        if not waits:  # else the loop calls `_flush`
            self._flush()
        self._watch()

    def _flush(self) -> None:
        try:
            sent = self.wire.sock.send(self._unsent, self.wire.flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._receive()  # the hub may have sent the reason before it closed the connection
            self._lose(unreachable(error))
            return
        self._unsent = self._unsent[sent:]
        loop = self.loop()
        if loop is not None and self._unsent:
            loop.add_writer(self.wire.sock.fileno(), self._flush)
        elif loop is not None:
            loop.remove_writer(self.wire.sock.fileno())

    def _receive(self) -> None:
        try:
            messages = self.wire.receive()
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(unreachable(error))
            return
        for message in messages:
            self._apply(message)
        self._watch()

    def _apply(self, message: dict[str, Any]) -> None:
        why = message.get("error")
        attempt = self.waiting.pop(message.get("id"), None)
        if why is not None and "id" not in message:
            self._lose(refused(why))
        elif attempt is not None:
            attempt.answer(None if why is None else refused(why))

    def _watch(self) -> None:
        """Keep a timer while attempts wait, to notice a hub that does not answer."""
        loop = self.loop()
        if self._timer is not None and not self.waiting:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and self.waiting and loop is not None:
            self._timer = loop.call_later(wires.SILENCE, self._look)

    def _look(self) -> None:
        self._receive()  # if the loop was blocked, the answer may be in the socket
        self._timer = None
        if self.waiting and self.wire.must_ask():
            self.send(wires.PING)
        self._watch()

    def _lose(self, error: PacingError) -> None:
        """Fail all waiting attempts, as the connection has ended."""
        if self._error is not None:
            return
        self._error = error
        waiting, self.waiting = self.waiting, {}
        self._watch()
        loop = self.loop()
        if loop is not None and self.wire.is_intact:  # else the number belongs to another file
            loop.remove_reader(self.wire.sock.fileno())
            loop.remove_writer(self.wire.sock.fileno())
        self.wire.close()
        for attempt in waiting.values():
            attempt.answer(error)


class TaskAttempt(HttpAttempt):
    """A task's attempt, one of many on its loop's connection."""

    def __init__(self) -> None:
        self.link = _link()
        super().__init__(self.link.signing, self.link.ahead)
        self._go: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, error: PacingError | None) -> None:
        """Let the attempt start, or fail it."""
        if self._go.done():  # cancelled
            return
        if error is None:
            self._go.set_result(None)
        else:
            self._go.set_exception(error)

    def ask(self) -> None:
        self.link.ask(self)

    async def wait(self) -> None:
        await self._go

    def leave(self) -> None:
        self.link.waiting.pop(self.number, None)
        super().leave()

    def send(self, message: bytes) -> None:
        link = self.link
        loop = link.loop()
        if not link.works or loop is None or loop.is_closed():
            return
        if _running_loop() is loop:
            link.send(message)
        else:
            # A coroutine is closed after its loop has stopped, or another thread frees its slot.
            loop.call_soon_threadsafe(link.send, message)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _link() -> _LoopWire:
    """Return the running loop's connection."""
    loop = _running_loop()
    if loop is None:
        raise refused("aioapiqueue paces aiobotocore on asyncio only")
    process.announce()
    links = calls.links
    link: _LoopWire | None = links.get(loop)
    if link is not None and link.works:
        return link
    for other, old in list(links.items()):
        if other.is_closed():
            old.wire.close()
            del links[other]
    try:
        link = links[loop] = _LoopWire(loop)
    except OSError as error:
        raise unreachable(error) from None
    return link
