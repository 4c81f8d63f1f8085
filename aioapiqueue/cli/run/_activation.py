"""Proof of activation: whoever is Python below us has said hello to the hub, or is noticed.

A hello belongs to what a process executed when it said it. After an `exec` it counts no more: a
launcher that says hello, and then becomes another Python that says none, is one of the silent
failures that this module is for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio.to_thread

from aioapiqueue.cli.run import _processes
from aioapiqueue.cli.run._launch import harmful_option

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aioapiqueue.cli.run._processes import Image, Running
    from aioapiqueue.hub import Process

__all__ = ["Activation", "Inactive", "Why"]

_LONGEST_PASS_SECONDS = 2.0  # between two looks; more of it is somebody's Ctrl-Z
_LOOK_SECONDS = 0.1  # from one look at the hub's processes to the next
_SCAN_SECONDS = 0.2  # from one look at all processes of the machine to the next, at least
_SCAN_SHARE = 0.02  # of a core, at most, however many there are
# An interpreter comes by sitecustomize within 50 ms of CPU time, whatever the machine is busy
# with. So one that has used so much more never will; unless its site-packages have much to do
# before (.pth files), which is what a longer grace is for.
_CPU_SECONDS = 1.0
_CPU_SHARE = 0.1  # of the grace
# With an option that says it, there is nothing to wait for, but that small helpers may end.
_HELPER_SECONDS = 0.9
# One that ended without a hello after less than that has hardly imported botocore.
_SHORTEST_SECONDS = 0.3
_KEPT_SECONDS = 300.0  # what nobody executes any more is forgotten
_NOT_YET_PYTHON_SECONDS = 15.0  # programs with a Python inside load it some time after the start


class Why(enum.Enum):
    """What tells that a process is not paced."""

    NEVER = "never said hello"
    EXEC = "said hello, then became another Python, which did not"
    UNHOOKED = "has a botocore that could not be hooked"
    LATE = "made clients before its botocore was hooked"


@dataclasses.dataclass(frozen=True)
class Inactive:
    """A Python that is not paced.

    Attributes:
        pid: its process id.
        command: its command line, "" where it cannot be told.
        why: what tells.
        program: whether it is the program that we started, and not one of its children.
        detail: what the process itself says of it; "" where it says nothing.
    """

    pid: int
    command: str
    why: Why
    program: bool
    detail: str = ""


@dataclasses.dataclass
class _Seen:
    """What is executed by a process that has not said hello, as it was when first seen."""

    running: Running
    hello: Process | None
    at: float
    wall: float = dataclasses.field(default_factory=time.time)
    last: float = 0.0
    python: bool = False
    command: str = ""


class Activation:
    """Watches the processes of one program.

    Args:
        program: its process id.
        hellos: the hub's processes, by pid, as they come.
        python: whether the program itself has to be Python that says hello.
        grace: seconds that a Python may take from its start to its hello.
    """

    def __init__(
        self, program: int, hellos: Mapping[int, Process], *, python: bool, grace: float
    ) -> None:
        self._program = program
        self._hellos = hellos
        self._python = python
        self._grace = grace
        self._now = 0.0  # seconds; those in which we were suspended do not count
        self._images: dict[Image, float] = {}  # executed by who has said hello; when last seen
        self._noted: dict[int, float] = {}  # pid: the hello whose image we know
        self._ended: dict[int, float] = {}  # pid: when we saw that its connection had closed
        self._seen: dict[tuple[int, int, Image], _Seen] = {}
        self._found: deque[Inactive] = deque()
        self._family: dict[int, int | None] = {program: None}
        self._told: set[tuple[str, Why]] = set()
        self._said: set[tuple[int, float, Why]] = set()

    async def next(self) -> Inactive:
        """Wait until a Python is found that is not paced; each command line is told once.

        Cancelled, it has changed nothing: the next call goes on.
        """
        scanned = 0.0
        pause = _SCAN_SECONDS
        before = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            self._now += min(now - before, _LONGEST_PASS_SECONDS)
            before = now
            await self._note_images()
            if (found := self._by_hello()) is not None:
                return found
            self._by_own_word()
            if self._found:
                return self._found.popleft()
            if self._now - scanned < pause - _LOOK_SECONDS / 2:
                continue
            scanned = self._now
            # In a thread: the hub's loop has calls to let go in the meantime.
            running, cost = await anyio.to_thread.run_sync(_scan, self._family)
            pause = max(_SCAN_SECONDS, cost / _SCAN_SHARE)
            self._by_image(running)

    def conclude(self) -> list[Inactive]:
        """Return what there is to say once the program has ended, of those that ended unseen."""
        for seen in self._seen.values():
            self._ended_silently(seen)
        self._by_own_word()
        found = [*self._found]
        self._found.clear()
        return found

    def family(self) -> list[Running]:
        """Return the program and its descendants, those that their parents left behind too."""
        return _processes.descendants(self._family)

    async def _note_images(self) -> None:
        """Note what is executed by those who have said hello and are still connected."""
        new = {
            pid: (process.started, running.image)
            for pid, process in list(self._hellos.items())
            if process.ended is None
            and self._noted.get(pid) != process.started
            and (running := _processes.look(pid)) is not None
        }
        self._noted = {pid: at for pid, at in self._noted.items() if pid in self._hellos}
        if not new:
            return
        # An `exec` closes the connection. If that had happened before we looked, the loop would
        # know by now.
        await asyncio.sleep(_LOOK_SECONDS / 2)
        for pid, (started, image) in new.items():
            process = self._hellos.get(pid)
            if process is None or process.ended is not None or process.started != started:
                continue
            self._noted[pid] = started
            if image is not None:
                self._images[image] = self._now

    def _by_hello(self) -> Inactive | None:
        """Find what can be told without /proc: no hello from the program, or none after `exec`."""
        hello = self._hellos.get(self._program)
        if hello is None:
            late = self._python and self._now > self._grace
            return self._tell(self._program, Why.NEVER) if late else None
        if hello.ended is None or hello.exited or not _processes.alive(self._program):
            self._ended.pop(self._program, None)
            return None
        ended = self._ended.setdefault(self._program, self._now)
        running = _processes.look(self._program)
        if running is not None and (
            running.image in self._images or not _processes.is_python(self._program)
        ):
            return None
        if self._now - ended > self._grace:
            return self._tell(self._program, Why.EXEC)
        return None

    def _by_own_word(self) -> None:
        """Find what processes say of themselves: that their calls are not paced, or were not."""
        for pid, process in list(self._hellos.items()):
            for why, so in ((Why.UNHOOKED, process.unhooked), (Why.LATE, process.late)):
                if so and (pid, process.started, why) not in self._said:
                    self._said.add((pid, process.started, why))
                    # It says so at its end, too, when its command line is gone already.
                    command = _processes.command_line(pid) or process.executable
                    found = self._tell(pid, why, command, detail=process.unhooked or "")
                    self._found += [found] if found else []

    def _by_image(self, running: Collection[Running]) -> None:
        """Find each Python that neither said hello nor was forked from one that did."""
        # Children that their parents left behind stay in the family.
        self._family = {self._program: None} | {one.pid: one.start for one in running}
        before, self._seen = self._seen, {}
        for process in running:
            if process.image in self._images:
                self._images[process.image] = self._now
            if process.image is None or process.image in self._images:
                continue
            hello = self._hellos.get(process.pid)
            if hello is not None and hello.ended is None:
                continue
            key = (process.pid, process.start, process.image)
            seen = before.pop(key) if key in before else _Seen(process, hello, self._now)
            self._seen[key] = seen
            seen.last = self._now
            if self._is_late(seen, process):
                self._find(seen)
        for image in [
            one for one, seen in self._images.items() if self._now - seen > _KEPT_SECONDS
        ]:
            del self._images[image]
        for seen in before.values():
            if seen.running.image not in self._images:
                self._ended_silently(seen)

    def _is_late(self, seen: _Seen, process: Running) -> bool:
        """Return whether this is Python, and should have said hello by now."""
        age, cpu = seen.last - seen.at, process.cpu - seen.running.cpu
        if not seen.python and age < _NOT_YET_PYTHON_SECONDS:
            seen.python = _processes.is_python(process.pid)
            seen.command = _processes.command_line(process.pid)
        if not seen.python:
            return False
        if age > self._grace or cpu > max(_CPU_SECONDS, _CPU_SHARE * self._grace):
            return True
        return (
            age > _HELPER_SECONDS and harmful_option(_processes.arguments(process.pid)) is not None
        )

    def _ended_silently(self, seen: _Seen) -> None:
        """Find a Python that has ended, or executes something else, and never said hello."""
        hello = self._hellos.get(seen.running.pid)
        said = (
            hello is not None
            and hello.started >= seen.running.began - 1
            and (hello.exited or hello.ended is None or hello.ended >= seen.wall)
        )
        # What a launcher became was there for the program's sake, however short it lived.
        shortest = 0.0 if self._why(seen) is Why.EXEC else _SHORTEST_SECONDS
        if seen.python and not said and seen.last - seen.at >= shortest:
            self._find(seen)

    @staticmethod
    def _why(seen: _Seen) -> Why:
        hello = seen.hello
        # A fork that becomes something else (subprocess with preexec_fn) is a child like any other.
        by_exec = (
            hello is not None
            and not hello.forked
            and not hello.exited
            and hello.started >= seen.running.began - 1
        )
        return Why.EXEC if by_exec else Why.NEVER

    def _find(self, seen: _Seen) -> None:
        inactive = self._tell(seen.running.pid, self._why(seen), seen.command)
        if inactive is not None:
            self._found.append(inactive)

    def _tell(self, pid: int, why: Why, command: str = "", *, detail: str = "") -> Inactive | None:
        command = command or _processes.command_line(pid)
        if (command, why) in self._told:
            return None
        self._told.add((command, why))
        return Inactive(pid, command, why, pid == self._program, detail)


def _scan(family: Mapping[int, int | None]) -> tuple[list[Running], float]:
    """Return a program's processes, and the seconds of CPU time that it took to find them."""
    began = time.thread_time()
    return _processes.descendants(family), time.thread_time() - began
