"""When a benchmark's target counts as met, as equal to its bound, or as missed.

And whether the benchmark that knows what requests to Redis look like still does.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._common import Report, judge, rate_of

INF = float("inf")
EVEN = [0.97, 0.98, 1.0, 1.02, 1.03]  # the middle half spreads by 4 %
WIDE = [0.8, 0.94, 1.0, 1.05, 1.2]  # by 11 %


def around(middle, rounds=EVEN):
    """Return rounds that spread alike around another median."""
    return [middle * one for one in rounds]


@pytest.mark.parametrize("value", [1.2, 1.3, INF])
def test_what_is_within_is_met(value):
    """The bound itself is."""
    assert judge(value, least=1.2) == "met"
    assert judge(-value, most=-1.2, rounds=around(5)) == "met"


@pytest.mark.parametrize(
    ("value", "rounds", "verdict"),
    [
        (1.19, EVEN, "equal within the middle half of 5 rounds (1.17 to 1.21): missed by 0.8%"),
        (1.17, EVEN, "MISSED by 2.5%, and by the middle half of 5 rounds (1.15 to 1.19)"),
        (1.19, WIDE, "MISSED by 0.8%; the middle half of 5 rounds (1.12 to 1.25) is too wide"),
        (1.19, EVEN[:4], "MISSED by 0.8%"),
        (1.19, [1.0] * 11, "MISSED by 0.8%, and by the middle half of 11 rounds (1.19 to 1.19)"),
    ],
)  # fmt: skip
def test_only_rounds_that_keep_it_excuse(value, rounds, verdict):
    """The bound has to be in the middle half of five rounds, which are a tenth apart at most."""
    assert judge(value, least=1.2, rounds=around(value, rounds)) == verdict


def test_an_upper_bound_is_judged_alike():
    """By how much it is exceeded."""
    excused = judge(1.01, most=1, rounds=around(1.01))
    assert excused == "equal within the middle half of 5 rounds (0.99 to 1.03): missed by 1.0%"
    assert judge(1.03, most=1, rounds=around(1.03)).startswith("MISSED by 3.0%, and by")


def test_noise_said_in_advance_counts_first():
    """Beyond it, the rounds decide."""
    assert judge(1.04, most=1, noise=0.05) == "equal within noise (5.0%)"
    assert judge(1.06, most=1, noise=0.05) == "MISSED by 6.0%"


@pytest.mark.parametrize("value", [float("nan"), INF, 1])
def test_bound_of_zero_is_exact(value):
    """Nothing is a share of 0, and no spread excuses what is no figure."""
    assert judge(value, most=0, rounds=EVEN) == "MISSED"
    assert judge(float("nan"), most=1, rounds=EVEN) == "MISSED"


@pytest.mark.parametrize(
    ("value", "code", "end"),
    [(1.3, 0, "Every target is met."), (1.19, 0, "Every other target is met."), (1.1, 1, "  fast")],
)
def test_the_exit_code_says_missed(value, code, end, capsys, tmp_path):
    """And the output names the rounds, within 80 columns; so does the file."""
    report = Report()
    report.target("fast", value, least=1.2, rounds=around(value))
    report.target("slots per second, a rather long name for a target", 1, most=1)
    assert report.finish(tmp_path / "figures.json") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == end
    assert max(map(len, lines)) < 80
    verdict = json.loads((tmp_path / "figures.json").read_text())["targets"][0]["verdict"]
    assert any(line.endswith(verdict) for line in lines)
    if value == 1.19:
        assert "(1.17 to 1.21): missed by 0.8%" in verdict
        assert lines[-4:-2] == ["Not met, but equal to the target as far as it goes:", "  fast"]


@pytest.mark.parametrize("late", [0, 0.002, 0.0049])
def test_groups_keep_their_rate(late):
    """However late the last group is."""
    groups = [0.0, *(number * 0.005 for number in range(1, 400)), 2 + late]
    starts = [groups[0], *(start for start in groups[1:] for _ in range(5))]
    assert rate_of(starts) == pytest.approx(1000, rel=2e-4)


FEW = """
import fleet
with fleet.serving() as server:
    for case, options in fleet.CASES.items():
        requests = fleet.Requests(server, case, **options)
        pipeline = server.pipeline(transaction=False)
        for _, arguments in zip(range(150), requests):
            pipeline.evalsha(*arguments)
        for reply in pipeline.execute():
            requests.check(reply)
        print(case)
"""
"""150 requests of each kind, and each reply is looked at: more slots than a window has."""


def run_benchmark(program):
    """Run a program that imports what the benchmarks are made of."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1] / "benchmarks",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.real
@pytest.mark.posix
def test_recorded_requests_get_their_slots():
    """What benchmarks/fleet.py records of a process and sends again is granted in full."""
    ended = run_benchmark(FEW)
    assert ended.returncode == 0, ended.stderr
    assert "1 slot, concurrency" in ended.stdout


@pytest.mark.slow  # eight thousand requests
@pytest.mark.real
@pytest.mark.posix
def test_table_has_each_request():
    """So many requests are sent, and what each costs is shown."""
    ended = run_benchmark("import _common, fleet; fleet.script(_common.Report(), quick=True)")
    assert ended.returncode == 0, ended.stderr
    assert "1 slot, concurrency" in ended.stdout
