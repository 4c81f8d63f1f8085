"""The program that is run: started, sent the signals that come to us, waited for, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Self

from aioapiqueue.cli.run.errors import ExitCode, NotStarted
from aioapiqueue.cli.run.processes import look
from aioapiqueue.spi import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aioapiqueue.cli.run.launch import Launch
    from aioapiqueue.cli.run.processes import Running

__all__ = ["Program", "Signals"]

_GOES_ON_SECONDS = 3.0
_STOP_SECONDS = 5.0  # from SIGTERM to SIGKILL
_LOOK_SECONDS = 0.05

# A key of the terminal sends these to its whole foreground group, the program included.
_BY_KEY = ("SIGINT", "SIGQUIT", "SIGTSTP")
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT", *_BY_KEY)


def exit_code(returncode: int) -> int:
    """Return the exit code that a shell returns: of a signal, 128 and its number."""
    return 128 - returncode if returncode < 0 else returncode


class Signals:
    """Passes the signals that come to this process to the program.

    What was ignored when we were started (as `nohup` does) stays so, here and in the program.

    Args:
        suspend: called before this process is suspended: the terminal is to be left in order.
        goes_on: called when the program still runs some seconds after Ctrl-C.
    """

    def __init__(self, *, suspend: Callable[[], None], goes_on: Callable[[], None]) -> None:
        self.early: int | None = None
        """What came before there was a program to end by it."""
        self._suspend = suspend
        self._goes_on = goes_on
        self._timer: asyncio.TimerHandle | None = None
        self._program: Program | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for name in _FORWARDED:
            signum = getattr(signal, name)
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
        """Pass to a program what comes from now on, and what has come before."""
        self._program = program
        if self.early is not None:
            program.send(self.early)

    def _received(self, signum: int) -> None:
        by_key = signal.Signals(signum).name in _BY_KEY and _in_foreground()
        if self._program is None:
            if signum not in {signal.SIGCONT, signal.SIGTSTP}:
                self.early = signum
        elif not by_key:
            self._program.send(signum)
        if signum == signal.SIGINT and self._program is not None and self._timer is None:
            # A scanner that works off what it has queued seems to hang.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_GOES_ON_SECONDS, self._goes_on)
        if signum == signal.SIGTSTP:
            self._stop_here()

    def _stop_here(self) -> None:
        """Be suspended as if we had no handler; return once we are continued."""
        self._suspend()
        loop = asyncio.get_running_loop()
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
        """Start a command with our input and output, and every other file that we inherited.

        Raises:
            NotStarted: the system refuses.
        """
        try:
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
        """Its process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Return its exit code as a shell has it. Cancelled, the program goes on."""
        return exit_code(await self._process.wait())

    def send(self, signum: int) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)

    async def stop(self, family: Iterable[Running] = ()) -> None:
        """End it if it still runs, and with it the processes of `family`.

        Cancelled, it kills at once what has not ended by itself.
        """
        if self._process.returncode is not None:
            return
        others = [one for one in family if one.pid != self.pid]
        try:
            # First the program: a shell would go on to its next command.
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)  # a suspended process gets no signal before
            _signal(others, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()
                    while any(map(_runs, others)):  # noqa: ASYNC110 - there is no event for it
                        await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self.send(signal.SIGKILL)
            _signal(others, signal.SIGKILL)
        await self._process.wait()


def _runs(process: Running) -> bool:
    now = look(process.pid)
    return now is not None and now.start == process.start


def _signal(processes: Iterable[Running], signum: int) -> None:
    for process in filter(_runs, processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signum)


def _in_foreground() -> bool:
    """Return whether we are what the keys of our terminal reach."""
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
