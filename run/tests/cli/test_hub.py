"""`aioapiqueue hub`: what a person sees of the hub, and does with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from aioapiqueue import ApiQueue, HostSchedule
from aioapiqueue.schedules.spi import HUB_DIR, HubLocation
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.console import as_argument
from tests.helpers.host_crowd import hello
from tests.helpers.host_workers import Workers
from tests.helpers.hubs import hub_in_use, hubs_with, processes_of
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def hub():
    """A place for a hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


def run(*arguments, code=0):
    """Run the command in this process; return what it says, with 80 columns."""
    variables = {"COLUMNS": "80", "NO_COLOR": "1"}
    ended = CliRunner().invoke(app, ["hub", *arguments], prog_name="aioapiqueue", env=variables)
    assert ended.exit_code == code, ended.output
    return ended.output


def test_nothing_runs(hub):
    """Each command says so, and what starts one; but for `stop`, which wants none."""
    stop = [sys.executable, "-m", "aioapiqueue", "hub", "stop"]
    ended = subprocess.run(stop, capture_output=True, text=True, check=False)
    said = "aioapiqueue: no hub is running\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", said)
    for arguments in (["status"], ["pause", "crm"]):
        said = run(*arguments, code=1)
        assert "no hub is running; the first process that needs a hub starts one" in said
    assert not processes_of(hub)


def test_invalid_place_is_refused(monkeypatch):
    """It is a setting to correct (2), and no hub that cannot be reached (1)."""
    monkeypatch.setenv(HUB_DIR, "relative")
    for arguments in (["status"], ["stop"]):
        said = run(*arguments, code=2)
        assert said == f"aioapiqueue: {HUB_DIR} must be an absolute path, not 'relative'\n"


def quotas():
    """Return what the command says of each quota."""
    return json.loads(run("status", "--json"))["quotas"]


def test_who_shares_what_is_shown(hub):
    """The limits, and who waits and runs; a reset makes windows as new."""
    with Workers(2, "crm", "40 in any 1h", tasks=2) as workers:
        workers.wait_for(40)  # which one of them may have got before the other is there
        wait_until(lambda: len(quotas()[0]["clients"]) == 2)
        said, (quota,) = run("status"), quotas()
        assert (quota["name"], quota["limits"]) == ("crm", ["40 in any 1h"])
        assert quota["started"] == 40
        assert "\ncrm: 40 in any 1h\n" in said
        assert "program" in said
        assert all(str(client["pid"]) in said for client in quota["clients"])
        assert all(len(line) <= 80 for line in said.splitlines()[1:])
        assert run("reset", "crm") == "crm: reset\n"
        workers.wait_for(80)
        assert "unknown quota 'other'" in run("reset", "other", code=1)
        assert "queues used the hub and will start another" in run("stop").replace("\n", " ")


async def status_with_budgets():
    """Return what the command says while a queue uses budgets, of itself and of tenants."""
    lanes = {"tenant:*": "2 usd in each day or raise", "b": "2 usd in all"}
    queue = ApiQueue("5000 usd in all", lanes=lanes, schedule=HostSchedule("crm"))
    async with queue:
        for tenant in range(10):
            async with queue.slot(key=f"tenant:{tenant}\x1b[2J", cost={"usd": tenant / 8}):
                pass
        async with queue.slot(key="b", cost={"usd": 2}), queue.slot(cost={"usd": 0.5}) as slot:
            slot.settle({"usd": 0.25})
            return await asyncio.to_thread(run, "status")


def test_use_of_budgets_is_shown(hub):
    """The quota's own, then the lanes with the least left, in 80 columns and without escapes."""
    shown = asyncio.run(status_with_budgets()).splitlines()
    first = shown.index("  5000 usd in all: 5.875 spent, 2 reserved, 4,992.125 left")
    assert shown[first + 1 : first + 6] == [
        "  b, 2 usd in all: 0 spent, 2 reserved, 0 left",
        r"  tenant:9\x1b[2J, 2 usd in each day or raise:",
        "    1.125 spent, 0 reserved, 0.875 left",
        r"  tenant:8\x1b[2J, 2 usd in each day or raise: 1 spent, 0 reserved, 1 left",
        r"  tenant:7\x1b[2J, 2 usd in each day or raise:",
    ]
    assert "  and 5 more budgets" in shown
    assert all(len(line) <= 80 for line in shown[1:])
    assert processes_of(hub)


