"""Connections for calls, the error of calls that were not sent, and the state of all calls."""

from __future__ import annotations

import atexit
import errno
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from . import HUB, HubWire, StrangerError, peer_of

SILENCE = 17.5
"""Seconds without a message after which a waiting call sends `ping` to the hub. A hub that sends
nothing for as long again is reported.

A call may have to wait for an hour, so its wait alone shows nothing. After half a minute or so,
users wonder why their program stands still; and the hub can easily answer that often.
"""


class PacingError(RuntimeError):
    """Raised by a call that was not sent, because the hub refused it or was unreachable.

    It is not an error of botocore, so that neither botocore's retries nor `except ClientError` take
    it for a response of AWS.
    """

    __module__ = "aioapiqueue"

    def __reduce__(self) -> tuple[type[RuntimeError], tuple[object, ...]]:
        """Pickle as a `RuntimeError`: another process may be unable to import this class."""
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
    """The state of this process's calls."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin again in a forked child: the parent's calls are the parent's."""
        self.idle: list[CallWire] = []
        """Connections of threads, while no call uses them."""
        self.links: Any = WeakKeyDictionary()
        """Connections of event loops, by loop."""
        self.signing: set[Any] = set()
        """Threads' attempts that have a slot, and are not signed yet."""
        self.ahead: set[Any] = set()
        """Threads' waiting attempts for which the signing of another attempt waits."""
        self.silence_reported = False


calls = _CallsInProcess()
os.register_at_fork(after_in_child=calls.begin)


def line(**fields: object) -> bytes:
    """Return a message without the fields that are None or False."""
    given = {key: one for key, one in fields.items() if one is not None and one is not False}
    return json.dumps(given).encode() + b"\n"


PING = line(do="ping")


class CallWire(HubWire):
    """A connection on which attempts ask.

    Args:
        make: makes a socket.
        closable: whether the hub may close it while it has no attempts.
    """

    def __init__(self, make: Any, *, closable: bool) -> None:
        super().__init__(make, closable=closable)
        self._has_received = False
        """Whether the hub has sent anything; if not, it may lack a file for the connection."""
        self._rest = b""
        self._asked = 0.0
        """When `ping` was sent; 0: the hub has sent something since."""
        self.sock.settimeout(SILENCE)

    def receive(self) -> list[dict[str, Any]]:
        """Wait for messages; return those that are complete.

        Raises:
            OSError: the hub has ended, or cannot be reached.
        """
        chunk = self.sock.recv(65536)
        if not chunk:
            raise ConnectionResetError("it closed the connection")
        self._has_received, self._asked = True, 0.0
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(one) for one in lines]

    def must_ask(self) -> bool:
        """Return whether to send `ping` to a hub that has sent nothing for `SILENCE`.

        If it has not answered the last one, report that once for each process.
        """
        if calls.silence_reported:
            return False
        asked, self._asked = self._asked, time.monotonic()
        # Much later, this process was suspended, perhaps together with the hub: then ask again.
        if not asked or self._asked - asked > 1.5 * SILENCE:
            return True
        calls.silence_reported = True
        self._report_silence()
        return False

    def _report_silence(self) -> None:
        with suppress(Exception):  # there may be no stderr, or a closed one
            pid = peer_of(self.sock)[1]
            who, remedy = (f" (process {pid})", f": kill -CONT {pid}") if pid else ("", ".")
            said = (
                f"the hub{who} has not answered for {2 * SILENCE:.0f} s.",
                f"The calls of process {os.getpid()} wait until it does. If the hub is",
                f"stopped, resume it{remedy}",
                "If not, it may have too many open files (raise ulimit -n).",
            )
            lines = said[: 3 if self._has_received else 4]
            sys.stderr.write("".join(f"aioapiqueue: {one}\n" for one in lines))
            sys.stderr.flush()


def _close_idle() -> None:
    """Close unused connections, so that Python does not warn about them."""
    # Not those in use: a daemon thread that still waits would print an error, as it would if its
    # connection were closed after it had taken that from the list.
    with suppress(IndexError):
        while True:
            calls.idle.pop().close()
    for link in list(calls.links.values()):
        link.wire.close()


atexit.register(_close_idle)
