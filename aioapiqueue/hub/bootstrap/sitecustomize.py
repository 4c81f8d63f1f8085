"""Asks aioapiqueue's hub before each HTTP attempt of botocore and aiobotocore in this process.

`aioapiqueue run` puts this file's folder on PYTHONPATH and the hub's socket into AIOAPIQUEUE_HUB,
so that every Python of the run imports it at its start, whichever environment it lives in. It is
all of aioapiqueue that is there: it needs the standard library of Python 3.9 or later, and botocore
1.31 or later if the program uses any. The protocol is in aioapiqueue's docs/hub.md.

Until botocore is imported it costs one message to the hub and one entry in `sys.meta_path`. Then
every client class that botocore or aiobotocore makes is given event handlers and a `finally` around
its calls, as a cancelled one gets no event. An attempt waits in `request-created.<service>`, which
comes once for each, before it is signed; it ends with `response-received.<service>`.

Without the hub nothing is sent: the call raises `PacingError`.
"""

# Imports are late, so that a program which never calls does not pay for them; botocore has no
# types; and there are versions of Python to serve that have no `X | None` at run time.
# ruff: noqa: PLC0415, ANN401, UP045, UP007, INP001

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING would cost every program the import of typing
if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Iterable
    from contextvars import ContextVar
    from types import ModuleType
    from typing import Any, Optional, Union

    Call = Optional["_Call"]
    Place = Optional[Union["_Place", "_LinkPlace"]]
    Fields = dict[str, object]

_HUB = os.environ.get("AIOAPIQUEUE_HUB", "")
_VERSION = 1
_PATIENCE = 5.0
"""Seconds in which the hub has to accept a connection."""
_SILENCE = 30.0
"""Seconds without a word from the hub after which a call that waits asks whether it is there.

A call that waits its turn for an hour is no fault, so the time alone says nothing. People look
after half a minute at a program that stands still, and the hub has time for a question of each
connection that waits in every half a minute.
"""
_ANSWER = 5.0
"""Seconds in which the hub has to answer that. It does so at once, unless it is stopped."""
_MOST_FACTS = 64
_LONGEST_FACT = 64
_MOST_IDLE = 256
"""Connections kept for the next thread that calls."""


class PacingError(RuntimeError):
    """Raised by a call that was not sent, because the hub did not let it go.

    No error of botocore's, so that neither its retries nor `except ClientError` take it for an
    answer of AWS.
    """

    __module__ = "aioapiqueue"

    def __reduce__(self) -> tuple[type[RuntimeError], tuple[object, ...]]:
        """Travel between processes as a RuntimeError: this class cannot be imported there."""
        return RuntimeError, (f"aioapiqueue.PacingError: {self}",)


def _refused(why: object) -> PacingError:
    return PacingError(f"the call was not sent: {why}")


def _unreachable(why: object) -> PacingError:
    import errno

    if isinstance(why, OSError) and why.errno in {errno.EMFILE, errno.ENFILE}:
        return _refused(
            f"there is no file left for its way to aioapiqueue's hub ({why}). Each thread that "
            "waits needs one: use fewer, or raise the limit (ulimit -n)"
        )
    return _refused(
        f"nobody paces it, as aioapiqueue's hub at {_HUB} cannot be reached ({why}). The hub ends "
        'with the "aioapiqueue run" that started it: start the program under a new one, or unset '
        "AIOAPIQUEUE_HUB to call unpaced"
    )


