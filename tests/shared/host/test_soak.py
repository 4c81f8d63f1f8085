"""Ten minutes in which clients and the hub are killed at random, with real processes.

`SOAK_SECONDS=60 pytest -m slow tests/shared/host/test_soak.py` is a quick trial.
"""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import pairwise

import pytest

from tests.helpers.host_workers import Workers, most_in
from tests.helpers.hubs import ask_hub, hub_in_use, processes_of

pytestmark = [pytest.mark.real, pytest.mark.slow]

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RATE, BURST = 60, 30
WINDOW, PER = 200, 5.0
LAG = 0.05
"""Seconds by which a process may be held up between its grant and its call, on a busy machine."""


def test_nothing_lost_nothing_over():
    """No window of any limit has too much, across all restarts; who was not killed is done."""
    rng = random.Random(15)
    limits = f"{RATE}/s burst {BURST} and {WINDOW} in any 5s and 25 at once"
    kills = {"hub": 0, "client": 0}
    with hub_in_use() as directory:
        with Workers(6, "soak", limits, tasks=8, body=0.02) as endless:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                time.sleep(rng.uniform(0.2, 4))
                if rng.random() < 0.35:
                    for pid in processes_of(directory):
                        os.kill(pid, signal.SIGKILL)
                        kills["hub"] += 1
                else:
                    endless.replace(rng.randrange(6), rng.choice(["kill", "terminate"]))
                    kills["client"] += 1
            # Those who are there now, and others that come, have all they want.
            with Workers(2, "soak", limits, calls=200, tasks=10) as finite:
                finite.wait_for(400)
                codes = [process.wait(60) for process in finite.processes]
                late = finite.all_bodies
            starts = sorted(endless.all_bodies + late)
        quota = wait_until_quiet(directory)
    print(f"{kills}, {len(starts):,} calls in {SECONDS:.0f} s")  # noqa: T201 - with -s, or if it fails
    assert codes == [0, 0]
    assert (quota["waiting"], quota["running"], quota["clients"]) == (0, 0, [])
    assert most_in(starts, PER - LAG) <= WINDOW
    for per in (0.1, 1.0, 3.0):
        assert most_in(starts, per) <= BURST + (per + 0.01 + LAG) * RATE
    # Kills cost some: a second of the rate, and two of the window's 200, for each of the hub's.
    assert len(starts) >= 0.5 * min(RATE, WINDOW / PER) * SECONDS
    assert max(b - a for a, b in pairwise(starts)) < 15


def wait_until_quiet(directory):
    """Return what the hub knows once all have gone."""
    deadline = time.monotonic() + 20
    while True:
        (quota,) = ask_hub(directory, command="status")["quotas"]
        if not quota["clients"] or time.monotonic() > deadline:
            return quota
        time.sleep(0.05)
