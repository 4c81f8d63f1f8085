"""The process of the host hub. `aioapiqueue._shared.host.reach` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

from aioapiqueue._shared.host.directory import HUB_DIR, HubLocation
from aioapiqueue._shared.host.messages import own_version
from aioapiqueue._shared.host_hub.journal import Journal
from aioapiqueue._shared.host_hub.quotas import HubQuotas
from aioapiqueue._shared.host_hub.service import HostHub
from aioapiqueue._shared.local_sockets import listen, make_private

if TYPE_CHECKING:
    from pathlib import Path


def main(override: str) -> None:
    """Listen, then fork: the child serves, and this process exits.

    So the process that starts the hub learns why it fails, and has no child to wait for.

    Args:
        override: the hub's directory; "": the user's own.
    """
    os.umask(0o077)
    try:
        place = HubLocation(override or None)
        if _lock_file(place.lock()) is None:  # a hub runs, or another process is starting it
            return
        # Services with a /tmp of their own may share the journal: only one hub may write it.
        if _lock_file(_state_of(place) / "quotas.lock") is None:
            sys.exit(
                "another hub of this user runs where this process cannot reach it (a service can "
                f"have its own /tmp). Set {HUB_DIR} to the same directory for all processes"
            )
        path = place.sockets()[0]
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listen(listener, path, variable=HUB_DIR)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if os.fork():
        # The child has its copies of the lock and the socket.
        os._exit(0)
    _detach(path.parent)
    quotas = _quotas(_state_of(place))
    asyncio.run(_serve(place, listener, path, quotas))


def _lock_file(file: Path) -> int | None:
    """Lock a file until this process ends; return its descriptor, or None if a hub has it."""
    make_private(file.parent, variable=HUB_DIR)
    # Never removed: the kernel unlocks it however the process ends, and if a locked file were
    # removed, the next hub would lock a new file of that name.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _state_of(place: HubLocation) -> Path:
    """Return the journal's folder: beside the lock if the home directory is not writable."""
    try:
        folder = place.state()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(folder, variable=HUB_DIR)
    except (OSError, LookupError):  # a user without an entry in passwd, as in containers
        return place.lock().parent
    return folder if os.access(folder, os.W_OK) else place.lock().parent


def _detach(directory: Path) -> None:
    """Drop what was inherited: terminal, ignored signals, resource limits and priority."""
    log = os.open(directory / "host.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for number in (log, null):
        os.close(number)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A terminal that closes, a client that dies, a file that may not grow: none ends the hub.
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            with contextlib.suppress(OSError, ValueError):
                _, most = resource.getrlimit(getattr(resource, name))
                resource.setrlimit(getattr(resource, name), (most, most))
    # A job with a low priority may have started the hub, but other processes use it, too. (Only
    # root may raise a priority; for other users, this fails.)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _quotas(folder: Path) -> HubQuotas:
    """Return the quotas, with the journal of the last hub."""
    file = folder / "quotas.db"
    try:
        quotas = HubQuotas(Journal(file))
    except (OSError, sqlite3.Error) as error:
        why = f"{file} cannot be used ({error})"
        quotas = HubQuotas(problem=f"{why}: quotas start afresh, and are lost when this hub ends")
    if quotas.problem:  # stderr is host.log, see `_detach`
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {quotas.problem}\n")
        sys.stderr.flush()
    return quotas


async def _serve(
    place: HubLocation, listener: socket.socket, path: Path, quotas: HubQuotas
) -> None:
    service = HostHub(place, listener, path, version=own_version(), quotas=quotas)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    await service.run()