class _Suppress:
    """contextlib.suppress, which is slow to import."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self.error)


def _line(**fields: object) -> bytes:
    """Return a message: json.dumps, which is slow to import."""
    try:
        from _json import encode_basestring_ascii as quote
    except ImportError:  # not CPython
        from json import dumps as quote
    parts = []
    for key, value in fields.items():
        if value is not None and value is not False:
            text = quote(value) if isinstance(value, str) else "true" if value is True else value
            if isinstance(value, dict):
                text = "{" + ",".join(f"{quote(name)}:{own}" for name, own in value.items()) + "}"
            parts.append(f'"{key}":{text}')
    return ("{" + ",".join(parts) + "}\n").encode()


# Connections, and what becomes of them in forked children.


def _peer(sock: socket.socket) -> tuple[int | None, int | None]:
    """Return the user's and the process's id of who listens at the other end, as the kernel knows.

    Each is None where the kernel does not say; the socket's folder, which only its owner may
    enter, then has to do.
    """
    import _socket

    platform: str = sys.platform
    if platform == "linux":  # struct ucred: pid, uid, gid
        found = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        pid = int.from_bytes(found[:4], sys.byteorder)
        return int.from_bytes(found[4:8], sys.byteorder), pid or None  # 0: another PID namespace
    if platform == "darwin" or platform.startswith(("freebsd", "dragonfly")):
        found = sock.getsockopt(0, 1, 128)  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred
        return int.from_bytes(found[4:8], sys.byteorder), None
    return None, None


class _Wire:
    """A connection to the hub, and which socket it is.

    Programs that become daemons close every file number, and files of theirs get these numbers
    anew; nothing of ours may be written into one of those.
    """

    def __init__(self, make: Any) -> None:
        import _socket  # what socket, which is slow to import, is made of

        self.rest = b""
        self.taken_in = False
        """Whether the hub has said anything here; before that, it may lack a file for it."""
        self.greeting = _line(do="hello", version=_VERSION, pid=os.getpid(), closable=True)
        self.flags = getattr(_socket, "MSG_NOSIGNAL", 0)  # the program may have reset SIGPIPE
        with _process.lock:  # no fork comes between, so children know of all that they inherit
            self.sock: socket.socket = make(_socket.AF_UNIX, _socket.SOCK_STREAM)
            status = os.fstat(self.sock.fileno())
            self.identity = (status.st_dev, status.st_ino)
            _process.wires.add(self)
        try:
            if sys.platform == "darwin":
                self.sock.setsockopt(_socket.SOL_SOCKET, 0x1022, 1)  # SO_NOSIGPIPE
            self._connect()
            self.sock.settimeout(_SILENCE)  # whatever socket.setdefaulttimeout says
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        import time

        self.sock.settimeout(_PATIENCE)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.sock.connect(_HUB)
            except BlockingIOError:  # too many connect at once
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                break
        listens, own = _peer(self.sock)[0], os.geteuid()
        if listens not in {None, own}:
            raise _refused(
                f"the user with the id {listens} listens at {_HUB}, and this program runs as the "
                f"user with the id {own}. So that is not the hub of this program's "
                '"aioapiqueue run", and nothing was sent to it. If the run has ended: start the '
                "program under a new one, with a TMPDIR that only you may write to"
            )

    @property
    def whole(self) -> bool:
        """Whether the socket's number is still the socket's."""
        try:
            status = os.fstat(self.sock.fileno())
        except (OSError, ValueError):
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def close(self) -> None:
        """Close the socket; if its number is somebody else's now, leave that alone."""
        _process.wires.discard(self)
        whole = self.whole
        number = self.sock.detach()  # before it is closed, so that nobody closes it twice
        if whole:
            os.close(number)

    def send(self, line: bytes) -> None:
        """Send a message, after hello if it is the first."""
        greeting, self.greeting = self.greeting, b""
        self.sock.sendall(greeting + line, self.flags)

    def receive(self) -> list[Fields]:
        """Wait for messages; return those that are complete.

        Raises:
            PacingError: the hub has gone.
        """
        import json

        chunk = self.sock.recv(65536)
        if not chunk:
            raise _unreachable("it has gone")
        self.taken_in = True
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def hear(self) -> list[Fields]:
        """Wait for messages as `receive` does; say so, once, if the hub does not answer at all."""
        asked = 0.0
        try:
            while True:
                try:
                    return self.receive()
                except OSError as error:
                    import _socket
                    import time

                    if not isinstance(error, _socket.timeout):
                        raise
                    if asked and _answer_is_due(asked):
                        _say_silent(self)
                        self.sock.settimeout(None)
                    else:
                        asked = time.monotonic()
                        with _Suppress(OSError):  # closed by the hub: what it has said is read next
                            self.send(_line(do="ping"))
                        self.sock.settimeout(_ANSWER)
        finally:
            if asked and self.whole:
                self.sock.settimeout(_SILENCE)


def _answer_is_due(asked: float) -> bool:
    """Return whether the hub has had its time to answer: not if we were suspended with it."""
    import time

    return time.monotonic() - asked < 2 * _ANSWER


def _say_silent(wire: _Wire) -> None:
    """Say on stderr that the hub does not answer; once for each process."""
    if _process.silence_reported:
        return
    _process.silence_reported = True
    with _Suppress(Exception):  # there may be no stderr, or a closed one
        pid = _peer(wire.sock)[1]
        who, remedy = (f" (process {pid})", f": kill -CONT {pid}") if pid else ("", ".")
        files = "aioapiqueue: If not, it may lack files for so many threads (ulimit -n).\n"
        sys.stderr.write(
            f"aioapiqueue: the hub{who} has not answered for {_SILENCE + _ANSWER:.0f} s.\n"
            f"aioapiqueue: The calls of process {os.getpid()} wait until it does. If it has been\n"
            f"aioapiqueue: stopped, have it go on{remedy}\n" + ("" if wire.taken_in else files)
        )
        sys.stderr.flush()


