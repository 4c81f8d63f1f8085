"""Reads processes from Linux's /proc. On other systems, no process is found.

A process is identified by its id and its start time. The program that it executes is identified by
its addresses in memory (`Image`): the kernel draws them at random for each `exec`, and `fork` keeps
them. So a forked child can be told from a new program, even if both have the same name.
"""

from __future__ import annotations

import os
import shlex
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.run.launch import is_python_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "HAS_PROC",
    "Image",
    "Running",
    "arguments",
    "command_line",
    "descendants",
    "is_python",
    "look",
]

HAS_PROC = os.path.exists("/proc/self/stat")  # noqa: PTH110
_LONGEST_SHOWN = 60
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

Image: TypeAlias = tuple[int, int, int]
"""The addresses of code and stack, which identify an execution of a program."""


class Running(NamedTuple):
    """A process at one moment.

    Attributes:
        pid: the process id.
        parent: the process id of its parent.
        start: its start time, in ticks since the machine's start. It tells apart processes that
            had the same id.
        cpu: its CPU time in seconds, over all programs that it has executed.
        image: the program that it executes; None if the kernel does not show it.
    """

    pid: int
    parent: int
    start: int
    cpu: float
    image: Image | None

    @property
    def began(self) -> float:
        """Its start time as `time.time()`, with a precision of about 10 ms."""
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + self.start / _TICKS


def look(pid: int) -> Running | None:
    """Return a process; None if it has ended, even as a zombie."""
    try:
        # `Path.read_bytes` takes longer than all the rest, and there may be thousands of processes.
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
            # The second field is the name, in parentheses: it may contain spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if not fields or fields[0] in (b"Z", b"X"):
        return None
    # The kernel shows 0 or 1 as the addresses of other users' processes.
    code_start, code_end, stack = int(fields[23]), int(fields[24]), int(fields[25])
    return Running(
        pid=pid,
        parent=int(fields[1]),
        start=int(fields[19]),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        image=(code_start, code_end, stack) if stack > 1 else None,
    )


def descendants(roots: Mapping[int, int | None]) -> list[Running]:
    """Return processes and all their visible descendants.

    Args:
        roots: the `start` of each process, by its id; None for any process with that id.
    """
    if not HAS_PROC:
        return []
    found: list[Running] = []
    children: dict[int, list[Running]] = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        process = look(int(name)) if name.isdecimal() else None
        if process is not None:
            children[process.parent].append(process)
            if roots.get(process.pid, -1) in {None, process.start}:
                found.append(process)
    seen = {process.pid for process in found}
    for process in found:  # which grows meanwhile
        new = [child for child in children[process.pid] if child.pid not in seen]
        seen.update(child.pid for child in new)
        found += new
    return found


def is_python(pid: int) -> bool:
    """Return whether a process executes Python, as an interpreter or embedded in a program."""
    folder = Path(f"/proc/{pid}")
    try:
        executable = str((folder / "exe").readlink()).removesuffix(" (deleted)")
        if is_python_name(executable):
            return True
        maps = (folder / "maps").read_bytes()
    except OSError:
        return False
    return b"/libpython" in maps or b"/libpypy" in maps


def arguments(pid: int) -> list[str]:
    """Return the arguments of a process, its own name first; none if it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words]


def command_line(pid: int) -> str:
    """Return the command line of a process, quoted and shortened; "" if it has ended."""
    # Messages quote it: control characters of a program must not reach the terminal.
    line = printable(shlex.join(arguments(pid)))
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 3]}..."
