"""The page of a report: nothing secret in it, nothing loaded by it, and small."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import re
from html.parser import HTMLParser

import pytest

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.integrations.report import ReportObserver, page
from aioapiqueue.integrations.report.spi import Masks
from aioapiqueue.spi import Reporter
from aioapiqueue.testing import VirtualLoop

PRICES = re.compile(r">Prices: (.*?)<")
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what it finds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.scripts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Keep an element, and what it says."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        """See that it is the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep scripts."""
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def report_of(calls, *, name="crm", lanes=None, keys=(None,), rate="20/s", gap=0.0, title=None):
    """A report of so many calls, in virtual time."""

    async def main():
        report = ReportObserver(title=title)
        queue = ApiQueue(rate, name=name, lanes=lanes, observers=[report])
        chance = random.Random(1)
        for _ in range(calls):
            async with queue.slot(key=chance.choice(keys)):
                if gap:
                    await asyncio.sleep(gap)
        return report

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def test_page_is_whole_and_loads_nothing():
    """Elements are closed, no address is in it, and the policy names exactly its scripts."""
    text = report_of(50).html()
    page = Page(text)
    assert page.open == []
    assert not [value for name, value in page.attributes if name in {"src", "href"}]
    assert "url(" not in text
    policy = next(value for _, value in page.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    data, *scripts = page.scripts
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert len(json.loads(data)["charts"]) == 1
    assert text.index("<h1") < text.index("No call was throttled; 50 calls", text.index("<h1"))


@pytest.mark.parametrize(
    ("rate", "most"),
    [(2, 200_000), pytest.param(20, 2_000_000, marks=pytest.mark.slow)],
)
def test_hour_is_small(rate, most):
    """An hour at 20 per second, in 50 lanes, is under 2 MB without the chart library.

    At 2 per second it is under a tenth of that.
    """
    keys, calls = [f"operation-{number}" for number in range(50)], rate * 3600
    report = report_of(calls, lanes=dict.fromkeys(keys, "20/s"), keys=keys, rate=f"{rate}/s")
    found = report.as_json()
    expected = (calls, pytest.approx(3600 - 1 / rate))
    assert (found["queues"][0]["calls"], found["seconds"]) == expected
    text = report.html()
    library = sum(
        map(len, re.findall(r"<script>/\*! https://github.com.*?</script>", text, re.DOTALL))
    )
    assert library > 50_000
    assert len(text.encode()) - library < most
    for series in found["queues"][0]["time_series"]:
        assert len(series["steps"]) <= 1000
        assert sum(series["used"]) == calls


async def test_budgets_are_shown():
    """What is left of each, the fullest lane first; and in the list of changes, how it went."""
    report = ReportObserver()
    lanes = dict.fromkeys("ab", "4 usd in all")
    queue = ApiQueue("100/s", "1500 usd in all", lanes=lanes, observers=[report])
    for key, cost in (("a", 2), ("b", 4), (None, 1200)):
        async with queue.slot(key=key, cost={"usd": cost}):
            pass
    text = await asyncio.to_thread(report.html)
    cells = re.sub(r"<[^>]+>", "|", text[text.index("Budgets at the end") : text.index("<figure")])
    assert re.findall(r"[^|\n]+", cells)[1:] == [
        *("limit", "lane", "spent", "reserved", "left"),
        *("1500 usd in all", "1,206", "0", "294"),
        *("4 usd in all", "b", "4", "0", "0"),
        *("4 usd in all", "a", "2", "0", "2"),
    ]
    changes = re.sub(r"<[^>]+>", "|", text[text.index('id="changes"') :])
    shown = re.findall(r"(\d+)\N{NO-BREAK SPACE}%\|? of (.*) is used", changes)
    assert ("80", "1500 usd in all") in shown
    assert shown.count(("100", "4 usd in all")) == 1
    assert "Budgets at the end" not in await asyncio.to_thread(report_of_one_rate)


async def test_source_of_prices_is_shown():
    """Below the queue whose calls were priced, also if all were refused, and below no other."""
    report = ReportObserver()
    for name, cost in (("gpt", 1), ("none left", 9)):
        queue = ApiQueue("4 usd in all", name=name, observers=[report])
        Reporter(queue).price_from(f"<prices> of {name}")
        with contextlib.suppress(LimitExceeded):
            async with queue.slot(cost={"usd": cost}):
                pass
    async with ApiQueue("10/s", name="own", observers=[report]).slot():
        pass
    text = await asyncio.to_thread(report.html)
    sections = text.split('<section class="queue"')[1:]
    shown = {re.search(r"<h2>(.*)</h2>", one)[1]: PRICES.findall(one) for one in sections}
    assert shown == {
        "gpt": ["&lt;prices&gt; of gpt"],
        "none left": ["&lt;prices&gt; of none left"],
        "own": [],
    }
    told = {one["queue"]: one.get("prices") for one in report.as_json()["queues"]}
    assert told == {"gpt": "<prices> of gpt", "none left": "<prices> of none left", "own": None}


def report_of_one_rate():
    """The page of a queue without budgets."""
    return report_of(3).html()


def test_texts_are_escaped():
    """A queue, a lane or a title of users' making cannot become part of the page."""
    evil = "</script><script>alert(1)</script><!--"
    report = report_of(3, name=f"q{evil}", lanes={evil: "10/s"}, keys=(evil,), title=f"t{evil}")
    page = Page(report.html())
    assert page.tags.count("script") == 3
    assert "alert(1)" not in "".join(page.scripts)


