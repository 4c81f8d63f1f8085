"""Two real scanners at once, unmodified, each under `run` with no option.

For a quick trial: `SCAN_SNAPSHOTS=300 pytest -m slow run/tests/scanners/test_together.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "together.py"
SNAPSHOTS = int(os.environ.get("SCAN_SNAPSHOTS", "3000"))


def test_two_scans_at_once_harm_nobody(tmp_path):
    """Together they take half of what AWS publishes: nobody is throttled, and both are complete."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, BENCHMARK, "--snapshots", str(SNAPSHOTS), "--json", figures]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    scans = json.loads(figures.read_text())["scans"]
    assert [one["reported"] for one in scans] == [SNAPSHOTS] * 2
    assert [one["exit_code"] for one in scans] == [0, 0]
