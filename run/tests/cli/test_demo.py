"""The demonstration as people run it: a process of its own, its output and its exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from aioapiqueue_run.cli.app import app
from tests.helpers import introspect
from tests.helpers.stalls import Stalls
from tests.helpers.terminal import Terminal
from tests.helpers.yardstick import delay

pytestmark = pytest.mark.real

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
# The same in seconds: few things, twice EC2's refill for less at once, and botocore tries again in
# a tenth of the time. A bystander calls as often as the refill leaves room for.
SMALL = f"""
import dataclasses
from botocore.retries.standard import ExponentialBackoff
from aioapiqueue import Rate
from aioapiqueue.registry import spi as registry
published = registry.published_limits
def published_limits(service):
    for limit in published(service):
        reads = service == "ec2" and limit.name == "non-mutating"
        yield dataclasses.replace(limit, rate=Rate(40, burst=56)) if reads else limit
registry.published_limits = published_limits
from aioapiqueue.__main__ import main
from aioapiqueue_run.demo import scan
{introspect.code_to_replace("snapshots of a demo", 1)}
scan.ScanPlan.buckets = property(lambda _: 1)
by = scan.standing_by
scan.standing_by = lambda client, snapshot: by(client, snapshot, often=4)
delay = ExponentialBackoff.delay_amount
ExponentialBackoff.delay_amount = lambda *context: delay(*context) / 10
"""


def run(*arguments, timeout=PATIENCE, program=("-m", "aioapiqueue"), **environment):
    """Runs `python -m aioapiqueue` in a terminal of 80 columns that is not one."""
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def words(text):
    """The text without its frame and line breaks."""
    return " ".join(text.replace("│", " ").split())


# On time are 5 percent more: a machine that is slow or stands still makes it late.
IN_TIME = 1.05


@dataclasses.dataclass
class Case:
    """Which demonstration is run: its program, and what it is asked for on an idle machine.

    Attributes:
        rate: calls per second.
        things: buckets, and users; None: as many as it takes by itself.
    """

    program: tuple[str, str]
    snapshots: int
    rate: int
    things: int | None = None


@dataclasses.dataclass
class Demo:
    """What came of a demonstration, and by how much this machine held it up.

    Attributes:
        share_stalled: of the time in which it ran.
        delay: how many times longer everything takes than on an idle machine.
    """

    case: Case
    ended: subprocess.CompletedProcess
    share_stalled: float
    delay: float

    @property
    def late(self):
        """Seconds by which the paced scan took longer than it may; below 0, it was in time."""
        ideal, interval = self.case.snapshots / self.case.rate, 1 / self.case.rate
        beside = (IN_TIME * (ideal + interval) - ideal) * self.delay
        return self.ec2_seconds * (1 - self.share_stalled) - ideal - beside

    @property
    def ec2_seconds(self):
        """Seconds of the paced scan's EC2 calls, from the ratio that the text prints."""
        times = re.search(r"([0-9.]+) times as long as at exactly", words(self.ended.stdout))[1]
        return float(times) * (self.case.snapshots + 1) / self.case.rate

    @property
    def table(self):
        """The table of the scans: the numbers of each row, by its name."""
        rows = re.findall(r"^(\w+)([ \d.,/of]+)$", self.ended.stdout, re.MULTILINE)
        return {
            name: [float(one) for one in re.findall(r"[\d.]+", row.replace(",", ""))]
            for name, row in rows
        }


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Case(("-c", f"{SMALL}main()"), 120, 32, things=1), id="small"),
        # Slow: half a minute.
        pytest.param(Case(("-m", "aioapiqueue"), 200, 12), id="as it is", marks=pytest.mark.slow),
    ],
)
def demo(request):
    """Run it up to three times, until all is well.

    It runs again, as what it promises bounds real time: on a machine that stands still for a
    second, a paced scan's calls come to the gate together, or it is late.
    """
    for _ in range(3):
        shown = demonstrate(request.param)
        if shown.ended.returncode == 0 and shown.late <= 0:
            break
    assert shown.ended.returncode == 0, shown.ended.stdout
    return shown


def demonstrate(case):
    """Run it once. The user's AWS settings would break it if it used them."""
    hostile = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_PROFILE": "no-such-profile",
        "AWS_MAX_ATTEMPTS": "50",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
    }
    options = ("--snapshots", str(case.snapshots), "--rate", f"{case.rate}/s")
    began = time.monotonic()
    with Stalls() as stalls:
        ended = run("demo", *options, timeout=300, program=case.program, **hostile)
        held_up = stalls.seconds / (time.monotonic() - began), delay()
    assert ended.stderr == "", ended.stdout + ended.stderr
    return Demo(case, ended, *held_up)