def test_account_ids_are_masked_unless_asked():
    """Of accounts, the last four digits are shown, of access keys nothing, and no password."""
    report = report_of(
        3,
        name="ec2 eu-west-1 111122223333",
        lanes={"AKIAIOSFODNN7EXAMPLE": "10/s", "redis://u:hunter2@h": "10/s"},
        keys=("AKIAIOSFODNN7EXAMPLE", "redis://u:hunter2@h"),
        title="of 444455556666",
    )
    masked, whole = report.html(), report.html(show_accounts=True)
    assert "ec2 eu-west-1 …3333" in masked
    assert "of …6666" in masked
    for secret in ("111122223333", "444455556666"):
        assert (secret in masked, secret in whole) == (False, True)
    for text in (masked, whole):
        assert "IOSFODNN7" not in text
        assert "hunter2" not in text


def test_masks_keep_things_apart():
    """The same is masked the same way, what differs differently; numbers are no accounts."""
    masks = Masks(show_accounts=False)
    assert masks.text("arn:aws:iam::111122223333:role/x") == "arn:aws:iam::…3333:role/x"
    assert masks.text("999922223333, 111122223333") == "…3333 (2), …3333"
    assert masks.text("ASIAABCDEFGH12345678 AKIAABCDEFGH12345678") == "access-key-1 access-key-2"
    assert masks.text("AKIAABCDEFGH12345678") == "access-key-2"
    for text in ("scan_111122223333.py", "acct_111122223333", "x.111122223333", "1111-2222-3333"):
        assert "1111" not in masks.text(text)
        assert "…3333" in masks.text(text)
    assert masks.text("111122223333,444455556666") == "…3333,…6666"
    for kept in ("123,456,789,012 calls", "0.123456789012", "1234567890123", "1-1111-2222-3333"):
        assert masks.text(kept) == kept
    assert masks.text("GET https://h/users/@me/* 1/s") == "GET https://h/users/@me/* 1/s"
    assert masks.text("key_AKIAABCDEFGH12345678_x") == "key_access-key-2_x"
    for url in (
        "redis://:p@ss@h",
        "redis://:pa/ss@h",
        "https://ghp_pass@h",
        "http://h/?token=pass",
    ):
        assert "ss" not in masks.text(url)
    others = Masks(show_accounts=True, access_keys=["minioadmin", "admin"])
    assert others.text("s3 minioadmin, s3 admin") == "s3 access-key-1, s3 access-key-2"
    assert others.text("administrator") == "administrator"
    named = Masks(show_accounts=True, access_keys=["a", "a-b"], prefixes={"s3 ", "s3 us-east-1 "})
    assert named.text("a call in s3 a, 9 calls a second") == (
        "a call in s3 access-key-1, 9 calls a second"
    )
    assert named.text("s3 us-east-1 a-b: a-b") == "s3 us-east-1 access-key-2: a-b"
    assert masks.all({"a": ["111122223333", 5, None, True]}) == {"a": ["…3333", 5, None, True]}


def test_many_queues_and_lanes_are_cut():
    """The page has the busiest, and says how many it leaves out."""

    async def main():
        report = ReportObserver()
        queues = [ApiQueue("1000/s", name=f"q{n}", observers=[report]) for n in range(45)]
        busiest = ApiQueue("1000/s", name="busiest", lanes={"lane*": "9/s"}, observers=[report])
        for queue in queues:
            async with queue.slot():
                pass
        for number in range(120):
            busiest.set_rate("10/s", key=f"k{number}")
            async with busiest.slot(key=f"k{number}"):
                pass
        return report

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        text = runner.run(main()).html()
    assert text.count('class="queue"') == 40
    words = " ".join(re.sub(r"<[^>]*>", "", text).split())
    assert "This page shows 40 queues. The JSON version of the report contains 6 more." in words
    assert "This page shows 100 lanes. The JSON version of the report contains 20 more." in words


def test_blanket_delay_is_shown_if_longer():
    """What one delay for all calls takes at least is shown if it is more than what was taken."""
    shown = "one delay for all calls (minimum)"
    document = report_of(40, rate="20/s").as_json()
    for blanket, is_shown in ((document["times"]["seconds"] + 1, True), (0.5, False)):
        times = document["times"] | {"blanket": blanket}
        text = page(document | {"times": times})
        assert (shown in text) is is_shown
        assert ("the program waits 0.05\N{NO-BREAK SPACE}s before each call" in text) is is_shown
