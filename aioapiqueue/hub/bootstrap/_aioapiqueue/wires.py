"""Connections for calls, what a call raises that was not sent, and what is kept of the calls."""

from __future__ import annotations

import atexit
import errno
import json
import os
import sys
import time
from _socket import timeout  # no TimeoutError before Python 3.10
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from . import HUB, HubWire, StrangerError, peer_of, process

SILENCE = 30.0
"""Seconds of silence after which a call that waits asks the hub whether it is there.

A call may wait for an hour without any error, so its time alone shows nothing. People look at a
program that stands still after half a minute or so, and the hub can answer each connection that
waits every half a minute.
"""
ANSWER = 5.0
"""Seconds in which the hub has to answer that. It does so at once, unless it is stopped."""


class PacingError(RuntimeError):
    """Raised by a call that was not sent, because the hub did not let it go.

    No error of botocore's, so that neither its retries nor `except ClientError` take it for an
    answer of AWS.
    """

    __module__ = "aioapiqueue"

    def __reduce__(self) -> tuple[type[RuntimeError], tuple[object, ...]]:
        """Travel between processes as a RuntimeError: this class cannot be imported there."""
        return RuntimeError, (f"aioapiqueue.PacingError: {self}",)


def refused(why: object) -> PacingError:
    """Return the error of a call that may not be sent."""
    return PacingError(f"the call was not sent: {why}")


def unreachable(why: object) -> PacingError:
    """Return the error of a call that cannot ask the hub."""
    if isinstance(why, StrangerError):
        listens, own = why.args
        return refused(
            f"the hub's socket {HUB} belongs to user id {listens}, and this program runs as user "
            f'id {own}. It is not the hub of this program\'s "aioapiqueue run", so nothing was '
            "sent to it. If that run has ended, start the program under a new one, with a TMPDIR "
            "that only you can write to"
        )
    if isinstance(why, OSError) and why.errno in {errno.EMFILE, errno.ENFILE}:
        return refused(
            f"this process has no file descriptor left for aioapiqueue's hub ({why}). Each "
            "waiting thread needs one: use fewer threads, or raise the limit (ulimit -n)"
        )
    return refused(
        f"aioapiqueue's hub at {HUB} is unreachable ({why}). The hub ends with the "
        '"aioapiqueue run" that started it: start the program under a new run, or unset '
        "AIOAPIQUEUE_HUB to call unpaced"
    )


class _CallsInProcess:
    """What is kept of a process's calls; a forked child has another."""

    def __init__(self) -> None:
        self.idle: list[CallWire] = []
        """Connections of threads, while no call uses them."""
        self.links: Any = WeakKeyDictionary()
        """Connections of event loops, by loop."""
        self.signing: set[Any] = set()
        """Threads' attempts that may be sent, and are not signed yet."""
        self.ahead: set[Any] = set()
        """Threads' attempts that wait, while a call that may be sent waits for them."""
        self.silence_reported = False


process.make_calls = _CallsInProcess
process.calls = _CallsInProcess()


def line(**fields: object) -> bytes:
    """Return a message; what is None or False is left out."""
    given = {key: one for key, one in fields.items() if one is not None and one is not False}
    return json.dumps(given).encode() + b"\n"


class CallWire(HubWire):
    """A connection on which calls ask."""

    def __init__(self, make: Any) -> None:
        super().__init__(make, closable=True)
        self.taken_in = False
        """Whether the hub has sent anything here; before that, it may lack a file for it."""
        self._rest = b""
        self.sock.settimeout(SILENCE)

    def receive(self) -> list[dict[str, Any]]:
        """Wait for messages; return those that are complete.

        Raises:
            OSError: the hub has gone, or cannot be reached.
        """
        chunk = self.sock.recv(65536)
        if not chunk:
            raise ConnectionResetError("it closed the connection")
        self.taken_in = True
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(one) for one in lines]

    def receive_or_report(self) -> list[dict[str, Any]]:
        """Wait for messages as `receive` does; report it, once, if the hub does not answer."""
        asked = 0.0
        try:
            while True:
                try:
                    return self.receive()
                except timeout:  # noqa: PERF203 - what it waits for is longer
                    if asked and answer_is_due(asked):
                        report_silence(self)
                        self.sock.settimeout(None)
                    else:
                        asked = time.monotonic()
                        with suppress(OSError):  # closed by the hub: what it has sent is read next
                            self.send(line(do="ping"))
                        self.sock.settimeout(ANSWER)
        finally:
            if asked and self.whole:
                self.sock.settimeout(SILENCE)


def answer_is_due(asked: float) -> bool:
    """Return whether the hub has had its time to answer, and we were not suspended with it."""
    return time.monotonic() - asked < 2 * ANSWER


def report_silence(wire: CallWire) -> None:
    """Report on stderr that the hub does not answer; once for each process."""
    if process.calls.silence_reported:
        return
    process.calls.silence_reported = True
    with suppress(Exception):  # there may be no stderr, or a closed one
        pid = peer_of(wire.sock)[1]
        who, remedy = (f" (process {pid})", f": kill -CONT {pid}") if pid else ("", ".")
        files = "aioapiqueue: If not, it may have too many open files (raise ulimit -n).\n"
        sys.stderr.write(
            f"aioapiqueue: the hub{who} has not answered for {SILENCE + ANSWER:.0f} s.\n"
            f"aioapiqueue: The calls of process {os.getpid()} wait until it does. If the hub is\n"
            f"aioapiqueue: stopped, resume it{remedy}\n" + ("" if wire.taken_in else files)
        )
        sys.stderr.flush()


def _close_idle() -> None:
    """Close what no thread uses, so that Python does not warn of it."""
    for wire in [*process.calls.idle, *(link.wire for link in process.calls.links.values())]:
        wire.close()
    process.calls.idle.clear()


atexit.register(_close_idle)
