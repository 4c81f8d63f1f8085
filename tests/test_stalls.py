"""What the bounds of other tests rely on: that a machine which stands still is noticed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.stalls import kept_waiting

PROGRAM = """
import sys
from tests.helpers.stalls import Stalls
with Stalls() as stalls:
    before = stalls.seconds
    print("ready", flush=True)
    sys.stdin.readline()
    print(stalls.seconds - before)
"""


@pytest.mark.real
@pytest.mark.posix
def test_stopped_process_counts_as_stall():
    """What a process was stopped for is counted.

    Half a second in which nothing of it ran, at least, as soon as it goes on.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, text=True, **pipes
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        lost, _ = process.communicate("\n")
    assert float(lost) >= 0.48


def test_all_that_keeps_processes_counts(tmp_path):
    """A core, a disk, memory and the host of a virtual machine; without a record of it, 0."""
    assert kept_waiting(tmp_path) == 0
    (tmp_path / "pressure").mkdir()
    for kind, waited in {"cpu": 1_000_000, "io": 200_000, "memory": 30_000}.items():
        record = f"some avg10=7.00 avg60=7.00 avg300=7.00 total={waited}\nfull total=9000000\n"
        (tmp_path / "pressure" / kind).write_text(record)
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(f"cpu  1 2 3 4 5 6 7 {4 * ticks} 9 10\ncpu0 1 2 3 4 5\n")
    assert kept_waiting(tmp_path) == pytest.approx(5.23)
