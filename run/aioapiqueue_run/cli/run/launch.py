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
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import as_argument
from aioapiqueue_run.cli.run.errors import ExitCode, NotStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Launch",
    "examine",
    "harmful_option",
    "is_python_name",
    "split_option",
    "takes_next",
]

_PYTHON = re.compile(
    r"(?i)(?:python|pypy)w?(?:[0-9][0-9.]*t?d?)?(?:-?(?:dbg|intel64|debug))?(?:\.exe)?"
)
_NEEDED = {"PYTHONPATH", "AIOAPIQUEUE_HUB"}
_REASONS = {
    "I": "-I makes Python ignore PYTHONPATH",
    "E": "-E makes Python ignore PYTHONPATH",
    "S": "-S makes Python skip sitecustomize",
}
_ENV_OPTIONS = {
    "--ignore-environment": "-i",
    "--unset": "-u",
    "--chdir": "-C",
    "--split-string": "-S",
    "-": "-i",
}
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
    except _NoEnvironmentError:
        # Without its variables, a program does not find the gateway either, unless it is isolated.
        if not isolate:
            raise
        python = False
    except NotStarted:
        if not (any_ or isolate):
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
            if option := harmful_option(argv):
                argument, letter = option
                harmless = " (-s and -P are fine)." if letter in "IE" else "."
                raise NotStarted(
                    f"{base} {printable(argument + where)}: {_REASONS[letter]}, so it cannot "
                    f"be paced; nothing was started. Remove -{letter}{harmless}"
                )
            return True
        if base == "env":
            argv = _after_env(argv, where)
        else:
            argv, where = _shebang(argv[0]), f" in the shebang of {argv[0]}"
    return False


def split_option(argument: str, with_value: str = "cmWX") -> tuple[str, str, str]:
    """Split an argument that consists of one-letter options.

    Args:
        argument: the argument, such as "-sE" or "-uWignore". Any other has no letters.
        with_value: the letters of options that take a value. Default: those of Python.

    Returns:
        The letters without a value, the letter with a value ("" if there is none), and the value
        ("" if it is in the next argument).
    """
    pattern = rf"-(?!-)([^{with_value}]*)(?:([{with_value}])(.*))?"
    found = re.fullmatch(pattern, argument, re.DOTALL)
    letters, last, value = found.groups("") if found else ("", "", "")
    return letters, last, value


def takes_next(argument: str) -> bool:
    """Return whether the next argument is the value of this option of Python."""
    _, last, value = split_option(argument)
    return (bool(last) and not value) or argument == "--check-hash-based-pycs"


def harmful_option(argv: Sequence[str]) -> tuple[str, str] | None:
    """Return the first argument of an interpreter that contains -I, -E or -S, and that letter.

    Args:
        argv: the interpreter and its arguments. Those after the script's name are the script's.
    """
    arguments = iter(argv[1:])
    for argument in arguments:
        letters, last, _ = split_option(argument)
        for letter in letters:
            if letter in _REASONS:
                return argument, letter
        if last in {"c", "m"} or argument in {"-", "--"} or not argument.startswith("-"):
            return None  # further arguments are for the program
        if takes_next(argument):
            next(arguments, None)
    return None


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
    rest = list(argv[1:])
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in _ENV_OPTIONS:
            word = _ENV_OPTIONS[name] + value
        elif not word.startswith("-") and not equals:
            return [shutil.which(word) or word, *rest]
        letters, last, value = split_option(word, "uCS")
        if last and not value and rest:
            value = rest.pop(0)
        if last == "S":
            rest[:0] = _split(value)
        # Set to another value (NAME=value), a variable is lost as well.
        removed = value if last == "u" else name
        all_removed = "i" in letters and not letters.strip("iv0")
        if all_removed or removed in _NEEDED:
            what = "all variables" if all_removed else removed
            raise _NoEnvironmentError(
                f"env{where} removes {what}, so the program cannot be paced; nothing was started. "
                "Put env first: env ... aioapiqueue run ... -- COMMAND."
            )
    return []


def _split(string: str) -> list[str]:
    try:
        return shlex.split(string)
    except ValueError:
        return []
