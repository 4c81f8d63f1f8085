"""`--fail-on`: what is read, what is refused, and what exit code comes of it."""

from __future__ import annotations

import json
import math
import os
import re

import pytest
from typer.testing import CliRunner

from aioapiqueue.recording.spi import WaitTimes
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.run.gates import WAITS, judge, read_gate
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.report import measure
from aioapiqueue_run.hub import Process
from tests.helpers.plans import plan_of

REAL = pytest.mark.real
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets")

TIMES = WaitTimes()
for number in range(1, 101):
    TIMES.add(number / 10)
MEASURED = {
    "answers": 2_000,
    "throttled": 46,
    "failed": 3,
    "refused": 500,
    "unpaced": 7,
    "not paced": 2,
    "unused": 1,
    **{metric: TIMES.percentile(share) for metric, share in WAITS.items()},
}


@pytest.mark.parametrize(
    ("text", "failed", "found"),
    [
        ("throttled", True, "46 of 2,000"),
        ("throttled > 46", False, "46 of 2,000"),
        ("throttled >= 46", True, "46 of 2,000"),
        ("  Throttled>45 ", True, "46 of 2,000"),
        ("throttled > 2.2%", True, "2.3%, 46 of 2,000"),
        ("throttled > 2.3 %", False, "2.3%, 46 of 2,000"),
        ("throttled == 46", True, "46 of 2,000"),
        ("throttled < 46", False, "46 of 2,000"),
        ("throttled <= 46", True, "46 of 2,000"),
        ("failed > 3", False, "3 of 2,000"),
        ("refused", True, "500 of 2,500"),
        ("refused > 19%", True, "20%, 500 of 2,500"),
        ("refused > 20%", False, "20%, 500 of 2,500"),
        ("unused", True, "1 unused limit"),
        ("unused > 1", False, "1 unused limit"),
        ("unpaced > 8", True, "7 calls, 2 Python processes not paced"),
        ("unpaced > 9", False, "7 calls, 2 Python processes not paced"),
        ("wait max > 9.9", True, "10 s"),
        ("wait max > 10", False, "10 s"),
        ("wait  p99 > 9.5s", True, "9.92 s"),
        ("wait p99 > 10", False, "9.92 s"),
        ("wait p90 > 8.5", True, "9.02 s"),
        ("wait p50 > 4.5", True, "5 s"),
        ("wait p50 > 5.5", False, "5 s"),
    ],
)
def test_gates_are_judged(text, failed, found):
    """Each metric, alone (above 0), compared with a number, and with a share of all answers."""
    judged = judge(read_gate(text), MEASURED)
    assert judged.failed is failed
    value, unit = found.split(" ")[0], found.split(" ")[-1]
    if unit == "s":
        assert judged.found.endswith(" s")
        assert float(judged.found.removesuffix(" s")) == pytest.approx(float(value), rel=0.01)
    else:
        assert judged.found == found


@pytest.mark.parametrize("metric", ["throttled", "failed", "refused", "unused", "unpaced"])
def test_nothing_measured_passes(metric):
    """A run without a call fails no gate, neither by a number nor by a share of nothing."""
    measured = measure(plan_of(), Outcome(processes=[Process(1, "python", "3.11")]))
    assert not judge(read_gate(metric), measured).failed
    assert not judge(read_gate("wait max > 0"), measured).failed
    if not metric.startswith("un"):
        assert not judge(read_gate(f"{metric} > 0%"), measured).failed


def test_unknown_fails_closed():
    """Where calls are only summed up, nobody knows which limits were met: that is no success."""
    judged = judge(read_gate("unused"), {"unused": math.inf})
    assert judged.failed
    assert judged.found == "unknown, because (others) may include calls that a limit applies to"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("trottled", "unknown metric 'trottled'; did you mean 'throttled'?"),
        (
            "errors > 1",
            "unknown metric 'errors'; use one of throttled, failed, refused, wait p50, ",
        ),
        ("wait", "which wait? Write one of wait p50, wait p90, wait p99, wait max"),
        ("wait > 3", "which wait? Write one of "),
        ("wait p95 > 3", "unknown metric 'wait p95'; did you mean 'wait p9"),
        ("wait p99", 'needs a number of seconds, such as "wait p99 > 30"'),
        ("wait p99 > 3%", "% is allowed only with throttled, failed, refused: remove the %"),
        ("unused > 5%", "% is allowed only with throttled, "),
        ("throttled > 3s", "throttled is a count, not a time: remove the s"),
        ("throttled > -1", 'is not a gate: write one such as "throttled", '),
        ("throttled > many", "is not a gate: "),
        ("throttled >", "is not a gate: "),
        ("throttled 5", "unknown metric 'throttled 5'; "),
        ("throttled > 1 > 2", "is not a gate: "),
        ("> 5", "is not a gate: "),
        ("", "is not a gate: "),
        ("throttled > \u0663", "is not a gate: "),
    ],
)
def test_invalid_gates_are_refused(text, why):
    """The message quotes it and says what to write; all of them are shown, and nothing starts."""
    with pytest.raises(ValueError, match=f"^{re.escape(repr(text))}.*{re.escape(why)}"):
        read_gate(text)
    told = CliRunner().invoke(app, ["run", "--fail-on", text, "--fail-on", "nix", "--", "true"])
    assert told.exit_code == 2
    assert told.stderr.startswith(f"aioapiqueue: --fail-on {text!r}")
    assert "\naioapiqueue: --fail-on 'nix': unknown metric 'nix'; " in told.stderr


