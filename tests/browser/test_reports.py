"""Reports of a real scanner and of queues, as a browser shows them.

Set `REPORT_SCREENSHOTS` to a folder to keep the pictures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aioapiqueue import Adaptive, ApiQueue
from aioapiqueue.integrations import report as reports
from aioapiqueue.integrations.report.spi import Masks
from aioapiqueue.recording.spi import as_clock
from aioapiqueue.testing import VirtualLoop
from tests.browser.opened import number_in

pytestmark = [pytest.mark.real, pytest.mark.browser]

ROOT = Path(__file__).parents[2]
LOOKS = {"light": {}, "dark": {"dark": True}, "phone": {"width": 375}}
WAITS = ("p50", "p90", "p99", "max")
# What a report may have in addition to queues.
MORE = {
    "notes": ["One call in four goes to the first queue. " * 3],
    "tables": [
        {
            "title": "Who called",
            "columns": ["name", *(f"column {number}" for number in range(8))],
            "rows": [[name, *(f"{number:,} of 1,000" for number in range(8))] for name in "ab"],
        }
    ],
}


def finished(command, **options):
    """Runs a program to its end, and returns what it printed."""
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, **options
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def scoutsuite(tmp_path_factory):
    """The report and the figures of a real ScoutSuite from PyPI, under `run`."""
    kept = tmp_path_factory.mktemp("scan") / "kept"
    scan = (ROOT / "benchmarks" / "scan.py", "scoutsuite", "--snapshots", "60")
    code, output = finished([sys.executable, *scan, "--ways", "paced", "--keep", kept])
    assert code == 0, output
    (figures,) = kept.glob("*-paced-*/run.json")
    return figures.with_suffix(".html"), json.loads(figures.read_text("utf-8"))


@pytest.fixture(scope="module")
def queues(tmp_path_factory):
    """The same of queues that learn what push-back and several units are."""

    async def main():
        report = reports.ReportObserver(title="two queues")
        llm = ApiQueue(
            "20/s",
            "3000 tokens/min burst 300",
            name="llm",
            lanes={"tenant:*": "8/s", "search": "3/s"},
            adaptive=Adaptive(),
            observers=[report],
        )
        crm = ApiQueue("5/s", name="crm 111122223333", observers=[report])
        chance = random.Random(3)

        async def call(number):
            key = chance.choice(("tenant:a", "tenant:b", "search", None))
            async with llm.slot(key=key, cost={"tokens": chance.randrange(20)}) as slot:
                await asyncio.sleep(chance.random())
                if number in {90, 300}:
                    slot.throttled(retry_after=2)
            async with crm.slot():
                pass

        await asyncio.gather(*map(call, range(400)))
        crm.set_rate("7/s")
        return report

    def run():
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(main())

    with ThreadPoolExecutor() as pool:  # in this thread, the browser's driver has its loop
        report = pool.submit(run).result()
    page, told = tmp_path_factory.mktemp("queues") / "report.html", report.as_json() | MORE
    page.write_text(reports.page(told), "utf-8")
    return page, told


@pytest.fixture(params=["scoutsuite", "queues"])
def reported(request):
    """Each of them: its page, its figures, and its name."""
    return *request.getfixturevalue(request.param), request.param


def same(shown, value):
    """Whether what is shown is this number, to the decimals that it is shown with."""
    assert shown["value"] == pytest.approx(value, abs=1e-6)  # JSON of `run` has microseconds
    text = shown["text"].removesuffix("\N{NO-BREAK SPACE}s")
    if ":" in text:
        assert text == as_clock(value)
    else:
        assert number_in(text) == pytest.approx(value, abs=0.005 + 1e-9)
        assert ("." in text) or value == int(value)
    return True


def test_each_number_is_the_jsons(queues, open_page):
    """Verdict, facts, times, queues, lanes and the points of each chart."""
    page, told = queues
    opened = open_page(page)
    shown, masks = opened.read(), Masks(show_accounts=False)

    assert shown["verdict"] == headline(masks.text(told["verdict"]))
    assert same(shown["facts"]["duration"], told["seconds"])
    for name in ("calls", "throttled", "errors", "refused"):
        if name in shown["facts"]:
            assert same(shown["facts"][name], sum(one[name] for one in told["queues"]))
    for name, seconds in shown["times"].items():
        assert same(seconds, told["times"][name])

    assert len(shown["queues"]) == len(told["queues"]) > 0
    for own, one in zip(shown["queues"], told["queues"], strict=True):
        assert own["name"] == masks.text(one["queue"])
        assert own["limits"].startswith(", ".join(one["limits"]))
        check_figures(own["figures"], one)
        assert len(own["lanes"]) == len(one["lanes"])
        for lane, figures in zip(own["lanes"], one["lanes"], strict=True):
            assert lane["lane"]["text"] == masks.text(figures["lane"])
            for name in ("calls", "throttled", "errors", "refused"):
                assert same(lane[name], figures[name])
            for head, name in (("wait p50", "p50"), ("p99", "p99"), ("max", "max")):
                assert same(lane[head], figures["waits"][name])
    assert [one["at"]["value"] for one in shown["changes"]] == [
        pytest.approx(one["at"]) for one in told["changes"]
    ]
    check_points(opened, told)


def headline(verdict):
    """The verdict as the page's first line has it."""
    return verdict[0].upper() + verdict[1:].replace(" %", "\N{NO-BREAK SPACE}%")