class _ThisProcess:
    """What belongs to one process; a forked child has another."""

    def __init__(self) -> None:
        import _thread

        self.lock = _thread.RLock()  # a signal handler may call, too
        self.wires: set[_Wire] = set()
        self.presence: _Wire | None = None
        """The connection that tells the hub that this process is there."""
        self.idle: list[_Wire] = []
        """Connections of threads, while no call uses them."""
        self.links: Any = None
        """Connections of event loops, by loop."""
        self.signing: set[Any] = set()
        """Threads' attempts that have their turn, and are not sent yet."""
        self.ahead: set[Any] = set()
        """Threads' attempts that wait, while a call that has its turn waits for them."""
        self.botocore = ""
        self.forked = False
        self.unhooked: set[str] = set()
        """Modules that could not be hooked."""
        self.silence_reported = False

    def announce(self) -> None:
        """Tell the hub that this process is there, unless it knows."""
        if self.presence is not None and self.presence.whole:
            return
        import _socket

        try:
            self.presence = _Wire(_socket.socket)
        except (OSError, PacingError):
            self.presence = None  # calls will find out, and raise
            return
        self.presence.greeting = _line(
            do="hello",
            version=_VERSION,
            pid=os.getpid(),
            executable=(sys.executable or "")[:1024],
            python=".".join(map(str, sys.version_info[:3])),
            forked=self.forked,
        )
        self.tell(_line(do="hooked", botocore=self.botocore) if self.botocore else b"")

    def tell(self, line: bytes) -> None:
        """Tell the hub something of this process, if it can be reached."""
        if self.presence is not None and self.presence.whole:
            with _Suppress(OSError):  # calls will find out, and raise
                self.presence.send(line)


def _forked() -> None:
    """Begin anew in a forked child: the parent's connections are the parent's."""
    global _process
    inherited, _process = _process, _ThisProcess()
    _process.botocore, _process.forked = inherited.botocore, True
    for wire in inherited.wires:
        # The child's copy only. No loop is told: it shares the parent's selector.
        wire.close()
    _process.announce()


# One HTTP attempt.


class _Call:
    """One API call: what it holds for its present attempt, and the call that it serves."""

    __slots__ = ("answer", "outer", "parameters", "place")

    def __init__(self, outer: Call, parameters: object) -> None:
        self.outer = outer
        self.parameters = parameters
        self.place: Place = None
        self.answer: Fields = {}
        """What has arrived for the attempt, should botocore make nothing of it."""

    def fail(self, error: BaseException) -> None:
        """End an attempt that got no answer, or one that botocore cannot read."""
        self.end(**self.answer, failed=_text(type(error).__name__))

    def end(self, **outcome: object) -> None:
        place, self.place = self.place, None
        if place is not None:
            place.signing.discard(place)
            place.end(outcome)


_call: ContextVar[Call]
_numbers = iter(range(1, 1 << 53))


class _Place:
    """A thread's attempt, on a connection of its own until it has ended."""

    def __init__(self) -> None:
        self.wire: _Wire | None = None
        self.number = next(_numbers)
        self.signing, self.ahead = _process.signing, _process.ahead

    def ask(self, fields: Fields) -> None:
        """Get into line."""
        _process.announce()
        self.question = _line(do="ask", id=self.number, **fields)
        try:
            wire = _process.idle.pop()
        except IndexError:
            self._ask_again()
            return
        self.wire = wire
        try:
            if wire.whole:
                wire.send(self.question)
                return
        except OSError:
            pass  # closed by the hub while it was idle; or the hub has gone, which shows next
        self._ask_again()

    def _ask_again(self) -> None:
        """Ask on a new connection: the one before, if any, has not taken the question."""
        import socket  # at each call, as gevent may replace its class

        old, self.wire = self.wire, None
        if old is not None:
            old.close()
        try:
            self.wire = _Wire(socket.socket)
        except OSError as error:
            raise _unreachable(error) from None
        with _Suppress(OSError):  # closed by the hub: `wait` reads what it has said before
            self.wire.send(self.question)

    def wait(self) -> None:
        """Wait for the turn."""
        wire = self.wire
        while wire is not None:
            try:
                messages = wire.hear()
            except OSError as error:
                raise _unreachable(error) from None
            for message in messages:
                if "error" in message:
                    raise _refused(message["error"])
                if "idle" in message:
                    # The hub needed the file, and has closed it before it read the question: so
                    # that this cannot be let go, and charged, twice.
                    self._ask_again()
                    wire = self.wire
                    break
                if message.get("id") == self.number:
                    return

    def leave(self) -> None:
        """Give everything up, as the hub does for a connection that closes."""
        self._say(do="leave", id=self.number)
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()

    def free(self) -> None:
        """Let a call go ahead that this one needs. Other threads may call it."""
        self._say(do="free", id=self.number)

    def end(self, outcome: Fields) -> None:
        """Give the place back, and tell what came of it."""
        self._say(do="end", id=self.number, **outcome)
        wire, self.wire = self.wire, None
        if wire is not None and wire in _process.wires and len(_process.idle) < _MOST_IDLE:
            _process.idle.append(wire)
        elif wire is not None:
            wire.close()

    def _say(self, **fields: object) -> None:
        wire = self.wire
        if wire is not None and wire.whole:
            with _Suppress(OSError):  # the next call will find out, and raise
                wire.send(_line(**fields))


