"""What COMMAND is, found out before it starts: is it Python, and would it load the bootstrap?

The bootstrap is a `sitecustomize` on PYTHONPATH. A Python started with -I or -E does not look at
PYTHONPATH, one started with -S does not import `sitecustomize`; neither says a word about it.
What can be seen beforehand is refused: options of the interpreter itself, of the shebang of a
script (also by way of `env -S`, and of the detour by /bin/sh that installers take around long
paths), and an `env` that takes our variables away.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.cli.run._errors import ExitCode, NotStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Launch", "examine", "harmful_option", "is_python_name"]

_PYTHON = re.compile(
    r"(?i)(?:python|pypy)w?(?:[0-9][0-9.]*t?d?)?(?:-?(?:dbg|intel64|debug))?(?:\.exe)?"
)
_NEEDED = {"PYTHONPATH", "AIOAPIQUEUE_HUB"}
_REASONS = {
    "I": "-I makes Python ignore PYTHONPATH",
    "E": "-E makes Python ignore PYTHONPATH",
    "S": "-S keeps Python from importing sitecustomize",
}
# Launchers that keep the bootstrap from loading, as tried with their releases of November 2026.
_LAUNCHERS = {"opentelemetry-instrument"}
# Interpreter, script, env, env, ...: deeper than anything sensible.
_DEPTH = 8
_HEAD = 4096  # bytes of a file in which its shebang must end


@dataclasses.dataclass(frozen=True)
class Launch:
    """A command that may be started.

    Attributes:
        path: the file that is executed.
        name: how messages call the command.
        python: whether it is Python that comes up, as far as can be told beforehand.
    """

    path: str
    name: str
    python: bool


def _base(path: str) -> str:
    return path.rpartition(os.sep)[2]


def is_python_name(path: str) -> bool:
    """Return whether a file of this name is, by custom, a Python interpreter."""
    return _PYTHON.fullmatch(_base(path)) is not None


def examine(command: Sequence[str]) -> Launch:
    """Find out what a command is.

    Args:
        command: the program and its arguments, as `execvp` takes them.

    Raises:
        NotStarted: there is no such program, it may not be executed, or it is a Python that would
            not load the bootstrap. Its message names the reason and the remedy.
    """
    path = _find(command[0])
    return Launch(path, command[0], python=_leads_to_python([path, *command[1:]]))


def _find(name: str) -> str:
    if os.sep not in name:
        found = shutil.which(name)
        if found is None:
            raise NotStarted(
                f"{name}: command not found in PATH; nothing was started", code=ExitCode.NOT_FOUND
            )
        return found
    if not os.path.exists(name):  # noqa: PTH110 - a path as the shell gave it
        raise NotStarted(f"{name}: no such file; nothing was started", code=ExitCode.NOT_FOUND)
    if os.path.isdir(name) or not os.access(name, os.X_OK):  # noqa: PTH112
        raise NotStarted(
            f"{name}: not an executable file; nothing was started "
            f"(for a script without a shebang: python {shlex.quote(name)})",
            code=ExitCode.NOT_EXECUTABLE,
        )
    return name


def _leads_to_python(argv: Sequence[str], seen: str = "") -> bool:
    """Follow shebangs and `env` until it is clear what comes up; `seen` tells the way so far."""
    for _ in range(_DEPTH):
        name = argv[0]
        if _base(name) in _LAUNCHERS:
            raise NotStarted(
                f"{_base(name)} brings a sitecustomize that lets no other load: the "
                "program would not be paced; nothing was started. Use the other order:\n"
                f"  {_base(name)} aioapiqueue run ... -- COMMAND"
            )
        if is_python_name(name):
            _refuse_options(argv, seen)
            return True
        if _base(name) == "env":
            argv = _after_env(argv, seen)
        else:
            argv = _shebang(name)
            seen = f" in the shebang of {name}"
        if not argv:
            return False
    return False


def _refuse_options(argv: Sequence[str], seen: str) -> None:
    option = harmful_option(argv)
    if option is not None:
        argument, letter = option
        raise NotStarted(
            f"{_base(argv[0])} {argument}{seen}: {_REASONS[letter]}, and with it the pacing; "
            f"nothing was started. Start it without -{letter}"
            + (" (-s and -P do no harm)." if letter in "IE" else ".")
        )


def harmful_option(argv: Sequence[str]) -> tuple[str, str] | None:
    """Return the first of an interpreter's own arguments with -I, -E or -S in it, and the letter.

    Args:
        argv: the interpreter and its arguments; those of its program are not looked at.
    """
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument in {"-", "--"} or not argument.startswith("-"):
            return None
        if argument.startswith("--"):
            if argument == "--check-hash-based-pycs":
                next(arguments, None)
            continue
        for position, letter in enumerate(argument[1:], start=2):
            if letter in _REASONS:
                return argument, letter
            if letter in "cm":
                return None
            if letter in "WX":
                # Its value is the rest of this argument, or else the next one.
                if position == len(argument):
                    next(arguments, None)
                break
    return None


def _shebang(path: str) -> list[str]:
    """Return what the kernel makes of a script's first line; of anything else, nothing."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return []  # may be executed, not read
    if not head.startswith(b"#!"):
        return []
    first, _, rest = head.partition(b"\n")
    words = os.fsdecode(first[2:].strip()).split(maxsplit=1)
    if not words:
        return []
    interpreter = words[0]
    # Where a path is too long for a shebang, installers write a script that is both shell and
    # Python: '''exec' "/long/path/python" "$0" "$@"
    if _base(interpreter) in {"sh", "bash", "dash"} and rest.startswith(b"'''exec' "):
        try:
            return [*shlex.split(os.fsdecode(rest.partition(b"\n")[0]))[1:]]
        except ValueError:
            return []
    # As on Linux and macOS of today: all that follows the interpreter is one argument.
    return [*words, path]


