"""What the package index shows: the README, and the links of the project.

The address of the repository is in one place, the environment variable `AIOAPIQUEUE_REPOSITORY_URL`
of a build. With it, the links and pictures of the README lead there, and the metadata has project
URLs. Without it, links become text: a page on the index cannot follow `docs/run.md`. `docs/conf.py`
takes the address from here too.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Link = Callable[[str], str | None]

VARIABLE = "AIOAPIQUEUE_REPOSITORY_URL"
EXAMPLE = "https://git.example.org/team/aioapiqueue"
BRANCH = "main"
NOTE = "\n---\n\nThe pages named `docs/...` are in the package: `aioapiqueue docs` lists them.\n"
"""What follows the README where its links are text."""

_PICTURES = (".svg", ".png", ".jpg", ".gif", ".webp")
_ADDRESS = re.compile(r"https://[a-z0-9.-]+(?::\d+)?(?:/[\w.-]+)+", re.ASCII | re.IGNORECASE)
_TARGET = r"(?!https?://)[\w./#-]+"
# In this order: code stays as it is, and a link may have code or a picture as its text.
_PIECE = re.compile(
    rf"""
    (?P<code> ^```.*?^```$ | `[^`\n]+` )
    | !\[(?P<alt>[^\]]*)\]\((?P<picture>{_TARGET})\)
    | (?<![\w\])])\[(?P<text>(?:!\[[^\]]*\]\([^)\s]*\)|[^\[\]])+)\]\((?P<link>{_TARGET})\)
    | <a\b(?P<anchor>[^>]*)>(?P<inside>.*?)</a>
    | <(?P<tag>/?picture|img|source)\b(?P<attributes>[^>]*)>
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_SOURCE = re.compile(rf'\b(src|srcset|href)="({_TARGET})"')
_ALT = re.compile(r'\balt="([^"]*)"')


def repository(value: str | None = None) -> str | None:
    """Return the address of the repository, or None where the variable is empty or not set.

    Args:
        value: instead of the variable.

    Raises:
        ValueError: it is not the address of a repository; the message says what to write.
    """
    if value is None:
        value = os.environ.get(VARIABLE, "")
    if not value:
        return None
    wrong = _wrong_with(value)
    if wrong:
        raise ValueError(
            f"{VARIABLE} is {value!r}: {wrong}. Write the address of the repository's first page, "
            f"such as {EXAMPLE}, or leave the variable empty"
        )
    return value


def _wrong_with(value: str) -> str | None:
    if re.search(r"\s", value):
        return "it contains a space"
    if not value.startswith("https://"):
        return "it does not start with https://"
    if value.endswith("/"):
        return "it ends with a slash"
    if value.endswith(".git"):
        return "it ends with .git"
    return None if _ADDRESS.fullmatch(value) else "it is not a host and a path"


def project_urls(address: str, version: str) -> dict[str, str]:
    """Return the links that the package index shows beside a release."""
    return {
        "Homepage": address,
        "Documentation": f"{address}/blob/v{version}/docs/index.md",
        "Source": address,
        "Changelog": f"{address}/blob/{BRANCH}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def index_page(readme: str, address: str | None, version: str) -> str:
    """Return the README as the package index shows it: with whole links, or with text instead."""
    if address is None:
        return _with_links(readme, lambda _: None) + NOTE

    def link(target: str) -> str:
        name, hash_, heading = target.partition("#")
        kind = "raw" if name.endswith(_PICTURES) else "blob"
        return f"{address}/{kind}/v{version}/{name or 'README.md'}{hash_}{heading}"

    return _with_links(readme, link)


def _with_links(text: str, link: Link) -> str:
    return _PIECE.sub(lambda piece: _converted(piece, link), text)


def _converted(piece: re.Match[str], link: Link) -> str:
    """Return a part of the page with whole links, or with none."""
    if piece["code"] is not None:
        return piece[0]
    if piece["picture"] is not None:
        url = link(piece["picture"])
        return f"![{piece['alt']}]({url})" if url else piece["alt"]
    if piece["link"] is not None:
        text, url = _with_links(piece["text"], link), link(piece["link"])
        return f"[{text}]({url})" if url else _named(text, piece["link"].partition("#")[0])
    if piece["anchor"] is not None:
        return _anchor(piece["anchor"], _with_links(piece["inside"], link), link)
    return _tag(piece, link)


def _named(text: str, page: str) -> str:
    """Return a link as text, with the name of its page."""
    if text == page:
        return f"`{page}`"
    return text if not page or text.startswith("`") else f"{text} (`{page}`)"


def _anchor(attributes: str, inside: str, link: Link) -> str:
    whole = _whole(attributes, link)
    return inside if whole is None else f"<a{whole}>{inside}</a>"


def _tag(piece: re.Match[str], link: Link) -> str:
    name, attributes = piece["tag"], piece["attributes"]
    whole = _whole(attributes, link)
    if name == "img":
        alt = _ALT.search(attributes)
        return f"<img{whole}>" if whole is not None else alt[1] if alt else ""
    # Around the text of a picture, these would be of no use.
    return "" if whole is None or link("README.md") is None else f"<{name}{whole}>"


def _whole(attributes: str, link: Link) -> str | None:
    """Return the attributes of a tag with whole links, or None if one of them leads nowhere."""
    found = _SOURCE.search(attributes)
    if found is None:
        return attributes
    url = link(found[2])
    if url is None:
        return None
    return f"{attributes[: found.start(2)]}{url}{attributes[found.end(2) :]}"


def get_metadata_hook() -> type:
    """Return what hatchling calls for the fields that pyproject.toml calls dynamic."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface  # noqa: PLC0415

    class OwnAddress(MetadataHookInterface):
        """Sets the page and the project URLs."""

        def update(self, metadata: dict[str, Any]) -> None:
            """Set both; those of an sdist stay as they were when it was built."""
            if "readme" not in metadata:
                address, version = repository(), metadata["version"]
                page = index_page(Path(self.root, "README.md").read_text("utf-8"), address, version)
                metadata["readme"] = {"content-type": "text/markdown", "text": page}
                metadata["urls"] = project_urls(address, version) if address else {}
            metadata.setdefault("urls", {})

    return OwnAddress


if __name__ == "__main__":  # before a build, which says less clearly what is wrong
    try:
        print(f"links lead to {repository()}" if repository() else f"links are text: no {VARIABLE}")
    except ValueError as error:
        sys.exit(str(error))
