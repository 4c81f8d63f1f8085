"""Reads processes from Linux's /proc. On other systems, no process is found.

A process is identified by its id and its start time. The program that it executes is identified by
its addresses in memory (its *image*): the kernel draws them at random for each `exec`, and `fork`
keeps them. So a forked child can be told from a new program, even if both have the same name.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.run.launch import is_python_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Running", "command_line", "descendants", "is_python", "look"]

_LONGEST_SHOWN = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A process at one moment.

    Attributes:
        pid: the process id.
        parent: the process id of its parent, which may change.
        start: its start time, in ticks since the machine's start. It tells apart processes that
            had the same id.
        image: the addresses of its code and stack, as in `hub.Process`. They are those of no hello
            if another user runs the process.
    """

    pid: int
    parent: int = dataclasses.field(compare=False)
    start: int
    image: str


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
    image = b" ".join(fields[23:26]).decode()
    return Running(pid, parent=int(fields[1]), start=int(fields[19]), image=image)


def descendants(roots: Mapping[int, int | None]) -> list[Running]:
    """Return processes and all their visible descendants.

    Args:
        roots: the `start` of each process, by its id; None for any process with that id.
    """
    found: list[Running] = []
    children: dict[int, list[Running]] = defaultdict(list)
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208
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
    except OSError:  # it has ended, or belongs to another user
        return False
    return b"/libpython" in maps or b"/libpypy" in maps


def command_line(pid: int) -> str:
    """Return the command line of a process, quoted and shortened; "" if it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    # Messages quote it: control characters of a program must not reach the terminal.
    line = printable(shlex.join(os.fsdecode(word) for word in words))
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 3]}..."