def _after_env(argv: Sequence[str], seen: str) -> list[str]:  # noqa: C901 - as many cases as env has
    """Return the command that `env` goes on to; refuse one that takes our variables away."""
    rest = list(argv[1:])
    while rest:
        word = rest.pop(0)
        if word in {"-S", "--split-string"} and rest:
            rest = [*_split(rest.pop(0)), *rest]
        elif word.startswith("--split-string="):
            rest = [*_split(word.partition("=")[2]), *rest]
        elif word in {"-", "-i", "--ignore-environment"}:
            raise _env_takes("its whole environment", seen)
        elif word in {"-u", "--unset", "-C", "--chdir"} and rest:
            value = rest.pop(0)
            if word in {"-u", "--unset"} and value in _NEEDED:
                raise _env_takes(value, seen)
        elif word.startswith("--unset=") and word.partition("=")[2] in _NEEDED:
            raise _env_takes(word.partition("=")[2], seen)
        elif word.startswith("-") and not word.startswith("--") and "S" in word:
            # Combined: -vS, -iS; what follows the S is the string, or else the next word.
            flags, _, string = word.partition("S")
            if "i" in flags:
                raise _env_takes("its whole environment", seen)
            rest = [*_split(string or (rest.pop(0) if rest else "")), *rest]
        elif "=" in word and not word.startswith("-"):
            if word.partition("=")[0] in _NEEDED:
                raise _env_takes(word.partition("=")[0], seen)
        elif not word.startswith("-"):
            return [shutil.which(word) or word, *rest]
    return []


def _split(string: str) -> list[str]:
    try:
        return shlex.split(string)
    except ValueError:
        return []


def _env_takes(what: str, seen: str) -> NotStarted:
    return NotStarted(
        f"env{seen} takes {what} from the program, and with it the pacing; nothing was started. "
        "Put env first: env ... aioapiqueue run ... -- COMMAND."
    )
