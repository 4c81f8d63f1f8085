"""How long the pages are, and what the README begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)
WORDS = 30_849
"""Of these, 2,849 are for budgets, ramps, fair shares and prices, which no page had before."""
AT_MOST = {"run": 2_476, "fleet": 2_184, "limits": 2_001}
"""Half of what these pages had when they put edge cases before use."""


def words(page):
    """Return how many words a page has, as `wc -w` counts them."""
    return len(page.read_text("utf-8").split())


def test_pages_are_short():
    """Nobody reads more: what is added to a page takes the place of something."""
    assert sum(map(words, PAGES)) <= WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_short(page):
    """No page takes a quarter of an hour, and the longest ones stay at half their length."""
    assert words(page) <= AT_MOST.get(page.stem, 2_000)


def test_readme_is_about_the_library():
    """A team lead gives it a minute: what it is and what "10/s" means come first."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 95
    first = " ".join(lines[:10])
    assert "asyncio rate limiter" in first
    assert '`"10/s"` starts one call every 100 ms, not ten at once' in first
