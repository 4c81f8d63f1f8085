"""Real processes spend one budget at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import budget_worker

pytestmark = [pytest.mark.real, pytest.mark.slow]


def spend(valkey, name, *, naive):
    """Have four processes make up to 1,000 calls; return what the provider has billed, in USD."""
    settings = {"url": valkey.url, "name": name, "naive": naive, "callers": 25, "calls": 250}
    workers = [
        subprocess.Popen(
            [sys.executable, budget_worker.__file__, json.dumps(settings | {"seed": seed})],
            cwd=Path(__file__).parents[3],
        )
        for seed in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    return int(valkey.sync().get(f"billed:{name}")) / 10**9


def test_four_processes_spend_five_dollars(valkey, name):
    """At most 5 USD of 1,000 calls that would cost 7.50, and at least 0.95 of that.

    The usual pattern, which reads the total and adds each cost after the call, overshoots.
    """
    assert 0.95 * 5 <= spend(valkey, name, naive=False) <= 5
    assert spend(valkey, f"{name}-naive", naive=True) > 5
