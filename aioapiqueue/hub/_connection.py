"""One client's connection: reads its messages, and answers them."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, cast

from aioapiqueue.hub import _protocol as protocol
from aioapiqueue.hub._records import Client, Kind, Process
from aioapiqueue.hub._request import Request
from aioapiqueue.hub._socket import peer_of
from aioapiqueue.integrations._aws import account_of, hold_of, is_throttle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue import ApiQueue
    from aioapiqueue.hub._server import Hub

__all__ = ["Connection"]


_READ_BYTES = 2 * protocol.MAX_LINE
"""What is read of a connection in one pass of the loop: some 80 calls, then others have theirs."""


class Connection(asyncio.BufferedProtocol):
    """Serves one connection; whatever becomes of it, its places are given back.

    Args:
        hub: whose connection it is.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._buffer = bytearray()
        self._rest = b""
        self._requests: dict[int, Request] = {}
        self._greeted = False
        self._may_close = False
        self.used = 0.0
        """When it was last found idle, as `time.monotonic()`."""
        self._process: Process | None = None
        self.pid: int | None = None
        """Whose it is: as the kernel knows, or else as it says."""
        self._client = Client()
        self._transport: asyncio.Transport

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client if it is of this user."""
        self._transport = cast("asyncio.Transport", transport)
        self._hub.joined(self)
        try:
            uid, peer = peer_of(transport.get_extra_info("socket"))
        except OSError:  # it has gone already
            self._transport.abort()
            return
        if uid is not None and uid != os.geteuid():
            self.refuse(f"the hub serves the user with the id {os.geteuid()} only, not {uid}")
        elif peer is not None:
            self._belong(peer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Give back the places of a client that has gone, and leave its waits."""
        self._hub.left(self)
        if self._process is not None:
            self._process.ended = time.time()
        self._end_all()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's name
        """Say where to put what is read; kept for so long only."""
        self._buffer = bytearray(_READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the lines that are complete."""
        data, self._buffer = self._buffer[:nbytes], bytearray()
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                if self._transport.is_closing():
                    return
                self._take(protocol.parse(line))
            protocol.check_length(self._rest)
        except protocol.Malformed as error:
            self.refuse(f"{error}: see docs/hub.md")
        if self.is_idle:
            self.used = time.monotonic()
            self._hub.idle(self)

    # A client that does not read what it is sent is not read from either: so what is kept for it
    # is bounded. If it goes, writing fails.

    def pause_writing(self) -> None:
        """Stop listening to a client that does not read."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Listen to it again."""
        self._transport.resume_reading()

    # What the hub calls.

    def refuse(self, why: str) -> None:
        """Tell the client why, and close the connection."""
        self._send(error=why)
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # closing would wait until it reads, maybe for ever
        else:
            self._transport.close()
        self._end_all()

    @property
    def is_idle(self) -> bool:
        """Whether it may be closed, as nothing is asked on it."""
        return self._may_close and not self._requests and not self._transport.is_closing()

    def queues(self) -> Iterator[ApiQueue]:
        """Yield the queues that its requests wait for, or will, or have slots of."""
        for request in self._requests.values():
            for queue, _, _ in request.needs:
                yield queue

    def close_idle(self) -> None:
        """Close the connection, as its file is needed.

        What the client has sent meanwhile is not read; it knows so by what it hears here.
        """
        self._send(idle=True)
        self._transport.close()

    # What the client says.

    def _take(self, message: dict[str, Any]) -> None:
        what = message.get("do")
        if not self._greeted:
            if what != "hello":
                raise protocol.Malformed("the first message is not hello")
            self._hello(message)
        elif what == "ask":
            self._ask(message)
        elif what == "end":
            self._end(protocol.count(message, "id"), message)
        elif what == "free":
            self._free(protocol.count(message, "id"))
        elif what == "ping":
            self._send(pong=True)
        elif what == "leave":
            self._leave(protocol.count(message, "id"))
        elif self._process is None or not self._note(self._process, message):
            raise protocol.Malformed('"do" is none of the words of the protocol')

    @staticmethod
    def _note(process: Process, message: dict[str, Any]) -> bool:
        """Note what an interpreter says of itself; return whether there is such a message."""
        what = message.get("do")
        if what == "hooked":
            process.botocore = protocol.text(message, "botocore")
            process.late = process.late or message.get("late") is True
        elif what == "unhooked":
            process.unhooked = protocol.text(message, "why", longest=512)
        elif what == "bye":
            process.exited = True
        else:
            return False
        return True

    def _hello(self, message: dict[str, Any]) -> None:
        if message.get("version") != protocol.VERSION:
            self.refuse(
                f"the hub speaks version {protocol.VERSION} of its protocol, the client does not: "
                "the program runs with the bootstrap of another aioapiqueue"
            )
            return
        stated = protocol.count(message, "pid")
        if self.pid is None and not self._belong(stated):
            return
        self._greeted = True
        self._may_close = message.get("closable") is True
        if "executable" in message:
            self._process = Process(
                self.pid or stated,
                protocol.text(message, "executable", longest=1024),
                protocol.text(message, "python"),
                forked=message.get("forked") is True,
            )
            self._hub.started(self._process)
        else:
            # Not where nobody reads it: had the client gone already, the write would fail, and
            # take with it what it has said besides.
            self._send(version=protocol.VERSION)

    def _ask(self, message: dict[str, Any]) -> None:
        number = protocol.count(message, "id")
        if number in self._requests:
            raise protocol.Malformed(f"request {number} is not over yet")
        client = self._client
        if not self._hub.has_room_for(client):
            self._send(id=number, error="too many calls wait or are under way at once")
            return
        # At most as many as there are calls of that process that may need them: whatever a client
        # says, the others have their turns.
        ahead = message.get("nested") is True and client.ahead < client.calls
        request = None
        try:
            key, account = protocol.optional(message, "key"), protocol.optional(message, "account")
            kind = Kind(
                protocol.name(message, "service"),
                protocol.name(message, "operation"),
                protocol.optional(message, "region"),
                account if key is None else account_of(key, account),
            )
            figure = self._hub.find(kind)
            turns = self._hub.turns(kind, figure, protocol.facts(message))
            figure = self._hub.in_lane(kind, figure, turns)
            of_queues = [self._hub.of_queue(turn.queue, kind.service) for turn in turns]
            request = Request(kind, figure, of_queues, turns, ahead=ahead)
            waits_for = request.advance()
        except Exception as error:  # noqa: BLE001 - fails this call, and nothing else
            if request is not None:
                request.withdraw()
            self._send(id=number, error=_say(error))
            return
        self._requests[number] = request
        self._hub.requests += 1
        client.requests += 1
        client.ahead += ahead
        figure.waiting += 1
        if waits_for is None:
            self._go(number, request)
        else:
            waits_for.add_done_callback(lambda _: self._due(number, request))

    def _due(self, number: int, request: Request) -> None:
        """Heed that a turn of one that waited has come; not if it has left meanwhile."""
        if self._requests.get(number) is not request:
            return
        try:
            turn = request.advance()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - refused, closed
            kind = request.kind
            self._end(number)
            self._send(id=number, error=f"{kind.service} {kind.operation}: {_say(error)}")
            return
        if turn is None:
            self._go(number, request)
        else:
            turn.add_done_callback(lambda _: self._due(number, request))

    def _go(self, number: int, request: Request) -> None:
        request.under_way = True
        if request.ahead:
            self._client.ahead -= 1
        else:
            self._client.calls += 1
        request.figure.waiting -= 1
        request.figure.running += 1
        now, waited = time.monotonic(), 0.0
        for slot, of_queue in zip(request.slots, request.of_queues, strict=True):
            waited += slot.waited
            of_queue.let_go(now, slot.waited)
        request.figure.let_go(now, waited)
        if self._hub.on_start is not None:
            self._hub.on_start(request.figure)
        self._transport.write(b'{"id":%d,"go":true}\n' % number)

    def _free(self, number: int) -> None:
        """Give back the place of a call whose signing needs a call of its own, ahead of it."""
        request = self._requests.get(number)
        if request is not None and request.under_way:
            request.release()

    def _leave(self, number: int) -> None:
        """Forget a request that its caller no longer wants; nothing was sent for it."""
        request = self._requests.pop(number, None)
        if request is None:
            return
        self._forget(request)
        request.withdraw()
        if request.under_way:  # its turn came while this message was on its way
            for figure in (request.figure, *request.of_queues):
                figure.calls -= 1
            request.figure.running -= 1
        else:
            request.figure.waiting -= 1

    def _end(self, number: int, outcome: dict[str, Any] | None = None) -> None:
        """Forget a request, wherever it is; what is not known (any more) is let be."""
        request = self._requests.get(number)
        if request is None:
            return
        if not request.under_way:
            self._leave(number)
            return
        del self._requests[number]
        self._forget(request)
        request.figure.running -= 1
        try:
            if outcome is not None:
                self._judge(request, outcome)
        finally:
            request.release()

    def _forget(self, request: Request) -> None:
        """Count a request no more, which waits or is under way."""
        self._hub.requests -= 1
        self._client.requests -= 1
        if not request.ahead:
            self._client.calls -= request.under_way
        elif not request.under_way:
            self._client.ahead -= 1

    @staticmethod
    def _judge(request: Request, outcome: dict[str, Any]) -> None:
        """Count what came of an attempt, and tell its queue if the other side pushed back."""
        figure = request.figure
        status = protocol.count(outcome, "status") if "status" in outcome else None
        code = protocol.optional(outcome, "code")
        headers = {
            "retry-after": protocol.optional(outcome, "retry_after") or "",
            "x-amz-retry-after": protocol.optional(outcome, "amz_retry_after") or "",
        }
        kind = request.kind
        if is_throttle(code, status, operation=kind.operation, service=kind.service):
            for one in (figure, *request.of_queues):
                one.throttled += 1
            if request.slots and request.queue is not None:
                # The service's own comes last. Which of its limits it was, no answer says.
                slot = request.slots[-1]
                hold, odd = hold_of({name: value for name, value in headers.items() if value})
                slot.throttled(hold)
                if odd:
                    request.queue.odd(key=slot.key)
        elif "failed" in outcome or (
            status is not None and (status >= 400 or (code is not None and status < 300))  # noqa: PLR2004 - HTTP's
        ):
            for one in (figure, *request.of_queues):
                one.errors += 1  # S3 has errors with status 200

    def _belong(self, pid: int) -> bool:
        """Note whose connection this is; refuse it if that process has too many."""
        self.pid = pid
        self._client = self._hub.belongs(pid)
        most = protocol.MAX_CONNECTIONS_PER_PROCESS
        if self._client.connections <= most:
            return True
        self.refuse(
            f"process {pid} has {most:,} connections, one for each thread that calls, and may not "
            "have more"
        )
        return False

    def _end_all(self) -> None:
        for number in list(self._requests):
            self._end(number)

    def _send(self, **message: object) -> None:
        if not self._transport.is_closing():
            self._transport.write(protocol.to_line(**message))


def _say(error: BaseException) -> str:
    return f"{error}" or type(error).__name__
