"""What the bounds of other tests rely on: that a machine which stands still is noticed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
