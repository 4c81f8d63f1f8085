"""Output of all commands for people: messages and refusals on stderr, numbers and layout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from aioapiqueue.spi import printable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "FAILED",
    "MAX_LISTED",
    "PREFIX",
    "USAGE_ERROR",
    "WIDTH",
    "as_argument",
    "check_writable",
    "console",
    "not_installed",
    "pluralize",
    "prefixed",
    "refuse",
    "say",
    "short",
    "unbroken",
]

PREFIX = "aioapiqueue: "
"""Begins each line of a message, to distinguish it from the output of a program."""
WIDTH = 80
"""Columns of output that does not go to a terminal."""
MAX_LISTED = 20
"""Number of messages of one kind; more would bury the output of the program itself."""
FAILED = 1
USAGE_ERROR = 2
"""Exit codes of a command that could not do its work, and of invalid options (as in click)."""


def prefixed(text: str, columns: int | None = WIDTH) -> str:
    """Return a message with `PREFIX` before each line and a line feed after it.

    Long lines break between words. Control characters are escaped, except line feeds. A caller that
    quotes a text from elsewhere passes it through `printable` first, because a line feed in it
    would begin a line of its own.

    Args:
        text: the message.
        columns: the width of each line. None: no line breaks.
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    if columns is not None:
        lines = [part for line in lines for part in _broken(line, columns - len(PREFIX))]
    lines = [line.replace(_UNBROKEN, " ") for line in lines]
    return "".join(f"{PREFIX}{printable(line)}".rstrip() + "\n" for line in lines)


def _broken(line: str, columns: int) -> list[str]:
    if len(line) <= columns:
        return [line]  # `wrap` would change its spaces
    return textwrap.wrap(line, max(1, columns), break_long_words=False, break_on_hyphens=False)


def say(text: str) -> None:
    """Write a message to stderr. In a terminal, long lines break between words.

    Elsewhere, each line stays whole, so that a program that reads them finds one problem in each.
    """
    columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    typer.echo(prefixed(text, columns), err=True, nl=False)


def refuse(why: str, code: int = USAGE_ERROR) -> NoReturn:
    """Write to stderr why the command does nothing, and end it.

    Args:
        why: the reasons, each on a line of its own.
        code: the exit code.

    Raises:
        typer.Exit: always.
    """
    say(why)
    raise typer.Exit(code)


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, as far as that is known before the work begins."""
    known = path if os.path.lexists(path) else path.parent
    if os.path.isdir(path) or not os.access(known, os.W_OK):  # noqa: PTH112 - it raises no errors
        refuse(f"{option}: {path} cannot be written: check its name and its directory")


_LATIN = re.compile(r"[\x80-\xa0\xad]")
"""The characters from 0x80 to 0xff that are not printable."""


def as_argument(text: str) -> str:
    r"""Return a word of a command, quoted for a shell and safe to show in a terminal.

    >>> print(as_argument("crm"), as_argument("two words"), as_argument("two\nlines"))
    crm 'two words' $'two\nlines'

    Args:
        text: the word. If it has control characters, they are escaped in a form that bash, zsh and
            ksh read.
    """
    if text.isprintable():
        return shlex.quote(text)
    text = text.replace("\\", r"\\").replace("'", r"\'")
    # Not as `\xa0`: in a shell, that is one byte, but the character has two bytes in UTF-8.
    text = _LATIN.sub(lambda one: f"\\u{ord(one[0]):04x}", text)
    return f"$'{printable(text)}'"


def not_installed(thing: str, extra: str, packages: str) -> str:
    """Return the end of a sentence: what is needed, and how to install it.

    Args:
        thing: what is needed.
        extra: the extra of aioapiqueue that has it.
        packages: the packages of this extra, as pipx takes them.
    """
    return (
        f"{thing}, which is not installed: pip install 'aioapiqueue[{extra}]' (with pipx: pipx "
        f"inject aioapiqueue {packages})"
    )


def console() -> Console:
    """Return a console on stdout, as wide as the terminal, or `WIDTH` without a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def pluralize(number: int, thing: str, things: str = "") -> str:
    """Return a number with a noun, in the plural unless the number is 1.

    >>> pluralize(1, "AWS call"), pluralize(2000, "AWS call")
    ('1 AWS call', '2,000 AWS calls')

    Args:
        number: the number.
        thing: the noun.
        things: its plural. Default: the noun with an "s".
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def short(number: float) -> str:
    """Return a number with about three digits.

    >>> [short(number) for number in (0.0123, 9.876, 98.76, 9876.5)]
    ['0.0123', '9.88', '98.8', '9,876']
    """
    return f"{number:.3g}" if number < 99.95 else f"{number:,.0f}"  # noqa: PLR2004 - beyond, 3 digits are whole


def unbroken(text: str) -> str:
    """Return a text that messages keep on one line."""
    return text.replace(" ", _UNBROKEN)


_UNBROKEN = "\N{NO-BREAK SPACE}"
