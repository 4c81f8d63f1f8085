"""`aioapiqueue docs`: the guides, in a terminal, as they are of this version."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markdown import Markdown

from aioapiqueue.cli._console import console, refuse, wrapped
from aioapiqueue.cli._pages import find_page, list_pages, read_page

__all__ = ["docs"]


def docs(
    page: Annotated[
        str | None, typer.Argument(metavar="[PAGE]", help="Its name; default: list all pages.")
    ] = None,
) -> None:
    """Print a page of the documentation, such as `limits` or `run`.

    Where stdout is no terminal, as Markdown: `aioapiqueue docs run | less`.
    """
    try:
        if page is None:
            typer.echo(list_pages(), nl=False)
            return
        file = find_page(page)
    except LookupError as error:
        refuse(wrapped(str(error)))
    screen = console()
    if screen.is_terminal and file.suffix == ".md":
        screen.print(Markdown(read_page(file)))
    else:
        typer.echo(read_page(file), nl=False)
