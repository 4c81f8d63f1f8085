"""API calls, and their HTTP attempts.

Signing may need a call of its own (to refresh credentials, or for a session with an S3 directory
bucket), and other calls may wait for that one at a lock of botocore. So it overtakes all waiting
calls, and every call that has its slot and is not signed yet gives the slot up. Otherwise a queue
with a `concurrency` limit could wait for itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from itertools import count
from typing import Any

from .wires import line

_numbers = count(1)


class HttpAttempt(ABC):
    """One HTTP attempt: it waits, then holds a slot until it ends.

    Args:
        signing: the attempts of its loop, or of all threads, that have a slot and are not signed.
        ahead: the attempts of its loop, or of all threads, that wait and that the signing of
            another attempt needs.
    """

    def __init__(self, signing: set[HttpAttempt], ahead: set[HttpAttempt]) -> None:
        self.number = next(_numbers)
        self.question = b""
        self.signing = signing
        self.ahead = ahead

    async def start(self, fields: dict[str, object], call: BotocoreCall | None) -> None:
        """Wait until it may be sent; if interrupted or cancelled, give everything up.

        Args:
            fields: what the hub must know about it.
            call: its API call; None if the attempt belongs to none.
        """
        outer = None if call is None else call.begin()
        try:
            self.question = line(do="ask", id=self.number, nested=outer is not None, **fields)
            self.ask()
            if outer is not None:
                # Only after the question, so that this attempt gets the freed slots.
                self.ahead.add(self)
                outer.free()
                for other in list(self.signing):
                    other.free()
            await self.wait()
            self.ahead.discard(self)
            if call is None:
                # Sent without `_make_api_call`: nothing would end it later, so it ends as it
                # starts.
                self.end({})
                return
            call.attempt = self  # holds the slot until the call ends
            self.signing.add(self)
            if self.ahead:  # the signing of this attempt may have to wait for one of these
                self.free()
        except BaseException:  # refused, cancelled, or interrupted at any line
            self.ahead.discard(self)
            self.leave()
            raise

    def free(self) -> None:
        """Give the slot up for a call that this one needs. Other threads may call this."""
        self.send(line(do="free", id=self.number))

    def leave(self) -> None:
        """Leave the queue, or return an unused slot."""
        self.send(line(do="leave", id=self.number))

    def end(self, outcome: dict[str, object]) -> None:
        """Release the slot, and report the outcome."""
        self.send(line(do="end", id=self.number, **outcome))

    @staticmethod
    def drive(coroutine: Any) -> Any:
        """Return what botocore expects for a coroutine: the coroutine, or its result."""
        return coroutine

    @abstractmethod
    def ask(self) -> None:
        """Send the question."""

    @abstractmethod
    async def wait(self) -> None:
        """Wait until the hub lets the attempt start."""

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Send a message that has no answer, if it can be sent."""


class BotocoreCall:
    """One API call: its current attempt, and the outer call whose signing makes this call."""

    __slots__ = ("answer", "attempt", "outer", "parameters")

    def __init__(self, parameters: object) -> None:
        self.outer = current.get()
        self.parameters = parameters
        self.attempt: HttpAttempt | None = None
        self.answer: dict[str, object] = {}
        """The response to the attempt, in case botocore cannot parse it."""

    def begin(self) -> HttpAttempt | None:
        """End the last attempt; return the attempt of the outer call that waits for this call."""
        self.end()
        return None if self.outer is None else self.outer.attempt

    def fail(self, error: BaseException) -> None:
        """End an attempt without a response, or with one that botocore cannot read."""
        self.end(**self.answer, failed=text(type(error).__name__))

    def end(self, **outcome: object) -> None:
        """End the current attempt, if there is one."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.signing.discard(attempt)
            attempt.end(outcome)


current: ContextVar[BotocoreCall | None] = ContextVar("aioapiqueue_call", default=None)
"""The call that this task or thread makes."""


def text(value: Any) -> str | None:
    """Return a value in the protocol's form: a text of at most 128 characters, or None."""
    return str(value)[:128] if value else None
