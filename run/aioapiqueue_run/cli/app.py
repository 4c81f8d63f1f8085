"""The typer application: one command for each program."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from aioapiqueue import __version__
from aioapiqueue_run.cli.demo import demo
from aioapiqueue_run.cli.docs import docs
from aioapiqueue_run.cli.help import Command, CommandGroup, Launcher
from aioapiqueue_run.cli.hub import app as hub
from aioapiqueue_run.cli.limits import app as limits
from aioapiqueue_run.cli.run import run
from aioapiqueue_run.cli.watch import watch

__all__ = ["app"]

# Commands print what users need to know: without a handler, `logging` would print warnings, too.
logging.getLogger("aioapiqueue").addHandler(logging.NullHandler())

app = typer.Typer(
    name="aioapiqueue",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    # Joins the lines of a docstring's paragraph; the default breaks them where the source does.
    rich_markup_mode="markdown",
    # Local variables in a traceback do not help users, and may be secret.
    pretty_exceptions_enable=False,
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"aioapiqueue {__version__}")
        raise typer.Exit


@app.callback()
def _aioapiqueue(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Keep programs under the rate limits of AWS and other APIs."""


app.command(cls=Command)(demo)
# All words after COMMAND are its own, with or without `--`.
app.command(
    cls=Launcher,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
)(run)
app.command(cls=Command)(watch)
app.command(cls=Command)(docs)
app.add_typer(limits)
app.add_typer(hub)
