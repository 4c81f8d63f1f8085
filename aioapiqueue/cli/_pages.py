"""The pages of the documentation, for a command line with its extra or without it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

import aioapiqueue
from aioapiqueue.cli._reference import describe, entries, find_entry, list_entries

__all__ = ["Page", "list_pages", "pages", "read"]

_PACKAGE = Path(aioapiqueue.__file__).parent
_PLACES = (_PACKAGE / "_docs", _PACKAGE.parent / "docs")
"""Where a wheel has them, and a checkout."""
_APART = {"index", "api", "changelog", "reading"}
"""Directives for the site, and no text; in a checkout, also what proofreaders are told."""
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


class Page(NamedTuple):
    """A text to print.

    Attributes:
        text: what it says.
        markdown: whether it is Markdown.
    """

    text: str
    markdown: bool


def pages() -> dict[str, Path]:
    """Return the file of each page, by its name: `run`, `migrate/aiolimiter`, `grafana.json`.

    Raises:
        LookupError: there are none; the message is for a user.
    """
    place = _place()
    files = {file.relative_to(place).with_suffix(""): file for file in sorted(place.rglob("*.md"))}
    texts = {name.as_posix(): file for name, file in files.items() if name.name not in _APART}
    return texts | {file.name: file for file in place.glob("*.json")}


def _place() -> Path:
    place = next((one for one in _PLACES if (one / "quickstart.md").is_file()), None)
    if place is None:
        raise LookupError("the documentation is missing: reinstall aioapiqueue")
    return place


def list_pages() -> str:
    """Return a line for each page, with its name and its title, and how to print one.

    Raises:
        LookupError: as of `pages`.
    """
    found = pages()
    width = max(map(len, found))
    lines = "".join(f"{name.ljust(width)}  {_title(file)}\n" for name, file in found.items())
    return f"{lines}\n{_HINT}"


_HINT = """\
To print a page: aioapiqueue docs PAGE
To print a class or function with its options: aioapiqueue docs ApiQueue
To list all classes and functions: aioapiqueue docs api
"""


def read(name: str) -> Page:
    """Return a page, or an entry of the API reference.

    Args:
        name: of a page, such as `limits`, `docs/limits.md` or `limits#lanes`; `api`; or of a class
            or function, such as `ApiQueue` or `ApiQueue.slot`.

    Raises:
        LookupError: there is neither; the message has what is meant.
    """
    reference = _place() / "api.md"
    if name.removeprefix("docs/").removesuffix(".md") == "api":
        return Page(list_entries(reference), markdown=False)
    if (file := _find_page(name)) is not None:
        return Page(_read_page(file), markdown=file.suffix == ".md")
    if (entry := find_entry(reference, name)) is not None:
        return Page(describe(entry), markdown=False)
    for known in (list(pages()), [one.rpartition(".")[2] for one in entries(reference)]):
        if close := difflib.get_close_matches(name, known, n=1):
            raise LookupError(f"there is no page {name!r}: did you mean {close[0]!r}?")
    raise LookupError(f"there is no page {name!r}: to list the pages, run aioapiqueue docs")


def _find_page(page: str) -> Path | None:
    """Return the file of a page; None: there is no such page."""
    found = pages()
    name = page.partition("#")[0].removeprefix("docs/").removesuffix(".md")
    name = next((one for one in found if name in {one, one.rpartition("/")[2]}), name)
    return found.get(name)


def _read_page(file: Path) -> str:
    """Return the text of a page, without comments."""
    return _COMMENT.sub("", file.read_text("utf-8"))


def _title(file: Path) -> str:
    if file.suffix == ".json":
        return "Dashboard for Grafana"
    title = _TITLE.search(file.read_text("utf-8"))
    return title[1] if title else ""
