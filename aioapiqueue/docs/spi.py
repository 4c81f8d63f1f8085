"""The pages of the documentation. They need no extra: messages of the library refer to them."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aioapiqueue
from aioapiqueue.docs._reference import describe, entries, find_alike, find_entry, list_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["list_pages", "read"]

_PACKAGE = Path(aioapiqueue.__file__).parent
_FOLDERS = (_PACKAGE / "docs" / "pages", _PACKAGE.parent / "docs")
"""The folder of the pages in a wheel, and in a checkout."""
_SITE_ONLY = {"index", "api", "changelog"}
"""Pages without text of their own: they have directives for the site."""
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_MOST = 5
"""Number of suggestions in one message."""
_SHORTEST = 3
"""Letters of a word that is searched for in headings."""
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


class Page(NamedTuple):
    """A page to print.

    Attributes:
        text: the text.
        markdown: whether the text is Markdown.
    """

    text: str
    markdown: bool


def pages() -> dict[str, Path]:
    """Return the file of each page by its name: `run`, `migrate/aiolimiter`, `grafana.json`.

    Raises:
        LookupError: the pages are missing. The message is for users.
    """
    place = _docs_folder()
    files = {file.relative_to(place).with_suffix(""): file for file in sorted(place.rglob("*.md"))}
    texts = {name.as_posix(): file for name, file in files.items() if name.name not in _SITE_ONLY}
    return texts | {file.name: file for file in place.glob("*.json")}


def _docs_folder() -> Path:
    place = next((one for one in _FOLDERS if (one / "quickstart.md").is_file()), None)
    if place is None:
        raise LookupError("the documentation is missing: reinstall aioapiqueue")
    return place


def list_pages() -> str:
    """Return a line with the name and the title of each page, and how to print one.

    Raises:
        LookupError: as in `pages`.
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
        name: the name of a page (`limits`, `docs/limits.md` or `limits#lanes`), of a class or of a
            function (`ApiQueue` or `ApiQueue.slot`), or `api`.

    Raises:
        LookupError: there is no such page or entry. The message suggests others.
    """
    reference = _docs_folder() / "api.md"
    if name.removeprefix("docs/").removesuffix(".md") == "api":
        return Page(list_entries(reference), markdown=False)
    # A page or a class by its exact name, and only then a page in any case: `limit` and `Limit`.
    if (file := _find_page(name)) is not None:
        return Page(_read_page(file), markdown=file.suffix == ".md")
    if (entry := find_entry(reference, name)) is not None:
        return Page(describe(entry), markdown=False)
    if (file := _find_page(name.lower())) is not None:
        return Page(_read_page(file), markdown=file.suffix == ".md")
    raise LookupError(f"there is no page {name}{_suggestions_for(name, reference)}")


def _suggestions_for(name: str, reference: Path) -> str:
    """Return suggestions for the name of a page that does not exist, for the end of a message."""
    alike = find_alike(reference, name)
    # If the API has the name in another case, a page has to be nearer to be suggested beside it.
    close = difflib.get_close_matches(name, pages(), n=1, cutoff=0.8 if alike else 0.6)
    found = [] if alike or len(name) < _SHORTEST else [*_headings_with(name)][:_MOST]
    if not (alike or close or found):
        known = [one.rpartition(".")[2] for one in entries(reference)]
        close = difflib.get_close_matches(name, known, n=1)
    meant = [*dict.fromkeys((*alike, *close))][:_MOST]
    text = f": did you mean {' or '.join(meant)}?" if meant else ""
    if found:
        text += f"{' Headings' if meant else '; headings'} that contain it: {'; '.join(found)}"
    return text or ": to list the pages, run aioapiqueue docs"


def _headings_with(word: str) -> Iterator[str]:
    """Yield the first heading of each page that contains a word, after the page's name."""
    for name, file in pages().items():
        text = _FENCED.sub("", file.read_text("utf-8")) if file.suffix == ".md" else ""
        headings = (one.replace("`", "") for one in _HEADING.findall(text))
        if found := next((one for one in headings if word.lower() in one.lower()), None):
            yield f"{name}: {found}"


def _find_page(page: str) -> Path | None:
    """Return the file of a page; None if there is no such page."""
    found = pages()
    name = page.partition("#")[0].removeprefix("docs/").removesuffix(".md")
    # A page in a folder is found by its own name, too: "aiolimiter".
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