COUNTS = ("calls", "throttled", "errors", "refused")


def test_each_number_of_a_run_is_the_jsons(scoutsuite, open_page):
    """Of `run`: its JSON counts by operation, Region and account, the page by queue and lane."""
    check_run(*scoutsuite, open_page)


def check_run(page, told, open_page):
    """See that the page of a run has the figures of its JSON."""
    opened = open_page(page)
    shown, masks = opened.read(), Masks(show_accounts=False)
    figures = told["figures"]
    assert shown["verdict"] == headline(masks.text(told["verdict"]))
    assert same(shown["facts"]["duration"], told["seconds"])
    for name in COUNTS:
        assert same(shown["facts"][name], sum(one[name] for one in figures))
    by_queue = {}
    for one in figures:
        end = "with limits" if one["paced"] else "without a limit"
        by_queue.setdefault(one["queue"] or f"{one['service']} {end}", []).append(one)
    limited = {one["queue"]: one for one in told["queues"]}
    assert {one["name"] for one in shown["queues"]} == set(map(masks.text, by_queue))
    for queue, own in by_queue.items():
        (found,) = (one for one in shown["queues"] if one["name"] == masks.text(queue))
        for name in COUNTS:
            assert same(found["figures"][name], sum(one[name] for one in own))
        if queue in limited and limited[queue]["paced"]:
            for name in WAITS:
                assert same(found["figures"][f"wait {name}"], limited[queue]["waits"][name])
        lanes = {one["lane"]["text"]: one for one in found["lanes"]}
        for lane in {one["lane"] for one in own}:
            for name in COUNTS:
                counted = sum(one[name] for one in own if one["lane"] == lane)
                assert same(lanes[masks.text(lane)][name], counted)


def check_figures(shown, one):
    """See that the figures of a queue are those of the JSON."""
    for name in ("calls", "throttled", "errors", "refused"):
        assert same(shown[name], one[name])
    for unit, used in one["used"].items():
        if unit != "calls":
            assert same(shown[f"{unit} used"], used)
    for name in WAITS:
        assert same(shown[f"wait {name}"], one["waits"][name])
    assert same(shown["total wait"], one["waited"])


def check_points(opened, told):
    """See that each chart has the points of the JSON, a second."""
    step, number = told["step_seconds"], 0
    for queue in told["queues"]:
        for series in queue["time_series"]:
            head, *rows = opened.points(number)
            name = "started" if series["unit"] == "calls" else "used"
            assert head[:2] == ["at", f"{name} per second"]
            used = dict(zip(series["steps"], series["used"], strict=True))
            for place, (at, let_go, *_) in enumerate(rows):
                assert at == as_clock(place * step)
                assert number_in(let_go) == pytest.approx(used.get(place, 0) / step, abs=0.5)
                if used.get(place, 0) / step < 100:
                    assert number_in(let_go) == pytest.approx(used.get(place, 0) / step, abs=0.006)
            assert len(rows) > max(series["steps"], default=0)
            # What is more than the limit and its burst stands out, and would be no secret.
            number += 2 if "waited" in series else 1


@pytest.mark.parametrize("look", LOOKS)
def test_looks(reported, open_page, look, tmp_path):
    """Light, dark, and on a phone: nothing is wider than the window, and charts have colours."""
    page, _, name = reported
    opened = open_page(page, **LOOKS[look])
    folder = Path(os.environ.get("REPORT_SCREENSHOTS") or tmp_path)
    folder.mkdir(exist_ok=True)
    assert opened.screenshot(folder / f"{name}-{look}.png").stat().st_size > 20_000
    wide, window = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window
    back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(20, 22, 26)" if look == "dark" else "rgb(255, 255, 255)")
    # Contrast of text and its background: WCAG 2.2, 1.4.3 asks for 4.5.
    for ratio in opened.page.evaluate(CONTRASTS):
        assert ratio["ratio"] >= 4.5, ratio


