"""Finds the host hub, and starts it if there is none. All of this blocks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue._shared import hub_client
from aioapiqueue._shared.host.directory import HUB_DIR, HubLocation
from aioapiqueue._shared.local_sockets import make_private
from aioapiqueue._shared.outage import Unreachable
from aioapiqueue.exceptions import SharedError
from aioapiqueue.threads.spi import plain_subprocess

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 30.0
"""Seconds in which a hub must start: Python may have to read its files from a slow disk."""
_KILLED = (9, 15)
"""SIGKILL and SIGTERM, which come from a user or from a kernel that is out of memory."""
_MAIN = (
    "import json, sys; sys.path += json.loads(sys.argv[1]); "
    "from aioapiqueue._shared.host_hub.main import main; main(sys.argv[2])"
)


def start_hub(place: HubLocation) -> str | None:
    """Start the hub, unless another process is starting it. This blocks.

    Returns:
        Why it could not be started; None: it listens, or another process is starting it.

    Raises:
        PermissionError: other users have access to its directory.
        OSError: its directory cannot be made, no process can be started for now, or it was killed.
    """
    import fcntl  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

    directory = place.directories()[0]
    make_private(directory, variable=HUB_DIR)
    with (directory / "start.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # of a hundred processes, one starts it
            return None
        try:
            return _start(place)
        finally:  # closing the file would not unlock it: a child forked meanwhile has a copy
            fcntl.flock(lock, fcntl.LOCK_UN)


def _start(place: HubLocation) -> str | None:
    python = _python()
    if python is None:
        return (
            f"{sys.executable or 'this program'} is not a Python interpreter. Start the hub "
            "first: aioapiqueue hub start"
        )
    # The hub outlives this process and serves others. So it gets no environment (which may contain
    # an account's keys), terminal, pipe, working directory, umask or open file of this one, and
    # runs no site code (-I, -S). It finds modules in the standard library, then beside this
    # package, then where this process does.
    package = str(Path(__file__).parents[3])
    paths = [path for path in (package, *sys.path) if Path(path).is_absolute()]
    command = [python, "-I", "-S", "-X", "utf8", "-c", _MAIN, json.dumps(paths), place.override]
    subprocess = plain_subprocess()
    try:
        done = subprocess.run(  # waits only for the process that forks the hub (see `main`)
            command,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            umask=0o077,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"a new hub did not start within {_SECONDS:g} s") from None
    if -done.returncode in _KILLED:  # no fault of the hub's: callers wait for the next attempt
        raise ChildProcessError(
            f"a new hub was killed while it started (signal {-done.returncode})"
        )
    if done.returncode:  # the last line of a traceback, or the one line that `main` writes
        text = done.stderr.decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else f"{python} exited with code {done.returncode}"
    return None


def _python() -> str | None:
    """Return this interpreter, or the one of its installation if it is embedded in a program."""
    # `sys.executable` may be the program that embeds Python (uWSGI, say), which has no such `-c`.
    candidates = [sys.executable, str(Path(sys.prefix) / "bin" / "python3")]
    for one in candidates:
        if one and Path(one).name.startswith(("python", "pypy")) and os.access(one, os.X_OK):
            return one
    return None


_WITHIN = 40.0
"""Seconds in which a hub must listen: another process may start it, which takes up to 30 s."""
_SAME_CLOCK = 10.0
"""Seconds by which the hub's answer and this process may differ on the same clock: a process can be
suspended in between."""
_TRIES = 3
"""Number of hubs in a row that may exit instead of answering before that is an error."""


class Reached(NamedTuple):
    """A connection to the hub.

    Attributes:
        sock: of the connection; it blocks.
        welcome: the hub's answer.
        rest: the bytes that it sent after the answer.
    """

    sock: socket.socket
    welcome: dict[str, Any]
    rest: bytes


def reach(hello: Mapping[str, Any], *, override: str | None) -> Reached:
    """Connect to the hub, and start it if none runs.

    Args:
        hello: the first message.
        override: the hub's directory; None: the user's own.

    Raises:
        Unreachable: there is no hub for now.
        SharedError: the hub refuses, or cannot be started, until the user corrects the cause.
    """
    until, pause = time.monotonic() + _WITHIN, 0.002
    try:
        place = HubLocation(override)
        # A hub may exit while we connect, and another process may be starting one: so try again.
        while True:
            sock = connect(place)
            if sock is not None:
                reached = _greet(sock, hello)
                if reached is not None:
                    return reached
            elif (why := start_hub(place)) is not None:
                raise SharedError(f"the host hub cannot be started: {why}")
            if time.monotonic() > until:
                raise Unreachable(f"the host hub did not start within {_WITHIN:g} s")
            time.sleep(pause)
            pause = min(0.05, 1.5 * pause)
    except (PermissionError, ValueError) as error:
        raise SharedError(f"the host hub: {error}") from None
    except OSError as error:
        raise Unreachable(f"the host hub: {error}") from None


def connect(place: HubLocation) -> socket.socket | None:
    """Connect to the hub, if it runs.

    Raises:
        PermissionError: the socket belongs to another user, or other users have access to it.
        OSError: it cannot be connected to.
    """
    for number, path in enumerate(place.sockets()):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            hub_client.connect_to_hub(sock, os.fspath(path))
            make_private(path.parent, variable=HUB_DIR)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
        except OSError as error:
            sock.close()
            if not number:
                raise (_no_access(path) if error.errno == errno.EACCES else error) from None
            # In /tmp, another user may have created the second place: the first one still works.
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    return None


def _no_access(path: Path) -> PermissionError:
    """Return an error that names the path, its owner and a remedy."""
    user = os.geteuid()
    why = f"user id {user} has no permission"
    for one in (path, path.parent):
        with contextlib.suppress(OSError):  # the directory may hide what is in it
            if (owner := one.lstat().st_uid) != user:
                why = f"{one} belongs to user id {owner}, but this program runs as user id {user}"
    return PermissionError(
        f"cannot access {path}: {why}. Run the programs that share a hub as the same user id, or "
        f"set {HUB_DIR} to a directory of your own"
    )


def command(place: HubLocation, hello: Mapping[str, Any]) -> dict[str, Any] | None:
    """Send a command to the hub and return its answer; None: no hub runs.

    Raises:
        OSError: the hub cannot be reached, or does not answer.
        ValueError: its answer is not JSON, or too long.
    """
    tries = 0
    while True:
        sock = connect(place)
        if sock is None:
            return None
        with sock:
            try:
                return hub_client.send_hello(sock, hello)[0]
            except ConnectionError:  # it was exiting: by now none runs, or another one
                tries += 1
                if tries == _TRIES:
                    raise


def _check_answer(answer: Mapping[str, Any]) -> None:
    if "refused" in answer:
        raise SharedError(f"the host hub: {answer['refused']}")
    now = time.monotonic()
    # Both clocks are CLOCK_MONOTONIC, which is one for all processes outside of time namespaces.
    if abs(answer.get("now", now) - now) > _SAME_CLOCK:
        raise SharedError(
            "the host hub runs in another time namespace than this process: grants would "
            f"come at wrong times. Set {HUB_DIR} to another directory for the processes of this "
            "namespace, which then share a hub of their own"
        )


def _greet(sock: socket.socket, hello: Mapping[str, Any]) -> Reached | None:
    """Send the first message; None: that hub is about to exit, and another one is needed."""
    try:
        answer, rest = hub_client.send_hello(sock, hello)
        _check_answer(answer)
        if "ends" not in answer:  # it does not end to make place for this process's version
            return Reached(sock, answer, rest)
    except TimeoutError:
        sock.close()
        raise Unreachable(
            f"the host hub did not respond within {hub_client.ANSWER_SECONDS:g} s"
        ) from None
    except ConnectionError:  # it has just exited
        pass
    except BaseException:
        sock.close()
        raise
    with contextlib.suppress(OSError):
        sock.close()
    return None
