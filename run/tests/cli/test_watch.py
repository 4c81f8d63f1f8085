"""`aioapiqueue watch`, in a terminal of 80 by 24, on a hub that real processes use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from typer.testing import CliRunner

if os.name != "posix":
    pytest.skip("the hub needs POSIX", allow_module_level=True)

import termios

from aioapiqueue import ApiQueue, HostSchedule
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.watch.rows import (
    SORTS,
    History,
    QuotaRow,
    arranged,
    rate_text,
    sparkline,
)
from aioapiqueue_run.cli.watch.screen import Watch
from tests.helpers.host_workers import Workers
from tests.helpers.hubs import ask_hub, hub_in_use, hubs_with, processes_of
from tests.helpers.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-m", "aioapiqueue"]
LINE_MODES = termios.ECHO | termios.ICANON
RATE = re.compile(r"^crm +[▁▂▃▄▅▆▇█]+ +(\d+)(?:\.\d)?/20 +\d+ ")


@pytest.fixture
def hub():
    """A place for a hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


@contextlib.contextmanager
def watching():
    """Run `watch` in a terminal."""
    variables = os.environ | {"TERM": "xterm-256color"}
    variables.pop("COLUMNS", None)
    with contextlib.closing(Terminal([*PROGRAM, "watch", "--every", "0.2"], variables)) as opened:
        yield opened


@pytest.fixture
def screen(hub):
    """Give the screen of a `watch` of the test's own."""
    with watching() as opened:
        yield opened


def shows(screen, *texts):
    """Waits until each of these is on the screen."""
    screen.until(lambda: all(any(text in row for row in screen.rows) for text in texts))


def hides(screen, text):
    """Waits until this is no longer on the screen."""
    screen.until(lambda: not any(text in row for row in screen.rows))


def rows_of(screen):
    """The names in the table, from above."""
    table = [row for row in screen.rows[2:] if re.search(r"\d/\d+ +\d", row)]
    return [row.removeprefix("PAUSED ").split()[0] for row in table]


@pytest.mark.real
def test_watching_does_not_keep_the_hub(screen, hub):
    """A hub without clients ends, however often it is looked at; Ctrl-C ends the screen."""

    async def use():
        queue = ApiQueue("20/s", schedule=HostSchedule("crm"))
        async with queue.slot():
            await asyncio.to_thread(shows, screen, "crm: 20/s")
        began = time.monotonic()
        await queue.aclose()
        return began

    with hubs_with(_IDLE=0.3):
        began = asyncio.run(use())
    shows(screen, "no hub is running")
    assert time.monotonic() - began > 0.25
    # Its socket is gone first; the process follows.
    deadline = time.monotonic() + 20
    while processes_of(hub):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    screen.type("\x03")
    assert screen.end() == 0


@pytest.mark.real
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_leaves_the_terminal_as_it_was(screen, number, code):
    """Ended from outside, it says so by its exit code, and leaves its screen first."""
    shows(screen, "no hub is running")
    assert screen.modes() & LINE_MODES == 0
    screen.signal(number)
    assert screen.end() == code
    assert screen.raw.rindex(b"\x1b[?1049l") > screen.raw.rindex(b"\x1b[?1049h")
    assert screen.modes() & LINE_MODES == LINE_MODES


@pytest.mark.real
def test_hub_that_does_not_answer_keeps_no_key(screen, hub, stalls):
    """A hub that stands still is no reason for `q` to wait for it."""
    with Workers(1, "crm", "20/s", tasks=2):
        shows(screen, "crm: 20/s")
    shows(screen, "no program is using it")
    (pid,) = processes_of(hub)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.3)  # it is asked by now
        before, began = stalls.seconds, time.monotonic()
        screen.type("q")
        assert screen.end() == 0
        # The answer would be awaited for five.
        assert time.monotonic() - began < 3 + stalls.seconds - before
    finally:
        os.kill(pid, signal.SIGCONT)
    # What was there before is there again: it had a screen of its own.
    assert b"\x1b[?1049h" in screen.raw
    assert b"\x1b[?1049l" in screen.raw
    assert b"\x1b[?25h" in screen.raw[screen.raw.rindex(b"\x1b[?1049h") :]


@pytest.mark.real
def test_more_than_ask_the_hub_are_counted(hub):
    """Of a crowd only the first ask the hub: all are counted, and how long they have waited."""
    with Workers(1, "crm", "250/s", tasks=500) as workers:
        workers.wait_for(250)
        (quota,) = ask_hub(hub, command="status")["quotas"]
        assert 400 <= quota["waiting"] <= 500
        assert quota["clients"][0]["waiting"] == quota["waiting"]
        # The last of five hundred wait for two seconds; of those that have started, some for one.
        assert quota["waits"]["p99"] > 0.6


