"""The demonstration as people run it: a process of its own, its output and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aioapiqueue_run.cli.app import app
from tests.helpers import introspect
from tests.helpers.stalls import Stalls
from tests.helpers.terminal import Terminal
from tests.helpers.yardstick import delay

pytestmark = pytest.mark.real

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
MOTO = "aioapiqueue_run.demo.moto_server"
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
scan.ScanPlan.often = property(lambda plan: 4 * plan.scale)
delay = ExponentialBackoff.delay_amount
ExponentialBackoff.delay_amount = lambda *context: delay(*context) / 10
"""
# As it is, with fewer things of other services, for which the blanket scan takes most of its time.
FEWER_THINGS = """
from aioapiqueue_run.demo import scan
from aioapiqueue.__main__ import main
scan.ScanPlan.buckets = property(lambda _: 3)
main()
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
        spinning: processes beside it, for each processor.
    """

    program: tuple[str, str]
    snapshots: int
    rate: int
    things: int | None = None
    spinning: int = 0


@dataclasses.dataclass
class Demo:
    """What came of a demonstration, and by how much this machine held it up.

    Attributes:
        share_stalled: of the time in which it ran.
        delay: how many times longer everything takes than on an idle machine.
    """

    case: Case
    ended: subprocess.CompletedProcess
    report: dict
    page: str
    share_stalled: float
    delay: float

    @property
    def late(self):
        """Seconds by which the paced scan took longer than it may; below 0, it was in time."""
        plan = self.report["plan"]
        ideal = plan["snapshots"] * plan["interval"]
        beside = (IN_TIME * (ideal + plan["interval"]) - ideal) * self.delay
        took = self.report["strategies"]["paced"]["ec2_seconds"]
        return took * (1 - self.share_stalled) - ideal - beside


@contextlib.contextmanager
def keeping_busy(processes):
    """Keep each processor busy with so many processes that compute."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(processes * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Case(("-c", f"{SMALL}main()"), 120, 32, things=1), id="small"),
        # Slow: each of these takes half a minute.
        pytest.param(
            Case(("-c", FEWER_THINGS), 200, 12, things=3, spinning=3),
            id="busy",
            marks=pytest.mark.slow,
        ),
        pytest.param(Case(("-m", "aioapiqueue"), 200, 12), id="as it is", marks=pytest.mark.slow),
    ],
)
def demo(request, tmp_path_factory):
    """Run it up to three times, until all is well.

    It runs again, as what it promises bounds real time: on a machine that stands still for a
    second, a paced scan's calls come to the gate together, or it is late.
    """
    for _ in range(3):
        shown = demonstrate(request.param, tmp_path_factory.mktemp("demo"))
        if shown.report["ok"] and shown.late <= 0:
            break
    assert shown.ended.returncode == 0, shown.ended.stdout
    return shown


def demonstrate(case, folder):
    """Run it once. The user's AWS settings would break it if it used them."""
    figures, page = folder / "figures.json", folder / "report.html"
    hostile = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_PROFILE": "no-such-profile",
        "AWS_MAX_ATTEMPTS": "50",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
    }
    options = ("--snapshots", str(case.snapshots), "--rate", f"{case.rate}/s")
    options += ("--json", str(figures), "--report", str(page))
    began = time.monotonic()
    with keeping_busy(case.spinning), Stalls() as stalls:
        ended = run("demo", *options, timeout=300, program=case.program, **hostile)
        held_up = stalls.seconds / (time.monotonic() - began), delay()
    assert (figures.exists(), ended.stderr) == (True, ""), ended.stdout + ended.stderr
    return Demo(case, ended, json.loads(figures.read_text()), page.read_text("utf-8"), *held_up)


