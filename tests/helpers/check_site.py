"""Check the site that was built: `python -m tests.helpers.check_site docs/_build`.

Part of `uvx nox -s docs`, which builds it.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib.metadata import version
from pathlib import Path

from tests.helpers.build_hook import hook


def wrong_with(site: Path, address: str | None, release: str) -> list[str]:
    """Return what is wrong with a site, a line for each fault.

    Args:
        site: its folder.
        address: of the repository, to which its pages lead, or None: to none.
        release: the version that its pages show.
    """
    pages = {page.relative_to(site).as_posix(): page.read_text("utf-8") for page in _pages(site)}
    first = pages.get("index.html", "")
    wrong = []
    if "<img" not in first or "<table" not in first:
        wrong.append("index.html: it has a picture and a table of figures")
    for name, text in pages.items():
        if f">aioapiqueue {release}<" not in text:
            wrong.append(f"{name}: it does not show the version {release}")
        if text.count("<table") != text.count('<div class="table-wrapper'):
            wrong.append(f"{name}: a table is not in a box that scrolls")
        wrong += _wrong_links(name, text, address)
    return wrong


def _pages(site: Path) -> list[Path]:
    made = {"genindex.html", "py-modindex.html", "search.html"}  # by Sphinx, of no source
    return [page for page in sorted(site.rglob("*.html")) if page.name not in made]


def _wrong_links(name: str, text: str, address: str | None) -> list[str]:
    source = f"docs/{name.removesuffix('.html')}.md"
    edits = re.findall(r'href="([^"]*/edit/[^"]*)"', text)
    expected = [f"{address}/edit/{hook.BRANCH}/{source}"] if address else []
    wrong = [] if edits == expected else [f"{name}: it is edited at {edits}, not at {expected}"]
    if address and f'href="{address}/issues"' not in text:
        wrong.append(f"{name}: it does not say where to report a problem")
    return wrong


def main() -> None:
    """Print what is wrong, and exit with 1, or say that all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    site = parser.parse_args().site
    address = hook.repository()
    if wrong := wrong_with(site, address, version("aioapiqueue")):
        sys.exit("\n".join(wrong))
    sys.stdout.write(f"{site}: {len(_pages(site))} pages, which link to {address or 'nothing'}\n")


if __name__ == "__main__":
    main()