@pytest.mark.real
def test_pause_is_of_one_kind(hub):
    """A quota of `run` and one of a library may have the same name: each is paused by itself."""
    with Workers(1, "crm", "50/s", tasks=3) as workers:
        workers.wait_for(5)
        assert ask_hub(hub, command="pause", quota="crm", kind="run") == {"known": False}
        assert ask_hub(hub, command="pause", quota="crm", kind="name") == {"known": True}
        assert ask_hub(hub, command="status")["quotas"][0]["paused"] is True


def plain(text):
    """The text without its frame, line breaks and the program's name."""
    return " ".join(text.replace("│", " ").replace("aioapiqueue: ", "").split())


def run(*arguments, code=0, **environment):
    """Run the program without a terminal; return what it says."""
    ended = subprocess.run(
        [*PROGRAM, *arguments],
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stdout
    return plain(ended.stdout)


def call(*arguments, code=0):
    """Call the same in this process; return what it says."""
    ended = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert ended.exit_code == code, ended.output
    return plain(ended.output)


@pytest.mark.real
def test_refused_where_it_cannot_be(hub, tmp_path):
    """Without a terminal, without textual, too often: it says what to do, with exit code 2."""
    said = run("watch", code=2)
    assert "watch needs a terminal; in scripts use aioapiqueue hub status --json" in said
    for every in ("0.01", "inf"):
        assert "Invalid value for '--every'" in call("watch", f"--every={every}", code=2)
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['textual'] = None")
    assert "pip install 'aioapiqueue[watch]'" in run("watch", code=2, PYTHONPATH=str(tmp_path))
    said = call("watch", "--help")
    for word in ("--every", "--filter", "hub status --json", "hub pause NAME"):
        assert word in said


@pytest.mark.real
def test_pause_and_resume_by_command(hub):
    """`hub pause` and `hub resume` do it for scripts; a pause ends with the last that uses it."""
    assert "no hub is running" in call("hub", "pause", "crm", code=1)
    with Workers(1, "crm", "100/s", tasks=3) as workers:
        workers.wait_for(5)
        said = run("hub", "pause", "crm")
        assert said == "crm: paused; to resume: aioapiqueue hub resume crm"
        before = len(workers.all_starts)
        assert "crm (paused): 100/s" in call("hub", "status")
        time.sleep(0.3)
        assert len(workers.all_starts) <= before + 3
        assert call("hub", "resume", "crm") == "crm: resumed"
        workers.wait_for(before + 20)
        assert "unknown quota 'other', or no program is using it" in call(
            "hub", "pause", "other", code=1
        )
        call("hub", "pause", "crm")
    # The next that comes is not paused by somebody who has forgotten it.
    with Workers(1, "crm", "100/s", tasks=3) as workers:
        workers.wait_for(5)
        (quota,) = json.loads(call("hub", "status", "--json"))["quotas"]
        assert (quota["paused"], quota["waits"]["p99"] > 0) == (False, True)


# What is shown of what the hub says, without a hub.


def status(started, *, pid=1, **changes):
    """An answer of a hub that keeps one quota."""
    quota = {
        "kind": "name", "name": "crm", "limits": ["10/s", "5 at once"], "lanes": {},
        "waiting": 3, "running": 2, "started": started, "throttled": 1, "backed_off": 0,
        "rate": None, "paused": False, "held": 0.0, "waits": {"p50": 0.1, "p99": 0.4},
        "clients": [{"pid": 5, "program": "a", "waiting": 3, "running": 2, "started": started}],
    }  # fmt: skip
    return {"pid": pid, "quotas": [quota | changes]}


def test_rates_are_of_what_started_between_two_looks():
    """A second look gives the first rate; another hub, or another quota, begins again."""
    history = History()
    (row,) = history.rows(status(100), 10.0)
    assert (row.rates, row.rate, row.most) == ((), 0.0, 10.0)
    (row,) = history.rows(status(105), 10.5)
    assert row.rates == (10.0,)
    (row,) = history.rows(status(2), 11.0)  # forgotten meanwhile, and made again
    assert row.rates == (10.0, 0.0)
    (row,) = history.rows(status(50, pid=2), 12.0)
    assert row.rates == (10.0, 0.0)
    assert history.rows({"pid": 2, "quotas": []}, 13.0) == []
    (row,) = history.rows(status(60, pid=2), 14.0)
    assert row.rates == ()


def row_of(name, **changes):
    """A row."""
    defaults = {
        "limits": "10/s", "most": 10.0, "rates": (), "waiting": 0, "running": 0, "p50": 0.0,
        "p99": 0.0, "throttled": 0, "lowered": None, "paused": False, "held": 0.0, "clients": (),
    }  # fmt: skip
    return QuotaRow(key=("name", name), **(defaults | changes))


@pytest.mark.real
async def test_budgets_below_the_table(monkeypatch):
    """The first ones, and a number; the screen of 24 lines still has all clients, and the table."""
    use = {"spent": 1.5, "reserved": 0.25, "left": 0.25}
    clients = [
        {"pid": pid, "program": "a", "waiting": 0, "running": 0, "started": 0} for pid in range(6)
    ]
    budgets = {"": {"2 usd in all": use}} | {f"t:{one}": {"2 in each day": use} for one in "abc"}
    answer = status(1, budgets=budgets, clients=clients) | {"version": "1", "problem": ""}
    monkeypatch.setattr("aioapiqueue_run.cli.watch.screen.ask_hub", lambda *_, **__: answer)
    app = Watch(every=60, words="")
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in range(200):
            await pilot.pause(0.01)
            if app.query_one("#table").row_count:
                break
        await pilot.pause()
        details = app.query_one("#details")
        lines = str(details.render()).splitlines()
        assert details.size.height == len(lines)  # none is cut off
        assert app.query_one("#table").size.height >= 8
    assert lines[1:6] == [
        "  2 usd in all: 1.5 spent, 0.25 reserved, 0.25 left",
        "  t:a, 2 in each day: 1.5 spent, 0.25 reserved, 0.25 left",
        "  t:b, 2 in each day: 1.5 spent, 0.25 reserved, 0.25 left",
        "  and 1 more budget",
        "  a, process 0: 0 waiting, 0 running, 0 started",
    ]
    assert lines[-1] == "  and 2 more"


def test_quota_without_budgets():
    """The hub leaves the budgets of lanes out, and a quota may have none."""
    (row,) = History().rows(status(1), 0.0)
    assert row.budgets == {}


def test_order_and_words():
    """Of figures the largest first, names among equal ones; all words have to be there."""
    rows = [row_of("b", waiting=1), row_of("a", waiting=1), row_of("c", waiting=9, rates=(3,))]
    assert [one.name for one in arranged(rows, by="waiting", words="")] == ["c", "a", "b"]
    assert [one.name for one in arranged(rows, by="name", words="")] == ["a", "b", "c"]
    assert [one.name for one in arranged(rows, by="rate", words="")] == ["c", "a", "b"]
    clients = ({"program": "Scout", "pid": 17},)
    rows = [row_of("ec2 eu-west-1", clients=clients), row_of("ec2 us-east-1")]
    for words in ("scout", "EU ec2", "17"):
        assert [one.name for one in arranged(rows, by="name", words=words)] == ["ec2 eu-west-1"]
    assert {"name", "rate", "processes"} < set(SORTS)
    for by in SORTS:
        assert len(arranged(rows, by=by, words="")) == 2


@pytest.mark.parametrize(
    ("rates", "most", "bars"),
    [
        ((), 10.0, "    "),
        ((0, 0.01, 5, 10), 10.0, " ▁▄█"),
        ((20, 10), 10.0, "  ██"),
        ((1, 2, 4), None, " ▂▄█"),
        ((0, 0), None, "    "),
        ((1, 2, 3, 4, 5, 10), 10.0, "▂▃▄█"),
    ],
)
def test_sparkline(rates, most, bars):
    """A full bar is the limit, or the highest where there is none; what there is shows."""
    assert sparkline(row_of("q", rates=rates, most=most), 4) == bars


def test_names_are_shown_without_control_characters():
    """A name may be anything, and is no command to the terminal."""
    assert row_of("a\x1b]0;owned\x07b\nc").name == r"a\x1b]0;owned\x07b\nc"


def test_hosts_are_shown_without_their_scheme():
    """In the table; what is below it has all of the name."""
    row = row_of("https://api.github.com")
    assert (row.short_name, row.name) == ("api.github.com", "https://api.github.com")
    assert row_of("http://intranet").short_name == "http://intranet"


def test_limit_that_is_not_known_is_none():
    """A later hub may have limits of other kinds."""
    (row,) = History().rows(status(1, limits=["9 zettacalls", "10/s"]), 0.0)
    assert (row.limits, row.most) == ("9 zettacalls, 10/s", 10.0)


@pytest.mark.parametrize(
    ("rate", "most", "shown"),
    [
        (999.7, 1000.0, "1k/1k"),
        (999_999.0, None, "1M"),
        (19.64, 20.0, "19.6/20"),
        (9.96, 10.0, "10/10"),
        (0.5, 0.5, "30/30m"),
        (0.0005, 2 / 3600, "1.8/2h"),
        (0.0, 1e-9, "0/3.6e-06h"),
        (1234.0, 5000.0, "1.23k/5k"),
    ],
)
def test_rates_are_short(rate, most, shown):
    """Rates have three figures at most, and slow limits are those of a minute or an hour."""
    assert rate_text(row_of("q", rates=(rate,), most=most)) == shown


# On one screen. Last, so that its processes are not there beside the other tests.


class Watched(NamedTuple):
    """A screen, the hub that is watched, and processes that use it."""

    screen: Terminal
    hub: Path
    workers: Workers


@pytest.fixture(scope="module")
def watched():
    """Watch a hub before it is there, and then two processes that use it, for several tests."""
    with hub_in_use() as hub, watching() as screen:
        none = "no hub is running; this screen updates when a process starts one"
        shows(screen, none, "Pause/resume")
        with Workers(2, "crm", "20/s", tasks=5) as workers:
            shows(screen, "1 quota, 2 processes", "crm: 20/s", "host_worker.py, process")
            yield Watched(screen, hub, workers)


def table_row(screen):
    """The row of the quota, if it has a rate."""
    return next(filter(None, map(RATE.match, screen.rows)), None)


@pytest.mark.real
def test_paced_quota_shows_its_rate(watched):
    """What started a second is its limit, in so many columns; some callers wait, and how long."""
    screen = watched.screen
    screen.until(lambda: (found := table_row(screen)) and 15 <= int(found[1]) <= 26)
    waiting = re.compile(r"^crm .*/20 +([1-9]|10) +\d+ +0?\.\d+ +")
    screen.until(lambda: any(waiting.match(row) for row in screen.rows))
    assert max(map(len, screen.rows)) <= 80


@pytest.mark.real
def test_pause_is_asked_first(watched):
    """Another key than `y` leaves the quota as it is."""
    screen = watched.screen
    screen.type("p")
    shows(screen, "Pause crm?", "in 2 processes until you", "y: yes   n: no")
    screen.type("n")
    hides(screen, "Pause crm?")
    (quota,) = ask_hub(watched.hub, command="status")["quotas"]
    assert quota["paused"] is False


@pytest.mark.real
def test_paused_quota_stands_still(watched):
    """No call starts after `p` and `y`, and the screen says so; resumed, the quota goes on."""
    screen, workers = watched.screen, watched.workers
    screen.type("p")
    shows(screen, "Pause crm?")
    screen.type("y")
    shows(screen, "PAUSED crm", "crm: 20/s - paused")
    before = len(workers.all_starts)
    time.sleep(0.3)
    assert len(workers.all_starts) <= before + 1  # what was on its way
    screen.until(lambda: any(re.search(r"^PAUSED crm .* 0/20 ", row) for row in screen.rows))
    screen.type("p")
    shows(screen, "Resume crm?")
    screen.type("y")
    hides(screen, "PAUSED")
    screen.until(lambda: len(workers.all_starts) > before + 5)


@pytest.fixture(scope="module")
def two_quotas(watched):
    """Have two processes use another quota, which is faster, for several tests."""
    screen = watched.screen
    screen.until(lambda: rows_of(screen) == ["crm"])  # the cursor is on the first to come
    with Workers(2, "delta", "50/s", tasks=30):
        screen.until(lambda: rows_of(screen) == ["crm", "delta"])
        yield screen


@pytest.mark.real
def test_sorted_by_other_columns(two_quotas):
    """`s` sorts by rate, the largest first, and the cursor stays on its quota."""
    screen = two_quotas
    screen.type("s")
    screen.until(lambda: rows_of(screen) == ["delta", "crm"])
    shows(screen, "per s▼")
    # The second one by now.
    shows(screen, "crm: 20/s")
    for columns in (90, 80):
        screen.resize(24, columns)
        # One at a time: Textual may take two that are closer than a millisecond in reverse.
        screen.until(lambda columns=columns: "─" * columns in screen.rows)
        shows(screen, "crm: 20/s")
    screen.resize(30, 140)
    screen.until(lambda: any(re.search(r"[▁▂▃▄▅▆▇█]{10}", row) for row in screen.rows))
    screen.resize(24, 80)
    screen.until(lambda: rows_of(screen) == ["delta", "crm"] and len(screen.rows[2]) <= 80)


@pytest.mark.real
def test_filtered_by_words(two_quotas):
    """`/` keeps what has the words, Esc shows all again."""
    screen = two_quotas
    before = rows_of(screen)
    assert sorted(before) == ["crm", "delta"]
    screen.type("/")
    shows(screen, "words in names or programs")
    for letter in "del":
        screen.type(letter)
    screen.until(lambda: rows_of(screen) == ["delta"])
    shows(screen, "delta: 50/s")
    screen.type("x")
    shows(screen, "no quota matches these words; Esc shows all")
    screen.type("\x1b")
    screen.until(lambda: rows_of(screen) == before)