CONTRASTS = """() => {
    const light = (colour) => {
        const part = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => {
            const share = one / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (!colour.endsWith(", 0)")) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll("h1, h2, p, dt, dd, th, td, li, summary, figcaption")]
        .filter((one) => one.innerText && one.checkVisibility())
        .map((one) => {
            const [text, back] = [getComputedStyle(one).color, behind(one)];
            const [more, less] = [light(text), light(back)].sort((a, b) => b - a);
            return { what: one.innerText.slice(0, 30), text, back,
                     ratio: (more + 0.05) / (less + 0.05) };
        });
}"""


def test_keyboard_goes_through_a_chart(queues, open_page):
    """A chart is reached by Tab, and read by arrow keys, as a slider is; so are details."""
    page, told = queues
    opened = open_page(page).page
    for _ in range(200):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.classList.contains('plot')"):
            break
    else:
        pytest.fail("no chart is reached by Tab")
    focus = opened.locator(":focus")
    assert focus.get_attribute("role") == "slider"
    assert focus.get_attribute("aria-label").endswith("calls per second, over time")
    series = told["queues"][0]["time_series"][0]
    used = dict(zip(series["steps"], series["used"], strict=True))
    for key, step in (("Home", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1)):
        opened.keyboard.press(key)
        assert focus.get_attribute("aria-valuenow") == str(step)
        words = focus.get_attribute("aria-valuetext")
        assert words.startswith(f"0:0{step}: ")
        assert number_in(words[6:]) == pytest.approx(used.get(step, 0) / told["step_seconds"])
        assert opened.locator(".plot:focus + .at").inner_text() == words
    opened.keyboard.press("End")
    last = int(focus.get_attribute("aria-valuenow"))
    opened.keyboard.press("ArrowRight")
    assert int(focus.get_attribute("aria-valuenow")) == last
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"
    opened.keyboard.press("Enter")
    opened.wait_for_selector("details.points[open] table")  # filled once it is open


def test_screen_readers_get_names(queues, open_page):
    """Headings go down by one, tables have heads, charts and regions have names."""
    opened = open_page(queues[0]).page
    levels = opened.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert opened.evaluate("document.documentElement.lang") == "en"
    for selector in (".plot", "[role=region]"):
        for name in opened.locator(selector).evaluate_all(
            "(all) => all.map((one) => one.getAttribute('aria-label'))"
        ):
            assert name
    assert (
        opened.locator("td:first-child:not([class])").count()
        == opened.locator("#changes td:first-child").count()
    )


def test_prints_light_and_with_all_charts(queues, browser, tmp_path):
    """On paper: light colours though the user prefers dark ones, and charts that were not seen."""
    page = browser.new_page(color_scheme="dark", viewport={"width": 1100, "height": 300})
    page.goto(queues[0].as_uri())
    charts = page.locator("section.queue > figure .plot").count()
    assert page.locator("section.queue > figure canvas").count() < charts
    file = tmp_path / "report.pdf"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("section.queue > figure canvas").count() == charts
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=file)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert file.stat().st_size > 20_000
    page.close()


def test_without_scripts_all_figures_are_there(queues, browser):
    """Where scripts are forbidden, as in mails and on build servers, only charts are missing."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(queues[0].as_uri())
    text = page.locator("body").inner_text()
    assert "The charts need JavaScript" in text
    assert f"{queues[1]['queues'][0]['calls']:,}" in text
    context.close()


def test_charts_leave_no_blank_strip(queues, open_page):
    """From the time axis to what follows there is less than a line; waits have several marks."""
    opened = open_page(queues[0]).page
    gaps = opened.evaluate("""() => [...document.querySelectorAll("section > figure")].map((one) =>
        one.querySelector("summary").getBoundingClientRect().top
        - one.querySelector(".u-over").getBoundingClientRect().bottom)""")
    assert gaps
    assert max(gaps) < 40  # the axis has 28
    for height in opened.evaluate("""() => [...document.querySelectorAll(".plot.low .u-over")].map(
            (one) => one.getBoundingClientRect().height)"""):
        assert height > 3 * 24  # a mark for each 24
