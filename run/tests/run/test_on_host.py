"""What a run says of the hub of its host, through which it shares its limits with other runs."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("needs Unix domain sockets", allow_module_level=True)

from aioapiqueue.schedules.spi import HubLocation
from tests.helpers import introspect
from tests.helpers.hubs import ask_hub, hub_in_use

pytestmark = pytest.mark.real

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def hub():
    """A place for a hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


def pid_of(hub):
    """The process of the hub there."""
    return ask_hub(hub, command="status")["pid"]


def kill_at_call(number, aws, hub):
    """Kill the hub once so many calls have come."""
    aws.count(number)
    os.kill(pid_of(hub), signal.SIGKILL)


def hears(process, signum, within=60):
    """Wait until a process has a handler for a signal."""
    deadline = time.monotonic() + within
    while True:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (mask,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
        if int(mask, 16) & 1 << (signum - 1):
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lost_hub_is_replaced(hub, run, aws, python, tmp_path):
    """Calls wait meanwhile; it is said once, however many queues there are, and counted."""
    program = run.script("client('iam').list_users(); calls(22)")
    figures = tmp_path / "figures.json"
    options = ("--limit", "ec2=40/s", "--limit", "iam=40/s", "--json", figures)
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_at_call, 4, aws, hub)
        ended = run.here(*options, "--", python, program)
    killed.result()
    assert ended.code == 0, ended.err
    aws.arrivals = [one for one in aws.arrivals if one[1] == "DescribeSnapshots"]
    assert len(aws.arrivals) == 22
    aws.assert_paced(40, run.begun)
    lost = "lost the host hub, which enforces the limits: calls wait for another hub"
    assert ended.words.count(lost) == 1
    assert ended.words.count("connected to the hub again, after ") == 1
    assert json.loads(figures.read_text())["on_host"]["times_lost"] == 1


def test_limit_of_another_run_is_named(hub, run, aws, python, tmp_path):
    """The stricter of two runs holds for both; the other one says what its calls waited for."""
    strict = run.script("while not os.path.exists(sys.argv[1]): calls(1)", "strict.py")
    free = run.script("calls(5)", "free.py")
    figures, enough = tmp_path / "figures.json", tmp_path / "enough"
    with run.start("--limit", "ec2=20/s", "--", python, strict, enough) as other:
        aws.count(2)
        ended = run.here("--limit", "ec2=200/s", "--json", figures, "--", python, free)
        enough.touch()
        assert run.end(other).code == 0
    assert ended.code == 0, ended.err
    assert re.search(
        rf" waited .* s in total for ec2 20/s of \S+ strict.py, process {other.pid}", ended.words
    )
    (delay, *_) = json.loads(figures.read_text())["on_host"]["delays"]
    assert delay["limit"] == "20/s"
    assert delay["calls"] >= 1
    assert delay["seconds"] > 0


def test_run_with_the_same_limit_is_named(hub, run, aws, python, tmp_path):
    """Both runs say at the end which other one had a share of the limit, whichever ends first."""
    first = run.script("while not os.path.exists(sys.argv[1]): calls(1)", "first.py")
    second = run.script("calls(3); client('iam').list_users()", "second.py")
    enough, page = tmp_path / "enough", tmp_path / "report.html"
    with run.start("--limit", "ec2=20/s", "--", python, first, enough) as other:
        aws.count(2)
        options = ("--limit", "ec2=20/s", "--limit", "iam=20/s", "--report", page)
        ended = run.here(*options, "--", python, second)
        enough.touch()
        ended_later = run.end(other)
    assert (ended.code, ended_later.code) == (0, 0)
    name = f"{Path(python).name} first.py"
    said = f"limits shared with other runs on this host: {name}, process"
    queue = "ec2 eu-west-1 AKIAIOSFODNN7EXAMPLE"
    assert f"{said} {other.pid} ({queue})" in ended.words
    assert f"{said.replace('first', 'second')} " in ended_later.words
    assert f"({queue})" in ended_later.words
    assert f"{said} {other.pid} (ec2 eu-west-1 access-key-1)" in page.read_text("utf-8")


def test_run_alone_shares_with_nobody(hub, run, python):
    """Neither another run before it, nor its own processes, are named."""
    for _ in range(2):
        ended = run.here("--limit", "ec2=20/s", "--", python, run.script("calls(1)"))
        assert ended.code == 0
        assert "limits shared" not in ended.words


def test_hub_that_cannot_be_started(hub, quiet_run, python):
    """Nothing is started, as it would not share; the message says how it can go on without."""
    hub.chmod(0o755)
    ended = quiet_run.here("--limit", "ec2=1/s", "--", python, "-c", "print('started')")
    assert (ended.code, ended.out) == (2, b"")
    assert "nothing was started. To run without sharing limits: --private" in ended.words
    ended = quiet_run.here(
        "--limit", "ec2=1/s", "--private", "--", python, "-c", "print('started')"
    )
    assert (ended.code, ended.out) == (0, b"started\n")
    hub.chmod(0o700)


@linux
def test_signal_before_the_program_ends_the_run(hub, quiet_run, python):
    """One that comes while the hub does not answer yet: the program is not started any more."""
    assert introspect.start_hub(HubLocation(str(hub))) is None
    stopped = pid_of(hub)
    os.kill(stopped, signal.SIGSTOP)
    try:
        options = ("--limit", "ec2=1/s", "--", python, "-c", "print('started')")
        with quiet_run.start(*options) as process:
            hears(process, signal.SIGHUP)
            process.send_signal(signal.SIGHUP)
            os.kill(stopped, signal.SIGCONT)
            ended = quiet_run.end(process)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert (ended.code, ended.out) == (128 + signal.SIGHUP, b"")
    assert "ended by a signal before " in ended.words
    assert quiet_run.leftovers == []
