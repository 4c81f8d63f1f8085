"""Hubs of tests: each in a directory of its own, and none is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue._host.place import HUB_DIR, Place
from aioapiqueue._host.reach import command

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ask_hub", "hub_in_use", "is_used", "processes_of", "stop_hub"]


@contextlib.contextmanager
def hub_in_use() -> Iterator[Path]:
    """Have this process, and all that it starts, use a hub of its own meanwhile."""
    # Not pytest's directory: a socket's path is short.
    directory = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
    before, there = os.environ.get(HUB_DIR), set(processes_of(None))
    os.environ[HUB_DIR] = str(directory)
    try:
        yield directory
    finally:
        stop_hub(directory)
        assert there >= set(processes_of(None)), "a hub was started in the user's own place"
        if before is None:
            del os.environ[HUB_DIR]
        else:
            os.environ[HUB_DIR] = before
        _remove(directory)


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
    return command(Place(str(directory)), hello)


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
    """Return the processes of hubs in a directory; None: in this user's own one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                where = b"" if directory is None else os.fsencode(directory)
                if (
                    any(b"aioapiqueue.hub.host.main" in word for word in words)
                    and words[-2] == where
                ):
                    found.append(int(folder.name))
    return found