class _Link:
    """An event loop's connection, for all of its tasks; it has no task of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import _socket
        import weakref

        self.wire = _Wire(_socket.socket)
        self.wire.sock.settimeout(0)
        self.turns: dict[object, _LinkPlace] = {}
        self.heard = False
        """Whether the hub has said something since `timer` was set."""
        self.timer: asyncio.TimerHandle | None = None
        self.unsent = b""
        self.error: PacingError | None = None
        self.signing: set[Any] = set()
        self.ahead: set[Any] = set()
        # The loop knows the link while its selector lives; the link must not keep the loop alive.
        self.loop = weakref.ref(loop)
        loop.add_reader(self.wire.sock.fileno(), self._receive)

    @property
    def works(self) -> bool:
        return self.error is None and self.wire.whole

    def ask(self, place: _LinkPlace) -> None:
        """Have a place get into line."""
        self.turns[place.number] = place
        self.send(place.question)

    def send(self, line: bytes) -> None:
        """Send, or have the loop do so once the hub has read what it has."""
        greeting, self.wire.greeting = self.wire.greeting, b""
        waits, self.unsent = bool(self.unsent), self.unsent + greeting + line
        if not waits:
            self._flush()
        self.watch()

    def _flush(self) -> None:
        try:
            sent = self.wire.sock.send(self.unsent, self.wire.flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._receive()  # what the hub has said before it closed the connection
            self.lose(_unreachable(error))
            return
        self.unsent = self.unsent[sent:]
        loop = self.loop()
        if loop is not None and self.unsent:
            loop.add_writer(self.wire.sock.fileno(), self._flush)
        elif loop is not None:
            loop.remove_writer(self.wire.sock.fileno())

    def _receive(self) -> None:
        try:
            messages = self.wire.receive()
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(_unreachable(error))
            return
        except PacingError as error:
            self.lose(error)
            return
        self.heard = True
        for message in messages:
            if "idle" in message:
                self._ask_again()
                return
            why = message.get("error")
            place = self.turns.pop(message.get("id"), None)
            if why is not None and "id" not in message:
                self.lose(_refused(why))
            elif place is None or place.turn.done():
                continue
            elif why is not None:
                place.turn.set_exception(_refused(why))
            else:
                place.turn.set_result(None)
        self.watch()

    def watch(self) -> None:
        """Have a timer while somebody waits, so that a hub that does not answer is noticed."""
        if self.timer is None and self.turns:
            self._set_timer(_SILENCE)
        elif self.timer is not None and not self.turns:
            self.timer.cancel()
            self.timer = None

    def _set_timer(self, seconds: float, *, asked: float = 0.0) -> None:
        loop = self.loop()
        self.timer, self.heard = None, False
        if loop is not None and self.error is None and not _process.silence_reported:
            self.timer = loop.call_later(seconds, self._look, asked)

    def _look(self, asked: float) -> None:
        """Ask a hub that has said nothing for a while whether it is there."""
        import time

        self._receive()  # if the loop was held up, the answer may lie there
        if not self.turns:
            return
        if self.heard:
            self._set_timer(_SILENCE)
        elif asked and _answer_is_due(asked):
            _say_silent(self.wire)
            self.timer = None
        else:
            self.send(_line(do="ping"))
            self._set_timer(_ANSWER, asked=time.monotonic())

    def _ask_again(self) -> None:
        """Ask on another link: the hub has closed this one, idle, and has read none of it."""
        asked, self.turns = self.turns, {}
        self.lose(_unreachable("it has closed the connection"))
        if not asked:
            return
        try:
            link = _link()
        except PacingError as error:
            _fail(asked, error)
            return
        for place in asked.values():
            place.link = link
            link.ask(place)

    def lose(self, error: PacingError) -> None:
        """Fail whoever waits: the connection has ended."""
        if self.error is not None:
            return
        self.error = error
        turns, self.turns = self.turns, {}
        self.watch()
        loop = self.loop()
        if loop is not None and self.wire.whole:
            loop.remove_reader(self.wire.sock.fileno())
            loop.remove_writer(self.wire.sock.fileno())
        self.wire.close()
        _fail(turns, error)


def _fail(turns: dict[object, _LinkPlace], error: PacingError) -> None:
    for place in turns.values():
        if not place.turn.done():
            place.turn.set_exception(error)


class _LinkPlace:
    """A task's attempt, one of many on its loop's connection."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.number = next(_numbers)
        self.signing, self.ahead = link.signing, link.ahead

    def ask(self, fields: Fields) -> asyncio.Future[None]:
        """Get into line; return what is done when the turn has come."""
        import asyncio

        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.question = _line(do="ask", id=self.number, **fields)
        self.link.ask(self)
        return self.turn

    def leave(self) -> None:
        """Leave the line, or give back a turn that has not been used."""
        self.link.turns.pop(self.number, None)
        self._say(do="leave", id=self.number)

    def free(self) -> None:
        """Let a call go ahead that this one needs."""
        self._say(do="free", id=self.number)

    def end(self, outcome: Fields) -> None:
        """Give the place back, and tell what came of it."""
        self._say(do="end", id=self.number, **outcome)

    def _say(self, **fields: object) -> None:
        import asyncio

        link, line = self.link, _line(**fields)
        loop = link.loop()
        if not link.works or loop is None or loop.is_closed():
            return
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the public one raises
            link.send(line)
        else:
            # A coroutine closed after its loop has stopped, or a thread that serves a task.
            loop.call_soon_threadsafe(link.send, line)


