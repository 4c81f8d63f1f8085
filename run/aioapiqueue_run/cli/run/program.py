"""The program of a run: starts it, forwards signals to it, waits for it and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Self

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.run.errors import ExitCode, NotStarted
from aioapiqueue_run.cli.run.processes import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aioapiqueue_run.cli.run.launch import Launch
    from aioapiqueue_run.cli.run.processes import Running

__all__ = ["Program", "Signals"]

_STILL_RUNNING_SECONDS = 3.0  # after Ctrl-C; most programs end within it
_STOP_SECONDS = 5.0  # from SIGTERM to SIGKILL
_POLL_SECONDS = 0.05

# A key of the terminal sends these to its whole foreground process group, which includes the
# program. Forwarded as well, they would arrive twice, and a second Ctrl-C often kills.
_BY_KEY = ("SIGINT", "SIGQUIT", "SIGTSTP")
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT", *_BY_KEY)


class Signals:
    """Forwards the signals of this process to the program: a context manager.

    Args:
        suspend: called before this process is suspended, to restore the terminal.
        still_running: called if the program still runs some seconds after Ctrl-C.
    """

    def __init__(self, *, suspend: Callable[[], None], still_running: Callable[[], None]) -> None:
        self.early: int | None = None
        """The last signal that arrived before the program was started."""
        self.opening = asyncio.timeout(None)
        """Cancels, at such a signal, what is done before the program is started."""
        self._suspend = suspend
        self._still_running = still_running
        self._timer: asyncio.TimerHandle | None = None
        self._program: Program | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for name in _FORWARDED:
            signum = getattr(signal, name)
            # A signal that is ignored (as by `nohup`) stays ignored, here and in the program, which
            # inherits that.
            if signal.getsignal(signum) != signal.SIG_IGN:
                loop.add_signal_handler(signum, self._received, signum)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        for name in _FORWARDED:
            loop.remove_signal_handler(getattr(signal, name))

    def pass_to(self, program: Program) -> None:
        """Forward signals to a program from now on, and the one that arrived before."""
        self._program = program
        if self.early is not None:
            program.send(self.early)

    def _received(self, signum: int) -> None:
        by_key = signal.Signals(signum).name in _BY_KEY and _in_foreground()
        if self._program is None:
            if signum not in {signal.SIGCONT, signal.SIGTSTP}:
                self.early = signum
                with contextlib.suppress(RuntimeError):  # the program is just being started
                    self.opening.reschedule(0)
        elif not by_key:
            self._program.send(signum)
        if signum == signal.SIGINT and self._program is not None and self._timer is None:
            # A program that finishes its pending calls, at the pace of its limits, seems to hang.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_STILL_RUNNING_SECONDS, self._still_running)
        if signum == signal.SIGTSTP:
            self._suspend_here()

    def _suspend_here(self) -> None:
        """Suspend this process; return when it is continued."""
        self._suspend()
        loop = asyncio.get_running_loop()
        # With a handler, SIGTSTP does not suspend. So remove it, and send the signal again.
        loop.remove_signal_handler(signal.SIGTSTP)
        signal.raise_signal(signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._received, signal.SIGTSTP)


class Program:
    """A started program, which shares our input, output and terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, launch: Launch, command: Sequence[str], environment: Mapping[str, str]
    ) -> Program:
        """Start a command with our input, output and other inherited files.

        Raises:
            NotStarted: the system cannot execute it.
        """
        try:
            # `close_fds=False`: a shell may pass further files, as in `run ... 3<file`. Our own are
            # not inherited, as Python opens them so (PEP 446).
            process = await asyncio.create_subprocess_exec(
                *command, executable=launch.path, env=environment, close_fds=False
            )
        except OSError as error:
            raise NotStarted(
                f"{printable(launch.name)}: cannot be started: {error.strerror or error}",
                code=ExitCode.NOT_EXECUTABLE,
            ) from None
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the program's end; return its exit code, for signal n 128 + n as in a shell."""
        code = await self._process.wait()
        return 128 - code if code < 0 else code

    def send(self, signum: int) -> None:
        """Send a signal to the program, if it still runs."""
        # Not `Process.send_signal`: before Python 3.13, it first asks the kernel whether the
        # program has ended. Then asyncio, which asks later, finds no such child, and takes 255 for
        # the exit code.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    async def stop(self, family: Iterable[Running] = ()) -> None:
        """End the program if it still runs, and the processes of `family` with it.

        If this is cancelled, it kills them at once.
        """
        if self._process.returncode is not None:
            return
        others = [one for one in family if one.pid != self.pid]
        try:
            # The program first: after the end of a child, a shell would start its next command.
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)  # a suspended process handles SIGTERM only when continued
            _signal(others, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()
                    # The others are not our children, so that nothing tells us when they end.
                    while any(map(_is_running, others)):  # noqa: ASYNC110 - there is no event
                        await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.send(signal.SIGKILL)
            _signal(others, signal.SIGKILL)
        await self._process.wait()


def _is_running(process: Running) -> bool:
    now = look(process.pid)
    return now is not None and now.start == process.start  # another process may have its id by now


def _signal(processes: Iterable[Running], signum: int) -> None:
    for process in filter(_is_running, processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signum)


def _in_foreground() -> bool:
    """Return whether keys of our terminal send signals to our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
