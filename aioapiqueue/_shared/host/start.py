"""Starts the hub: a process of its own, which inherits nothing from the process that starts it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue._shared.host.directory import make_private
from aioapiqueue.threads.spi import plain_subprocess

if TYPE_CHECKING:
    from aioapiqueue._shared.host.directory import HubLocation

_SECONDS = 30.0
"""Seconds that the start may take: Python may have to read its files from a slow disk."""
_KILLED = (9, 15)
"""SIGKILL and SIGTERM: sent by a person, or by a kernel that is out of memory."""
_MAIN = (
    "import json, sys; sys.path += json.loads(sys.argv[1]); "
    "from aioapiqueue._shared.host_hub.main import main; main(sys.argv[2])"
)


def start_hub(place: HubLocation) -> str | None:
    """Start the hub, unless another process is starting it. This blocks.

    Returns:
        Why it could not be started; None: it listens, or another process starts it.

    Raises:
        PermissionError: other users have access to its directory.
        OSError: its directory cannot be made, no process can be started for now, or it was killed.
    """
    import fcntl  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

    directory = place.directories()[0]
    make_private(directory)
    with (directory / "start.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # of a hundred processes, one starts it
            return None
        try:
            return _start(place)
        finally:  # closing the file is not enough: a child forked meanwhile has a copy of it
            fcntl.flock(lock, fcntl.LOCK_UN)


def _start(place: HubLocation) -> str | None:
    python = _python()
    if python is None:
        return (
            f"{sys.executable or 'this program'} is not a Python interpreter. Start the hub "
            "first: aioapiqueue hub start"
        )
    # The hub gets no environment (which may contain an account's keys), terminal, pipe, working
    # directory, umask or open file of this process, and runs no site code (-I, -S). It looks for
    # modules in the standard library, then beside this package, then where this process does.
    package = str(Path(__file__).parents[3])
    paths = [path for path in (package, *sys.path) if Path(path).is_absolute()]
    command = [python, "-I", "-S", "-X", "utf8", "-c", _MAIN, json.dumps(paths), place.override]
    subprocess = plain_subprocess()
    try:
        done = subprocess.run(  # our own interpreter, and our own module
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
    if -done.returncode in _KILLED:  # the next attempt may well succeed
        raise ChildProcessError(
            f"a new hub was killed while it started (signal {-done.returncode})"
        )
    if done.returncode:
        text = done.stderr.decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else f"{python} exited with code {done.returncode}"
    return None


def _python() -> str | None:
    """Return this interpreter, even if it is embedded in another program."""
    candidates = [sys.executable, str(Path(sys.prefix) / "bin" / "python3")]
    for one in candidates:
        if one and Path(one).name.startswith(("python", "pypy")) and os.access(one, os.X_OK):
            return one
    return None
