"""The connection of one client: reads its messages, and responds to them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue import Budget, LimitExceeded
from aioapiqueue.integrations.spi import Advice, account_of, hold_of, is_throttle
from aioapiqueue.recording.spi import amount_text
from aioapiqueue.spi import loops
from aioapiqueue_run.hub import protocol
from aioapiqueue_run.hub.records import Kind, Process, ProcessLoad
from aioapiqueue_run.hub.watcher import Ended

if TYPE_CHECKING:
    from aioapiqueue.schedules.spi import HubConnection
    from aioapiqueue_run.hub.calls import Calls
    from aioapiqueue_run.hub.request import Request

__all__ = ["ClientConnection"]


class ConnectionOwner(Protocol):
    """What a connection reports to: its hello and its end."""

    def belongs(self, pid: int) -> ProcessLoad:
        """Count a connection of a process; return the process's load."""

    def started(self, process: Process) -> None:
        """Note the hello of an interpreter."""

    def left(self, connection: ClientConnection) -> None:
        """Note that a connection has ended."""


class ClientConnection:
    """Serves one connection. When it ends, its slots are released, whatever the reason.

    Args:
        owner: the hub.
        calls: finds the queue of each call.
        connection: the connection.
    """

    def __init__(
        self, owner: ConnectionOwner, calls: Calls, connection: HubConnection[ClientConnection]
    ) -> None:
        self._owner = owner
        self._calls = calls
        self._connection = connection
        self._requests: dict[int, Request] = {}
        self._greeted = False
        self._may_close = False
        self._process: Process | None = None
        self.pid: int | None = None
        """The client's process id, from the kernel, or else from its hello."""
        self._client = ProcessLoad()
        if connection.peer is not None:
            self._admit(connection.peer)

    # What the connection calls.

    def received(self, lines: list[bytes]) -> None:
        """Process complete lines."""
        try:
            for line in lines:
                if not self._connection.is_open:
                    return
                self._take(protocol.parse(line))
        except protocol.Malformed as error:
            self._connection.refuse(f"protocol error: {error} (see aioapiqueue docs hub)")
        if self._connection.lacks_files:
            self.close_idle()  # now: the connection of a busy thread is idle only between two calls

    def lost(self) -> None:
        """Release the slots of the client, and leave the queues in which it waits."""
        self._owner.left(self)
        if self._process is not None:
            self._process.ended = time.time()
        for number in list(self._requests):
            self._end(number)

    # What the hub calls.

    @property
    def is_idle(self) -> bool:
        """Whether the connection may be closed, as it has no requests."""
        return self._may_close and not self._requests and self._connection.is_open

    def close_idle(self) -> bool:
        """Close the connection if it is idle, as its file is needed; return whether it was."""
        if not self.is_idle:
            return False
        # The client then knows that what it has sent meanwhile was not read, and asks again:
        # without this message, an attempt might be charged twice or never.
        self._send(idle=True)
        self._connection.finish()
        return True

    # Messages of the client.

    def _take(self, message: dict[str, Any]) -> None:
        what = message.get("do")
        if not self._greeted:
            if what != "hello":
                raise protocol.Malformed("the first message must be hello")
            self._hello(message)
        elif what == "ask":
            self._ask(message)
        elif what == "end":
            self._end(protocol.count(message, "id"), message)
        elif what == "advice":
            self._advise(protocol.count(message, "id"), protocol.advice(message))
        elif what == "free":
            self._free(protocol.count(message, "id"))
        elif what == "ping":
            self._send(pong=True)
        elif what == "leave":
            self._end(protocol.count(message, "id"), sent=False)
        elif self._process is None or not self._note(self._process, message):
            raise protocol.Malformed('"do" has an unknown value, or one for interpreters')

    @staticmethod
    def _note(process: Process, message: dict[str, Any]) -> bool:
        """Handle a message about an interpreter; return whether it was one."""
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
        version = protocol.count(message, "version")
        if version != protocol.VERSION:
            self._connection.refuse(
                f"the hub speaks version {protocol.VERSION} of its protocol, but the client "
                f"speaks version {version}. Either aioapiqueue was upgraded during the run, or "
                "PYTHONPATH contains the bootstrap of another version. Remove that bootstrap from "
                "PYTHONPATH, and start the run again"
            )
            return
        stated = protocol.count(message, "pid")
        if self.pid is None and not self._admit(stated):
            return
        self._greeted = True
        self._may_close = message.get("closable") is True
        if "executable" in message:
            self._process = Process(
                self.pid or stated,
                protocol.text(message, "executable", longest=1024),
                protocol.text(message, "python"),
                forked=message.get("forked") is True,
                image=protocol.optional(message, "image") or "",
            )
            self._owner.started(self._process)
        else:
            # Not to interpreters, which do not read.
            self._send(version=protocol.VERSION)

    def _ask(self, message: dict[str, Any]) -> None:
        number = protocol.count(message, "id")
        if number in self._requests:
            raise protocol.Malformed(f"request {number} has not ended yet")
        client = self._client
        # At most one for each call of the process in flight, which may need it: a process that
        # sends `nested` with all of its calls must not delay other processes.
        ahead = message.get("nested") is True and client.ahead < client.calls
        kind = request = None
        try:
            key, account = protocol.optional(message, "key"), protocol.optional(message, "account")
            kind = Kind(
                protocol.name(message, "service"),
                protocol.name(message, "operation"),
                protocol.optional(message, "region"),
                account if key is None else account_of(key, account),
            )
            counts = protocol.parameter_counts(message)
            again = message.get("again") is True
            request = self._calls.request(client, kind, counts, ahead=ahead, again=again)
            waits_for = request.join()
        except Exception as error:  # noqa: BLE001 - fails this call only
            if request is not None:
                request.withdraw()
            if kind is not None:
                self._calls.refused(kind, time.monotonic(), request)
            if kind is None or request is None:  # the request itself is refused
                self._send(id=number, error=_text_of(error))
            else:
                self._send(id=number, error=_refusal(kind, error))
            return
        self._requests[number] = request
        self._calls.joined(request, time.monotonic())
        if waits_for is None:
            self._start(number, request)
        else:  # a callback: a task for each of 65,536 requests would take far more memory
            waits_for.add_done_callback(lambda _: self._due(number, request))

    def _start(self, number: int, request: Request) -> None:
        self._calls.started(request, time.monotonic())
        # Without `_send` and JSON, as this is done for each call.
        self._connection.send(b'{"id":%d,"go":true}\n' % number)

    def _due(self, number: int, request: Request) -> None:
        """Start a request that has its slot, or report why it was refused."""
        if self._requests.get(number) is not request:  # it has left; a new one may use its number
            return
        try:
            request.take_slot()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - refused, closed
            kind = request.kind
            self._end(number)
            self._calls.refused(kind, time.monotonic(), request)
            self._send(id=number, error=_refusal(kind, error))
        else:
            self._start(number, request)

    def _free(self, number: int) -> None:
        """Release the slot of a call whose signing needs another call first."""
        request = self._requests.get(number)
        if request is not None and request.under_way:
            request.release()

    def _advise(self, number: int, advice: Advice) -> None:
        """Apply the advice of a response, which the client has read, to the call's queue."""
        request = self._requests.get(number)
        if request is None or not request.under_way:
            return
        try:
            request.advise(advice)
        except Exception as error:  # noqa: BLE001 - no server may end a client's connection
            loops.report_error(
                f"cannot apply the response headers of {request.kind.service}", error
            )

    def _end(
        self, number: int, outcome: dict[str, Any] | None = None, *, sent: bool = True
    ) -> None:
        """End a request that waits or is in flight. An unknown one may have ended already."""
        request = self._requests.pop(number, None)
        if request is None:
            return
        # Counted before `withdraw`, which may start the next call: the figures never show both.
        if not request.under_way:
            self._calls.left(request, time.monotonic())
            request.withdraw()
            return
        result = Ended.UNKNOWN if sent else Ended.NOT_SENT
        try:
            if outcome is not None:
                result = self._judge(request, outcome)
        finally:  # a malformed outcome ends the connection, but must not keep a permit
            self._calls.ended(request, time.monotonic(), result)
            if sent:
                request.release()
            else:
                request.withdraw()

    @staticmethod
    def _judge(request: Request, outcome: dict[str, Any]) -> Ended:
        """Return the outcome of an attempt, and report to its queue if the server throttled it."""
        status = protocol.count(outcome, "status") if "status" in outcome else None
        code = protocol.optional(outcome, "code")
        names = (("retry_after", "retry-after"), ("amz_retry_after", "x-amz-retry-after"))
        headers = {name: one for key, name in names if (one := protocol.optional(outcome, key))}
        if status is None and "failed" not in outcome:
            return Ended.UNKNOWN
        if status is not None:
            request.answered()
        if request.throttled is None:  # the client has sent no advice: judge by status and code
            kind = request.kind
            if is_throttle(code, status, operation=kind.operation, service=kind.service):
                hold, malformed = hold_of(headers)
                request.advise(Advice(throttled=True, hold=hold, malformed=malformed))
        if request.throttled:
            return Ended.THROTTLED
        # S3 reports some errors with status 200, and a code in the body.
        if "failed" in outcome or (
            status is not None and (status >= 400 or (code is not None and status < 300))  # noqa: PLR2004 - HTTP's
        ):
            return Ended.FAILED
        return Ended.ANSWERED

    def _admit(self, pid: int) -> bool:
        """Note the client's process, and refuse the connection if the process has too many."""
        self.pid = pid
        self._client = self._owner.belongs(pid)
        most = protocol.MAX_CONNECTIONS_PER_PROCESS
        if self._client.connections <= most:
            return True
        self._connection.refuse(
            f"process {pid} has reached the maximum of {most:,} connections. Each calling thread "
            "needs one: use fewer threads"
        )
        return False

    def _send(self, **message: object) -> None:
        self._connection.send(protocol.to_line(**message))


def _refusal(kind: Kind, error: BaseException) -> str:
    """Return why the queue of a call has refused it."""
    text = _text_of(error)
    if isinstance(error, LimitExceeded) and isinstance(error.limit, Budget):
        # The error itself has the remedy for programs that use the library.
        left, cost = amount_text(error.remaining), amount_text(error.cost)
        text = (
            f'the budget "{error.limit}" has {left} left, and this call would cost {cost}: set a '
            "larger one with --limit"
        )
    return f"{kind.service} {kind.operation}: {text}"


def _text_of(error: BaseException) -> str:
    return f"{error}" or type(error).__name__