def _link() -> _Link:
    """Return the running loop's connection."""
    import asyncio
    import weakref

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise _refused("aioapiqueue paces aiobotocore on asyncio only") from None
    _process.announce()
    if _process.links is None:
        _process.links = weakref.WeakKeyDictionary()
    links = _process.links
    link: _Link | None = links.get(loop)
    if link is not None and link.works:
        return link
    for other, old in list(links.items()):
        if other.is_closed():
            old.wire.close()
            del links[other]
    try:
        new = links[loop] = _Link(loop)
    except OSError as error:
        raise _unreachable(error) from None
    if link is not None:
        new.signing, new.ahead = link.signing, link.ahead
    return new


# Signing may need a call of its own (to refresh credentials, or for a session with an S3 directory
# bucket), and other calls may wait, at a lock of botocore's, until that one has ended. So it goes
# ahead of all that wait, and whoever has a turn and is not sent yet gives its place up; otherwise
# a queue that bounds how many calls run at once could wait for itself.


def _begin(call: Call) -> Place:
    """End the attempt before this one; return the one that waits for this call, if any does."""
    if call is None:
        return None
    call.end()
    return call.outer.place if call.outer is not None else None


def _go_ahead(place: _Place | _LinkPlace, outer: Place) -> None:
    """Have the attempts that wait for this one, now in line, give up their places."""
    if outer is not None:
        place.ahead.add(place)
        outer.free()
        for other in list(place.signing):
            other.free()


def _keep(call: Call, place: _Place | _LinkPlace) -> None:
    """Keep a place, whose turn has come, until its call ends."""
    if call is None:
        # Sent past `_make_api_call`: nobody would end it, so it is over as it starts.
        place.end({})
        return
    call.place = place
    place.signing.add(place)
    if place.ahead:
        place.free()


# In botocore.


