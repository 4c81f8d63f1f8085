"""Hubs of tests: each in a directory of its own, and none is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue.schedules.spi import HUB_DIR, HubLocation, command, listen
from tests.helpers import introspect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = [
    "ask_hub",
    "begin_hubs_as_told",
    "host_hub_on_loop",
    "hub_in_use",
    "hubs_with",
    "is_used",
    "processes_of",
    "stop_hub",
]

_BEGIN = "TESTS_BEGIN_HUBS_WITH"
"""The variable by which workers know how hubs begin."""


@contextlib.contextmanager
def hub_in_use() -> Iterator[Path]:
    """Have this process, and all that it starts, use a hub of its own meanwhile."""
    # Not pytest's directory: a socket's path is short.
    directory = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
    before, there = os.environ.get(HUB_DIR), _strays()
    os.environ[HUB_DIR] = str(directory)
    try:
        yield directory
    finally:
        stop_hub(directory)
        if before is None:
            del os.environ[HUB_DIR]
        else:
            os.environ[HUB_DIR] = before
        _remove(directory)
        strays = _strays() - there
        assert not strays, f"tests have started hubs in the user's own place: {sorted(strays)}"


@contextlib.asynccontextmanager
async def host_hub_on_loop(directory: Path) -> AsyncIterator[tuple[Any, str]]:
    """Give a host hub on the running loop, in place of a process, and the path of its socket."""
    place = HubLocation(str(directory))
    [path] = place.sockets()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listen(listener, path, variable="")
    version, quotas = introspect.hub_messages().own_version(), introspect.hub_quotas()
    hub = introspect.host_hub(place, listener, path, version=version, quotas=quotas)
    task = asyncio.create_task(hub.run())
    yield hub, os.fspath(path)
    hub.stop()
    await task


def _strays() -> set[int]:
    """Return hubs in the user's own place that this process has started, or what it started.

    Only Linux can tell: elsewhere, it is none.
    """
    if sys.platform != "linux":  # Windows has not even the module
        return set()
    import resource

    mark = _mark()
    found = set()
    for pid in processes_of(None):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if resource.prlimit(pid, resource.RLIMIT_RSS) == mark:
                found.add(pid)
    return found


@functools.cache
def _mark() -> tuple[int, int]:
    """Mark this process, and all that it starts from now on; return how.

    A hub has no environment, session or parent of who starts it. It inherits limits, also through
    processes that have ended: so the mark is one of its own for memory that Linux does not look at.
    """
    import resource

    most = resource.getrlimit(resource.RLIMIT_RSS)[1]
    if most == resource.RLIM_INFINITY:
        most = 1 << 62
    mark = most - 1 - secrets.randbelow(1 << 40)  # lower: only root can have a higher one again
    resource.setrlimit(resource.RLIMIT_RSS, (mark, mark))
    return mark, mark


@contextlib.contextmanager
def hubs_with(**seconds: float) -> Iterator[None]:
    """Have hubs that this process and its workers start meanwhile go by other times.

    Args:
        seconds: by the names that they have in the hub's `_service`.
    """
    times = "".join(f"_service.{name} = {value!r}; " for name, value in seconds.items())
    code = f"{introspect.SERVICE}; {times}"
    os.environ[_BEGIN] = code
    try:
        with introspect.hubs_begun_with(code):
            yield
    finally:
        del os.environ[_BEGIN]


def begin_hubs_as_told() -> None:
    """Have hubs that this process starts go by the times of the test that has started it."""
    introspect.begin_hubs_with(os.environ.get(_BEGIN, ""))


def _remove(directory: Path) -> None:
    """Remove what a hub had, and end one that a process has started just before it was killed."""
    deadline = time.monotonic() + 20
    while directory.exists():
        try:
            shutil.rmtree(directory)
        except OSError:  # it makes its files meanwhile
            assert time.monotonic() < deadline, f"{directory} cannot be removed"
            stop_hub(directory)


def ask_hub(directory: Path, **hello: Any) -> dict[str, Any] | None:
    """Ask the hub there for something; None: there is none."""
    return command(HubLocation(str(directory)), hello)


def is_used(directory: Path) -> bool:
    """Return whether the hub there has clients: a quota that has none may be forgotten already."""
    return any(quota["clients"] for quota in ask_hub(directory, command="status")["quotas"])


def stop_hub(directory: Path) -> None:
    """End the hub there, if one runs, and see that it is gone."""
    ask_hub(directory, command="stop")
    deadline = time.monotonic() + 20
    while left := processes_of(directory):
        assert time.monotonic() < deadline, f"hub processes are left: {left}"
        time.sleep(0.01)


def processes_of(directory: Path | None) -> list[int]:
    """Return the processes of hubs in a directory; None: in this user's own one.

    Without /proc, none is found.
    """
    if not Path("/proc/self").exists():
        return []
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                where = b"" if directory is None else os.fsencode(directory)
                if any(introspect.HUB_PROGRAM in word for word in words) and words[-2] == where:
                    found.append(int(folder.name))
    return found
