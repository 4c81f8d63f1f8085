"""`python -m aioapiqueue`, and the console script `aioapiqueue`."""

from __future__ import annotations

import sys

from aioapiqueue import __version__
from aioapiqueue._interrupt import raise_again

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra, name the one to install and exit with 1.

    Without it, there is `--version` alone.
    """
    try:
        from aioapiqueue.cli._app import app  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        if sys.argv[1:] == ["--version"]:
            sys.stdout.write(f"aioapiqueue {__version__}\n")
            return
        sys.exit(f'The command line needs {missing}: pip install "aioapiqueue[cli]"')
    raise_again()  # what is running by now cleans up, and exits with 130
    app(prog_name="aioapiqueue")


if __name__ == "__main__":
    main()
