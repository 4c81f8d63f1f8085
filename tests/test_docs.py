"""How long the pages are, and what the README begins with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import aioapiqueue

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


def test_readme_says_what_was_tested():
    """Version, Pythons and systems in two lines, as the metadata has them."""
    readme = (ROOT / "README.md").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    last = [one.rpartition(" :: ")[2] for one in project["classifiers"]]
    pythons = [one for one in last if re.fullmatch(r"3\.\d+", one)]
    assert f"\nStatus: {aioapiqueue.__version__}, " in readme
    assert f"\nTested with Python {pythons[0]} to {pythons[-1]} on {last[3]}" in readme
    assert project["classifiers"][3].startswith("Operating System :: ")


@pytest.mark.parametrize("word", ["lane", "schedule"])
def test_first_words_are_explained(word):
    """Where the README first has a word of ours, it is emphasized, and explained."""
    text = (ROOT / "README.md").read_text("utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    first = re.search(rf"\b{word}s?\b", prose)
    assert first is not None
    assert prose[first.start() - 1 : first.end() + 1] == f"*{word}*"


def test_fastapi_is_found_from_the_index():
    """Its section has a link from the first page, not only from a page beside it."""
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert "[FastAPI](deploy.md#fastapi)" in index
    assert "\n## FastAPI\n" in (ROOT / "docs" / "deploy.md").read_text("utf-8")
