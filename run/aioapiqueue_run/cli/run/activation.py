"""Finds the Pythons of a run that are not paced: those that have sent no hello to the hub.

A hello is valid for the program that a process executed when it sent it. After an `exec` it is
not: a launcher that sends a hello and then becomes another Python without the bootstrap is one of
the silent failures that this module looks for. So the *image* of each process with a hello is
noted. A forked child has the image of its parent, and a program started by `exec` has a new one.

The hub's records are checked ten times a second. All processes of the machine are checked up to
five times a second, to find children that send nothing at all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio.to_thread

from aioapiqueue_run.cli.run.launch import harmful_option
from aioapiqueue_run.cli.run.processes import (
    HAS_PROC,
    arguments,
    command_line,
    descendants,
    is_python,
    look,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioapiqueue_run.cli.run.processes import Image, Running
    from aioapiqueue_run.hub import Process

__all__ = ["Activation", "Inactive", "Why"]

_LONGEST_PASS_SECONDS = 2.0  # between two checks; if it took longer, we were suspended (Ctrl-Z)
_LOOK_SECONDS = 0.1  # from one check of the hub's records to the next
_SCAN_SECONDS = 0.2  # from one check of all processes of the machine to the next, at least
_SCAN_SHARE = 0.02  # of a core, at most, on a machine with many processes
# An interpreter imports sitecustomize within 50 ms of CPU time, however busy the machine is. So one
# that has used much more CPU time never will, unless .pth files in its site-packages take long.
# That is what a longer --grace is for.
_CPU_SECONDS = 1.0
_CPU_SHARE = 0.1  # of the grace
# With an option that prevents the hello, waiting for it is useless. But small helpers, which call
# no API, may end within this time, and need no message.
_HELPER_SECONDS = 0.9
# A process that ended sooner, without a hello, has hardly had the time to import botocore.
_SHORTEST_SECONDS = 0.3
_KEPT_SECONDS = 300.0  # an image is forgotten after no process has executed it for this time
_NOT_YET_PYTHON_SECONDS = 15.0  # programs that embed Python may load it some time after the start


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
    """A process that has sent no hello for the program that it executes.

    Attributes:
        running: the process when it was first seen.
        hello: the latest hello of its process id at that time.
        at: that time, in seconds on the activation's clock.
        wall: that time as `time.time()`.
        last: when it was last seen.
        python: whether it executes Python.
        command: the command line.
    """

    running: Running
    hello: Process | None
    at: float
    wall: float = dataclasses.field(default_factory=time.time)
    last: float = 0.0
    python: bool = False
    command: str = ""

    def sent(self, hello: Process) -> bool:
        """Return whether a hello came from this process, not from an earlier one with its id."""
        return hello.started >= self.running.began - 1

    @property
    def why(self) -> Why:
        hello = self.hello
        # A forked process that then executes a program (`subprocess` with `preexec_fn`) has sent a
        # hello as a fork. It is no launcher, but a child like any other.
        if hello is None or hello.forked or hello.exited or not self.sent(hello):
            return Why.NEVER
        return Why.EXEC


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
        self._ended_at: float | None = None  # when we saw that the program's connection had closed
        self._images: dict[Image, float] = {}  # of processes with a hello; when last seen
        self._looked_at: dict[int, float] = {}  # by pid, the hello for which the image was noted
        self._silent: dict[tuple[int, int, Image], _Silent] = {}
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
            await asyncio.sleep(_LOOK_SECONDS / 2)
            new = self._new_images()
            await asyncio.sleep(_LOOK_SECONDS / 2)
            now = time.monotonic()
            self._now += min(now - before, _LONGEST_PASS_SECONDS)
            before = now
            for pid, hello, image in new:
                # An `exec` closes the connection. If it had happened before the image was read, the
                # hub would know by now, half a period later. So this is the image of the hello.
                if hello.ended is None:
                    self._looked_at[pid] = hello.started
                    self._images[image] = self._now
            self._check_program()
            self._read_reports()
            if self._now >= self._scan_at and not self._found:
                # In a thread, because the hub releases calls on this loop meanwhile.
                running, cost = await anyio.to_thread.run_sync(_scan, self._family)
                pause = max(_SCAN_SECONDS, cost / _SCAN_SHARE)
                self._scan_at = self._now + pause - _LOOK_SECONDS / 2
                self._check_family(running)
        return self._found.popleft()

    def conclude(self) -> list[Inactive]:
        """Return the Pythons that ended unpaced and unreported, after the program has ended."""
        for silent in self._silent.values():
            self._check_ended(silent)
        self._read_reports()
        found = list(self._found)
        self._found.clear()
        return found

    def family(self) -> list[Running]:
        """Return the program and its descendants, including orphans."""
        return descendants(self._family)

    def _new_images(self) -> list[tuple[int, Process, Image]]:
        """Return the images of connected processes whose hello is new."""
        return [
            (pid, hello, running.image)
            for pid, hello in self._hellos.items()
            if hello.ended is None
            and self._looked_at.get(pid) != hello.started
            and (running := look(pid)) is not None
            and running.image is not None
        ]

    def _check_program(self) -> None:
        """Check the program without /proc: it has sent no hello, or none after an `exec`."""
        hello = self._hellos.get(self._program)
        if hello is None:
            if self._python and self._now > self._grace:
                self._report(self._program, Why.NEVER)
        elif HAS_PROC or hello.ended is None or hello.exited:
            self._ended_at = None
        elif self._ended_at is None:
            self._ended_at = self._now
        elif self._now - self._ended_at > self._grace:
            self._report(self._program, Why.EXEC)

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

    def _check_family(self, family: Iterable[Running]) -> None:
        """Find Pythons that sent no hello and were not forked from one that did."""
        # The processes found now are the roots of the next search, so that a child stays in the
        # family when its parent ends.
        self._family = {self._program: None} | {one.pid: one.start for one in family}
        before, self._silent = self._silent, {}
        for process in family:
            hello = self._hellos.get(process.pid)
            if process.image in self._images:
                self._images[process.image] = self._now
            elif process.image is not None and (hello is None or hello.ended is not None):
                key = process.pid, process.start, process.image
                silent = before.pop(key, None) or _Silent(process, hello, self._now)
                self._silent[key] = silent
                silent.last = self._now
                if self._is_late(silent, process):
                    self._report(process.pid, silent.why, silent.command)
        for silent in before.values():
            if silent.running.image not in self._images:
                self._check_ended(silent)
        oldest = self._now - _KEPT_SECONDS
        self._images = {image: at for image, at in self._images.items() if at >= oldest}

    def _is_late(self, silent: _Silent, process: Running) -> bool:
        """Return whether this is a Python whose hello is overdue."""
        age, cpu = silent.last - silent.at, process.cpu - silent.running.cpu
        if not silent.python and age < _NOT_YET_PYTHON_SECONDS:
            silent.python = is_python(process.pid)
            silent.command = command_line(process.pid)
        if not silent.python:
            return False
        if age > self._grace or cpu > max(_CPU_SECONDS, _CPU_SHARE * self._grace):
            return True
        return age > _HELPER_SECONDS and harmful_option(arguments(process.pid)) is not None

    def _check_ended(self, silent: _Silent) -> None:
        """Find Pythons that ended, or executed another program, without a hello."""
        hello = self._hellos.get(silent.running.pid)
        if (
            hello is not None
            and silent.sent(hello)
            and (hello.exited or hello.ended is None or hello.ended >= silent.wall)
        ):
            return
        # A launcher replaces itself with the program proper, which counts however short it ran.
        shortest = 0.0 if silent.why is Why.EXEC else _SHORTEST_SECONDS
        if silent.python and silent.last - silent.at >= shortest:
            self._report(silent.running.pid, silent.why, silent.command)

    def _report(self, pid: int, why: Why, command: str = "", detail: str = "") -> None:
        command = command or command_line(pid)
        if (command, why) not in self._reported:
            self._reported.add((command, why))
            self._found.append(Inactive(pid, command, why, pid == self._program, detail))


def _scan(family: Mapping[int, int | None]) -> tuple[list[Running], float]:
    """Return the processes of a program, and the CPU time of the search in seconds."""
    began = time.thread_time()
    return descendants(family), time.thread_time() - began