def test_demo_holds_its_promises(demo):
    """Unpaced throttles and loses, paced does neither."""
    ended = demo.ended
    rate, snapshots = demo.case.rate, demo.case.snapshots
    public = math.ceil(snapshots / 10)
    things = demo.case.things or math.ceil(snapshots / 4)
    ec2_calls = snapshots + 1
    calls = snapshots + 3 + 12 * things
    table = demo.table
    assert list(table) == ["unpaced", "blanket", "paced"], ended.stdout
    for _, *figures, bystander_calls in (table["blanket"], table["paced"]):
        # Calls to EC2 and all, throttled, errors, public ones found, failures of the bystander.
        assert figures == [ec2_calls, calls, 0, 0, public, public, 0]
        assert bystander_calls > 0
    assert snapshots / rate <= demo.ec2_seconds <= table["paced"][0] + 0.1
    assert table["blanket"][0] >= (calls - 1) / rate - 0.1
    _, made, _, throttled, errors, found, _, failures, _ = table["unpaced"]
    assert made >= ec2_calls
    assert throttled > 0 < errors + failures
    assert found <= public

    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert ended.stdout.isascii()
    for name, (seconds, *_) in table.items():
        assert f"{name} ended after {seconds:.1f} s\n" in ended.stdout
    assert ended.stdout.endswith("OK: the paced scan lost nothing.\n")


@pytest.mark.full_speed
def test_paced_demo_takes_what_its_rate_says(demo):
    """What calls take at the beginning and at the end goes beside the pace, and is computation."""
    assert demo.late <= 0, demo.ended.stdout


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Let the demo run in this process, in a second and without a bucket that empties."""
    from aioapiqueue_run.demo import gate, scan

    by = scan.standing_by
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    introspect.replace(monkeypatch, "snapshots of a demo", 1)
    monkeypatch.setattr(scan.ScanPlan, "buckets", 1)
    monkeypatch.setattr(scan, "standing_by", functools.partial(by, often=20.0))
    monkeypatch.setattr(gate.MockBuckets, "try_consume", lambda *_: True)


@pytest.mark.usefixtures("quick")
def test_nothing_throttled_is_no_comparison():
    """Where no call was throttled, the text does not say that unpaced is as good."""
    options = ("--snapshots", "10", "--rate", "40/s")
    ended = CliRunner().invoke(app, ["demo", *options])
    assert (ended.exit_code, ended.stderr) == (1, "")
    assert isinstance(ended.exception, SystemExit)
    assert "EC2 calls a second and lost nothing: the limit is" in words(ended.stdout)
    assert "or run the demo again when the machine is less busy." in words(ended.stdout)
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert "Unpaced, " not in ended.stdout
    assert "Public" not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "12"), "--rate: '12' is not a rate: a bare number is"),
        (("--rate", "0/s"), "--rate: '0/s' is not a rate"),
        (
            ("--rate", "9/s burst 5"),
            "--rate: '9/s burst 5' has a burst or a unit: use a plain rate",
        ),
        (("--snapshots", "199"), "Invalid value for '--snapshots'"),
    ],
)
def test_bad_option_is_refused_at_once(arguments, message, tmp_path, monkeypatch):
    """What could not work is refused with exit code 2, a reason, and before anything is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    ended = CliRunner().invoke(app, ["demo", *arguments])
    assert ended.exit_code == 2
    assert message in words(ended.stderr)
    assert ended.stdout == ""


def test_help_fits_a_terminal():
    """`--help` names each option with its default, within 80 columns."""
    ended = run("demo", "--help")
    assert ended.returncode == 0
    assert max(map(len, ended.stdout.splitlines())) <= 80
    for expected in ("--snapshots", "--rate", "[default: 16/s]"):
        assert expected in ended.stdout


def test_missing_extra_is_named(tmp_path):
    """Without its extra, the program names which one to install, and exits with 1."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['aiobotocore'] = None")
    ended = run("demo", PYTHONPATH=str(tmp_path))
    said = 'aioapiqueue: demo needs aiobotocore: pip install "aioapiqueue[demo]"\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", said)


@pytest.fixture(scope="module")
def bars():
    """Run it in a terminal until the last of the ways has begun."""
    variables = os.environ | {"TERM": "xterm-256color"}
    variables.pop("COLUMNS", None)
    program = [sys.executable, "-c", f"{SMALL}main()", "demo", "--snapshots", "20"]
    with contextlib.closing(Terminal(program, variables)) as demo:
        done = re.compile(r"^paced .* ([1-9][\d,]*) of [\d,]+ calls +0 errors +0:00:\d\d$")
        demo.until(lambda: any(map(done.match, demo.rows)))
        yield demo


def test_terminal_has_a_bar_for_each_way(bars):
    """They show how far each is; Ctrl-C leaves them as they were last, and the cursor shown."""
    ways = [row.split()[0] for row in bars.rows if " calls " in row and " errors " in row]
    bars.type("\x03")
    assert bars.end() == 130
    assert ways == ["unpaced", "blanket", "paced"]
    assert bars.raw.rindex(b"\x1b[?25h") > bars.raw.rindex(b"\x1b[?25l")
