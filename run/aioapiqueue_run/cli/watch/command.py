"""The command `aioapiqueue watch`: its options, and checks of what it needs."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from aioapiqueue.schedules.spi import HUB_DIR, HubLocation, check_system
from aioapiqueue_run.cli.console import not_installed, refuse

__all__ = ["watch"]

_MOST = 3600.0  # seconds; an infinite interval would never show anything
_LEAST = 0.1  # seconds; more frequent requests would take the hub's time from its clients


def watch(
    *,
    every: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=_LEAST, max=_MOST, help="Interval between updates."),
    ] = 1.0,
    only: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="WORDS",
            help="Show only quotas with these words in their name or programs.",
        ),
    ] = "",
) -> None:
    """Show live rates, waits and throttling of the quotas that processes on this host share.

    These are the quotas of `HostSchedule` and of `aioapiqueue run` (without --private or
    --shared). Keys: s sorts by the next column, / filters, p pauses or resumes a quota for all its
    processes (it asks first), q quits.

    In scripts, use `aioapiqueue hub status --json`, `hub pause NAME` and `hub resume NAME`.
    """
    try:
        check_system()
        HubLocation(os.environ.get(HUB_DIR))  # raises an error if there is no place for a hub
    except (RuntimeError, ValueError) as error:
        refuse(str(error))
    if importlib.util.find_spec("textual") is None:
        refuse(f"watch needs {not_installed('textual', 'watch', 'textual')}")
    # A stream that is closed is None.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        refuse("watch needs a terminal; in scripts use aioapiqueue hub status --json")
    from aioapiqueue_run.cli.watch.screen import Watch  # noqa: PLC0415 - the extra

    app = Watch(every=every, words=only)
    app.run()
    raise typer.Exit(app.return_code or 0)