class _Handlers:
    """What a client's events call. Knows no client: that would keep it alive."""

    def __init__(self, meta: Any, signer: Any) -> None:
        self.service = meta.service_model.service_name
        self.region = meta.region_name
        self.signer = signer

    def register(self, events: Any, service_id: str, *, asynchronous: bool) -> None:
        """Have them called."""
        start = self.start_async if asynchronous else self.start
        # First, as the client's signer is a handler of the very same event.
        events.register_first(f"request-created.{service_id}", start)
        events.register_first(f"before-send.{service_id}", self.sending)
        events.register_first(f"before-parse.{service_id}", self.arrived)
        events.register_first(f"response-received.{service_id}", self.finish)

    def fields(self, operation: str, request: Any, call: Call, outer: Place) -> Fields:
        """Return what the hub has to know of an attempt."""
        key, account = _account(getattr(self.signer, "_credentials", None))
        return {
            "service": self.service,
            "operation": operation,
            "region": _text(request.context.get("client_region") or self.region),
            "key": key,
            "account": account,
            "nested": outer is not None,
            "facts": _facts(call.parameters if call is not None else None),
        }

    def start(self, operation_name: str, request: Any, **_: object) -> None:
        """Wait for a turn, in the thread that calls; interrupted, leave the line."""
        call = _call.get()
        outer = _begin(call)
        place = _Place()
        try:
            place.ask(self.fields(operation_name, request, call, outer))
            _go_ahead(place, outer)
            place.wait()
            place.ahead.discard(place)
            _keep(call, place)
        except BaseException:  # refused, or interrupted, wherever that may be
            place.ahead.discard(place)
            place.leave()
            raise

    async def start_async(self, operation_name: str, request: Any, **_: object) -> None:
        """Wait for a turn, in the task that calls; cancelled, leave the line."""
        call = _call.get()
        outer = _begin(call)
        place = _LinkPlace(_link())
        turn = place.ask(self.fields(operation_name, request, call, outer))
        _go_ahead(place, outer)
        try:
            await turn
        except BaseException:
            place.leave()
            raise
        finally:
            place.ahead.discard(place)
        _keep(call, place)

    def sending(self, **_: object) -> None:
        """Heed that the attempt has been signed."""
        call = _call.get()
        if call is not None and call.place is not None:
            call.place.signing.discard(call.place)

    def arrived(self, response_dict: Any = None, **_: object) -> None:
        """Keep what is known before the answer is read; an old botocore (1.31) does not tell."""
        call = _call.get()
        if call is not None and isinstance(response_dict, dict):
            call.answer = _answer(response_dict)

    def finish(
        self,
        response_dict: Any = None,
        parsed_response: Any = None,
        exception: object = None,
        **_: object,
    ) -> None:
        """Give the place back, and tell what came of the attempt."""
        call = _call.get()
        if call is None or call.place is None:
            return
        if response_dict is None:
            call.end(failed=_text(type(exception).__name__))
            return
        error = parsed_response.get("Error") if isinstance(parsed_response, dict) else None
        code = _text(error.get("Code")) if isinstance(error, dict) else None
        call.end(**_answer(response_dict), code=code)


def _answer(response: dict[str, Any]) -> Fields:
    status = response.get("status_code")
    headers = response.get("headers") or {}
    return {
        "status": status if isinstance(status, int) and status > 0 else None,
        "retry_after": _text(headers.get("Retry-After")),
        "amz_retry_after": _text(headers.get("x-amz-retry-after")),
    }


def _facts(parameters: object) -> dict[str, int] | None:
    """Return of a call's parameters what limits may depend on: numbers, and none of the values.

    By name: of a whole number itself, of a list its length, 1 of whatever else is given. What is
    in a structure follows as "ChangeBatch.Changes", one level deep.
    """
    if not isinstance(parameters, dict):
        return None
    found: dict[str, int] = {}
    # A call's own parameters first: however much its structures have, none of those is left out.
    for name, value in parameters.items():
        _note(found, str(name), value)
    for name, value in parameters.items():
        for inner, deep in value.items() if isinstance(value, dict) else ():
            if len(found) >= _MOST_FACTS:
                break
            _note(found, f"{name}.{inner}", deep)
    return dict(list(found.items())[:_MOST_FACTS]) or None


def _note(found: dict[str, int], name: str, value: object) -> None:
    # The keys of a map (DynamoDB's items, tags) are anything. No limit is named like that, and a
    # line has room for 64 plain names only.
    if len(name) <= _LONGEST_FACT and name.isascii() and name.replace(".", "_").isidentifier():
        found[name] = _fact(value)


