"""The site of the documentation, as a browser shows it on a desk and on a phone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.browser]

DOCS = Path(__file__).parents[2] / "docs"
WIDTHS = {"desk": 1280, "phone": 390}
CRAMPED = """() => [...document.querySelectorAll(".table-wrapper :is(td, th)")].flatMap((cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    const bottoms = [...range.getClientRects()].map((one) => Math.round(one.bottom / 8));
    const lines = new Set(bottoms).size;
    const words = cell.innerText.split(/\\s+/).length;
    return lines > 4 && !cell.querySelector("code") && words / lines < 1.5 ? [cell.innerText] : [];
})"""
"""The texts of cells that have hardly more than one word on each line."""
CUT_OFF = """() => [...document.querySelectorAll("article table")].filter((table) => {
    const box = table.parentElement;
    return table.offsetWidth > box.clientWidth && getComputedStyle(box).overflowX !== "auto";
}).map((table) => table.innerText.slice(0, 40))"""
"""The beginnings of tables that are wider than their boxes, which do not scroll."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site, and return its pages."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", DOCS, place]
    subprocess.run(command, check=True, timeout=300)
    return sorted(place.rglob("*.html"))


@pytest.mark.parametrize("look", WIDTHS)
def test_pages_fit(site, browser, look):
    """No page is wider than the window; wide tables scroll, with words enough on each line."""
    page = browser.new_page(viewport={"width": WIDTHS[look], "height": 900})
    wrong = []
    for file in site:
        page.goto(file.as_uri())
        wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        if wide > window:
            wrong.append(f"{file.name}: {wide} pixels wide")
        wrong += [f"{file.name}: cut off: {text}" for text in page.evaluate(CUT_OFF)]
        wrong += [f"{file.name}: a word on each line: {text}" for text in page.evaluate(CRAMPED)]
    page.close()
    assert len(site) > 30
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dark", [False, True])
def test_first_page_shows_version_picture_and_figures(site, browser, dark):
    """In light and dark colours, on a screen that is not scrolled sideways."""
    first = next(file for file in site if file.name == "index.html")
    scheme = "dark" if dark else "light"
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto(first.as_uri())
    assert page.locator(".sidebar-brand-text").inner_text().startswith("aioapiqueue ")
    assert page.locator("article img").evaluate("(image) => image.naturalWidth") > 500
    assert page.locator("article table").count() >= 1
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark
    page.close()
