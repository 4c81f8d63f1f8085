"""The pages of the documentation, for a command line with its extra or without it."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

import aioapiqueue

__all__ = ["find_page", "list_pages", "pages", "read_page"]

_PACKAGE = Path(aioapiqueue.__file__).parent
_PLACES = (_PACKAGE / "_docs", _PACKAGE.parent / "docs")
"""Where a wheel has them, and a checkout."""
_APART = {"index", "api", "changelog", "reading"}
"""Directives for the site, and no text; in a checkout, also what proofreaders are told."""
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def pages() -> dict[str, Path]:
    """Return the file of each page, by its name: `run`, `migrate/aiolimiter`, `grafana.json`.

    Raises:
        LookupError: there are none; the message is for a user.
    """
    place = next((one for one in _PLACES if (one / "quickstart.md").is_file()), None)
    if place is None:
        raise LookupError("this installation has no pages: reinstall aioapiqueue")
    files = {file.relative_to(place).with_suffix(""): file for file in sorted(place.rglob("*.md"))}
    texts = {name.as_posix(): file for name, file in files.items() if name.name not in _APART}
    return texts | {file.name: file for file in place.glob("*.json")}


def list_pages() -> str:
    """Return a line for each page: its name and its title.

    Raises:
        LookupError: as of `pages`.
    """
    found = pages()
    width = max(map(len, found))
    return "".join(f"{name.ljust(width)}  {_title(file)}\n" for name, file in found.items())


def find_page(page: str) -> Path:
    """Return the file of a page, such as `limits`, `docs/limits.md` or `limits#lanes`.

    Raises:
        LookupError: there is no such page; the message has the one that is meant.
    """
    found = pages()
    name = page.partition("#")[0].removeprefix("docs/").removesuffix(".md")
    name = next((one for one in found if name in {one, one.rpartition("/")[2]}), name)
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        meant = f"did you mean {close[0]}?" if close else "to list the pages, run aioapiqueue docs"
        raise LookupError(f"there is no page {page}: {meant}")
    return found[name]


def read_page(file: Path) -> str:
    """Return the text of a page, without comments."""
    return _COMMENT.sub("", file.read_text("utf-8"))


def _title(file: Path) -> str:
    if file.suffix == ".json":
        return str(json.loads(file.read_text("utf-8"))["title"])
    title = _TITLE.search(file.read_text("utf-8"))
    return title[1] if title else ""
