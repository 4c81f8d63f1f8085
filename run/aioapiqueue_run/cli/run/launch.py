"""Finds out, before COMMAND is started, whether it is Python and would load the bootstrap.

The bootstrap is a `sitecustomize` on PYTHONPATH. A Python that is started with -I or -E ignores
PYTHONPATH, and one with -S does not import `sitecustomize`. Neither prints a warning. So such a
command is refused, if that can be seen: in the options of the interpreter, in the shebang of a
script (also with `env -S`, and in the shell code that installers write for long paths), and in an
`env` that removes our variables.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
from getopt import GetoptError, getopt
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import as_argument
from aioapiqueue_run.cli.run.errors import ExitCode, NotStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Launch", "examine", "is_python_name", "python_options"]

_PYTHON = re.compile(r"(?i)(?:python|pypy)w?[0-9.]*t?d?(?:-?(?:dbg|debug|intel64))?")
_OPTIONS = re.compile("-(?!-)([^cmWX]*)([cmWX]?)(.*)", re.DOTALL)  # the four take a value
_HARMFUL = "IES"  # the first two make Python ignore PYTHONPATH, the last one sitecustomize
_ENV_OPTIONS = ["ignore-environment", "unset=", "chdir=", "split-string=", "null", "debug"]
# Launchers that prevent the bootstrap from loading, tested with their releases of November 2026.
_LAUNCHERS = {"opentelemetry-instrument"}
_SHELLS = {"sh", "bash", "dash"}
_DEPTH = 8  # most steps from script to interpreter and `env`; a script may be its own interpreter
_HEAD = 4096  # bytes of a file in which its shebang must end


@dataclasses.dataclass(frozen=True)
class Launch:
    """A command that may be started.

    Attributes:
        path: the file to execute.
        name: the name of the command in messages.
        python: whether it is known to start Python.
    """

    path: str
    name: str
    python: bool


class _NoEnvironmentError(NotStarted):
    """Raised if a command removes the variables without which its program is not paced."""


def _base(path: str) -> str:
    return path.rpartition(os.sep)[2]


def is_python_name(path: str) -> bool:
    """Return whether a file of this name is a Python interpreter, by convention."""
    return _PYTHON.fullmatch(_base(path)) is not None


def examine(command: Sequence[str], *, any_: bool = False, isolate: bool = False) -> Launch:
    """Find the program of a command, and whether it is Python.

    Args:
        command: the program and its arguments, as `execvp` takes them.
        any_: whether the gateway paces it as well. Default: False.
        isolate: whether it can reach nothing but the gateway. Default: False.

    Raises:
        NotStarted: there is no such program, it is not executable, or it is a Python that would
            not be paced. The error contains the reason and the remedy.
    """
    name = command[0]
    path = shutil.which(name)
    if path is None and os.sep in name and os.path.exists(name):  # noqa: PTH110 - as it was given
        raise NotStarted(
            f"{printable(name)}: not an executable file; nothing was started "
            f"(for a script without a shebang: python {as_argument(name)})",
            code=ExitCode.NOT_EXECUTABLE,
        )
    if path is None:
        why = "no such file" if os.sep in name else "command not found in PATH"
        text = f"{printable(name)}: {why}; nothing was started"
        first, *arguments = name.split() or [""]
        if arguments and shutil.which(first):  # the whole command line was quoted
            text += f". To run {printable(first)}, leave out the quotes"
        raise NotStarted(text, code=ExitCode.NOT_FOUND)
    try:
        python = _leads_to_python([path, *command[1:]])
    except NotStarted as error:
        # Without its variables, a program does not find the gateway either, unless it is isolated.
        needs_isolation = isinstance(error, _NoEnvironmentError)
        if not (isolate or (any_ and not needs_isolation)):
            raise
        python = False
    return Launch(path, name, python=python)


def _leads_to_python(argv: Sequence[str]) -> bool:
    """Follow shebangs and `env` to the program; return whether it is Python."""
    where = ""  # the place of a command, for messages
    for _ in range(_DEPTH):
        if not argv:
            break
        base = _base(argv[0])
        if base in _LAUNCHERS:
            raise NotStarted(
                f"{base} loads its own sitecustomize, which would disable the pacing; nothing was "
                "started. Use the other order:\n"
                f"  {base} aioapiqueue run ... -- COMMAND"
            )
        if is_python_name(base):
            for letter in python_options(argv)[0]:
                if letter in _HARMFUL:
                    raise NotStarted(
                        f"{base} -{letter}{where} cannot be paced; nothing was started. Remove "
                        f"-{letter} (-s and -P are fine)."
                    )
            return True
        if base == "env":
            argv = _after_env(argv, where)
        else:
            argv, where = _shebang(argv[0]), f" in the shebang of {printable(argv[0])}"
    return False


def python_options(argv: Sequence[str]) -> tuple[str, str]:
    """Read the options of an interpreter.

    Args:
        argv: the interpreter and its arguments. Those after the script's name are the script's.

    Returns:
        The letters of the options without a value; and the script, or "-m MODULE", or "" if it
        executes other code.
    """
    letters = ""
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-"):
            return letters, word
        if word in {"-", "--"}:
            break
        if word == "--check-hash-based-pycs":
            next(words, None)
        elif found := _OPTIONS.fullmatch(word):
            letters += found[1]
            value = found[3] or (next(words, "") if found[2] else "")
            if found[2] == "m":
                return letters, f"-m {value}"
            if found[2] == "c":
                break
    return letters, ""


def _shebang(path: str) -> list[str]:
    """Return the command that the kernel executes for a script; none for any other file."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return []  # a file may be executable, but not readable
    first, _, rest = head.partition(b"\n")
    words = os.fsdecode(first[2:].strip()).split(maxsplit=1)
    if not first.startswith(b"#!") or not words:
        return []
    # If a path is too long for a shebang, or has a space, installers write a script that is both
    # shell and Python: '''exec' "/long/path/python" "$0" "$@"
    if _base(words[0]) in _SHELLS and rest.startswith(b"'''exec' "):
        return _split(os.fsdecode(rest.partition(b"\n")[0]))[1:]
    # Linux and macOS pass everything after the interpreter as one argument.
    return [*words, path]


def _after_env(argv: Sequence[str], where: str) -> list[str]:
    """Return the command that `env` executes; refuse an `env` that removes our variables."""
    try:
        options, words = getopt([*argv[1:]], "iu:C:S:v0", _ENV_OPTIONS)
    except GetoptError:
        return []
    if words[:1] == ["-"]:  # an older form of -i
        options.append(("-i", words.pop(0)))
    removed = {value for name, value in options if name in {"-u", "--unset"}}
    while words and "=" in words[0]:
        removed.add(words.pop(0).partition("=")[0])  # set to another value, it is lost as well
    if any(name in {"-i", "--ignore-environment"} for name, _ in options):
        removed = {"all variables"}
    for name in removed & {"all variables", "PYTHONPATH", "AIOAPIQUEUE_HUB"}:
        raise _NoEnvironmentError(
            f"env{where} removes {name}, so the program cannot be paced; nothing was started. "
            "Put env first: env ... aioapiqueue run ... -- COMMAND."
        )
    for name, value in options:
        if name in {"-S", "--split-string"}:
            return [argv[0], *_split(value), *words]
    return [shutil.which(words[0]) or words[0], *words[1:]] if words else []


def _split(string: str) -> list[str]:
    try:
        return shlex.split(string)
    except ValueError:
        return []
