"""Finds the Pythons of a run that are not paced: those that have sent no hello to the hub.

A hello is valid for the program that a process executed when it sent it. After an `exec` it is
not: a launcher that sends a hello and then becomes another Python without the bootstrap is one of
the silent failures that this module looks for. So each hello contains the *image* of its process. A
forked child has the image of its parent, and a program started by `exec` has a new one.

Up to five times a second, all processes of the machine are checked. A Python is not paced if it has
sent no hello within the grace period, or until its end, if that is sooner.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio.to_thread

from aioapiqueue_run.cli.run.processes import command_line, descendants, is_python

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from aioapiqueue_run.cli.run.processes import Running
    from aioapiqueue_run.hub import Process

__all__ = ["Activation", "Inactive", "Why"]

_LONGEST_PASS_SECONDS = 2.0  # between two checks; if it took longer, we were suspended (Ctrl-Z)
_LOOK_SECONDS = 0.2  # from one check to the next, at least
_SCAN_SHARE = 0.02  # of a core, at most, on a machine with many processes
# A process that ended sooner, without a hello, has hardly had the time to import botocore.
_SHORTEST_SECONDS = 0.3


class Why(enum.Enum):
    """The evidence that a process is not paced."""

    NEVER = "did not load the pacing"
    EXEC = "loaded the pacing, then became another Python, which did not"
    UNHOOKED = "uses a botocore that cannot be paced"
    LATE = "created clients before its botocore was paced"


@dataclasses.dataclass(frozen=True)
class Inactive:
    """A Python that is not paced.

    Attributes:
        pid: the process id.
        command: the command line; "" if it is not known.
        why: the evidence.
        program: whether it is the program of the run, not one of its children.
        detail: the process's own report; "" if there is none.
    """

    pid: int
    command: str
    why: Why
    program: bool
    detail: str = ""


@dataclasses.dataclass
class _Silent:
    """A Python that has sent no hello for the program that it executes.

    Attributes:
        command: the command line.
        first: when it was first seen, in seconds on the activation's clock.
        last: when it was last seen.
    """

    command: str
    first: float
    last: float


class Activation:
    """Watches the processes of one program.

    Args:
        program: the process id of the program.
        hellos: the hub's live record of processes, by process id.
        python: whether the program itself must be a Python that sends a hello.
        grace: the longest time from the start of a Python to its hello, in seconds.
    """

    def __init__(
        self, program: int, hellos: Mapping[int, Process], *, python: bool, grace: float
    ) -> None:
        self._program = program
        self._hellos = hellos
        self._python = python
        self._grace = grace
        self._now = 0.0  # seconds, without those in which we were suspended
        self._scan_at = 0.0
        self._silent: dict[Running, _Silent] = {}
        self._family: dict[int, int | None] = {program: None}
        self._found: deque[Inactive] = deque()
        self._reported: set[tuple[str, Why]] = set()
        self._read: set[tuple[int, float, Why]] = set()

    async def next(self) -> Inactive:
        """Wait for a Python that is not paced, and return it. Each command line is reported once.

        Cancelling this changes nothing: the next call goes on.
        """
        before = time.monotonic()
        while not self._found:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            self._now += min(now - before, _LONGEST_PASS_SECONDS)
            before = now
            self._read_reports()
            # Without /proc, nothing else is checked.
            if self._python and self._now > self._grace and self._program not in self._hellos:
                self._report(self._program, Why.NEVER)
            if self._now >= self._scan_at:
                # In a thread, because the hub releases calls on this loop meanwhile.
                family, silent, cost = await anyio.to_thread.run_sync(
                    _scan, self._family, self._paced()
                )
                self._scan_at = self._now + cost / _SCAN_SHARE
                # The processes found now are the roots of the next search, so that a child stays in
                # the family when its parent ends.
                self._family = {self._program: None} | {one.pid: one.start for one in family}
                self._check(silent)
        return self._found.popleft()

    def conclude(self) -> list[Inactive]:
        """Return the Pythons that ended unpaced and unreported, after the program has ended."""
        self._check_ended(list(self._silent))
        self._read_reports()
        found = list(self._found)
        self._found.clear()
        return found

    def family(self) -> list[Running]:
        """Return the program and its descendants, including orphans."""
        return descendants(self._family)

    def _paced(self) -> set[str | int]:
        """Return the images of all hellos, and the ids of the processes that are connected now."""
        # Daemons close their connection, like all files, and keep their image. On the other hand, a
        # process without /proc sends no image.
        hellos = self._hellos.items()
        connected = {pid for pid, hello in hellos if hello.ended is None}
        return connected | {hello.image for _, hello in hellos}

    def _read_reports(self) -> None:
        """Find processes that report that their calls are not paced, or were not for a while."""
        for pid, hello in self._hellos.items():
            for why, so in ((Why.UNHOOKED, hello.unhooked), (Why.LATE, hello.late)):
                key = pid, hello.started, why
                if so and key not in self._read:
                    self._read.add(key)
                    # It may report at its end, when its command line is gone already.
                    command = command_line(pid) or hello.executable
                    self._report(pid, why, command, hello.unhooked or "")

    def _check(self, silent: Mapping[Running, str]) -> None:
        """Find Pythons whose hello is overdue, and those that ended without one."""
        for process, command in silent.items():
            one = self._silent.setdefault(process, _Silent(command, self._now, self._now))
            one.last = self._now
            if one.last - one.first > self._grace:
                self._report_silent(process, one)
        # The program's own end is noticed in any case, and there is nothing to stop after it.
        gone = self._silent.keys() - silent.keys()
        self._check_ended([one for one in gone if one.pid != self._program])

    def _check_ended(self, processes: Iterable[Running]) -> None:
        paced = self._paced()
        for process in processes:
            one = self._silent.pop(process)
            if one.last - one.first >= _SHORTEST_SECONDS and not _is_paced(process, paced):
                self._report_silent(process, one)

    def _report_silent(self, process: Running, silent: _Silent) -> None:
        hello = self._hellos.get(process.pid)
        # A forked process that then executes a program (`subprocess` with `preexec_fn`) has sent a
        # hello as a fork. It is no launcher, but a child like any other.
        never = hello is None or hello.forked or hello.exited
        self._report(process.pid, Why.NEVER if never else Why.EXEC, silent.command)

    def _report(self, pid: int, why: Why, command: str = "", detail: str = "") -> None:
        command = command or command_line(pid)
        if (command, why) not in self._reported:
            self._reported.add((command, why))
            self._found.append(Inactive(pid, command, why, pid == self._program, detail))


def _is_paced(process: Running, paced: Container[str | int]) -> bool:
    return process.image in paced or process.pid in paced


def _scan(
    roots: Mapping[int, int | None], paced: Container[str | int]
) -> tuple[list[Running], dict[Running, str], float]:
    """Return the processes of a program, and the command lines of Pythons that are not paced.

    And the CPU time of the search, in seconds.
    """
    began = time.thread_time()
    family = descendants(roots)
    silent = {
        one: command_line(one.pid)
        for one in family
        if not _is_paced(one, paced) and is_python(one.pid)
    }
    return family, silent, time.thread_time() - began
