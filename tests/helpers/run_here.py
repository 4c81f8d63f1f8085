"""The command line in this process, with an environment and with standard streams of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from typing import IO, TYPE_CHECKING, NoReturn

from aioapiqueue_run.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["run_here"]

_NAMES = ("stdin", "stdout", "stderr")
_HANDLED = ("SIGINT", "SIGHUP", "SIGTERM", "SIGALRM")


def run_here(
    arguments: Sequence[str], environment: Mapping[str, str], sent: bytes, within: float
) -> tuple[int, bytes, bytes]:
    """Run `aioapiqueue` with arguments; return its exit code, and what came on stdout and stderr.

    What it starts inherits the streams and the environment.

    Args:
        arguments: of the command line.
        environment: the whole of it.
        sent: what is on stdin.
        within: seconds after which TimeoutError is raised.
    """
    files = [tempfile.TemporaryFile() for _ in _NAMES]  # noqa: SIM115 - closed by the stack
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        files[0].write(sent)
        files[0].seek(0)
        try:
            with _environment(environment), _streams(files), _alarm(within):
                code = _exit_code(arguments)
        except TimeoutError as late:
            files[2].seek(0)
            late.add_note(f"its stderr ends with {files[2].read()[-2000:]!r}")
            raise
        for file in files:
            file.seek(0)
        return code, files[1].read(), files[2].read()


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        app(list(arguments), prog_name="aioapiqueue")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@contextlib.contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    before, tempfile.tempdir = dict(os.environ), None
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None


@contextlib.contextmanager
def _streams(files: Sequence[IO[bytes]]) -> Iterator[None]:
    """Put files in the place of the standard streams, for this process and for what it starts."""
    before = [getattr(sys, name) for name in _NAMES]
    kept = [os.dup(number) for number in range(len(_NAMES))]
    try:
        for number, (name, file) in enumerate(zip(_NAMES, files, strict=True)):
            os.dup2(file.fileno(), number)
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - of files
            setattr(sys, name, stream)
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        for number, (name, stream) in enumerate(zip(_NAMES, before, strict=True)):
            setattr(sys, name, stream)
            os.dup2(kept[number], number)
            os.close(kept[number])


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End what takes too long; leave the handlers of signals as they were."""
    handled = {name: signal.getsignal(getattr(signal, name)) for name in _HANDLED}

    def late(*_: object) -> NoReturn:
        raise TimeoutError(f"it has not ended within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in handled.items():
            signal.signal(getattr(signal, name), handler)
