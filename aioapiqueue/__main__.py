"""`python -m aioapiqueue`, and the console script `aioapiqueue`."""

from __future__ import annotations

import signal
import sys

from aioapiqueue import __version__

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra, name the one to install and exit with 1.

    Without it, only `--version` and `docs` work: errors of the library refer to the latter.
    """
    try:
        from aioapiqueue_run.cli.app import app  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        # Any other module is part of the package or of an extra: a fault, which needs its
        # traceback.
        if missing not in {"typer", "rich"}:
            raise
        sys.stdout.write(_answer_without_extra(missing))
        return
    restore_interrupt()  # from here on, the command cleans up and exits with 130
    app(prog_name="aioapiqueue")


def restore_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, unless the command ignores it.

    `_core/interrupt.py` lets it end the command at once while the command is imported.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _answer_without_extra(missing: str) -> str:
    from aioapiqueue.docs.spi import list_pages, read  # noqa: PLC0415 - as above

    if hasattr(signal, "SIGPIPE"):  # `| head` ends it without a traceback
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        match sys.argv[1:]:
            case ["--version"]:
                return f"aioapiqueue {__version__}\n"
            case ["docs"]:
                return list_pages()
            case ["docs", page] if not page.startswith("-"):
                return read(page).text
    except LookupError as error:
        sys.stderr.write(f"aioapiqueue: {error}\n")
        sys.exit(2)  # as with the extra
    sys.exit(f'The command line needs {missing}: pip install "aioapiqueue[cli]"')


if __name__ == "__main__":
    main()
