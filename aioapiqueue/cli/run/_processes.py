"""What Linux tells of processes in /proc; elsewhere, nothing.

A process is known by its pid and the time of its start. What it executes is known by where the
kernel laid it out: addresses are drawn at random for each `exec`, and inherited by `fork`. So a
forked child is told from a program of its own, though both carry the same name.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from aioapiqueue.cli.run._launch import is_python_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Image",
    "Running",
    "alive",
    "arguments",
    "command_line",
    "descendants",
    "is_python",
    "look",
]

_PROC = Path("/proc")
_LONGEST_SHOWN = 60

# Positions in /proc/PID/stat, counted from the field after the name.
_STATE, _PARENT, _USER_TIME, _SYSTEM_TIME, _START = 0, 1, 11, 12, 19
_LAYOUT = (23, 24, 25)  # startcode, endcode, startstack
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

Image: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Running:
    """A process at the moment of a look.

    Attributes:
        pid: its id.
        start: when it was started, in ticks since the machine's: tells apart two of one pid.
        began: the same as `time.time()` has it, to some 10 ms.
        cpu: seconds of CPU time that it has used, over all that it has executed.
        image: what it executes; None where the kernel does not tell.
    """

    pid: int
    start: int
    began: float
    cpu: float
    image: Image | None


def look(pid: int) -> Running | None:
    """Return what there is to know of a process; None if it is gone or only waits to be reaped."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] in (b"Z", b"X"):
        return None
    image = tuple(int(fields[n]) for n in _LAYOUT)
    return Running(
        pid=pid,
        start=int(fields[_START]),
        began=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[_START]) / _TICKS,
        cpu=(int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS,
        # Of other users' processes it says 0 or 1.
        image=image if any(address > 1 for address in image) else None,
    )


def _stat(pid: int) -> list[bytes] | None:
    # Not by pathlib, which takes longer than all the rest: there may be thousands of processes.
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The name is in parentheses, and may hold any character.
        return os.read(file, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(file)


def descendants(roots: Mapping[int, int | None]) -> list[Running]:
    """Return processes and all that descend from them, as far as they can be seen.

    Args:
        roots: for each pid the `start` of the process that is meant, None for whichever has it.
    """
    children: dict[int, list[int]] = {}
    try:
        entries = os.listdir("/proc")  # noqa: PTH208 - as above
    except OSError:
        return []
    for entry in entries:
        if entry.isdecimal() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[_PARENT]), []).append(int(entry))
    found: dict[int, Running] = {}
    pids = [*roots]
    for pid in pids:
        process = look(pid)
        if process is None or pid in found or roots.get(pid) not in {None, process.start}:
            continue
        found[pid] = process
        pids.extend(children.get(pid, ()))
    return [*found.values()]


def is_python(pid: int) -> bool:
    """Return whether a process executes Python: under its own name, or as a part of a program."""
    folder = _PROC / str(pid)
    try:
        executable = str((folder / "exe").readlink()).removesuffix(" (deleted)")
        if is_python_name(executable):
            return True
        maps = (folder / "maps").read_bytes()
    except OSError:
        return False
    return b"/libpython" in maps or b"/libpypy" in maps


def arguments(pid: int) -> list[str]:
    """Return what a process was started with, its own name first; nothing if it is gone."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words]


def command_line(pid: int) -> str:
    """Return the command line of a process as one would type it, shortened; "" if it is gone."""
    line = shlex.join(arguments(pid))
    # It may come to stand on a terminal: no control characters.
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 3]}..."


def alive(pid: int) -> bool:
    """Return whether there is a process of this id."""
    if _PROC.joinpath("self", "stat").exists():
        return look(pid) is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
