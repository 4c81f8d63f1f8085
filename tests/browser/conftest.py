"""A headless browser: Chromium or Chrome, as the machine has it."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.browser.opened import Opened

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "no browser: install Chromium (Debian: apt-get install chromium) or Chrome, or name one in the "
    "variable BROWSER"
)


@pytest.fixture(scope="session")
def browser():
    """Start the browser; fail where there is none, as a page that nobody opened is not tested."""
    named = os.environ.get("BROWSER")
    path = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox, which root cannot have: it opens nothing but our own files.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open a file in a window of its own; at the end, see that nothing was wrong with it."""
    opened = []

    def open_file(file, **options):
        page = Opened(browser, file, **options)
        opened.append(page)
        return page

    yield open_file
    for page in opened:
        page.close()
