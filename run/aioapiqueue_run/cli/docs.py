"""`aioapiqueue docs`: the documentation of the installed version, in a terminal."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markdown import Markdown

from aioapiqueue.docs.spi import list_pages, read
from aioapiqueue_run.cli.console import console, refuse

__all__ = ["docs"]


def docs(
    page: Annotated[
        str | None,
        typer.Argument(
            metavar="PAGE", help="A page, or a class or function. Default: list all pages."
        ),
    ] = None,
) -> None:
    """Print a page of the documentation, or the options of a class or function.

    `aioapiqueue docs limits` prints a page, `aioapiqueue docs ApiQueue` a class, and
    `aioapiqueue docs api` lists all classes and functions. If stdout is not a terminal, pages are
    Markdown: `aioapiqueue docs run | less`.
    """
    try:
        if page is None:
            typer.echo(list_pages(), nl=False)
            return
        found = read(page)
    except LookupError as error:
        refuse(str(error))
    screen = console()
    if screen.is_terminal and found.markdown:
        screen.print(Markdown(found.text))
    else:
        typer.echo(found.text, nl=False)