def _fact(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(min(max(value, 0), 1 << 53))  # enumerations write themselves with their names
    return len(value) if isinstance(value, (list, tuple)) else 1


def _text(value: object) -> str | None:
    """Return a value as the protocol takes it."""
    return str(value)[:128] if value else None


def _account(credentials: Any) -> tuple[str | None, str | None]:
    """Return the access key's id and the account's, as far as they are known without a refresh."""
    if credentials is None:
        return None, None
    own = vars(credentials)  # the properties of the refreshable ones refresh
    key = own.get("_access_key") or own.get("access_key")
    account = own.get("_account_id") or own.get("account_id")
    if not account:
        # Of a role, or of a single sign-on: whose they are is known, also before they are fetched,
        # and where their keys do not tell.
        fetcher = getattr(own.get("_refresh_using"), "__self__", None)
        role = str(getattr(fetcher, "_assume_kwargs", {}).get("RoleArn")).split(":")
        account = role[4] if len(role) > 5 else getattr(fetcher, "_account_id", None)  # noqa: PLR2004
    return _text(key), _text(account)


def _pace_class(cls: Any) -> None:
    """Have every client of a generated class ask before each attempt."""
    asynchronous = any(base.__module__.partition(".")[0] == "aiobotocore" for base in cls.__mro__)

    def __init__(self: Any, *args: object, **kwargs: object) -> None:  # noqa: N807
        super(cls, self).__init__(*args, **kwargs)
        attend(self)

    def attend(self: Any) -> None:
        with _process.lock:  # threads may share a client that was made before its class was hooked
            if "_aioapiqueue" not in vars(self):
                handlers = _Handlers(self.meta, self._request_signer)
                service_id = self.meta.service_model.service_id.hyphenize()
                handlers.register(self.meta.events, service_id, asynchronous=asynchronous)
                self._aioapiqueue = True

    def call(self: Any, operation_name: str, api_params: object) -> object:
        attend(self)
        this = _Call(_call.get(), api_params)
        token = _call.set(this)
        try:
            return super(cls, self)._make_api_call(operation_name, api_params)
        except Exception as error:
            this.fail(error)
            raise
        finally:
            this.end()
            _call.reset(token)

    async def call_async(self: Any, operation_name: str, api_params: object) -> object:
        attend(self)
        this = _Call(_call.get(), api_params)
        token = _call.set(this)
        try:
            return await super(cls, self)._make_api_call(operation_name, api_params)
        except Exception as error:
            this.fail(error)
            raise
        finally:
            this.end()
            with _Suppress(ValueError):  # closed by somebody else's context, as its loop has ended
                _call.reset(token)

    cls._aioapiqueue = True
    cls.__init__ = __init__
    cls._make_api_call = call_async if asynchronous else call


def _hook(module: ModuleType) -> None:
    """Pace the clients of a `botocore.client` that has been imported, unless they are already."""
    global _call  # noqa: PLW0603 - contextvars is imported late
    base: Any = module.BaseClient
    if "_aioapiqueue_base" in vars(base):
        return
    base._aioapiqueue_base = True  # noqa: SLF001 - ours. First, as what follows may import
    from contextvars import ContextVar

    if "_call" not in globals():
        _call = ContextVar("aioapiqueue_call", default=None)

    own = vars(base).get("__init_subclass__")

    def __init_subclass__(cls: Any, /, **kwargs: object) -> None:  # noqa: N807
        if own is None:
            super(base, cls).__init_subclass__(**kwargs)
        else:  # none so far
            own.__get__(None, cls)(**kwargs)
        _pace_service(cls)

    base.__init_subclass__ = classmethod(__init_subclass__)
    late = [cls for cls in _subclasses(base) if _pace_service(cls)]
    package = sys.modules[module.__name__.rpartition(".")[0]]
    _process.botocore = str(getattr(package, "__version__", "?"))
    _process.announce()
    _process.tell(_line(do="hooked", botocore=_process.botocore, late=bool(late)))


def _pace_service(cls: Any) -> bool:
    """Pace a service's class; not aiobotocore's base, nor somebody's subclass of one, twice."""
    if "_PY_TO_OP_NAME" not in vars(cls) or hasattr(cls, "_aioapiqueue"):
        return False
    _pace_class(cls)
    return True


def _subclasses(base: Any) -> list[Any]:
    """Return all classes that are made of one, each before those that are made of it."""
    found = []
    for cls in type.__subclasses__(base):
        found += [cls, *_subclasses(cls)]
    return found


# Imports. What a program puts into `sys.meta_path` before our finder may find `botocore.client`
# itself, with a loader of its own, and may put a whole new list in its place.


_CLIENTS = ("botocore.client", "awscli.botocore.client")  # the AWS CLI brings one of its own


def _is_client(name: str) -> bool:
    return name == _CLIENTS[0] or name.endswith(f".{_CLIENTS[0]}")


def _hook_late(names: Iterable[str] = _CLIENTS) -> None:
    """Hook what has been loaded in some way that we did not see. Raises nothing."""
    for name in names:
        module = sys.modules.get(name)
        base = None  # nor has a module one that is being loaded
        with _Suppress(Exception):  # of something that loads itself at the first look
            base = getattr(module, "BaseClient", None)
        if module is None or not isinstance(base, type) or "_aioapiqueue_base" in vars(base):
            continue
        if name in _process.unhooked:
            continue
        try:
            _hook(module)
        except Exception as error:  # noqa: BLE001 - whose import this is has no part in it
            _process.unhooked.add(name)
            _process.announce()
            _process.tell(_line(do="unhooked", why=f"{name}: {error!r}"[:512]))


def _hook_when_loaded(name: str, spec: Any) -> Any:
    """Have `botocore.client` hooked once it has been loaded, by whatever finder it was found."""
    load = getattr(getattr(spec, "loader", None), "exec_module", None)
    if load is None or not _is_client(name) or hasattr(load, "aioapiqueue"):
        return spec

    def exec_module(module: ModuleType) -> None:
        load(module)
        if not _is_client(module.__name__):  # a loader may have many modules
            return
        try:
            _hook(module)
        except Exception as error:
            raise ImportError(
                f"aioapiqueue cannot pace {name}, which would call unpaced: {error!r}. Is it a "
                "botocore before 1.31, or a much later one? Unset AIOAPIQUEUE_HUB to use it "
                "all the same"
            ) from error

    exec_module.aioapiqueue = True  # type: ignore[attr-defined]
    # On the loader itself: another in its place would lose what it can do besides.
    with _Suppress(Exception):  # it takes no attributes: the module is hooked late
        spec.loader.exec_module = exec_module
    return spec


class _Finder:
    """Finds nothing itself, but has `botocore.client` hooked once it has been loaded."""

    aioapiqueue = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Have the other finders find botocore.client, and be told when it is loaded."""
        _hook_late()
        if not _is_client(name):
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                return _hook_when_loaded(name, spec)
        return None


def _watch_imports() -> None:
    """See all that imports find, by whatever finder.

    Our finder is never moved to the front again: programs take the first one away, believing that
    it is theirs. Where Python has no `_find_spec` any more, there is the finder alone, and what is
    hooked late.
    """
    machinery: Any = sys.modules.get("_frozen_importlib")
    find = getattr(machinery, "_find_spec", None)
    if find is None:
        return

    def _find_spec(name: str, path: Any, target: Any = None) -> Any:
        _hook_late()
        return _hook_when_loaded(name, find(name, path, target))

    machinery._find_spec = _find_spec  # noqa: SLF001 - there is no other way


# At the interpreter's start and end.


def _exit() -> None:
    """Say goodbye, and close what no thread uses, lest Python warn of it."""
    _hook_late([name for name in list(sys.modules) if _is_client(name)])  # at least to tell
    _process.tell(_line(do="bye"))
    links = [link.wire for link in (_process.links or {}).values()]
    for wire in [*_process.idle, *links, _process.presence]:
        if wire is not None:
            wire.close()
    _process.idle.clear()


def _activate() -> None:
    import atexit

    sys.meta_path.insert(0, _Finder())
    _watch_imports()
    os.register_at_fork(
        before=lambda: _process.lock.acquire(),  # noqa: PLW0108 - a child has another
        after_in_parent=lambda: _process.lock.release(),  # noqa: PLW0108
        after_in_child=_forked,
    )
    atexit.register(_exit)
    _process.announce()
    _hook_late()  # what a .pth file has imported


def _chain() -> None:
    """Import the sitecustomize that would have been imported, were this one not there."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is slow
    this = sys.modules.pop(__name__)
    places = [place for place, folder in enumerate(sys.path) if folder == here]
    sys.path[:] = [folder for folder in sys.path if folder != here]
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != __name__:
            raise
        sys.modules[__name__] = this
    finally:
        # Back, for programs that hand sys.path to their children.
        for place in places:
            sys.path.insert(place, here)
        # Some (OpenTelemetry's) put themselves first for the children, and import no other.
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if here in folders[1:]:
            others = [folder for folder in folders if folder != here]
            os.environ["PYTHONPATH"] = os.pathsep.join([here, *others])


_process = _ThisProcess()
if __name__ == "sitecustomize":
    if _HUB and not any(getattr(finder, "aioapiqueue", False) for finder in sys.meta_path):
        _activate()
    _chain()