def test_reset_without_a_hub_names_the_command():
    """A budget outlasts the hub, which ends when no program uses it."""
    with hub_in_use():
        said = run("reset", "crm", code=1).replace("\n", " ")
        other = run("pause", "crm", code=1)
    assert "no hub is running: start it with aioapiqueue hub start, then run this" in said
    assert "then run this" not in other


def test_started_by_hand_it_stays(hub):
    """One that nobody has used yet is there when a program needs it that cannot start one.

    By default, one that nobody needs stays for ten seconds.
    """
    with hubs_with(_IDLE=0.3):
        assert run("start").startswith("the hub is running: process ")
    time.sleep(0.6)
    said = run("status")
    assert "the hub runs until you stop it: aioapiqueue hub stop" in said
    assert "no quota is in use" in said
    assert run("stop").startswith("the hub has stopped (process ")
    deadline = time.monotonic() + 10
    while processes_of(hub):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "no hub is running" in run("status", code=1)


def test_file_that_cannot_be_used_is_named(hub):
    """Quotas go on without it, and a person learns that they do not outlast this hub."""
    (hub / "quotas.db").mkdir(parents=True)
    run("start")
    said = run("status").replace("\n", " ")
    assert "quotas.db cannot be used" in said
    assert "are lost when this hub ends" in said
    run("stop")


@pytest.mark.parametrize(
    "character", ["\x80", "\x9b", "\xa0", "\xad", "\u2028", "\n", "é\n", "\\xa0\n"]
)
def test_shells_read_words_as_shown(character):
    """What is shown of a name is printable, and bash reads it as the name."""
    name = f"it's {character}bad"
    shown = as_argument(name)
    assert shown.isprintable()
    bash = ["bash", "-c", f"printf %s {shown}"]
    variables = os.environ | {"LC_ALL": "C.UTF-8"}
    said = subprocess.run(bash, env=variables, capture_output=True, check=True).stdout
    assert said == name.encode()


NASTY = "tenant\n\x1b[2J\x07\u202e' crm: 1/s"
SHOWN = r"tenant\n\x1b[2J\x07\u202e' crm: 1/s"


def test_names_do_nothing_to_a_terminal(hub):
    """Names of quotas, lanes and programs are shown with escapes: no line is forged."""
    assert run("start").startswith("the hub is running: process ")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.connect(os.fspath(HubLocation(str(hub)).sockets()[0]))
        sock.sendall(hello(1, program=NASTY, quota=NASTY))
        answer = sock.makefile().readline()
        assert "welcome" in json.loads(answer)
        said = run("status")
        assert said.splitlines()[3] == f"{SHOWN}: 2000/s burst 20"
        assert said.splitlines()[4] == f"  {SHOWN}-0: 5/s"
        assert said.replace("\n", "").isprintable()
        assert json.loads(run("status", "--json"))["quotas"][0]["name"] == NASTY
        paused = run("pause", NASTY)
        first, _, command = paused.strip("\n").partition("; to resume: aioapiqueue hub resume ")
        assert (first, command.isprintable()) == (f"{SHOWN}: paused", True)
        bash = ["bash", "-c", f"printf %s {command}"]  # what is shown is what a shell takes
        assert subprocess.run(bash, capture_output=True, text=True, check=True).stdout == NASTY
        assert run("resume", NASTY) == f"{SHOWN}: resumed\n"
        assert run("reset", NASTY) == f"{SHOWN}: reset\n"
    refused = run("pause", NASTY + "x", code=1)
    assert refused.count("\n") == 1
    assert refused.strip("\n").isprintable()
