"""API calls, and their HTTP attempts.

Signing may need a call of its own (to refresh credentials, or for a session with an S3 directory
bucket), and other calls may wait, at a lock of botocore's, until that one has ended. So it goes
ahead of all waiters, and every call that may be sent and is not signed yet gives its slot up;
otherwise a queue that bounds how many calls run at once could wait for itself.
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
        signing: the attempts of its kind that may be sent, and are not signed yet.
        ahead: those that wait, while a call that may be sent waits for them.
    """

    def __init__(self, signing: set[HttpAttempt], ahead: set[HttpAttempt]) -> None:
        self.number = next(_numbers)
        self.question = b""
        self.signing = signing
        self.ahead = ahead

    async def start(self, fields: dict[str, object], call: BotocoreCall | None) -> None:
        """Wait until it may be sent; interrupted or cancelled, give everything up.

        Args:
            fields: what the hub has to know of it.
            call: whose attempt it is; None where nobody would end it.
        """
        outer = None if call is None else call.begin()
        try:
            self.question = line(do="ask", id=self.number, nested=outer is not None, **fields)
            self.ask()
            if outer is not None:
                # Not before it has asked, so that it gets the slots.
                self.ahead.add(self)
                outer.free()
                for other in list(self.signing):
                    other.free()
            await self.wait()
            self.ahead.discard(self)
            if call is None:
                # Sent without `_make_api_call`: nobody would end it, so it is over as it starts.
                self.end({})
                return
            call.attempt = self  # holds the slot until the call ends
            self.signing.add(self)
            if self.ahead:
                self.free()
        except BaseException:  # refused, or interrupted, wherever that may be
            self.ahead.discard(self)
            self.leave()
            raise

    def free(self) -> None:
        """Let a call go ahead that this one needs. Other threads may call it."""
        self.send(line(do="free", id=self.number))

    def leave(self) -> None:
        """Leave the queue, or give back a slot that has not been used."""
        self.send(line(do="leave", id=self.number))

    def end(self, outcome: dict[str, object]) -> None:
        """Give the slot back, and report what came of it."""
        self.send(line(do="end", id=self.number, **outcome))

    @staticmethod
    def drive(coroutine: Any) -> Any:
        """Return what botocore is to get for a coroutine: itself, or its result."""
        return coroutine

    @abstractmethod
    def ask(self) -> None:
        """Send the question."""

    @abstractmethod
    async def wait(self) -> None:
        """Wait until the hub lets it go."""

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Send a message that has no answer, if it can be sent."""


class BotocoreCall:
    """One API call: its present attempt, and the call that it serves."""

    __slots__ = ("answer", "attempt", "outer", "parameters")

    def __init__(self, parameters: object) -> None:
        self.outer = current.get()
        self.parameters = parameters
        self.attempt: HttpAttempt | None = None
        self.answer: dict[str, object] = {}
        """What has arrived for the attempt, should botocore make nothing of it."""

    def begin(self) -> HttpAttempt | None:
        """End the attempt before this one; return the attempt that waits for this call, if any."""
        self.end()
        return None if self.outer is None else self.outer.attempt

    def fail(self, error: BaseException) -> None:
        """End an attempt that got no answer, or one that botocore cannot read."""
        self.end(**self.answer, failed=text(type(error).__name__))

    def end(self, **outcome: object) -> None:
        """End the present attempt, if there is one."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.signing.discard(attempt)
            attempt.end(outcome)


current: ContextVar[BotocoreCall | None] = ContextVar("aioapiqueue_call", default=None)
"""The call that this task or thread makes."""


def text(value: Any) -> str | None:
    """Return a value as the protocol has it: a text of at most 128 characters, or None."""
    return str(value)[:128] if value else None
