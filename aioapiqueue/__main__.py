"""`python -m aioapiqueue`, and the console script `aioapiqueue`."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue import __version__

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

_EXTRAS = ("demo", "watch")
"""Commands that need the extra of their name; others need `cli`."""
_INSTALLERS = {"pipx_metadata.json": "pipx install --force", "uv-receipt.toml": "uv tool install"}
"""What installs an extra where there may be no pip, by the file that marks its environments."""


def main() -> None:
    """Run the command line, which is in the distribution `aioapiqueue-run` of the same version.

    Without that distribution, `--version` and `docs` work, since messages of the library name pages
    of `docs`. For anything else, print the extra to install and exit with 2.
    """
    programs = _version_of_programs()
    if programs is None:
        try:
            text = _answer_without_programs(sys.argv[1:])
        except LookupError as error:
            _refuse(str(error))
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # pages have characters that ASCII lacks
        sys.stdout.write(text)
        return
    if programs != __version__:
        _refuse(
            f"aioapiqueue {__version__} needs aioapiqueue-run {__version__}, but {programs} is "
            f"installed: {_how_to_install(f'aioapiqueue[cli]=={__version__}')}"
        )
    from aioapiqueue_run.cli.app import app  # noqa: PLC0415 - another distribution

    restore_interrupt()  # from here on, the command cleans up and exits with 130
    app(prog_name="aioapiqueue")


def restore_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, unless the command ignores it.

    `_core/interrupt.py` lets it end the command at once while the command is imported.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _version_of_programs() -> str | None:
    """Return the version of the distribution of the programs; None if it is not installed."""
    try:
        import aioapiqueue_run  # noqa: PLC0415 - another distribution
    except ModuleNotFoundError as error:
        if error.name != "aioapiqueue_run":
            raise
        return None
    # A folder that an uninstalled version has left behind has no version.
    return getattr(aioapiqueue_run, "__version__", None)


def _answer_without_programs(arguments: list[str]) -> str:
    """Return what to print.

    Raises:
        LookupError: the command, or the page, is missing. The message is for users.
    """
    from aioapiqueue.docs.spi import list_pages, read  # noqa: PLC0415 - rarely needed

    if hasattr(signal, "SIGPIPE"):  # `| head` ends it without a traceback
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    match arguments:
        case ["--version"]:
            return f"aioapiqueue {__version__}\n"
        case ["docs"]:
            return list_pages()
        case ["docs", page] if not page.startswith("-"):
            return read(page).text
    command = next((one for one in arguments if not one.startswith("-")), "")
    extra = command if command in _EXTRAS else "cli"
    how = _how_to_install(f"aioapiqueue[{extra}]")
    raise LookupError(f"the commands are not installed: {how}")


def _how_to_install(requirement: str) -> str:
    """Return the command that installs a requirement in the environment of this program."""
    for file, command in _INSTALLERS.items():
        if Path(sys.prefix, file).exists():
            return f'{command} "{requirement}"'
    return f'pip install "{requirement}"'


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"aioapiqueue: {why}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
