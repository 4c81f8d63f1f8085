"""Real scanners from PyPI, unmodified, on 3,000 snapshots: as they are, and under `run`.

Each takes about eight minutes, and once the installation. For a quick trial, with fewer snapshots:
`SCAN_SNAPSHOTS=300 pytest -m slow run/tests/scanners`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "scan.py"
SNAPSHOTS = int(os.environ.get("SCAN_SNAPSHOTS", "3000"))
PUBLIC = -(-SNAPSHOTS // 10)


def scans(name, figures, *options):
    """Runs the benchmark with one scanner; returns what came of it unpaced and paced."""
    command = [sys.executable, BENCHMARK, name, "--snapshots", str(SNAPSHOTS), "--json", figures]
    command += options
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as benchmark:
        try:
            output, _ = benchmark.communicate(timeout=1800)
        except BaseException:
            benchmark.send_signal(signal.SIGINT)  # so that it ends its servers and the scanner
            raise
    print(output)  # noqa: T201 - pytest shows it if the test fails
    assert benchmark.returncode == 0, output
    return json.loads(figures.read_text())["scans"]


def test_other_strategies_are_compared(tmp_path):
    """Of few snapshots: each does what it is called, and a picture has them all."""
    figures, drawn = tmp_path / "figures.json", tmp_path / "scans.svg"
    command = [sys.executable, BENCHMARK, "--strategies", "--snapshots", "60", "--users", "12"]
    command += ["--ways", "blanket,adaptive,own,paced", "--json", figures, "--svg", drawn]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    scans = json.loads(figures.read_text())["scans"]
    blanket, adaptive, own, paced, half, most = scans
    assert blanket["command"].startswith("BLANKET_SECONDS=0.1 scout aws --services ec2 iam ")
    assert adaptive["command"].startswith("AWS_RETRY_MODE=adaptive scout aws ")
    assert own["command"].endswith(" --max-rate 10")
    assert paced["command"].startswith("aioapiqueue run --limit ec2=100ms -- scout aws ")
    assert half["command"].startswith("aioapiqueue run --share 50% -- scout aws ")
    assert most["command"].startswith("aioapiqueue run --share 80% -- scout aws ")
    assert blanket["peak"] <= 11  # one delay between all: never more than its rate
    assert {one["reported"] for one in scans} == {60}
    for label in ("one delay for all calls", "--share 50%", "--share 80%"):
        assert drawn.read_text().count(f">{label}</text>") == 6


@pytest.mark.parametrize("name", ["scoutsuite", "prowler"])
def test_fixed_rate_harms_nobody(name, tmp_path):
    """At 100 ms per EC2 call no call is throttled, and the scanner's report is complete.

    The same scanner unpaced is throttled, and some of what it asks is never answered.
    """
    unpaced, paced = scans(name, tmp_path / "figures.json")

    assert (unpaced["way"], unpaced["throttled"] > 0) == ("unpaced", True)
    assert unpaced["answered"] < SNAPSHOTS

    assert paced["way"] == "paced"
    assert paced["command"].startswith("aioapiqueue run --limit ec2=100ms -- ")
    assert paced["throttled"] == 0
    assert paced["answered"] == paced["reported"] == SNAPSHOTS
    assert paced["public_found"] == PUBLIC
    assert paced["exit_code"] == 0
    # What `run` counted is what arrived: no call went by it.
    assert paced["counted"] == paced["ec2_calls"] > SNAPSHOTS
    # Not faster than asked for, and the time goes into nothing else.
    assert 0.1 * paced["ec2_calls"] * 0.98 <= paced["seconds"] <= 0.1 * paced["ec2_calls"] + 120
    assert paced["bystander_failures"] == 0
    assert paced["bystander_calls"] >= 0.9 * paced["seconds"]


@pytest.mark.parametrize("name", ["scoutsuite", "prowler"])
def test_published_share_harms_nobody(name, tmp_path):
    """With no other option, beside somebody who takes 2 calls a second of the same bucket.

    With 80%, that takes at most 0.7 of the time that 100 ms per call takes: the benchmark checks.
    """
    *shares, fixed = scans(name, tmp_path / "figures.json", "--shares")
    assert fixed["command"].startswith("aioapiqueue run --limit ec2=100ms -- ")
    for share, paced in zip((50, 80), shares, strict=True):
        assert paced["command"].startswith(f"aioapiqueue run --share {share}% -- ")
        assert paced["throttled"] == paced["bystander_failures"] == 0
        assert paced["bystander_calls"] >= 1.8 * paced["seconds"]
        assert paced["answered"] == paced["reported"] == SNAPSHOTS
        assert paced["public_found"] == PUBLIC
        assert paced["exit_code"] == 0
        assert paced["counted"] == paced["ec2_calls"] > SNAPSHOTS
        # DescribeSnapshotAttribute has 20 calls a second, and 100 at once.
        least = (SNAPSHOTS - share) / (share / 100 * 20)
        assert least * 0.98 <= paced["seconds"] <= least + 120
