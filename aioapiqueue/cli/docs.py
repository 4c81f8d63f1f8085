"""`aioapiqueue docs`: the guides, in a terminal, as they are of this version."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

import aioapiqueue
from aioapiqueue.cli._console import console, refuse, wrapped

__all__ = ["docs", "pages"]

_PACKAGE = Path(aioapiqueue.__file__).parent
_PLACES = (_PACKAGE / "_docs", _PACKAGE.parent / "docs")
"""Where a wheel has them, and a checkout."""
_SITE_ONLY = {"index", "api", "changelog"}
"""Directives for the site, and no text."""
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def pages() -> dict[str, Path]:
    """Return the file of each page, by its name: `run`, `migrate/aiolimiter`, `grafana.json`."""
    place = next((one for one in _PLACES if (one / "quickstart.md").is_file()), None)
    if place is None:
        return {}
    files = {file.relative_to(place).with_suffix(""): file for file in sorted(place.rglob("*.md"))}
    texts = {name.as_posix(): file for name, file in files.items() if name.name not in _SITE_ONLY}
    return texts | {file.name: file for file in place.glob("*.json")}


def docs(
    page: Annotated[
        str | None, typer.Argument(metavar="[PAGE]", help="Its name; default: list all pages.")
    ] = None,
) -> None:
    """Print a page of the documentation, such as `limits` or `run`.

    Where stdout is no terminal, as Markdown: `aioapiqueue docs run | less`.
    """
    found = pages()
    if not found:
        refuse("this installation has no pages: reinstall aioapiqueue")
    if page is None:
        width = max(map(len, found))
        for name, file in found.items():
            typer.echo(f"{name.ljust(width)}  {_title(file)}")
        return
    name = page.partition("#")[0].removeprefix("docs/").removesuffix(".md")
    name = next((one for one in found if name in {one, one.rpartition("/")[2]}), name)
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        meant = f"did you mean {close[0]}?" if close else "to list the pages, run aioapiqueue docs"
        refuse(wrapped(f"there is no page {page}: {meant}"))
    text = _COMMENT.sub("", found[name].read_text("utf-8"))
    screen = console()
    if screen.is_terminal and found[name].suffix == ".md":
        screen.print(Markdown(text))
    else:
        typer.echo(text, nl=False)


def _title(file: Path) -> str:
    if file.suffix == ".json":
        return str(json.loads(file.read_text("utf-8"))["title"])
    title = _TITLE.search(file.read_text("utf-8"))
    return title[1] if title else ""