def test_demo_holds_its_promises(demo):
    """Unpaced throttles and loses, paced does neither; text and JSON agree, on a busy machine too.

    There, account, limits and pace are smaller: all by one factor.
    """
    ended, report, plan = demo.ended, demo.report, demo.report["plan"]
    scale, rate = plan["scale"], 1 / plan["interval"]
    assert scale in {1, 1 / 2, 1 / 4, 1 / 8}
    assert rate == pytest.approx(demo.case.rate * scale)
    snapshots = round(demo.case.snapshots * scale)
    public = math.ceil(snapshots / 10)
    things = demo.case.things or math.ceil(snapshots / 4)
    ec2_calls = snapshots + 1
    unpaced, blanket, paced = (report["strategies"][n] for n in ("unpaced", "blanket", "paced"))
    on_time = paced["ec2_seconds"] <= IN_TIME * ec2_calls / rate
    assert report["ok"], ended.stdout
    assert {check["name"]: check["ok"] for check in report["checks"]} == {
        "unpaced_did_harm": True,
        "paced_not_throttled": True,
        "paced_bystander_unharmed": True,
        "paced_found_everything": True,
        "paced_on_time": on_time,
    }
    assert plan | {"interval": None} == {
        "snapshots": snapshots,
        "public": public,
        "buckets": things,
        "users": things,
        "rate": f"{demo.case.rate * scale:g}/s",
        "interval": None,
        "workers": 20,
        "scale": scale,
    }
    calls = snapshots + 3 + 12 * things
    for one in (blanket, paced):
        assert (one["ec2_calls"], one["calls"]) == (ec2_calls, calls)
        assert (one["throttled"], one["errors"], one["lost"]) == (0, 0, 0)
        assert one["public_found"] == public
        assert one["bystander_failures"] == 0 < one["bystander_calls"]
    assert snapshots / rate <= paced["ec2_seconds"] <= paced["seconds"]
    assert blanket["seconds"] >= (calls - 1) / rate
    assert unpaced["throttled"] > 0 < unpaced["lost"] + unpaced["bystander_failures"]

    # What was recorded over time: of queues each call, at the gate those to EC2.
    recorded = {one["queue"].partition(":")[0]: one for one in report["queues"]}
    assert list(recorded) == ["paced", "blanket", "unpaced"]
    assert [recorded[name]["calls"] for name in recorded] == [
        ec2_calls,
        calls,
        unpaced["ec2_calls"],
    ]
    assert [recorded[name]["throttled"] for name in recorded] == [0, 0, unpaced["throttled"]]
    assert recorded["blanket"]["waits"]["max"] > 0
    assert recorded["paced"]["tightest"]["share"] <= 1
    assert report["good"] is True
    headline = f"P{report['verdict'][1:]}".replace(" %", "\N{NO-BREAK SPACE}%")
    assert f'<h1 class="good">{headline}</h1>' in demo.page

    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert ended.stdout.isascii()
    assert f"{ec2_calls} / {calls}" in ended.stdout
    assert f"{public} of {public}" in ended.stdout
    assert f"OK: {'all' if on_time else '4 of'} 5 checks passed." in ended.stdout
    assert ("Late: the paced scan's" in ended.stdout) is not on_time


@pytest.mark.full_speed
def test_paced_demo_takes_what_its_rate_says(demo):
    """What calls take at the beginning and at the end goes beside the pace, and is computation."""
    assert demo.late <= 0, demo.report["strategies"]["paced"]


@pytest.fixture(scope="module")
def account():
    """Start a mock account that several scans share; give the URL, and the id of a snapshot."""
    with subprocess.Popen(
        [sys.executable, "-m", MOTO, *("20", "1", "1")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
        text=True,
    ) as server:
        url, snapshot = server.stdout.readline().split()
        # What is loaded at the first calls takes a second, which is no test's own time.
        demonstration = importlib.import_module("aioapiqueue_run.demo.demonstration")
        with demonstration.isolated():
            asyncio.run(demonstration.warm_up(url, snapshot))
        yield url, snapshot
        server.kill()


@pytest.fixture
def rigged(account, tmp_path, monkeypatch):
    """Return what runs it in this process, on that account, where one scan is throttled, or none.

    Whatever the machine: "on time" is never, and no scan is made smaller.
    """
    from botocore.retries.standard import ExponentialBackoff

    from aioapiqueue_run.demo import demonstration, gate, moto_server, scan

    @contextlib.asynccontextmanager
    async def already(**_):
        yield moto_server.Moto(*account)

    async def fast(*_):
        return 1000.0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    introspect.replace(monkeypatch, "snapshots of a demo", 1)
    monkeypatch.setattr(demonstration, "moto_server", already)
    monkeypatch.setattr(demonstration, "reached_rate", fast)
    monkeypatch.setattr(scan.ScanPlan, "buckets", 1)
    monkeypatch.setattr(scan.ScanPlan, "often", 20.0)
    introspect.replace(monkeypatch, "slack of a verdict", 0)
    delay = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *context: delay(*context) / 10)

    def demonstrate(*options, refused):
        def try_consume(_, account, *place):
            return account != refused or "DescribeSnapshotAttribute" not in place

        monkeypatch.setattr(gate.MockBuckets, "try_consume", try_consume)
        return CliRunner().invoke(app, ["demo", "--snapshots", "10", "--rate", "40/s", *options])

    return demonstrate


