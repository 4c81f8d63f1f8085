"""Attempts of threads, each on a connection of its own."""

from __future__ import annotations

from _socket import timeout  # no TimeoutError before Python 3.10
from contextlib import suppress
from typing import Any

from . import process
from .attempts import HttpAttempt
from .wires import PING, CallWire, calls, refused, unreachable

_MOST_IDLE = 256
"""Most connections kept for the next threads that call; more threads are rare."""


class ThreadAttempt(HttpAttempt):
    """A thread's attempt: it blocks where a task's attempt would wait."""

    def __init__(self) -> None:
        super().__init__(calls.signing, calls.ahead)
        self._wire: CallWire | None = None

    @staticmethod
    def drive(coroutine: Any) -> Any:
        # Its `wait` blocks and never yields, so that the first step is the last.
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError("a blocking call waited for an event loop")

    def ask(self) -> None:
        process.announce()
        with suppress(IndexError):  # none is idle
            self._wire = calls.idle.pop()
            if self._wire.send(self.question):
                return
        self._ask_again()

    def _ask_again(self) -> None:
        """Ask on a new connection, as the hub has not read the question on the last one, if any."""
        import socket

        old, self._wire = self._wire, None
        if old is not None:
            old.close()
        try:
            self._wire = CallWire(socket.socket, closable=True)
        except OSError as error:
            raise unreachable(error) from None
        self._wire.send(self.question)  # if it is not sent, `wait` reads why

    async def wait(self) -> None:
        while self._wire is not None:
            try:
                messages = self._wire.receive()
            except timeout:
                # If the hub has closed the connection, its last messages are read next.
                if self._wire.must_ask():
                    self.send(PING)
                continue
            except OSError as error:
                raise unreachable(error) from None
            for message in messages:
                if "error" in message:
                    raise refused(message["error"])
                if "idle" in message:
                    # The hub needed the file, and closed it before it read the question. So the
                    # attempt cannot be charged twice.
                    self._ask_again()
                    break
                if message.get("id") == self.number:
                    return

    def leave(self) -> None:
        """Leave the queue, and close the connection, whose attempts the hub then drops."""
        super().leave()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def end(self, outcome: dict[str, object]) -> None:
        super().end(outcome)
        wire, self._wire = self._wire, None
        if wire is not None and wire in process.wires and len(calls.idle) < _MOST_IDLE:
            calls.idle.append(wire)
        elif wire is not None:
            wire.close()

    def send(self, message: bytes) -> None:
        wire = self._wire
        if wire is not None:  # if it is not sent, the next call will notice, and raise
            wire.send(message)
