"""What Linux shows of processes in /proc; on other systems, nothing is found.

A process is known by its pid and the time of its start. What it executes is known by where the
kernel laid it out: addresses are drawn at random for each `exec`, and inherited by `fork`. So a
forked child differs from a program of its own, though both have the same name.
"""

from __future__ import annotations

import os
import shlex
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aioapiqueue.cli.run.launch import is_python_name
from aioapiqueue.spi import printable

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


class Running(NamedTuple):
    """A process at the moment of a look.

    Attributes:
        pid: its id.
        parent: its parent's.
        start: when it was started, in ticks since the machine's start: two of one pid differ.
        cpu: seconds of CPU time that it has used, over all that it has executed.
        image: what it executes; None where the kernel does not show it.
    """

    pid: int
    parent: int
    start: int
    cpu: float
    image: Image | None

    @property
    def began(self) -> float:
        """When it was started, as `time.time()` has it, to some 10 ms."""
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + self.start / _TICKS


def look(pid: int) -> Running | None:
    """Return a process; None if it is gone, or a zombie."""
    try:
        # Not by pathlib, which takes longer than all the rest: there may be thousands of them.
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
            # The name is in parentheses, and may hold any character.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if not fields or fields[0] in (b"Z", b"X"):
        return None
    # Of other users' processes, the addresses are 0 or 1.
    code_start, code_end, stack = int(fields[23]), int(fields[24]), int(fields[25])
    return Running(
        pid=pid,
        parent=int(fields[1]),
        start=int(fields[19]),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        image=(code_start, code_end, stack) if stack > 1 else None,
    )


def descendants(roots: Mapping[int, int | None]) -> list[Running]:
    """Return processes and all their descendants, as far as they are visible.

    Args:
        roots: for each pid the `start` of the process that is meant, None for whichever has it.
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
    for process in found:
        new = [child for child in children[process.pid] if child.pid not in seen]
        seen.update(child.pid for child in new)
        found += new
    return found


def is_python(pid: int) -> bool:
    """Return whether a process executes Python: under its own name, or as a part of a program."""
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
    """Return what a process was started with, its own name first; nothing if it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words]


def command_line(pid: int) -> str:
    """Return the command line of a process as one would type it, shortened; "" if it is gone."""
    # It may come to stand on a terminal: no control characters.
    line = printable(shlex.join(arguments(pid)))
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 3]}..."
