"""A report that is open in a browser, and what a person finds in it."""

from __future__ import annotations

import re

__all__ = ["Opened", "number_in"]

_READ = """() => {
    const value = (element) => {
        const data = element.querySelector("data");
        return { text: element.innerText.trim(), value: data ? Number(data.value) : null };
    };
    const list = (parent) => Object.fromEntries(
        [...parent.querySelectorAll(":scope > dl > div")].map(
            (one) => [one.querySelector("dt").innerText, value(one.querySelector("dd"))]));
    const table = (element) => {
        const heads = [...element.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
        return [...element.tBodies[0].rows].map((row) => Object.fromEntries(
            [...row.cells].map((cell, place) => [heads[place], value(cell)])));
    };
    return {
        verdict: document.querySelector("h1").innerText,
        facts: list(document.querySelector("header")),
        times: Object.fromEntries([...document.querySelectorAll("#times tbody tr")].map(
            (row) => [row.id.slice(5), value(row.cells[1])])),
        queues: [...document.querySelectorAll("section.queue")].map((one) => ({
            name: one.querySelector("h2").innerText,
            limits: one.querySelector(".limits").innerText,
            figures: list(one),
            lanes: [...one.querySelectorAll("table.lanes")].flatMap(table),
        })),
        changes: [...document.querySelectorAll("#changes table")].flatMap(table),
    };
}"""
_POINTS = "section.queue > figure > .points"
_ROWS = """(details) => [...details.querySelectorAll("tr")].map(
    (row) => [...row.cells].map((one) => one.innerText))"""


class Opened:
    """A page, and whatever it complained about or asked for.

    Args:
        browser: which opens it.
        file: its file.
        width: of the window.
        dark: whether the user prefers dark colours.
    """

    def __init__(self, browser, file, *, width=1100, dark=False):
        self.page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.complaints = []
        self.requests = []
        self._address = file.as_uri()
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(self._address)
        self.page.evaluate(
            "document.querySelectorAll('.lane').forEach((one) => { one.open = true; })"
        )
        # Each chart is drawn once it is on the screen.
        for plot in self.page.query_selector_all(".plot"):
            plot.scroll_into_view_if_needed()
            plot.wait_for_selector("canvas")
        self.page.evaluate("scrollTo(0, 0)")

    def close(self):
        """Close it; nothing was wrong with it, and it has loaded nothing."""
        self.page.close()
        assert self.complaints == []
        assert self.requests == [self._address]

    def read(self):
        """What stands in it."""
        return self.page.evaluate(_READ)

    def points(self, number):
        """The table of a queue's chart, by its place in the page: rows of texts."""
        details = self.page.locator(_POINTS).nth(number)
        details.evaluate("(details) => { details.open = true; }")
        details.locator("table").wait_for()  # filled once it is open
        return details.evaluate(_ROWS)

    def screenshot(self, file):
        """Take a picture of all of it."""
        self.page.screenshot(path=file, full_page=True)
        return file


def number_in(text):
    """The number that a text begins with: 1,234 or 0.35 s."""
    return float(re.match(r"-?[\d,]+(?:\.\d+)?", text)[0].replace(",", ""))