@pytest.mark.parametrize("strict", [False, True])
def test_late_demo_fails_only_strictly(rigged, strict):
    """A paced scan that a busy machine makes late is a note, and an error for CI."""
    ended = rigged(*(["--strict"] * strict), refused="unpaced")
    assert (ended.exit_code, ended.stderr) == (int(strict), "")
    assert ("OK: 4 of 5 checks passed." in ended.stdout) is not strict
    assert ("Late: the paced scan's" in ended.stdout) is not strict
    assert ("FAILED paced_on_time: the paced scan's" in ended.stdout) is strict


def test_nothing_throttled_is_no_comparison(rigged):
    """Where no call was throttled, neither text nor report says that unpaced is as good."""
    ended = rigged("--report", "report.html", refused=None)
    assert (ended.exit_code, ended.stderr) == (1, "")
    assert isinstance(ended.exception, SystemExit)
    assert "EC2 calls a second and lost nothing: the limit is" in ended.stdout
    assert (
        "Use more --workers, or run the demo again when the machine is less busy." in ended.stdout
    )
    assert max(map(len, ended.stdout.splitlines())) <= 80
    shown = Path("report.html").read_text("utf-8")
    assert '<h1 class="bad">The unpaced scan lost nothing; paced: ' in shown
    for text in (ended.stdout, shown):
        assert "Unpaced, the scan lost" not in text
        assert "Public found" not in words(text)
        assert "public found" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "12"), "--rate: '12' is not a rate: a bare number is"),
        (("--rate", "0/s"), "--rate: '0/s' is not a rate"),
        (
            ("--rate", "9/s burst 5"),
            "--rate: '9/s burst 5' has a burst or a unit: use a plain rate",
        ),
        (("--snapshots", "199"), "--snapshots: 199 is too few"),
        (("--workers", "4"), "--workers: 4 is too few"),
        (("--json", "no-such-directory/x.json"), "there is no directory no-such-directory"),
        (("--json", "."), "--json: . is a directory"),
        (("--report", "."), "--report: . is a directory"),
        (("--report", "x", "--json", "./x"), "--report: x is also the file of --json"),
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
    options = ("--snapshots", "--rate", "--workers", "--json", "--report", "--strict")
    for expected in (*options, "[default: 16/s]"):
        assert expected in ended.stdout


def test_missing_extra_is_named(tmp_path):
    """Without its extra, the program names which one to install, and exits with 1."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['moto'] = None")
    ended = run("demo", PYTHONPATH=str(tmp_path))
    said = 'aioapiqueue: the demo needs moto: pip install "aioapiqueue[demo]"\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", said)


def servers():
    """The processes that are a mock server of ours, by their command line."""
    found = set()
    for commandline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if MOTO.encode() in commandline.read_bytes():
                found.add(commandline.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


ON_THE_ACCOUNT = """
import contextlib, os
from aioapiqueue_run.demo import demonstration, moto_server
@contextlib.asynccontextmanager
async def already(**_):
    yield moto_server.Moto(*os.environ["ACCOUNT"].split())
demonstration.moto_server = already
main()
"""


@pytest.fixture(scope="module")
def bars(account):
    """Run it in a terminal until the last of the ways has begun."""
    variables = os.environ | {"TERM": "xterm-256color", "ACCOUNT": " ".join(account)}
    variables.pop("COLUMNS", None)
    program = [sys.executable, "-c", SMALL + ON_THE_ACCOUNT, "demo", "--snapshots", "20"]
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


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
@pytest.mark.parametrize(
    "awaited",
    [
        "Starting a mock",  # its server starts
        pytest.param("Three scans", marks=pytest.mark.slow),  # it takes some seconds to get there
    ],
)
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_interrupted_demo_leaves_no_server(signum, code, awaited):
    """Ctrl-C exits with 130; however the program ends, its server process ends with it."""
    before = servers()
    with subprocess.Popen(
        [sys.executable, "-m", "aioapiqueue", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        while awaited not in demo.stdout.readline():
            assert demo.poll() is None
        deadline = time.monotonic() + PATIENCE
        while not servers() - before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert servers() - before
        demo.send_signal(signum)
        _, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == code
    assert "Traceback" not in errors
    deadline = time.monotonic() + PATIENCE
    while servers() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert servers() <= before
