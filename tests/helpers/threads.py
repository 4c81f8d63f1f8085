"""What the tests of threads share: waiting for other threads, and programs of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from aioapiqueue.threads import blocking
from tests.helpers.waiting import PATIENCE

__all__ = ["figures", "run_program"]


def figures(queue):
    """Return how many wait and run, once all that threads have posted so far is done."""
    return blocking(queue).call(lambda: (queue.waiting, queue.running))


def run_program(source, *, seconds=PATIENCE, ok=True):
    """Run a program in a process of its own, and return the lines that it prints."""
    done = subprocess.run(
        # From Python 3.12 on, a fork beside threads is warned of.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if ok:
        assert done.returncode == 0, done.stderr
        assert not done.stderr
    return done.stdout.splitlines()