def test_dry_run_has_no_waits():
    """A gate of waits could never fail in a dry run: it is refused."""
    told = CliRunner().invoke(app, ["run", "--dry-run", "--fail-on", "wait max > 3", "--", "true"])
    assert told.exit_code == 2
    assert "--fail-on 'wait max > 3': a dry run has no waits" in told.stderr


@REAL
def test_gate_sets_the_exit_code(run, aws, python, tmp_path):
    """5 in place of 0, a line for each that failed, one for those passed; JSON has all."""
    answers = iter(range(100))
    aws.throttles = lambda action: action == "DescribeSnapshots" and next(answers) % 10 == 2
    program = run.script("""
        from botocore.exceptions import ClientError
        ec2, pushed_back = client(), 0
        for _ in range(30):
            try:
                ec2.describe_snapshots()
            except ClientError:
                pushed_back += 1
        assert pushed_back == 3, pushed_back
        client("sts").get_caller_identity()
    """)
    figures = tmp_path / "figures.json"
    gates = ("throttled > 2", "throttled > 50%", "unused", "unpaced", "wait max > 0.01")
    options = [part for gate in gates for part in ("--fail-on", gate)]
    limits = ("--limit", "ec2=100/s", "--limit", "kms=1/s")
    once = {"AWS_MAX_ATTEMPTS": "1"}  # boto3 waits for seconds before it tries again
    ended = run(*limits, *options, "--json", figures, "--", python, program, env=once)
    assert ended.code == 5, ended.err
    assert ", exit code 0; aioapiqueue run exits with 5, because of --fail-on " in ended.words
    told = json.loads(figures.read_text())
    assert (told["program_exit_code"], told["exit_code"]) == (0, 5)
    ec2 = next(one for one in told["figures"] if one["service"] == "ec2")
    assert (ec2["answers"], ec2["throttled"], ec2["calls"]) == (30, 3, 30)
    assert [(one["gate"], one["failed"]) for one in told["gates"]] == [
        ("throttled > 2", True),
        ("throttled > 50%", False),
        ("unused", True),
        ("unpaced", True),
        ("wait max > 0.01", told["waits"]["max"] > 0.01),
    ]
    assert told["gates"][4]["value"] == told["waits"]["max"] == ec2["waits"]["max"]
    words = ended.words
    assert 'FAILED: --fail-on "throttled > 2": 3 of 31' in words
    assert 'FAILED: --fail-on "unused": 1 unused limit' in words
    assert 'FAILED: --fail-on "unpaced": 1 call' in words
    assert 'passed: --fail-on "throttled > 50%" (9.68%, 3 of 31)' in words
    assert max(map(len, ended.err.decode().splitlines())) <= 80


@REAL
def test_own_exit_code_is_kept(run, python):
    """A gate replaces only a 0: what the program says of itself counts more."""
    program = run.script("client('sts').get_caller_identity(); sys.exit(7)")
    options = ("--limit", "ec2=1/s", "--fail-on", "unpaced")
    ended = run(*options, "--", python, program)
    assert ended.code == 7
    assert 'FAILED: --fail-on "unpaced": 1 call' in ended.words


@REAL
@pytest.mark.parametrize(
    ("gate", "code", "words"),
    [
        ("unpaced", 5, 'FAILED: --fail-on "unpaced": 0 calls, 1 Python process not paced'),
        ("throttled", 0, 'passed: --fail-on "throttled" (0 of 0)'),
    ],
)
def test_unpaced_python_fails_unpaced(quiet_run, python, gate, code, words):
    """With --allow-inactive too, a Python that was not paced is not what `unpaced` allows."""
    program = quiet_run.plain(f"""
        import subprocess
        subprocess.run([{python!r}, "-I", "-c", "import time; time.sleep(1)"])
    """)
    options = ("--limit", "ec2=1/s", "--allow-inactive", "--fail-on", gate)
    ended = quiet_run(*options, "--", python, program)
    assert ended.code == code, ended.err
    assert words in ended.words
