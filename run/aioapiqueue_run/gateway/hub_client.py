"""The gateway's connection to the run hub, for all requests. docs/hub.md has the protocol."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
from typing import TYPE_CHECKING

from anyio import to_thread

from aioapiqueue.schedules.spi import HubSocket, connect_to_hub, send_hello
from aioapiqueue_run.hub.spi import MAX_LINE, VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue_run.gateway.calls import ApiCall

__all__ = ["HubRequest", "NotPacedError", "RunHubClient"]

_to_json = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes one for each call


class NotPacedError(Exception):
    """Raised if a call cannot be paced, and so is not sent; contains the reason."""


class HubRequest:
    """A request that waits at the hub, or has its turn.

    Attributes:
        turn: done when the call may be sent; fails with `NotPacedError` if it may not.
        good_until: the time until which the call may be sent, as `time.time()`.
    """

    def __init__(self, client: RunHubClient, number: int) -> None:
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.good_until = math.inf
        self._client = client
        self._number = number

    def leave(self) -> None:
        """Leave the queue, or give back the turn if nothing was sent."""
        self._client.forget(self._number)
        self._client.send(do="leave", id=self._number)
        if not self.turn.cancel() and not self.turn.cancelled():
            self.turn.exception()  # retrieved, because asyncio logs exceptions that are not

    def advise(self, advice: Mapping[str, object]) -> None:
        """Report the advice of the response.

        Args:
            advice: fields of the protocol: `throttled`, `hold`, `remaining` and others.
        """
        self._client.send(do="advice", id=self._number, **advice)

    def end(self, outcome: Mapping[str, object]) -> None:
        """Report the outcome.

        Args:
            outcome: fields of the protocol: `status`, `code`, `failed` and others.
        """
        self._client.forget(self._number)
        self._client.send(do="end", id=self._number, **outcome)


class RunHubClient:
    """A connection to the run hub.

    Args:
        path: the path of the hub's socket.
    """

    def __init__(self, path: str) -> None:
        self.lost = asyncio.Event()
        """Set when the connection has ended."""
        self._path = path
        self._waiting: dict[int, HubRequest] = {}
        self._number = 0
        self._socket: HubSocket
        self._last_words = ""
        """Why the hub closes the connection, if it has said so."""
        self.why = ""
        """Why the connection has ended."""

    async def open(self) -> None:
        """Connect.

        Raises:
            NotPacedError: there is no hub, or it belongs to another user, or has another version.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Cancelled here: the thread ends first, after some seconds at most.
            rest = await to_thread.run_sync(self._greet, sock)
        except (OSError, ValueError) as error:
            sock.close()
            raise NotPacedError(f"no hub of this run is at {self._path}: {error}") from None
        except BaseException:
            sock.close()
            raise
        self._socket = HubSocket(
            sock, encode=_encode, received=self._received, lost=self._note_loss
        )
        self._socket.process(rest)

    def _greet(self, sock: socket.socket) -> bytes:
        connect_to_hub(sock, self._path)
        hello = {"do": "hello", "version": VERSION, "pid": os.getpid()}
        answer, rest = send_hello(sock, hello)
        if answer.get("version") != VERSION:
            raise NotPacedError(answer.get("error", "it speaks another version of the protocol"))
        return rest

    def ask(self, call: ApiCall, *, again: bool = False) -> HubRequest:
        """Ask for the turn of a call.

        Args:
            call: the call.
            again: whether the call had a turn that it could not use. Default: False.

        Raises:
            NotPacedError: the connection has ended.
        """
        if self.lost.is_set():
            raise NotPacedError(self.why)
        self._number += 1
        text = _text_of(
            do="ask",
            id=self._number,
            service=call.service,
            operation=call.operation,
            region=call.region,
            key=call.key,
            parameters=call.parameters or None,
            again=again or None,
        )
        # The hub ends a connection at a longer line, which would fail all calls of the run.
        if len(text) >= MAX_LINE:
            raise NotPacedError(f"the description of this call exceeds {MAX_LINE:,} bytes")
        # Noted before it is sent, so that no response finds it missing.
        ask = self._waiting[self._number] = HubRequest(self, self._number)
        self._socket.send(text)
        return ask

    def forget(self, number: int) -> None:
        """Stop tracking a waiting request."""
        self._waiting.pop(number, None)

    def refuse_all(self, why: str) -> None:
        """Refuse all waiting and future requests. Requests in flight may still end."""
        if not self.lost.is_set():  # the first reason is the cause, later ones follow from it
            self.why = why
            self.lost.set()
        for ask in self._waiting.values():
            _refuse(ask, self.why)
        self._waiting.clear()

    async def aclose(self) -> None:
        """Close the connection. Waiting requests are refused."""
        self.refuse_all("the gateway has closed its connection to aioapiqueue's hub")
        # Cancelled here: the connection is closed all the same.
        await self._socket.aclose()

    def _received(self, lines: list[bytes]) -> None:
        for line in lines:
            message = json.loads(line)
            error = message.get("error")
            if "id" not in message:
                self._last_words = error or ""
                continue
            ask = self._waiting.pop(message["id"], None)
            if ask is None or ask.turn.done():  # it left while the hub's message was on its way
                continue
            if error is None:
                ask.turn.set_result(None)
            else:
                _refuse(ask, error)

    def _note_loss(self, error: Exception | None) -> None:
        why = self._last_words or error or "it has ended"
        self.refuse_all(f"aioapiqueue's hub is unreachable: {why}")

    def send(self, **message: object) -> None:
        """Send a message, with all others of this pass of the loop."""
        self._socket.send(_text_of(**message))


def _text_of(**message: object) -> str:
    return _to_json({name: one for name, one in message.items() if one is not None})


def _encode(texts: list[str]) -> bytes:
    return "\n".join([*texts, ""]).encode("ascii")


def _refuse(ask: HubRequest, why: str) -> None:
    if not ask.turn.done():
        ask.turn.set_exception(NotPacedError(why))
        ask.turn.exception()  # marks it as retrieved, as perhaps no task awaits it
